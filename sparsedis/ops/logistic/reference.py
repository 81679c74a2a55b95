"""The pure-torch backend: any device, float64 inside."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.logistic.hessian import least_step
from sparsedis.ops.logistic.newton import solve
from sparsedis.ops.logistic.problem import Problem, certificate, kink_margin, loss_slope, row_norms
from sparsedis.ops.logistic.rows import Rows, active_rows
from sparsedis.ops.operation import in_parts, status_as_returned
from sparsedis.ops.registry import Request

_TINY = torch.finfo(torch.float64).tiny
# Scratch memory, in bytes, that the tasks solved together may take.
_MEMORY = 1 << 30


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
        def run(X: Tensor, y: Tensor, l1: Tensor, l2: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
            problem = Problem.of(X, y, l1, l2, weight, n_classes, intercept)
            W, at, n_iter, status = solve(problem, tol, max_iter)
            weights = W.to(torch.promote_types(features.dtype, torch.float32))
            if weights.dtype != W.dtype:
                at = certificate(problem, W, weights.to(W.dtype))
                status = status_as_returned(status, at.relative_gap, tol)
            active = (weights[:, : features.shape[2]] != 0).any(-1)
            return weights, *at, n_iter, status, active, kink_margin(problem, W)

        tensors = (features, labels, lambda1, lambda2, sample_weight)
        return in_parts(run, tensors, _task_bytes(features, n_classes), _MEMORY)

    def adjoint(
        self,
        features: Tensor,
        labels: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        sample_weight: Tensor,
        weights: Tensor,
        dual: Tensor,
        grad_weights: Tensor,
        intercept: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        d, n_classes = features.shape[2], weights.shape[2]

        def run(
            X: Tensor, y: Tensor, l1: Tensor, l2: Tensor, weight: Tensor, W: Tensor, p: Tensor, grad_W: Tensor
        ) -> tuple[Tensor, ...]:
            problem = Problem.of(X, y, l1, l2, weight, n_classes, intercept)
            W, c = W.to(problem.features.dtype), grad_W.to(problem.features.dtype)
            slope = loss_slope(problem, p)
            rows = Rows.of(problem, W, active_rows(problem, W))
            right = rows.take(c)
            q = rows.put(least_step(rows, p, right - right.mean(-1, keepdim=True)), W.shape[1])
            along = problem.features @ q
            turn = problem.share * p * (along - (p * along).sum(-1, keepdim=True))
            grad_X = -(slope @ q.mT + turn @ W.mT)[..., :d]
            penalised, shown = q[:, :d], W[:, :d]
            unit = shown / row_norms(shown).clamp_min(_TINY)[..., None]
            by_lambda1, by_lambda2 = -(penalised * unit).sum((1, 2)), -(penalised * shown).sum((1, 2))
            return grad_X.to(features.dtype), by_lambda1, by_lambda2

        tensors = (features, labels, lambda1, lambda2, sample_weight, weights, dual, grad_weights)
        return in_parts(run, tensors, _task_bytes(features, n_classes), _MEMORY)  # type: ignore[return-value]

    def tangent(
        self,
        features: Tensor,
        labels: Tensor,
        lambda1: Tensor,
        lambda2: Tensor,
        sample_weight: Tensor,
        weights: Tensor,
        dual: Tensor,
        by_features: Tensor,
        by_lambda1: Tensor,
        by_lambda2: Tensor,
        intercept: bool,
    ) -> Tensor:
        d, n_classes = features.shape[2], weights.shape[2]

        def run(
            X: Tensor,
            y: Tensor,
            l1: Tensor,
            l2: Tensor,
            weight: Tensor,
            W: Tensor,
            p: Tensor,
            dX: Tensor,
            dl1: Tensor,
            dl2: Tensor,
        ) -> tuple[Tensor]:
            problem = Problem.of(X, y, l1, l2, weight, n_classes, intercept)
            W, dX = W.to(problem.features.dtype), dX.to(problem.features.dtype)
            slope = loss_slope(problem, p)
            rows = Rows.of(problem, W, active_rows(problem, W))
            shown = W[:, :d]
            along = dX @ shown
            turn = problem.share * p * (along - (p * along).sum(-1, keepdim=True))
            # The tangent of the gradient of P at constant W.
            moved = problem.features.mT @ turn
            unit = shown / row_norms(shown).clamp_min(_TINY)[..., None]
            moved[:, :d] += dX.mT @ slope + dl1[:, None, None] * unit + dl2[:, None, None] * shown
            right = rows.take(moved)
            change = rows.put(least_step(rows, p, right - right.mean(-1, keepdim=True)), W.shape[1])
            return (-change.to(weights.dtype),)

        problem = features, labels, lambda1, lambda2, sample_weight
        tensors = *problem, weights, dual, by_features, by_lambda1, by_lambda2
        return in_parts(run, tensors, _task_bytes(features, n_classes), _MEMORY)[0]


def _task_bytes(features: Tensor, n_classes: int) -> int:
    """Scratch memory that a task takes."""
    _, n, d = features.shape
    return 8 * (3 * n * d + 12 * n * n_classes + 8 * d * n_classes)
