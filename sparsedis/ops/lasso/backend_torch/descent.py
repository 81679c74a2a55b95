"""Coordinate descent that ends exactly: sweeps or entering features find the support, a direct solve the weights."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sparsedis.ops.common.least_squares import normal_equations
from sparsedis.ops.common.primal import Certificate, Progress
from sparsedis.ops.common.support import damped_step, least_step
from sparsedis.ops.lasso.backend_torch.wide import is_wide
from sparsedis.ops.lasso.problem import certificate

# Iterations that begin with sweeps. Most tasks need no others; where features are close to dependent sweeps take
# thousands.
SWEEP_ITERATIONS = 2
# Sweeps per iteration. A sweep is much cheaper than a solve on a support that is too large.
SWEEPS = 10
# Solves on the support in an iteration of sweeps; each drops a feature, or is the last.
SOLVES = 10
# Features that enter at once: one, and one for every so many that are in.
IN_PER_ENTRY = 4
# From this lambda2, relative to the largest diagonal entry of H, the support may be larger than the number of samples.
DETERMINED = 1e-4


def descend(
    features: Tensor,
    targets: Tensor,
    weight: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, Certificate, Tensor, Tensor]:
    """Solve every task to a relative gap of ``tol``, and on to rounding (:meth:`Progress.record`, the active set being
    the signs of w).

    The first iterations are some sweeps of coordinate descent, which let features in and out until the signs stay, and
    then the minimum over the orthant that the signs span. The others, an active-set method, let in only the features
    that lower the objective most, and continue until that minimum is reached; they begin at zero where the sweeps have
    left more features than samples. All of it lowers the objective, and a minimum over an orthant is left only for a
    lower one, so that the right one is found, where the direct solve is exact. Without lambda1 there is no orthant: the
    first solve, from zero, is the least-squares solution of least norm.

    Returns:
        The best w (B, d), its certificate, and n_iter and status, (B,) each.
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
                progress.restart(tasks.restart_crowded())
            tasks.enter()
        tasks.solve_on_support(SOLVES if sweeping else features.shape[2] + 1)
        at = tasks.certify()
        continues = progress.record(tasks.w, at, (tasks.w.sign() == signs).all(1), iteration)
        if not bool(continues.all()):
            tasks = tasks.take(continues)
    return progress.weights, progress.certificate, progress.n_iter, progress.status


@dataclass
class _Tasks:
    """The tasks that continue: their data, weights w (B, d), and the gradient g = b - H w."""

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
        """The certificate of w; takes the gradient from the features, as that from H cancels."""
        X, residual = self.features, self.targets - (self.features @ self.w[..., None])[..., 0]
        self.g = (X.mT @ (self.weight * residual)[..., None])[..., 0] - self.lambda2[:, None] * self.w
        to_minimum = (self.g * self.least_step()).sum(1).clamp_min(0) / 2
        return certificate(X, self.targets, self.weight, self.lambda1, self.lambda2, self.w, to_minimum)

    def sweeps(self) -> None:
        """Passes over the features, in all tasks at once; a task whose signs no longer change sits out the others."""
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
        """Over feature j (B,) of every task that moves (B,)."""
        rows = torch.arange(len(j), device=j.device)
        row, old = self.H[rows, j], self.w[rows, j]
        diagonal = row[rows, j]
        z = self.g[rows, j] + diagonal * old
        new = z.sign() * (z.abs() - self.lambda1).clamp_min(0) / torch.where(diagonal > 0, diagonal, 1)
        change = torch.where(moving & (diagonal > 0), new - old, 0)
        self.w[rows, j] = torch.where(moving & (diagonal > 0), new, old)
        self.g = self.g - row * change[:, None]

    @property
    def determined(self) -> Tensor:
        """(B,) bool: whether lambda2 lets a support be larger than the number of samples, in a task with more features;
        without it direct solves on such a support drop one feature each."""
        return (self.lambda2 >= DETERMINED * self.diagonal.amax(1)) & is_wide(self.features)

    def restart_crowded(self) -> Tensor:
        """Put w at zero where it has more features than there are samples and than lambda2 allows; (B,) bool: where."""
        crowded = (self.lambda1 > 0) & ((self.w != 0).sum(1) > (self.weight > 0).sum(1)) & ~self.determined
        self.w = torch.where(crowded[:, None], 0, self.w)
        self.g = torch.where(crowded[:, None], self.b, self.g)
        return crowded

    def enter(self) -> None:
        """Let in, one after the other, the features that lower the objective most by themselves."""
        size = (self.w != 0).sum(1)
        most = 1 + size // IN_PER_ENTRY
        most = torch.where(self.determined, most, torch.minimum(most, (self.weight > 0).sum(1) - size).clamp_min(1))
        for count in range(int(most.max())):
            excess = (self.g.abs() - self.lambda1[:, None]).clamp_min(0)
            off = (self.w == 0) & (self.diagonal > 0) & (self.lambda1 > 0)[:, None]
            gain, chosen = torch.where(off, excess**2 / self.diagonal, 0).max(1)
            self._minimise_over(chosen, (gain > 0) & (count < most))

    def _support(self) -> Tensor:
        return torch.where((self.lambda1 > 0)[:, None], self.w != 0, self.diagonal > 0)

    def least_step(self) -> Tensor:
        """H^+ g for the tasks without lambda1, 0 for the others."""
        dense = self.lambda1 == 0
        step = torch.zeros_like(self.w)
        if bool(dense.any()):
            step[dense] = least_step(self.H[dense], self._support()[dense], self.g[dense])
        return step

    def solve_on_support(self, most: int) -> None:
        """The minimum over the orthant of w, and wherever that ends at a boundary again over the smaller one.

        At most ``most`` solves: d + 1 are enough, as all but the last of a task drop a feature.
        """
        moving = torch.ones_like(self.lambda1, dtype=torch.bool)
        for _ in range(most):
            moving = self._solve_once(moving)
            if not bool(moving.any()):
                break

    def _solve_once(self, moving: Tensor) -> Tensor:
        """A step towards the minimum over the orthant of w, for the tasks ``moving`` (B,), at most to its boundary.

        Returns:
            (B,) bool: the tasks that ended at the boundary.
        """
        active = self._support()
        sparse = (self.lambda1 > 0)[:, None]
        slope = (self.g - self.lambda1[:, None] * self.w.sign()) * active
        step = torch.where(sparse, damped_step(self.H, active & sparse, slope), self.least_step())
        beyond = self.w + step
        crossed = active & sparse & (beyond * self.w.sign() <= 0)
        # All that changed sign at zero, where that lowers the objective; else the first of them only.
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
