"""The torch backend: any device, working precision."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.common.any_device import AnyDevice
from sparsedis.ops.common.backend import Outputs
from sparsedis.ops.common.batches import status_as_returned
from sparsedis.ops.common.least_squares import differentiate, normal_equations, normalised_weights, perturbed
from sparsedis.ops.common.precision import returned_dtype, working
from sparsedis.ops.ridge.signature import Differentials, Inputs, Options, Saved
from sparsedis.solution import Status

_TINY = torch.finfo(torch.float64).tiny
# Number of iterative refinements; one usually removes the rounding error of the direct solve.
_REFINEMENTS = 2
# If the ratio of a factor's smallest to largest pivot is below this, the Gram matrix is too inaccurate: it squares the
# condition number.
_ILL_CONDITIONED = 1e-4


class TorchBackend(AnyDevice):
    """A direct solve in torch operations."""

    def solve(self, inputs: Inputs, options: Options) -> Outputs:
        features, targets, lambda2, sample_weight = inputs
        X, Y = working(features), working(targets)
        weight = normalised_weights(sample_weight, X.dtype)[..., None]
        w = _System(X, weight, lambda2).fit(Y)
        r = Y - X @ w
        v = X.mT @ (weight * r) - lambda2[:, None, None] * w
        at_zero = ((weight * Y**2).sum((1, 2)) / 2).clamp_min(_TINY)
        # The dual point is the residual; by strong convexity the gap is a sum of squares.
        gap = v.square().sum((1, 2)) / (2 * lambda2)
        own = gap / at_zero
        status = torch.where(own <= options.tol, int(Status.CERTIFIED), int(Status.STALLED))
        weights = w.to(returned_dtype(features.dtype))
        rounded, misfit = w, r
        if weights.dtype != w.dtype:
            # Gap of the rounded weights with the unrounded residual as dual point: again a sum of squares.
            rounded = weights.to(w.dtype)
            misfit, moved = Y - X @ rounded, lambda2[:, None, None] * (rounded - w)
            gap = (weight * (misfit - r) ** 2).sum((1, 2)) / 2 + (v - moved).square().sum((1, 2)) / (2 * lambda2)
            gap = gap.nan_to_num(torch.inf, torch.inf)  # weights that overflowed in rounding
            status = status_as_returned(status, own, gap / at_zero, options.tol)
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
        # Recover the digits lost in float32: if n < d, q is of order 1/lambda2 outside the row space of X.
        if saved.weights.dtype != X.dtype:
            w = system.fit(Y)
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
    """Solves with H = X^T diag(weight) X + lambda2 I through a Cholesky factor of the smaller Gram matrix."""

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
        self._factor, failed = torch.linalg.cholesky_ex(matrix)
        pivots = self._factor.diagonal(dim1=1, dim2=2)
        ill = (failed > 0) | (pivots.amin(1) <= _ILL_CONDITIONED * pivots.amax(1))
        index = ill.nonzero()[:, 0]
        if len(index):
            self._factor[index] = self._orthogonal(index)

    def _orthogonal(self, index: Tensor) -> Tensor:
        """Factors of the tasks `index` by QR of the features stacked on sqrt(lambda2) I, without the Gram matrix."""
        rows = (self._root * self._X)[index]
        tall = rows.mT if self._by_samples else rows
        ridge = self._lambda2[index].sqrt() * torch.eye(tall.shape[2], dtype=tall.dtype, device=tall.device)
        return torch.linalg.qr(torch.cat([tall, ridge], 1), mode="r").R.mT

    def fit(self, Y: Tensor) -> Tensor:
        """The solution w (B, d, m) for targets Y (B, n, m), accurate to rounding error."""
        w = torch.zeros(len(Y), self._X.shape[2], Y.shape[2], dtype=Y.dtype, device=Y.device)
        if not self._by_samples:
            for _ in range(1 + _REFINEMENTS):
                w = w + self.solve(self._X.mT @ (self._share * (Y - self._X @ w)) - self._lambda2 * w)
            return w
        # Minimum-norm (w, u) with rows w + sqrt(lambda2) u = root Y, which avoids a division by lambda2.
        rows, root = self._root * self._X, self._lambda2.sqrt()
        u = torch.zeros_like(Y)
        for _ in range(1 + _REFINEMENTS):
            multipliers = self._factored(self._root * Y - rows @ w - root * u)
            w, u = w + rows.mT @ multipliers, u + root * multipliers
        return w

    def _factored(self, right: Tensor) -> Tensor:
        """Apply the inverse of the smaller Gram matrix to `right`."""
        half = torch.linalg.solve_triangular(self._factor, right, upper=False)
        return torch.linalg.solve_triangular(self._factor.mT, half, upper=True)

    def refined(self, right: Tensor) -> Tensor:
        """As :meth:`solve`, with iterative refinement."""
        q = self.solve(right)
        for _ in range(_REFINEMENTS):
            q = q + self.solve(right - self._X.mT @ (self._share * (self._X @ q)) - self._lambda2 * q)
        return q

    def solve(self, right: Tensor) -> Tensor:
        """H^-1 right, (B, d, m)."""
        if not self._by_samples:
            return self._factored(right)
        rows = self._root * self._X
        return (right - rows.mT @ self._factored(rows @ right)) / self._lambda2
