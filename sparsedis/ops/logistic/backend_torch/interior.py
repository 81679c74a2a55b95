"""A primal-dual interior-point method, the starting point for Newton's method if sweeps do not find the active rows.

With t_j >= ||W_j|| in place of the norms, the constraints are second-order cones. (t_j, W_j) and the multipliers
(z_j, Z_j), ||Z_j|| < z_j, solve

    grad f(W) = Z,    z = lambda1,    (t_j, W_j) o (z_j, Z_j) = (mu, 0)

for barrier parameters mu that decrease to 0, where f is the loss plus the squared norm and o the product of the cone's
Jordan algebra. The steps are Newton steps in the scaling of Nesterov and Todd (1997). z starts above all correlations
and decreases to lambda1 before mu decreases: for a small lambda1, W grows by orders of magnitude on the way, and that
takes hundreds of steps if mu is already small.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sparsedis.ops.logistic.backend_torch.hessian import Curvature, interior_step
from sparsedis.ops.logistic.backend_torch.rows import Rows
from sparsedis.ops.logistic.problem import Problem, certificate, loss, probabilities, proximal_argument, row_norms

_TINY = torch.finfo(torch.float64).tiny
# Relative gap at which it ends, largest number of steps, and number of steps without a smaller gap after which it ends.
_GOAL, _STEPS, _PATIENCE = 1e-12, 100, 10
# Fraction to the boundary of the cones.
_TO_BOUNDARY = 0.99
# mu is multiplied by a factor between _LEAST_FACTOR and _MOST_FACTOR, or by _FIXED_FACTOR while z is above
# _NEAR_LAMBDA1 times lambda1.
_LEAST_FACTOR, _MOST_FACTOR, _FIXED_FACTOR, _NEAR_LAMBDA1 = 0.05, 0.8, 0.8, 2.0
_HALVINGS = 30
# Curvature of unpenalised rows, relative to the squared norm of their feature, for systems in the samples.
_FREE_CURVATURE = 1e-10
# A row outside the pool counts as violating if it exceeds lambda1 by this fraction. The pool is not enlarged for fewer
# violating rows than _ENTERING_SHARE times its size.
_VIOLATION, _ENTERING_SHARE = 1e-3, 0.1
# A row is active if ||Z_j|| is within this fraction of z_j.
_ACTIVE_MARGIN = 1e-2
# Largest order of a system that is attempted.
_LARGEST_ORDER = 4096


@dataclass(frozen=True)
class _Point:
    """t, z (B, d) and W, Z (B, d, k). Rows without a penalty have t = z = 1 and Z = 0."""

    t: Tensor
    W: Tensor
    z: Tensor
    Z: Tensor

    def take(self, index: Tensor) -> _Point:
        return _Point(*(getattr(self, field.name)[index] for field in fields(self)))


def fits_interior_point(problem: Problem) -> bool:
    """Whether the systems are small enough for the interior-point method."""
    return problem.targets.shape[2] * min(problem.features.shape[1:]) <= _LARGEST_ORDER


def interior_point(problem: Problem, W: Tensor) -> Tensor:
    """W (B, d, k) close to the solutions, with inactive rows set to zero as far as they are identified.

    If the systems would be too large, the result is the initial point, problem.start().

    The method solves for a pool of rows only, at first as many as there are pairs of sample and class. The pool is
    doubled while more rows outside violate the optimality conditions than can efficiently enter one by one later.

    Args:
        problem: tasks with lambda1 > 0.
        W: weights that determine which rows the pool holds first, (B, d, k).
    """
    if not fits_interior_point(problem):
        return problem.start()
    n, d, k = *problem.features.shape[1:], W.shape[2]
    result, size = torch.empty_like(W), n * k
    going = torch.arange(len(W), device=W.device)
    while len(going) > 0:
        size = min(size, d)
        violation = torch.where(
            problem.lambda1 > 0, row_norms(proximal_argument(problem, W)) / problem.lambda1, torch.inf
        )
        pool = violation.argsort(dim=1, descending=True)[:, :size].sort(dim=1).values
        rows = pool[..., None].expand(-1, -1, k)
        W = torch.zeros_like(W).scatter_(1, rows, _interior_point(problem.columns(pool)))
        result[going] = W
        _, slope = probabilities(problem, problem.features @ W)
        violated = (row_norms(problem.features.mT @ slope) > (1 + _VIOLATION) * problem.lambda1).scatter(1, pool, False)
        more = violated.sum(1) > size * _ENTERING_SHARE
        going, problem, W, size = going[more], problem.take(more), W[more], 2 * size
    return result


def _interior_point(problem: Problem) -> Tensor:
    """:func:`interior_point` with all features in the pool."""
    start = problem.start()
    result, result_gap = start.clone(), start.new_full((len(start),), torch.inf)
    least_gap = result_gap.clone()
    going = torch.arange(len(start), device=start.device)
    cone = problem.lambda1 > 0
    at_zero = loss(problem, problem.features @ start)
    point = _start(problem, at_zero / cone.sum(1))
    length, since = torch.ones_like(at_zero), torch.zeros_like(going)
    for _ in range(_STEPS):
        point, length = _step(problem, point, length)
        gap = certificate(problem, point.W).relative_gap
        better = gap < least_gap[going]
        least_gap[going[better]] = gap[better]
        index = going[better]
        found, found_gap = _sparse(problem.take(better), point.take(better))
        improved = found_gap < result_gap[index]
        result[index[improved]], result_gap[index[improved]] = found[improved], found_gap[improved]
        since = torch.where(better | _far_above_lambda1(problem, point), 0, since + 1)
        kept = (gap > _GOAL) & (since < _PATIENCE)
        going, length, since = going[kept], length[kept], since[kept]
        problem, point = problem.take(kept), point.take(kept)
        if len(going) == 0:
            break
    return result


def _start(problem: Problem, mu: Tensor) -> _Point:
    """The initial W with multipliers above all correlations, on the central path except for Z."""
    cone = problem.lambda1 > 0
    W = problem.start()
    _, slope = probabilities(problem, problem.features @ W)
    Z = torch.where(cone[..., None], problem.features.mT @ slope, 0)
    z = torch.where(cone, torch.maximum(problem.lambda1, 2 * row_norms(Z).amax(1, keepdim=True)), 1)
    return _Point(torch.where(cone, mu[:, None] / z, 1), W, z, Z)


def _far_above_lambda1(problem: Problem, point: _Point) -> Tensor:
    """(B,) bool: whether some z is still far above lambda1."""
    return ((problem.lambda1 > 0) & (point.z > _NEAR_LAMBDA1 * problem.lambda1)).any(1)


def _step(problem: Problem, point: _Point, length: Tensor) -> tuple[_Point, Tensor]:
    """One step, given the previous step's ``length`` (B,); returns the new point and the step's length."""
    X, l2, cone = problem.features, problem.lambda2, problem.lambda1 > 0
    t, W, z, Z = point.t, point.W, point.z, point.Z
    scores = X @ W
    p, slope = probabilities(problem, scores)
    products = torch.where(cone, t * z + (W * Z).sum(-1), 0)
    centring = ((1 - length) ** 2).clamp(_LEAST_FACTOR, _MOST_FACTOR)
    far_above = _far_above_lambda1(problem, point)
    mu = torch.where(far_above, _FIXED_FACTOR, centring) * products.sum(1) / cone.sum(1)
    dz = torch.where(cone, torch.where(far_above, 1, 1 - centring)[:, None] * (problem.lambda1 - z), 0)

    # Nesterov-Todd scaling: the inverse of its square is inverse (2 (w0, -w) (w0, -w)^T - J), J = diag(1, -1, ..., -1).
    primal = torch.where(cone, t**2 - W.square().sum(-1), 1)
    dual = torch.where(cone, z**2 - Z.square().sum(-1), 1)
    s0, s = t / primal.sqrt(), W / primal.sqrt()[..., None]
    y0, y = z / dual.sqrt(), Z / dual.sqrt()[..., None]
    w = (s - y) / (2 * (1 + s0 * y0 + (s * y).sum(-1))).sqrt()[..., None]
    size = w.square().sum(-1)
    inverse = (dual / primal).sqrt()
    corner = inverse * (1 + 2 * size)
    side = -2 * (inverse * (1 + size).sqrt())[..., None] * w

    # Gradient of the barrier problem in t and W, at multipliers z + dz.
    in_t = torch.where(cone, z + dz - mu[:, None] * t / primal, 0)
    in_W = torch.where(cone[..., None], mu[:, None, None] * W / primal[..., None], 0)
    gradient = X.mT @ slope + l2[..., None] * W + in_W
    free = _FREE_CURVATURE * (problem.weight * X**2).sum(1)
    curvature = Curvature(
        unit=w / size.sqrt().clamp_min(_TINY)[..., None],
        across=torch.where(cone, inverse, free) + l2,
        along=torch.where(cone, inverse / (1 + 2 * size), free) + l2,
    )
    right = torch.where(cone[..., None], side * (in_t / corner)[..., None], 0) - gradient
    dW = interior_step(Rows.all(problem, W), curvature, p, right)
    # Remove the constant part of unpenalised rows, which is undetermined and otherwise drifts by rounding.
    dW = dW - dW.mean(-1, keepdim=True)
    dt = torch.where(cone, -(in_t + (side * dW).sum(-1)) / corner, 0)
    turn = dW + 2 * w * (w * dW).sum(-1, keepdim=True)
    dZ = torch.where(cone[..., None], -in_W - Z - side * dt[..., None] - inverse[..., None] * turn, 0)

    def barrier(t: Tensor, W: Tensor, scores: Tensor) -> Tensor:
        inside = torch.where(cone, t**2 - W.square().sum(-1), 1)
        value = torch.where(cone, (z + dz) * t - mu[:, None] / 2 * inside.clamp_min(_TINY).log(), 0)
        value = value + l2 / 2 * W.square().sum(-1)
        return torch.where((inside > 0).all(1), loss(problem, scores) + value.sum(1), torch.inf)

    before = barrier(t, W, scores)
    descent = ((gradient * dW).sum((1, 2)) + (in_t * dt).sum(1)).clamp_max(0)
    change = X @ dW
    step = (_TO_BOUNDARY * _to_boundary(cone, t, W, dt, dW)).clamp_max(1)
    for _ in range(_HALVINGS):
        a = step[:, None]
        after = barrier(t + a * dt, W + a[..., None] * dW, scores + a[..., None] * change)
        pending = ~(after <= before + 1e-4 * step * descent + 1e-14 * before.abs())
        if not bool(pending.any()):
            break
        step = torch.where(pending, step / 2, step)
    step = torch.where(pending, 0, step)
    dt, dW = torch.where(pending[:, None], 0, dt), torch.where(pending[:, None, None], 0, dW)  # avoids 0 * NaN
    dual_step = (_TO_BOUNDARY * _to_boundary(cone, z, Z, dz, dZ)).clamp_max(1)
    a, b = step[:, None], dual_step[:, None]
    moved = _Point(t + a * dt, W + a[..., None] * dW, z + b * dz, Z + b[..., None] * dZ)
    return moved, torch.minimum(step, dual_step)


def _to_boundary(cone: Tensor, t: Tensor, W: Tensor, dt: Tensor, dW: Tensor) -> Tensor:
    """The largest step along (dt, dW) from (t, W) within the cones, (B,)."""
    a, b = dt**2 - dW.square().sum(-1), t * dt - (W * dW).sum(-1)
    c = (t**2 - W.square().sum(-1)).clamp_min(0)
    # First positive root of c + 2 b x + a x^2.
    discriminant = b**2 - a * c
    root = discriminant.clamp_min(0).sqrt()
    meets = cone & (discriminant >= 0) & ((a < 0) | (b < 0))
    return torch.where(meets, c / (root - b).clamp_min(_TINY), torch.inf).amin(1)


def _sparse(problem: Problem, point: _Point) -> tuple[Tensor, Tensor]:
    """W with inactive rows set to zero, by the multipliers or by a proximal step, whichever has the smaller gap.

    Returns:
        W (B, d, k) and its relative gap (B,).
    """
    cone = problem.lambda1 > 0
    by_multipliers = row_norms(point.Z) >= (1 - _ACTIVE_MARGIN) * point.z
    by_proximal = row_norms(proximal_argument(problem, point.W)) > problem.lambda1
    first, second = (torch.where((chosen | ~cone)[..., None], point.W, 0) for chosen in (by_multipliers, by_proximal))
    gaps = [certificate(problem, W).relative_gap for W in (first, second)]
    better = gaps[1] < gaps[0]
    return torch.where(better[:, None, None], second, first), torch.where(better, gaps[1], gaps[0])
