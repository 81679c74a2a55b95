"""A primal-dual interior-point method, from which Newton's method starts where sweeps do not find the active rows.

With t_j >= ||W_j|| in place of the norms, the constraints are second-order cones. (t_j, W_j) and the multipliers
(z_j, Z_j), ||Z_j|| < z_j, solve

    grad f(W) = Z,    z = lambda1,    (t_j, W_j) o (z_j, Z_j) = (mu, 0)

for barrier parameters mu that fall to 0, f being the loss and the squared norm, o the product of the cone's Jordan
algebra. Steps are Newton's in the scaling of Nesterov and Todd (1997). z starts above all correlations and falls to
lambda1 before mu falls: with small weights of the group Lasso W grows by orders of magnitude on the way, which takes
hundreds of steps if mu is small by then.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sparsedis.ops.logistic.backend_torch.hessian import Curvature, interior_step
from sparsedis.ops.logistic.backend_torch.rows import Rows
from sparsedis.ops.logistic.problem import Problem, certificate, loss, probabilities, proximal_argument, row_norms

_TINY = torch.finfo(torch.float64).tiny
# A relative gap that is small enough, the most steps, and how many without a better gap end it.
_GOAL, _STEPS, _PATIENCE = 1e-12, 100, 10
# Share of the way to the cones' boundary.
_TO_BOUNDARY = 0.99
# mu falls by a factor between the first two, by the third while z is above _NEAR times lambda1.
_LEAST, _MOST, _HELD, _NEAR = 0.05, 0.8, 0.8, 2.0
_HALVINGS = 30
# Rows without a penalty get this share of their feature's weight as curvature, for systems in the samples.
_FREE = 1e-10
# A row outside the pool violates its condition by this share of lambda1; so many, relative to the pool, may enter
# later.
_VIOLATED, _ENTERING = 1e-3, 0.1
# A row is on where ||Z_j|| is as close to z_j, relative to it.
_ON = 1e-2
# Systems of a larger order are not tried.
_LARGEST_ORDER = 4096


@dataclass(frozen=True)
class _Point:
    """t, z (B, d) and W, Z (B, d, k); t = z = 1 and Z = 0 in rows without a penalty."""

    t: Tensor
    W: Tensor
    z: Tensor
    Z: Tensor

    def take(self, index: Tensor) -> _Point:
        return _Point(*(getattr(self, field.name)[index] for field in fields(self)))


def affordable(problem: Problem) -> bool:
    """Whether systems are of an order that is tried."""
    return problem.targets.shape[2] * min(problem.features.shape[1:]) <= _LARGEST_ORDER


def interior_point(problem: Problem, W: Tensor) -> Tensor:
    """W (B, d, k) close to the solutions, with the rows at zero that are zero there as far as this tells.

    It is the start again where systems would be too large.

    Only a pool of rows is solved for, at first one for each sample and class. It is doubled while more rows outside
    violate the optimality conditions than may as well enter one by one.

    Args:
        problem: tasks with lambda1 > 0.
        W: what tells which rows the pool should hold first.
    """
    if not affordable(problem):
        return problem.start()
    n, d, k = *problem.features.shape[1:], W.shape[2]
    result, size = torch.empty_like(W), n * k
    going = torch.arange(len(W), device=W.device)
    while len(going) > 0:
        size = min(size, d)
        urgency = torch.where(
            problem.lambda1 > 0, row_norms(proximal_argument(problem, W)) / problem.lambda1, torch.inf
        )
        pool = urgency.argsort(dim=1, descending=True)[:, :size].sort(dim=1).values
        rows = pool[..., None].expand(-1, -1, k)
        W = torch.zeros_like(W).scatter_(1, rows, _interior_point(problem.columns(pool)))
        result[going] = W
        _, slope = probabilities(problem, problem.features @ W)
        violated = (row_norms(problem.features.mT @ slope) > (1 + _VIOLATED) * problem.lambda1).scatter(1, pool, False)
        more = violated.sum(1) > size * _ENTERING
        going, problem, W, size = going[more], problem.take(more), W[more], 2 * size
    return result


def _interior_point(problem: Problem) -> Tensor:
    """The same for all features."""
    start = problem.start()
    result, own = start.clone(), start.new_full((len(start),), torch.inf)
    least = own.clone()
    going = torch.arange(len(start), device=start.device)
    cone = problem.lambda1 > 0
    at_zero = loss(problem, problem.features @ start)
    point = _start(problem, at_zero / cone.sum(1))
    length, since = torch.ones_like(at_zero), torch.zeros_like(going)
    for _ in range(_STEPS):
        point, length = _step(problem, point, length)
        gap = certificate(problem, point.W).relative_gap
        better = gap < least[going]
        least[going[better]] = gap[better]
        index = going[better]
        found, found_gap = _sparse(problem.take(better), point.take(better))
        improved = found_gap < own[index]
        result[index[improved]], own[index[improved]] = found[improved], found_gap[improved]
        since = torch.where(better | _far(problem, point), 0, since + 1)
        kept = (gap > _GOAL) & (since < _PATIENCE)
        going, length, since = going[kept], length[kept], since[kept]
        problem, point = problem.take(kept), point.take(kept)
        if len(going) == 0:
            break
    return result


def _start(problem: Problem, mu: Tensor) -> _Point:
    """W at the start, with multipliers above all correlations and on the central path but for Z."""
    cone = problem.lambda1 > 0
    W = problem.start()
    _, slope = probabilities(problem, problem.features @ W)
    Z = torch.where(cone[..., None], problem.features.mT @ slope, 0)
    z = torch.where(cone, torch.maximum(problem.lambda1, 2 * row_norms(Z).amax(1, keepdim=True)), 1)
    return _Point(torch.where(cone, mu[:, None] / z, 1), W, z, Z)


def _far(problem: Problem, point: _Point) -> Tensor:
    """(B,) bool: z has not come down to lambda1 yet."""
    return ((problem.lambda1 > 0) & (point.z > _NEAR * problem.lambda1)).any(1)


def _step(problem: Problem, point: _Point, length: Tensor) -> tuple[_Point, Tensor]:
    """One step from a point that the last step's ``length`` (B,) led to; and its own."""
    X, l2, cone = problem.features, problem.lambda2, problem.lambda1 > 0
    t, W, z, Z = point.t, point.W, point.z, point.Z
    scores = X @ W
    p, slope = probabilities(problem, scores)
    products = torch.where(cone, t * z + (W * Z).sum(-1), 0)
    centring = ((1 - length) ** 2).clamp(_LEAST, _MOST)
    far = _far(problem, point)
    mu = torch.where(far, _HELD, centring) * products.sum(1) / cone.sum(1)
    dz = torch.where(cone, torch.where(far, 1, 1 - centring)[:, None] * (problem.lambda1 - z), 0)

    # The scaling: its square's inverse is inverse (2 (w0, -w) (w0, -w)^T - J) with J = diag(1, -1, ..., -1).
    primal = torch.where(cone, t**2 - W.square().sum(-1), 1)
    dual = torch.where(cone, z**2 - Z.square().sum(-1), 1)
    s0, s = t / primal.sqrt(), W / primal.sqrt()[..., None]
    y0, y = z / dual.sqrt(), Z / dual.sqrt()[..., None]
    w = (s - y) / (2 * (1 + s0 * y0 + (s * y).sum(-1))).sqrt()[..., None]
    size = w.square().sum(-1)
    inverse = (dual / primal).sqrt()
    corner = inverse * (1 + 2 * size)
    side = -2 * (inverse * (1 + size).sqrt())[..., None] * w

    # The barrier's gradient in t and W, at multipliers z + dz.
    in_t = torch.where(cone, z + dz - mu[:, None] * t / primal, 0)
    in_W = torch.where(cone[..., None], mu[:, None, None] * W / primal[..., None], 0)
    gradient = X.mT @ slope + l2[..., None] * W + in_W
    free = _FREE * (problem.weight * X**2).sum(1)
    curvature = Curvature(
        unit=w / size.sqrt().clamp_min(_TINY)[..., None],
        across=torch.where(cone, inverse, free) + l2,
        along=torch.where(cone, inverse / (1 + 2 * size), free) + l2,
    )
    right = torch.where(cone[..., None], side * (in_t / corner)[..., None], 0) - gradient
    dW = interior_step(Rows.all(problem, W), curvature, p, right)
    # A row without a penalty is free along what moves nothing: rounding moves it there.
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
        waiting = ~(after <= before + 1e-4 * step * descent + 1e-14 * before.abs())
        if not bool(waiting.any()):
            break
        step = torch.where(waiting, step / 2, step)
    step = torch.where(waiting, 0, step)
    dt, dW = torch.where(waiting[:, None], 0, dt), torch.where(waiting[:, None, None], 0, dW)  # not 0 times NaN
    dual_step = (_TO_BOUNDARY * _to_boundary(cone, z, Z, dz, dZ)).clamp_max(1)
    a, b = step[:, None], dual_step[:, None]
    moved = _Point(t + a * dt, W + a[..., None] * dW, z + b * dz, Z + b[..., None] * dZ)
    return moved, torch.minimum(step, dual_step)


def _to_boundary(cone: Tensor, t: Tensor, W: Tensor, dt: Tensor, dW: Tensor) -> Tensor:
    """The longest step from (t, W) inside the cones along (dt, dW), (B,)."""
    a, b = dt**2 - dW.square().sum(-1), t * dt - (W * dW).sum(-1)
    c = (t**2 - W.square().sum(-1)).clamp_min(0)
    # The first positive root of c + 2 b x + a x^2.
    discriminant = b**2 - a * c
    root = discriminant.clamp_min(0).sqrt()
    meets = cone & (discriminant >= 0) & ((a < 0) | (b < 0))
    return torch.where(meets, c / (root - b).clamp_min(_TINY), torch.inf).amin(1)


def _sparse(problem: Problem, point: _Point) -> tuple[Tensor, Tensor]:
    """W with rows at zero, by the multipliers or as a proximal step would, whichever has the smaller gap; and that."""
    cone = problem.lambda1 > 0
    on = row_norms(point.Z) >= (1 - _ON) * point.z
    stays = row_norms(proximal_argument(problem, point.W)) > problem.lambda1
    first, second = (torch.where((chosen | ~cone)[..., None], point.W, 0) for chosen in (on, stays))
    gaps = [certificate(problem, W).relative_gap for W in (first, second)]
    better = gaps[1] < gaps[0]
    return torch.where(better[:, None, None], second, first), torch.where(better, gaps[1], gaps[0])
