"""Gram coordinate descent that ends exactly: sweeps find the support, a direct solve on it the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.lasso.problem import Certificate, certificate
from sparsedis.ops.least_squares import normal_equations
from sparsedis.ops.restricted import damped_step, least_step
from sparsedis.solution import Status

# Checks without a better gap after which a task has stalled.
_PATIENCE = 20
# Sweeps per iteration. A sweep is much cheaper than a solve on a support that is too large.
_SWEEPS = 10
# Solves on the support per iteration; each drops a feature, or is the last.
_FACES = 10


def descend(
    features: Tensor,
    targets: Tensor,
    share: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Certificate, Tensor, Tensor]:
    """Solve every task to a relative gap of ``tol``.

    An iteration is some sweeps of coordinate descent, which let features in and out until the signs stay, and then the
    minimum over the orthant that the signs span. Both lower the objective, so that coordinate descent's convergence
    holds throughout; once the support is right the second is exact. Without lambda1 there is no orthant: the first
    solve, from zero, is the least-squares solution of least norm.

    Returns:
        The best w (B, d), its certificate, and n_iter and status, (B,) each.
    """
    batch = len(features)
    H, b = normal_equations(features, targets[..., None], share, lambda2)
    b = b[..., 0]
    best = torch.zeros_like(b)
    state = _State(H, b, lambda1, torch.zeros_like(b))
    at = certificate(features, targets, share, lambda1, lambda2, best, state.least_step())
    n_iter = torch.zeros(batch, dtype=torch.int64, device=b.device)
    status = torch.where(at.relative_gap <= tol, int(Status.CERTIFIED), int(Status.MAX_ITER))
    since = torch.zeros_like(n_iter)
    going = (status != Status.CERTIFIED).nonzero()[:, 0]
    if len(going) < batch:
        state = state.take(going)
    for iteration in range(1, max_iter + 1):
        if len(going) == 0:
            break
        state.sweeps()
        for _ in range(_FACES):
            if not bool(state.minimise_on_face().any()):
                break
        now = certificate(
            features[going], targets[going], share[going], lambda1[going], lambda2[going], state.w, state.least_step()
        )
        better = now.relative_gap < at.relative_gap[going]
        improved = going[better]
        best[improved] = state.w[better]
        for old, new in zip(at, now, strict=True):
            old[improved] = new[better]
        since[going] = torch.where(better, 0, since[going] + 1)
        n_iter[going] = iteration
        certified = at.relative_gap[going] <= tol
        stalled = ~certified & ((since[going] >= _PATIENCE) | ~torch.isfinite(now.relative_gap))
        status[going[certified]] = int(Status.CERTIFIED)
        status[going[stalled]] = int(Status.STALLED)
        kept = ~(certified | stalled)
        if not bool(kept.all()):
            going, state = going[kept], state.take(kept)
    return best, at, n_iter, status


class _State:
    """Weights w (B, d) and the gradient g = b - H w of the tasks that go on."""

    def __init__(self, H: Tensor, b: Tensor, lambda1: Tensor, w: Tensor) -> None:
        self.H, self.b, self.lambda1, self.w = H, b, lambda1, w
        self.diagonal = H.diagonal(dim1=1, dim2=2)
        self.refresh()

    def take(self, index: Tensor) -> _State:
        return _State(self.H[index], self.b[index], self.lambda1[index], self.w[index])

    def refresh(self) -> None:
        self.g = self.b - (self.H @ self.w[..., None])[..., 0]

    def sweeps(self) -> None:
        """Passes over the features, in all tasks at once; a task whose signs no longer change sits out the others."""
        inverse = torch.where(self.diagonal > 0, 1 / self.diagonal, 0)
        moving = self.lambda1 > 0
        for _ in range(_SWEEPS):
            before = self.w.sign()
            for j in range(self.w.shape[1]):
                old = self.w[:, j].clone()
                z = self.g[:, j] + self.diagonal[:, j] * old
                new = torch.where(moving, z.sign() * (z.abs() - self.lambda1).clamp_min(0) * inverse[:, j], old)
                self.w[:, j] = new
                self.g -= self.H[:, j] * (new - old)[:, None]
            moving = moving & (self.w.sign() != before).any(1)
            if not bool(moving.any()):
                break

    def _support(self) -> Tensor:
        return torch.where((self.lambda1 > 0)[:, None], self.w != 0, self.diagonal > 0)

    def least_step(self) -> Tensor:
        """H^+ (b - H w) for the tasks without lambda1, 0 for the others."""
        dense = self.lambda1 == 0
        step = torch.zeros_like(self.w)
        if bool(dense.any()):
            self.refresh()
            step[dense] = least_step(self.H[dense], self._support()[dense], self.g[dense])
        return step

    def minimise_on_face(self) -> Tensor:
        """Go towards the minimum over the orthant of w, as far as it reaches; (B,) bool: it ended at a boundary."""
        self.refresh()
        active = self._support()
        sparse = (self.lambda1 > 0)[:, None]
        slope = (self.g - self.lambda1[:, None] * self.w.sign()) * active
        step = torch.where(sparse, damped_step(self.H, active & sparse, slope), self.least_step())
        beyond = self.w + step
        crossed = active & sparse & (beyond * self.w.sign() <= 0)
        # All that changed sign at zero, where that lowers the objective; else only as far as the first of them.
        all_dropped = torch.where(crossed, 0, beyond)
        ratio = torch.where(crossed, self.w / (self.w - beyond), torch.inf)
        reach = ratio.amin(1, keepdim=True).clamp_max(1)
        first_dropped = torch.where(crossed & (ratio <= reach), 0, self.w + reach * step)
        move = all_dropped - self.w
        change = (move * ((self.H @ move[..., None])[..., 0] / 2 - self.g)).sum(1) + self.lambda1 * (
            all_dropped.abs() - self.w.abs()
        ).sum(1)
        ended = crossed.any(1)
        self.w = torch.where((ended & ~(change < 0))[:, None], first_dropped, all_dropped)
        self.refresh()
        return ended
