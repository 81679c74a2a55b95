"""The torch backend: any device, working precision."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.common.any_device import AnyDevice
from sparsedis.ops.common.backend import Outputs
from sparsedis.ops.common.batches import apply_in_slices, status_as_returned
from sparsedis.ops.common.precision import returned_dtype
from sparsedis.ops.logistic.backend_torch.hessian import least_step
from sparsedis.ops.logistic.backend_torch.newton import solve
from sparsedis.ops.logistic.backend_torch.rows import Rows, active_rows
from sparsedis.ops.logistic.problem import Problem, attainable, certificate, kink_margin, loss_slope, row_norms
from sparsedis.ops.logistic.signature import Differentials, Inputs, Options, Saved

_TINY = torch.finfo(torch.float64).tiny
# Budget of scratch memory for the tasks that are solved together, in bytes.
_MEMORY = 1 << 30


class TorchBackend(AnyDevice):
    """Block coordinate descent, an interior-point method and Newton's method in torch operations."""

    def solve(self, inputs: Inputs, options: Options) -> Outputs:
        def run(*tensors: Tensor) -> Outputs:
            problem = Problem.of(Inputs(*tensors), options.n_classes, options.intercept)
            W, at, n_iter, status = solve(problem, options.tol, options.max_iter)
            weights = W.to(returned_dtype(inputs.features.dtype))
            own = at.relative_gap
            if weights.dtype != W.dtype:
                at = certificate(problem, W, weights.to(W.dtype))
            status = status_as_returned(status, own, at.relative_gap, options.tol, attainable(problem, W))
            active = (weights[:, : inputs.features.shape[2]] != 0).any(-1)
            return Outputs(weights, *at, n_iter, status, active, kink_margin(problem, W))

        return Outputs(*apply_in_slices(run, inputs, _task_bytes(inputs.features, options.n_classes), _MEMORY))

    def adjoint(self, inputs: Inputs, options: Options, saved: Saved, grad_weights: Tensor) -> Differentials:
        d = inputs.features.shape[2]

        def run(*tensors: Tensor) -> Differentials:
            *given, W, p, grad_W = tensors
            problem = Problem.of(Inputs(*given), options.n_classes, options.intercept)
            W, c = W.to(problem.features.dtype), grad_W.to(problem.features.dtype)
            slope = loss_slope(problem, p)
            rows = Rows.of(problem, W, active_rows(problem, W))
            right = rows.take(c)
            q = rows.scatter(least_step(rows, p, right - right.mean(-1, keepdim=True)), W.shape[1])
            along = problem.features @ q
            slope_change = problem.weight * p * (along - (p * along).sum(-1, keepdim=True))
            grad_X = -(slope @ q.mT + slope_change @ W.mT)[..., :d]
            penalised, feature_rows = q[:, :d], W[:, :d]
            unit = feature_rows / row_norms(feature_rows).clamp_min(_TINY)[..., None]
            return Differentials(
                features=grad_X.to(inputs.features.dtype),
                lambda1=-(penalised * unit).sum((1, 2)),
                lambda2=-(penalised * feature_rows).sum((1, 2)),
            )

        tensors = (*inputs, *saved, grad_weights)
        return Differentials(*apply_in_slices(run, tensors, _task_bytes(inputs.features, options.n_classes), _MEMORY))

    def tangent(self, inputs: Inputs, options: Options, saved: Saved, tangents: Differentials) -> Tensor:
        d = inputs.features.shape[2]

        def run(*tensors: Tensor) -> tuple[Tensor]:
            *given, W, p, dX, dl1, dl2 = tensors
            problem = Problem.of(Inputs(*given), options.n_classes, options.intercept)
            W, dX = W.to(problem.features.dtype), dX.to(problem.features.dtype)
            slope = loss_slope(problem, p)
            rows = Rows.of(problem, W, active_rows(problem, W))
            feature_rows = W[:, :d]
            along = dX @ feature_rows
            slope_change = problem.weight * p * (along - (p * along).sum(-1, keepdim=True))
            # Tangent of the gradient of P at constant W.
            gradient_tangent = problem.features.mT @ slope_change
            unit = feature_rows / row_norms(feature_rows).clamp_min(_TINY)[..., None]
            gradient_tangent[:, :d] += dX.mT @ slope + dl1[:, None, None] * unit + dl2[:, None, None] * feature_rows
            right = rows.take(gradient_tangent)
            change = rows.scatter(least_step(rows, p, right - right.mean(-1, keepdim=True)), W.shape[1])
            return (-change.to(saved.weights.dtype),)

        tensors = (*inputs, *saved, *tangents)
        return apply_in_slices(run, tensors, _task_bytes(inputs.features, options.n_classes), _MEMORY)[0]


def _task_bytes(features: Tensor, n_classes: int) -> int:
    """Scratch memory per task, in bytes."""
    _, n, d = features.shape
    return 8 * (3 * n * d + 12 * n * n_classes + 8 * d * n_classes)
