"""The torch backend: any device, float64 inside."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.common.any_device import AnyDevice
from sparsedis.ops.common.backend import Outputs
from sparsedis.ops.common.batches import status_of_rounded
from sparsedis.ops.common.least_squares import differentiate, normal_equations, normalised_weights, perturbed
from sparsedis.ops.common.precision import returned_dtype, working
from sparsedis.ops.ridge.signature import Differentials, Inputs, Options, Saved
from sparsedis.solution import Status

_TINY = torch.finfo(torch.float64).tiny
# A direct solve is refined this often: what its rounding left is gone after one.
_REFINEMENTS = 2


class TorchBackend(AnyDevice):
    """A direct solve in torch's operations."""

    def solve(self, inputs: Inputs, options: Options) -> Outputs:
        features, targets, lambda2, sample_weight = inputs
        X, Y = working(features), working(targets)
        weight = normalised_weights(sample_weight, X.dtype)[..., None]
        system = _System(X, weight, lambda2)
        w = torch.zeros(X.shape[0], X.shape[2], Y.shape[2], dtype=X.dtype, device=X.device)
        for _ in range(1 + _REFINEMENTS):
            w = w + system.solve(X.mT @ (weight * (Y - X @ w)) - lambda2[:, None, None] * w)
        r = Y - X @ w
        v = X.mT @ (weight * r) - lambda2[:, None, None] * w
        at_zero = ((weight * Y**2).sum((1, 2)) / 2).clamp_min(_TINY)
        # With the residual as dual point: strong convexity, a sum of squares.
        gap = v.square().sum((1, 2)) / (2 * lambda2)
        status = torch.where(gap / at_zero <= options.tol, int(Status.CERTIFIED), int(Status.STALLED))
        weights = w.to(returned_dtype(features.dtype))
        rounded, misfit = w, r
        if weights.dtype != w.dtype:
            # Of the rounded weights, with the residual of the others as dual point: squares again.
            rounded = weights.to(w.dtype)
            misfit, moved = Y - X @ rounded, lambda2[:, None, None] * (rounded - w)
            gap = (weight * (misfit - r) ** 2).sum((1, 2)) / 2 + (v - moved).square().sum((1, 2)) / (2 * lambda2)
            gap = gap.nan_to_num(torch.inf, torch.inf)  # weights that overflow
            status = status_of_rounded(status, gap / at_zero, options.tol)
        objective = (weight * misfit**2).sum((1, 2)) / 2 + lambda2 / 2 * rounded.square().sum((1, 2))
        objective = objective.nan_to_num(torch.inf, torch.inf)
        return Outputs(
            weights=weights,
            dual=r,
            gap=gap,
            relative_gap=gap / at_zero,
            objective=objective,
            n_iter=torch.ones_like(status),
            status=status,
            active=(weights != 0).any(-1),
            margin=torch.full_like(gap, torch.inf),
        )

    def adjoint(self, inputs: Inputs, options: Options, saved: Saved, grad_weights: Tensor) -> Differentials:
        features, targets, lambda2, sample_weight = inputs
        X, Y, w, c = (working(value) for value in (features, targets, saved.weights, grad_weights))
        weight = normalised_weights(sample_weight, X.dtype)
        system = _System(X, weight[..., None], lambda2)
        q = system.refined(c)
        # The digits that float32 lost: with fewer samples than features q is as large as 1/lambda2 where w has nothing.
        w = w + system.solve(X.mT @ (weight[..., None] * (Y - X @ w)) - lambda2[:, None, None] * w)
        grad_features, grad_targets = differentiate(X, Y - X @ w, weight, w, q)
        return Differentials(
            features=grad_features.to(features.dtype),
            targets=grad_targets.to(targets.dtype),
            lambda2=-(q * w).sum((1, 2)),
        )

    def tangent(self, inputs: Inputs, options: Options, saved: Saved, tangents: Differentials) -> Tensor:
        features, targets, lambda2, sample_weight = inputs
        given = features, targets, saved.weights, tangents.features, tangents.targets
        X, Y, w, dX, dY = (working(value) for value in given)
        weight = normalised_weights(sample_weight, X.dtype)
        right = perturbed(X, Y - X @ w, weight, w, dX, dY) - tangents.lambda2[:, None, None] * w
        return _System(X, weight[..., None], lambda2).refined(right).to(saved.weights.dtype).contiguous()


class _System:
    """(X^T diag(weight) X + lambda2)^-1, by a factor of the smaller of the two Gram matrices."""

    def __init__(self, X: Tensor, weight: Tensor, lambda2: Tensor) -> None:
        self._X, self._share, self._lambda2 = X, weight, lambda2[:, None, None]
        self._root = weight.sqrt()
        self._by_samples = X.shape[1] < X.shape[2]
        if self._by_samples:
            rows = self._root * X
            matrix = rows @ rows.mT
            matrix.diagonal(dim1=1, dim2=2).add_(lambda2[:, None])
        else:
            matrix, _ = normal_equations(X, X[..., :0], weight[..., 0], lambda2)
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if bool(failed.any()):  # lambda2 below rounding: the refinement makes up for the shift
            diagonal = matrix.diagonal(dim1=1, dim2=2)
            shift = 16 * matrix.shape[1] * torch.finfo(matrix.dtype).eps * diagonal.amax(1, keepdim=True)
            diagonal.add_(torch.where((failed > 0)[:, None], shift, 0))
            factor, _ = torch.linalg.cholesky_ex(matrix)
        self._factor = factor

    def refined(self, right: Tensor) -> Tensor:
        """As :meth:`solve`, to rounding."""
        q = self.solve(right)
        for _ in range(_REFINEMENTS):
            q = q + self.solve(right - self._X.mT @ (self._share * (self._X @ q)) - self._lambda2 * q)
        return q

    def solve(self, right: Tensor) -> Tensor:
        """(B, d, m) -> (B, d, m)."""
        if not self._by_samples:
            return torch.cholesky_solve(right, self._factor)
        rows = self._root * self._X
        return (right - rows.mT @ torch.cholesky_solve(rows @ right, self._factor)) / self._lambda2
