"""Heads: modules that fit a small classifier to a support set and apply it to a query set."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsedis import checks
from sparsedis.arguments import class_count, comparable, step_limit
from sparsedis.logistic import solve_logistic
from sparsedis.ops.common.custom_op import is_plain
from sparsedis.ridge import solve_ridge
from sparsedis.solution import Solution
from sparsedis.svm import solve_svm

__all__ = ["GroupLassoLogistic", "GroupLassoSVM", "HeadOutput", "Prototypes", "Ridge", "SparseHead"]


class HeadOutput(NamedTuple):
    """Logits of the query set, (B, q, k), and the active features of each task's classifier, (B, d), bool."""

    logits: Tensor
    active: Tensor


class SparseHead(nn.Module):
    """Base class of the heads that call a solver: fixed or trainable hyperparameters, and logits from the solution.

    A subclass passes the initial hyperparameters to ``__init__`` and implements ``solve``.

    A trainable lambda1 can grow until every feature of every task is inactive. The weights are then zero and locally
    constant, so lambda1 and the encoder receive zero gradients and no feature becomes active again. The first training
    batch in this state raises a RuntimeWarning.

    Args:
        start: initial values of the hyperparameters by name: numbers, or 0-d tensors that require no gradient.
        positive: names of the hyperparameters that must be > 0; the others must be >= 0.
        learn: names of the hyperparameters to train. Their logarithms become parameters, so they stay positive.
        relative: whether the penalty weights are multiples of each task's own scale.
        logit_scale: initial value of the trainable scale of the logits.

    Attributes:
        last_solution: the detached Solution of the last forward pass. None before the first one, and after one whose
            values cannot be read: compiled, inside a transform of torch.func, on fake tensors, or ended by an
            exception. Copies and pickles of the head do not include it.

    Raises:
        TypeError, ValueError: an invalid number; a name in ``learn`` that is unknown or whose initial value is 0.

    Warns:
        RuntimeWarning: every feature is inactive at a trainable lambda1, as described above.
    """

    last_solution: Solution | None = None

    def __init__(
        self,
        start: Mapping[str, float],
        positive: Sequence[str],
        learn: Sequence[str],
        relative: bool,
        logit_scale: float,
    ) -> None:
        super().__init__()
        if isinstance(learn, str):
            raise TypeError(f"learn: expected a sequence of names, got the string {learn!r}")
        for name in learn:
            checks.one_of("learn", name, tuple(start))
        values = {name: float(checks.number(name, value)) for name, value in start.items()}
        for name, value in values.items():
            above = name in positive or name in learn
            if value < 0 or (value == 0 and above):
                raise ValueError(f"{name}: expected a number {'> 0' if above else '>= 0'}, got {value}")
        checks.flag("relative", relative)
        self.learn = tuple(learn)
        self._fixed = {name: value for name, value in values.items() if name not in learn}
        self.log = nn.ParameterDict({name: nn.Parameter(torch.tensor(values[name]).log()) for name in self.learn})
        self.relative = relative
        self.scale = _scale(logit_scale)
        self._warned = False

    def hyperparameter(self, name: str) -> float | Tensor:
        """The current value of a hyperparameter: a 0-d tensor if it is trained, else a float."""
        return self.log[name].exp() if name in self.log else self._fixed[name]

    def solve(
        self,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        sample_weight: Tensor | None = None,
    ) -> Solution:
        """Solve one task per support set.

        Args:
            support: features of the support sets, (B, n, d).
            support_labels: (B, n), integers from 0 to k-1.
            n_way: k; default: the largest label + 1.
            sample_weight: (B, n), >= 0; 0 marks padding. Default: 1 for all samples.

        Returns:
            The Solution, with weights (B, d, k).
        """
        raise NotImplementedError

    def forward(
        self,
        query: Tensor,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        n_shot: int | None = None,
        sample_weight: Tensor | None = None,
    ) -> HeadOutput:
        """Logits of the query set from classifiers fitted to the support set.

        Args:
            query: features of the query set, (B, q, d).
            support: features of the support set, (B, n, d).
            support_labels: (B, n), integers from 0 to k-1, of any integer dtype.
            n_way: k; default: the largest label + 1.
            n_shot: ignored; accepted so that code written for the published head runs unchanged.
            sample_weight: (B, n), >= 0; 0 marks padding, whose labels are ignored. Default: 1 for all samples.

        Returns:
            The logits scale * (X W + b), (B, q, k), where X is the query set, and the active features, (B, d), bool.

        Raises:
            TypeError, ValueError: invalid input; the message states what was expected and what was given.
        """
        _check_query(query, support)
        self.last_solution = None
        solution = self.solve(support, support_labels, n_way, sample_weight)
        if not torch.compiler.is_compiling() and all(map(is_plain, _tensors(solution))):
            self.last_solution = replace(
                solution,
                weights=solution.weights.detach(),
                intercept=None if solution.intercept is None else solution.intercept.detach(),
            )
            if "lambda1" in self.log and self.training:
                self._warn_if_all_inactive(solution.active)
        scores = query @ solution.weights.to(query.dtype)
        if solution.intercept is not None:
            scores = scores + solution.intercept.to(query.dtype)[:, None]
        return HeadOutput(self.scale * scores, solution.active)

    def _warn_if_all_inactive(self, active: Tensor) -> None:
        """Warn once if every feature of every task is inactive, a state that a trainable lambda1 cannot leave."""
        if self._warned or bool(active.any()):
            return
        self._warned = True
        value = self.log["lambda1"].detach().exp().item()
        relative = " of the one that turns all of them off" if self.relative else ""
        warnings.warn(
            f"sparsedis: every feature of every task is off at lambda1 = {value:.3g}{relative}, which is learned: its "
            "gradient and the encoder's are zero from here on. Start again with a smaller lambda1, a lower learning "
            "rate for it, or without 'lambda1' in learn.",
            RuntimeWarning,
            stacklevel=2,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "last_solution"}

    def extra_repr(self) -> str:
        values = ", ".join(f"{name}={value:g}" for name, value in self._fixed.items())
        return f"{values}, relative={self.relative}, learn={self.learn}"


class GroupLassoSVM(SparseHead):
    """Group-Lasso multiclass SVM head: fits one SVM to the support set of each task, differentiably.

    Source: the base-learner of Lachapelle et al., ICML 2023, section 3.3, with a trainable scale of the logits as in
    MetaOptNet (Lee et al., CVPR 2019). With ``lambda1=0`` it is MetaOptNet's dense SVM head.

    Args:
        lambda1: >= 0, weight of the group Lasso; with ``relative`` a multiple of each task's
            :func:`sparsedis.svm_lambda1_max`, which is held constant in the gradient.
        lambda2: > 0, weight of the squared norm.
        dual_reg: >= 0, smoothing of the hinge; 0 is the exact hinge.
        relative: whether lambda1 is relative.
        learn: names of the hyperparameters to train, among "lambda1", "lambda2" and "dual_reg". Their logarithms become
            parameters, so they stay positive.
        logit_scale: initial value of the trainable scale of the logits.
        solver, backend, tol, max_iter, throw: as in :func:`sparsedis.solve_svm`.

    Attributes:
        last_solution: as in :class:`SparseHead`.

    Raises:
        TypeError, ValueError: an invalid argument; a name in ``learn`` that is unknown or whose initial value is 0.
    """

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
        start = {"lambda1": lambda1, "lambda2": lambda2, "dual_reg": dual_reg}
        super().__init__(start, ("lambda2",), learn, relative, logit_scale)
        self._options = _solving(solver=solver, backend=backend, tol=tol, max_iter=max_iter, throw=throw)

    def solve(
        self,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        sample_weight: Tensor | None = None,
    ) -> Solution:
        """As :meth:`SparseHead.solve`."""
        return solve_svm(
            support,
            support_labels,
            lambda1=self.hyperparameter("lambda1"),
            lambda2=self.hyperparameter("lambda2"),
            dual_reg=self.hyperparameter("dual_reg"),
            relative=self.relative,
            n_classes=n_way,
            sample_weight=sample_weight,
            **self._options,
        )


class GroupLassoLogistic(SparseHead):
    """Group-Lasso multinomial logistic regression head: fits one to the support set of each task, differentiably.

    Args:
        lambda1: >= 0, weight of the group Lasso; with ``relative`` a multiple of each task's
            :func:`sparsedis.logistic_lambda1_max`, which is held constant in the gradient.
        lambda2: >= 0, weight of the squared norm; lambda1 or lambda2 must be positive.
        intercept: fit an intercept, which is not penalised.
        relative: whether lambda1 is relative.
        learn: names of the hyperparameters to train, among "lambda1" and "lambda2".
        logit_scale: initial value of the trainable scale of the logits.
        backend, tol, max_iter, throw: as in :func:`sparsedis.solve_logistic`.

    Raises:
        TypeError, ValueError: an invalid argument; a name in ``learn`` that is unknown or whose initial value is 0.
    """

    def __init__(
        self,
        lambda1: float = 0.1,
        lambda2: float = 0.0,
        intercept: bool = False,
        relative: bool = True,
        learn: Sequence[str] = (),
        *,
        logit_scale: float = 1.0,
        backend: str = "auto",
        tol: float = 1e-5,
        max_iter: int | None = None,
        throw: bool = False,
    ) -> None:
        super().__init__({"lambda1": lambda1, "lambda2": lambda2}, (), learn, relative, logit_scale)
        checks.flag("intercept", intercept)
        self.intercept = intercept
        self._options = _solving(backend=backend, tol=tol, max_iter=max_iter, throw=throw)

    def solve(
        self,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        sample_weight: Tensor | None = None,
    ) -> Solution:
        """As :meth:`SparseHead.solve`."""
        return solve_logistic(
            support,
            support_labels,
            lambda1=self.hyperparameter("lambda1"),
            lambda2=self.hyperparameter("lambda2"),
            intercept=self.intercept,
            relative=self.relative,
            n_classes=n_way,
            sample_weight=sample_weight,
            **self._options,
        )


class Ridge(SparseHead):
    """Ridge regression onto the one-hot labels, the dense head of R2-D2 (Bertinetto et al., ICLR 2019).

    Args:
        lambda2: > 0, weight of the squared norm; with ``relative`` a multiple of the mean squared norm of each task's
            samples, which is held constant in the gradient.
        relative: whether lambda2 is relative.
        learn: ("lambda2",) to train lambda2 as R2-D2 does; () to keep it fixed.
        logit_scale: initial value of the trainable scale of the logits. (R2-D2 also has a bias; it is equal for all
            classes and therefore changes no probability.)
        backend, tol, throw: as in :func:`sparsedis.solve_ridge`.

    Raises:
        TypeError, ValueError: an invalid argument.
    """

    def __init__(
        self,
        lambda2: float = 0.1,
        relative: bool = True,
        learn: Sequence[str] = (),
        *,
        logit_scale: float = 1.0,
        backend: str = "auto",
        tol: float = 1e-5,
        throw: bool = False,
    ) -> None:
        super().__init__({"lambda2": lambda2}, ("lambda2",), learn, relative, logit_scale)
        self._options = _solving(backend=backend, tol=tol, throw=throw)

    def solve(
        self,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        sample_weight: Tensor | None = None,
    ) -> Solution:
        """As :meth:`SparseHead.solve`. In general every feature is active."""
        checks.task_tensors(support, support_labels, sample_weight)
        targets = _one_hot(support_labels, sample_weight, n_way, support)
        return solve_ridge(
            support,
            targets,
            lambda2=self.hyperparameter("lambda2"),
            relative=self.relative,
            sample_weight=sample_weight,
            **self._options,
        )


class Prototypes(nn.Module):
    """Nearest class mean, a dense baseline: logits are negative scaled squared distances (Snell et al., NeurIPS 2017).

    Args:
        logit_scale: initial value of the trainable factor of ``-||q - c||^2 / d``.
    """

    last_solution: Solution | None = None  # always None: no problem is solved

    def __init__(self, *, logit_scale: float = 1.0) -> None:
        super().__init__()
        self.scale = _scale(logit_scale)

    def forward(
        self,
        query: Tensor,
        support: Tensor,
        support_labels: Tensor,
        n_way: int | None = None,
        n_shot: int | None = None,
        sample_weight: Tensor | None = None,
    ) -> HeadOutput:
        """As :meth:`SparseHead.forward`; every feature is active."""
        _check_query(query, support)
        checks.task_tensors(support, support_labels, sample_weight)
        member = _one_hot(support_labels, sample_weight, n_way, support)
        if sample_weight is not None:
            member = member * sample_weight.to(member.dtype)[..., None]
        total, presence = member.sum(1), member.sum(2, keepdim=True)
        # Centring avoids cancellation in the expanded square where features have a large mean.
        centre = (presence * support).sum(1, keepdim=True) / presence.sum(1, keepdim=True).clamp_min(1e-30)
        means = member.mT @ (support - centre) / torch.where(total > 0, total, 1)[..., None]
        query = query - centre
        distance = (query**2).sum(-1, keepdim=True) - 2 * query @ means.mT + (means**2).sum(-1)[:, None]
        active = torch.ones(support.shape[0], support.shape[2], dtype=torch.bool, device=support.device)
        return HeadOutput(-self.scale * distance / support.shape[-1], active)


def _one_hot(labels: Tensor, sample_weight: Tensor | None, n_way: int | None, like: Tensor) -> Tensor:
    """One-hot labels (B, n, k) in the dtype of ``like``; labels of samples with weight 0 are ignored."""
    known = labels.to(torch.int64)
    if sample_weight is not None:
        known = torch.where(comparable(sample_weight) > 0, known, 0)
    classes = class_count(known, None, n_way)
    if not torch.compiler.is_compiling() and is_plain(known):
        checks.label_values(known, torch.ones_like(known), classes)
    return nn.functional.one_hot(known, classes).to(like.dtype)


def _scale(start: float) -> nn.Parameter:
    """The trainable scale of the logits."""
    return nn.Parameter(torch.tensor(float(checks.number("logit_scale", start))))


def _solving(**options: Any) -> dict[str, Any]:
    """Check the solver options of a head at construction rather than at its first batch."""
    options["tol"] = checks.number("tol", options["tol"], above=0)
    checks.flag("throw", options["throw"])
    step_limit(options.get("max_iter"), 1)
    return options


def _tensors(solution: Solution) -> Iterator[Tensor]:
    return (value for value in vars(solution).values() if isinstance(value, Tensor))


def _check_query(query: Tensor, support: Tensor) -> None:
    for name, value in (("query", query), ("support", support)):
        checks.floating(name, value)
    if support.dim() != 3:
        raise ValueError(f"support: expected shape (B, n, d), got {tuple(support.shape)}")
    if query.dim() != 3 or query.shape[0] != support.shape[0] or query.shape[2] != support.shape[2]:
        raise ValueError(f"query: expected shape ({support.shape[0]}, q, {support.shape[2]}), got {tuple(query.shape)}")
    checks.same_device("query", query, support)
