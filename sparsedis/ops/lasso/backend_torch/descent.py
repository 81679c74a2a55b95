"""Coordinate descent with an exact finish: sweeps or an active-set method, and direct solves on the support."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sparsedis.ops.common.least_squares import normal_equations
from sparsedis.ops.common.primal import Certificate, Progress
from sparsedis.ops.common.support import damped_step, least_step
from sparsedis.ops.lasso.backend_torch.wide import is_wide
from sparsedis.ops.lasso.problem import certificate

# Number of initial iterations with sweeps. Most tasks need no more; with nearly dependent features, sweeps would need
# thousands.
SWEEP_ITERATIONS = 2
# Sweeps per iteration. A sweep is much cheaper than a direct solve on too large a support.
SWEEPS = 10
# Maximum number of direct solves in an iteration with sweeps. Every solve but the last drops a feature.
SOLVES = 10
# In the later iterations, 1 + (number of active features) / ACTIVE_PER_ENTRY features are activated at once.
ACTIVE_PER_ENTRY = 4
# With lambda2 of at least this multiple of H's largest diagonal entry, the support may exceed the number of samples.
WELL_REGULARISED = 1e-4


def descend(
    features: Tensor,
    targets: Tensor,
    weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Certificate, Tensor, Tensor]:
    """Solve every task to a relative gap of ``tol`` and further to rounding error.

    :meth:`Progress.record` decides when a task ends; its active set is the signs of w.

    The first SWEEP_ITERATIONS iterations run sweeps of coordinate descent until the signs settle, then minimise over
    the orthant of these signs. Later iterations are an active-set method: they activate only the features that lower
    the objective most, then solve until that minimum is reached. They start from zero if the sweeps activated more
    features than there are samples. Apart from that restart every step lowers the objective, and the minimum over an
    orthant is left only for a lower one, so the optimal orthant is found if the direct solves are exact. Without
    lambda1 there are no orthants: the first solve, from zero, yields the least-squares solution of minimum norm.

    Returns:
        The best w (B, d), its certificate, n_iter (B,) and status (B,).
    """
    tasks = _Tasks.begin(features, targets, weight, lambda1, lambda2)
    progress = Progress(tasks.w, tasks.certify(), tol)
    if len(progress.index) < len(features):
        tasks = tasks.take(progress.index)
    for iteration in range(1, max_iter + 1):
        if len(progress.index) == 0:
            break
        signs = tasks.w.sign()
        sweeping = iteration <= SWEEP_ITERATIONS
        if sweeping:
            tasks.sweeps()
        else:
            if iteration == SWEEP_ITERATIONS + 1:
                progress.restart(tasks.restart_underdetermined())
            tasks.activate()
        tasks.solve_on_support(SOLVES if sweeping else features.shape[2] + 1)
        at = tasks.certify()
        continues = progress.record(tasks.w, at, (tasks.w.sign() == signs).all(1), iteration)
        if not bool(continues.all()):
            tasks = tasks.take(continues)
    return progress.weights, progress.certificate, progress.n_iter, progress.status


@dataclass
class _Tasks:
    """The tasks that continue: data, weights w (B, d), and the negative gradient g = b - H w of the smooth part."""

    features: Tensor
    targets: Tensor
    weight: Tensor
    lambda1: Tensor
    lambda2: Tensor
    H: Tensor
    b: Tensor
    w: Tensor
    g: Tensor

    @classmethod
    def begin(cls, features: Tensor, targets: Tensor, weight: Tensor, lambda1: Tensor, lambda2: Tensor) -> _Tasks:
        H, b = normal_equations(features, targets[..., None], weight, lambda2)
        b = b[..., 0]
        return cls(features, targets, weight, lambda1, lambda2, H, b, torch.zeros_like(b), b)

    def take(self, index: Tensor) -> _Tasks:
        return _Tasks(*(getattr(self, field.name)[index] for field in fields(self)))

    @property
    def diagonal(self) -> Tensor:
        return self.H.diagonal(dim1=1, dim2=2)

    def refresh(self) -> None:
        self.g = self.b - (self.H @ self.w[..., None])[..., 0]

    def certify(self) -> Certificate:
        """The certificate of w. Recomputes g from the features, since b - H w suffers from cancellation."""
        X, residual = self.features, self.targets - (self.features @ self.w[..., None])[..., 0]
        self.g = (X.mT @ (self.weight * residual)[..., None])[..., 0] - self.lambda2[:, None] * self.w
        to_minimum = (self.g * self.least_step()).sum(1).clamp_min(0) / 2
        return certificate(X, self.targets, self.weight, self.lambda1, self.lambda2, self.w, to_minimum)

    def sweeps(self) -> None:
        """Up to SWEEPS cyclic passes over the features in all tasks; a task stops when its signs settle."""
        moving = self.lambda1 > 0
        for _ in range(SWEEPS):
            before = self.w.sign()
            for j in range(self.w.shape[1]):
                self._minimise_over(torch.full_like(moving, j, dtype=torch.int64), moving)
            moving = moving & (self.w.sign() != before).any(1)
            if not bool(moving.any()):
                break
        self.refresh()

    def _minimise_over(self, j: Tensor, moving: Tensor) -> None:
        """Minimise over feature j (B,) in the tasks ``moving`` (B,)."""
        rows = torch.arange(len(j), device=j.device)
        row, old = self.H[rows, j], self.w[rows, j]
        diagonal = row[rows, j]
        z = self.g[rows, j] + diagonal * old
        new = z.sign() * (z.abs() - self.lambda1).clamp_min(0) / torch.where(diagonal > 0, diagonal, 1)
        change = torch.where(moving & (diagonal > 0), new - old, 0)
        self.w[rows, j] = torch.where(moving & (diagonal > 0), new, old)
        self.g = self.g - row * change[:, None]

    @property
    def well_regularised(self) -> Tensor:
        """(B,) bool: whether more active features than samples are allowed, which requires d > n and a large lambda2.

        Without such a lambda2 every direct solve on a support that large drops a single feature.
        """
        return (self.lambda2 >= WELL_REGULARISED * self.diagonal.amax(1)) & is_wide(self.features)

    def restart_underdetermined(self) -> Tensor:
        """Set w to 0 in tasks with more active features than samples, unless well_regularised; returns which, (B,)."""
        reset = (self.lambda1 > 0) & ((self.w != 0).sum(1) > (self.weight > 0).sum(1)) & ~self.well_regularised
        self.w = torch.where(reset[:, None], 0, self.w)
        self.g = torch.where(reset[:, None], self.b, self.g)
        return reset

    def activate(self) -> None:
        """Activate, one after the other, the features whose coordinate step lowers the objective most."""
        size = (self.w != 0).sum(1)
        limit = 1 + size // ACTIVE_PER_ENTRY
        limit = torch.where(
            self.well_regularised, limit, torch.minimum(limit, (self.weight > 0).sum(1) - size).clamp_min(1)
        )
        for count in range(int(limit.max())):
            excess = (self.g.abs() - self.lambda1[:, None]).clamp_min(0)
            off = (self.w == 0) & (self.diagonal > 0) & (self.lambda1 > 0)[:, None]
            gain, chosen = torch.where(off, excess**2 / self.diagonal, 0).max(1)
            self._minimise_over(chosen, (gain > 0) & (count < limit))

    def _support(self) -> Tensor:
        return torch.where((self.lambda1 > 0)[:, None], self.w != 0, self.diagonal > 0)

    def least_step(self) -> Tensor:
        """H^+ g for the tasks with lambda1 = 0, and 0 for the others, (B, d)."""
        dense = self.lambda1 == 0
        step = torch.zeros_like(self.w)
        if bool(dense.any()):
            step[dense] = least_step(self.H[dense], self._support()[dense], self.g[dense])
        return step

    def solve_on_support(self, most: int) -> None:
        """Minimise over the orthant of w; whenever that ends at the orthant's boundary, repeat on the smaller orthant.

        At most ``most`` solves. d + 1 always suffice, since every solve but the last drops a feature.
        """
        moving = torch.ones_like(self.lambda1, dtype=torch.bool)
        for _ in range(most):
            moving = self._solve_once(moving)
            if not bool(moving.any()):
                break

    def _solve_once(self, moving: Tensor) -> Tensor:
        """A step towards the minimum over the orthant of w, not beyond its boundary, in the tasks ``moving`` (B,).

        Returns:
            (B,) bool: the tasks whose step ended at the boundary.
        """
        active = self._support()
        sparse = (self.lambda1 > 0)[:, None]
        slope = (self.g - self.lambda1[:, None] * self.w.sign()) * active
        step = torch.where(sparse, damped_step(self.H, active & sparse, slope), self.least_step())
        beyond = self.w + step
        crossed = active & sparse & (beyond * self.w.sign() <= 0)
        # Set all entries that change sign to zero if that lowers the objective, otherwise only the first to reach zero.
        all_dropped = torch.where(crossed, 0, beyond)
        ratio = torch.where(crossed, self.w / (self.w - beyond), torch.inf)
        length = ratio.amin(1, keepdim=True).clamp_max(1)
        first_dropped = torch.where(crossed & (ratio <= length), 0, self.w + length * step)
        move = all_dropped - self.w
        change = (move * ((self.H @ move[..., None])[..., 0] / 2 - self.g)).sum(1) + self.lambda1 * (
            all_dropped.abs() - self.w.abs()
        ).sum(1)
        ended = crossed.any(1)
        new = torch.where((ended & ~(change < 0))[:, None], first_dropped, all_dropped)
        self.w = torch.where(moving[:, None], new, self.w)
        self.refresh()
        return moving & ended
