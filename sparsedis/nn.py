"""Heads: modules that train a small classifier on a support set and apply it to a query set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sparsedis import checks
from sparsedis.solution import Solution
from sparsedis.solve import lambda1_max, solve_svm


class HeadOutput(NamedTuple):
    """Logits of the query set (B, q, k), and the pattern of features off (B, d), bool."""

    logits: Tensor
    sparsity: Tensor


class GroupLassoSVM(nn.Module):
    """Group-Lasso multiclass SVM head: solves one SVM per task on its support set, differentiably.

    Source: the base-learner of Lachapelle et al., ICML 2023, section 3.3, with a trainable scale of the logits as in
    MetaOptNet (Lee et al., CVPR 2019).

    Args:
        lambda1: weight of the group Lasso; with ``relative`` a multiple of each task's :func:`sparsedis.lambda1_max`.
        lambda2: weight of the squared norm.
        dual_reg: smoothing of the hinge; 0 is the exact hinge.
        relative: lambda1 is relative; the maximum is held constant in the gradient.
        learn: names among "lambda1", "lambda2", "dual_reg" that become positive trainable parameters (their logarithm
            is what is trained).
        logit_scale: initial value of the trainable scale.
        solver, backend, tol, max_iter, throw: as :func:`sparsedis.solve_svm`.

    Attributes:
        last_solution: the Solution of the last forward pass, detached; None before it.

    Raises:
        TypeError, ValueError: a bad argument; a name in ``learn`` that is unknown, or whose start is 0.
    """

    last_solution: Solution | None = None

    def __init__(
        self,
        lambda1: float = 0.1,
        lambda2: float = 1.0,
        dual_reg: float = 0.0,
        relative: bool = True,
        learn: Sequence[str] = (),
        *,
        logit_scale: float = 1.0,
        solver: str = "auto",
        backend: str = "auto",
        tol: float = 1e-5,
        max_iter: int | None = None,
        throw: bool = False,
    ) -> None:
        super().__init__()
        start = {"lambda1": lambda1, "lambda2": lambda2, "dual_reg": dual_reg}
        if isinstance(learn, str):
            raise TypeError(f"learn: expected a sequence of names, got the string {learn!r}")
        for name in learn:
            checks.one_of("learn", name, tuple(start))
        for name, value in start.items():
            checks.number(name, value, above=-1.0)
            if value < 0 or (value == 0 and (name == "lambda2" or name in learn)):
                needed = "> 0" if name == "lambda2" or name in learn else ">= 0"
                raise ValueError(f"{name}: expected a number {needed}, got {value}")
        self.learn = tuple(learn)
        self._fixed = {name: float(value) for name, value in start.items() if name not in learn}
        self.log = nn.ParameterDict({name: nn.Parameter(torch.tensor(float(start[name])).log()) for name in self.learn})
        self.relative = relative
        self.scale = nn.Parameter(torch.tensor(float(logit_scale)))
        self._options = {
            "solver": solver,
            "backend": backend,
            "tol": tol,
            "max_iter": max_iter,
            "throw": throw,
        }

    def hyperparameter(self, name: str) -> float | Tensor:
        """The present value of "lambda1", "lambda2" or "dual_reg"; a 0-d tensor where it is trained."""
        return self.log[name].exp() if name in self.log else self._fixed[name]

    def solve(
        self,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        sample_weight: Tensor | None = None,
    ) -> Solution:
        """Solve the tasks of a support set: support (B, n, d), support_labels (B, n), sample_weight (B, n)."""
        lambda1 = self.hyperparameter("lambda1")
        if self.relative:
            lambda1 = lambda1 * lambda1_max(support, support_labels, n_classes=n_way, sample_weight=sample_weight)
        return solve_svm(
            support,
            support_labels,
            lambda1=lambda1,
            lambda2=self.hyperparameter("lambda2"),
            dual_reg=self.hyperparameter("dual_reg"),
            n_classes=n_way,
            sample_weight=sample_weight,
            **self._options,  # type: ignore[arg-type]
        )

    def forward(
        self,
        query: Tensor,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        n_shot: int | None = None,
    ) -> HeadOutput:
        """Logits of the query set by classifiers trained on the support set.

        Args:
            query: (B, q, d).
            support: (B, n, d).
            support_labels: (B, n), integers from 0 to k-1.
            n_way: k; default: the largest label + 1.
            n_shot: not needed; taken so that code written for the published head runs as it is.

        Returns:
            The logits scale * X W, (B, q, k), and the features off, (B, d) bool.
        """
        _check_query(query, support)
        solution = self.solve(support, support_labels, n_way)
        if not torch.compiler.is_compiling():
            self.last_solution = replace(solution, weights=solution.weights.detach())
        logits = self.scale * (query @ solution.weights.to(query.dtype))
        return HeadOutput(logits, ~solution.active)

    def extra_repr(self) -> str:
        values = ", ".join(f"{name}={value:g}" for name, value in self._fixed.items())
        return f"{values}, relative={self.relative}, learn={self.learn}"


class Prototypes(nn.Module):
    """Nearest class mean, the dense baseline: logits are minus scaled squared distances (Snell et al., NeurIPS 2017).

    Args:
        logit_scale: initial value of the trainable scale of ||q - c||^2 / d.
    """

    last_solution: Solution | None = None

    def __init__(self, *, logit_scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(logit_scale)))

    def forward(
        self,
        query: Tensor,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        n_shot: int | None = None,
    ) -> HeadOutput:
        """As :meth:`GroupLassoSVM.forward`; no feature is ever off."""
        _check_query(query, support)
        checks.task_tensors(support, support_labels, None)
        classes = int(support_labels.max()) + 1 if n_way is None else n_way
        member = nn.functional.one_hot(support_labels, classes).to(support.dtype)
        count = member.sum(1).clamp_min(1)
        means = (member.mT @ support) / count[..., None]
        distance = (query**2).sum(-1, keepdim=True) - 2 * query @ means.mT + (means**2).sum(-1)[:, None]
        sparsity = torch.zeros(support.shape[0], support.shape[2], dtype=torch.bool, device=support.device)
        return HeadOutput(-self.scale * distance / support.shape[-1], sparsity)


def _check_query(query: Tensor, support: Tensor) -> None:
    for name, value in (("query", query), ("support", support)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(value).__name__}")
    if support.dim() != 3:
        raise ValueError(f"support: expected shape (B, n, d), got {tuple(support.shape)}")
    if query.dim() != 3 or query.shape[0] != support.shape[0] or query.shape[2] != support.shape[2]:
        raise ValueError(f"query: expected shape ({support.shape[0]}, q, {support.shape[2]}), got {tuple(query.shape)}")
    checks.same_device("query", query, support)
