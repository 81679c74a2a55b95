"""The pure-torch backend: any device, float64 inside."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparsedis.ops.logistic.newton import Rows, solve
from sparsedis.ops.logistic.problem import Problem, probabilities, row_norms
from sparsedis.ops.registry import Request
from sparsedis.ops.restricted import least_step

_TINY = torch.finfo(torch.float64).tiny
# Scratch memory that the tasks solved together may take, in bytes; a task that needs more is solved by itself.
_MEMORY = 1 << 29


class ReferenceBackend:
    """See :mod:`sparsedis.ops.logistic` for the contract of ``solve`` and ``adjoint``."""

    name = "reference"

    def available(self) -> str | None:
        return None

    def supports(self, request: Request) -> str | None:
        return None

    def solve(
        self,
        features: Tensor,
        labels: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        sample_weight: Tensor,
        n_classes: int,
        intercept: bool,
        tol: float,
        max_iter: int,
    ) -> tuple[Tensor, ...]:
        parts = []
        for part in _chunks(features, n_classes):
            X, y, l1, l2, s = (value[part] for value in (features, labels, lambda1, lambda2, sample_weight))
            problem = Problem.of(X, y, l1, l2, s, n_classes, intercept)
            W, certificate, n_iter, status = solve(problem, tol, max_iter)
            active = row_norms(W[:, : features.shape[2]]) > 0
            parts.append(
                (W.to(torch.promote_types(features.dtype, torch.float32)), *certificate, n_iter, status, active)
            )
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def adjoint(
        self,
        features: Tensor,
        labels: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        sample_weight: Tensor,
        weights: Tensor,
        grad_weights: Tensor,
        intercept: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n_classes = weights.shape[2]
        parts = []
        for part in _chunks(features, n_classes):
            X, y, l1, l2, s = (value[part] for value in (features, labels, lambda1, lambda2, sample_weight))
            problem = Problem.of(X, y, l1, l2, s, n_classes, intercept)
            W, c = (value[part].to(problem.features.dtype) for value in (weights, grad_weights))
            p, slope = probabilities(problem, problem.features @ W)
            rows = Rows(problem, W)
            q = least_step(rows.curvature(problem, p), rows.mask, rows.take(c).flatten(1))
            q = rows.put(q.unflatten(1, rows.W.shape[1:]), W.shape[1])
            along = problem.features @ q
            turn = problem.share * p * (along - (p * along).sum(-1, keepdim=True))
            grad_X = -(slope @ q.mT + turn @ W.mT)[..., : features.shape[2]]
            penalised = q[:, : features.shape[2]]
            shown = W[:, : features.shape[2]]
            unit = shown / row_norms(shown).clamp_min(_TINY)[..., None]
            by_lambda1, by_lambda2 = -(penalised * unit).sum((1, 2)), -(penalised * shown).sum((1, 2))
            parts.append((grad_X.to(features.dtype), by_lambda1, by_lambda2))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]


def _chunks(features: Tensor, n_classes: int) -> Iterator[slice]:
    """Slices of the batch whose scratch tensors fit in the memory allowed."""
    batch, n, d = features.shape
    step = max(1, _MEMORY // (8 * (3 * n * d + 12 * n * n_classes + 3 * (d * n_classes) ** 2)))
    for start in range(0, batch, step):
        yield slice(start, start + step)
