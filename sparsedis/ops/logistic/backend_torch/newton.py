"""Newton's method on the active rows, which block coordinate descent or an interior-point method identifies."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.common.primal import Certificate, Progress
from sparsedis.ops.logistic.backend_torch.hessian import damped_step, well_conditioned
from sparsedis.ops.logistic.backend_torch.interior import fits_interior_point, interior_point
from sparsedis.ops.logistic.backend_torch.rows import Rows, active_rows
from sparsedis.ops.logistic.problem import Problem, certificate, loss, penalty, probabilities, row_norms

# Number of initial iterations with sweeps, sweeps per iteration, and Newton steps after them. Most tasks need no other
# iterations; with nearly dependent features, sweeps would need hundreds.
_SWEEP_ITERATIONS, _SWEEPS, _STEPS = 5, 5, 10
# Minimum number of inactive rows that a sweep considers.
_MIN_CANDIDATES = 16
# In the later iterations 1 + (number of active rows) / _ACTIVE_PER_ENTRY rows enter at once, followed by Newton steps.
_ACTIVE_PER_ENTRY, _STEPS_AFTER_ENTRY = 4, 30
_HALVINGS, _PLAIN_HALVINGS = 25, 6
_TINY = torch.finfo(torch.float64).tiny


def solve(problem: Problem, tol: float, max_iter: int) -> tuple[Tensor, Certificate, Tensor, Tensor]:
    """Solve every task to a relative gap of ``tol`` and further to rounding error.

    :meth:`Progress.record` decides when a task ends; its active set is the nonzero rows.

    The first iterations run sweeps of proximal block coordinate descent until the active rows settle, then Newton steps
    on these rows, where the objective is smooth. Tasks that this does not solve, or in which the sweeps activate more
    rows than the samples determine, restart from an interior-point method, whose number of steps depends little on the
    task. In later iterations only the rows that violate the optimality conditions most are activated before the Newton
    steps. Apart from that restart every step lowers the objective; once the active rows are correct, Newton's method
    converges quadratically.

    Returns:
        The best W (B, d, k), its certificate, n_iter (B,) and status (B,).
    """
    W = problem.start()
    progress = Progress(W, certificate(problem, W), tol)
    restarted = torch.zeros_like(progress.n_iter, dtype=torch.bool)
    part, W = problem.take(progress.index), W[progress.index]
    for iteration in range(1, max_iter + 1):
        if len(progress.index) == 0:
            break
        active = row_norms(W) > 0
        sweeping = iteration <= _SWEEP_ITERATIONS
        W = _sweeps(part, W) if sweeping else _activate_rows(part, W)
        restarting = _underdetermined(part, W) | (iteration == _SWEEP_ITERATIONS and fits_interior_point(part))
        restarting &= ~restarted[progress.index] & (part.lambda1 > 0).any(1)
        if bool(restarting.any()):
            W[restarting] = interior_point(part.take(restarting), W[restarting])
            restarted[progress.index[restarting]] = True
            progress.restart(restarting)
        W = _newton_steps(part, W, _STEPS if sweeping else _STEPS_AFTER_ENTRY)
        same = ((row_norms(W) > 0) == active).all(1)
        continues = progress.record(W, certificate(part, W), same, iteration)
        if not bool(continues.all()):
            part, W = part.take(continues), W[continues]
    return progress.weights, progress.certificate, progress.n_iter, progress.status


def _sweeps(problem: Problem, W: Tensor) -> Tensor:
    """Sweeps over working sets until the set of nonzero rows settles.

    The working set of a sweep consists of the nonzero rows and the zero rows that violate the optimality conditions
    most, as many as there are nonzero rows but at least _MIN_CANDIDATES.
    """
    scores = problem.features @ W
    for _ in range(_SWEEPS):
        before = row_norms(W) > 0
        _, slope = probabilities(problem, scores)
        moving = before | _most_violating(problem, slope, before, before.sum(1).clamp_min(_MIN_CANDIDATES))
        if not bool(moving.any()):
            break
        W, scores = _sweep(problem, W, scores, slope, moving)
        if bool(((row_norms(W) > 0) == before).all()):
            break
    return W


def _underdetermined(problem: Problem, W: Tensor) -> Tensor:
    """(B,) bool: whether W has more rows than the samples determine, with a lambda2 too small to regularise them."""
    penalised = (row_norms(W) > 0) & (problem.lambda1 > 0)
    n_determined = (problem.weight > 0).sum((1, 2)) * (W.shape[2] - 1)
    squares = (penalised * (problem.weight * problem.features**2).sum(1)).sum(1)
    return (penalised.sum(1) > n_determined) & ~well_conditioned(squares, problem.lambda2[:, 0])


def _activate_rows(problem: Problem, W: Tensor) -> Tensor:
    """Activate the zero rows that violate the optimality conditions most."""
    scores, active = problem.features @ W, row_norms(W) > 0
    _, slope = probabilities(problem, scores)
    entering = _most_violating(problem, slope, active, 1 + active.sum(1) // _ACTIVE_PER_ENTRY)
    return _sweep(problem, W, scores, slope, entering)[0] if bool(entering.any()) else W


def _sweep(problem: Problem, W: Tensor, scores: Tensor, slope: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
    """One proximal step in each of the rows ``moving`` (B, d), one after the other; returns W and its scores.

    The step sizes use the bound 1/2 on the softmax's curvature.
    """
    rows = Rows.of(problem, W, moving)
    values = rows.W.clone()
    constant = (problem.weight * rows.X**2).sum(1) / 2
    inverse = 1 / (constant + rows.lambda2).clamp_min(_TINY)
    for j in range(values.shape[1]):
        x, old = rows.X[:, :, j, None], values[:, j].clone()
        size = constant[:, j, None]
        point = size * old - (x * slope).sum(1)
        norm = torch.linalg.vector_norm(point, dim=-1, keepdim=True)
        new = (1 - rows.lambda1[:, j, None] / norm.clamp_min(_TINY)).clamp_min(0) * point * inverse[:, j, None]
        new = torch.where(rows.present[:, j, None] & (size > 0), new, 0)
        values[:, j] = new
        scores = scores + x * (new - old)[:, None]
        _, slope = probabilities(problem, scores)
    return W + rows.scatter(values - rows.W, W.shape[1]), scores


def _most_violating(problem: Problem, slope: Tensor, active: Tensor, count: Tensor) -> Tensor:
    """(B, d) bool: the zero rows that violate the optimality conditions most, at most ``count`` (B,)."""
    violation = torch.where(active, 0, (row_norms(problem.features.mT @ slope) - problem.lambda1).clamp_min(0))
    rank = violation.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (violation > 0) & (rank < count[:, None])


def _newton_steps(problem: Problem, W: Tensor, most: int) -> Tensor:
    """Up to ``most`` Newton steps on the active rows; a task ends when a step has no effect."""
    W = W.clone()
    moving = torch.arange(len(W), device=W.device)
    for _ in range(most):
        moved = torch.zeros_like(moving, dtype=torch.bool)
        sizes = ((row_norms(W[moving]) > 0) | (problem.lambda1[moving] == 0)).sum(1)
        # Group tasks with similar numbers of rows, since a batch is padded to its largest number.
        classes = sizes.clamp_min(8).to(W.dtype).log2().ceil()
        for size in classes.unique():
            chosen = classes == size
            index = moving[chosen]
            all_tasks = len(index) == len(W)
            W[index], moved[chosen] = _newton_step(problem if all_tasks else problem.take(index), W[index])
        moving = moving[moved]
        if len(moving) == 0:
            break
    return W


def _newton_step(problem: Problem, W: Tensor) -> tuple[Tensor, Tensor]:
    """One Newton step on the active rows with line search; returns W and whether it had an effect, (B,) bool."""
    scores = problem.features @ W
    p, slope = probabilities(problem, scores)
    rows = Rows.of(problem, W, active_rows(problem, W))
    norms = row_norms(rows.W)
    unit = rows.W / norms.clamp_min(_TINY)[..., None]
    gradient = rows.X.mT @ slope + rows.lambda1[..., None] * unit + rows.lambda2[..., None] * rows.W
    gradient = gradient * rows.present[..., None]
    step = -damped_step(rows, p, gradient)
    slope_along = (gradient * step).sum((1, 2))
    before = loss(problem, scores) + penalty(problem, W)
    # Rounding error in a difference of objectives.
    noise = 1e-14 * before
    # Step length at which the first row would reverse its direction.
    against = torch.where(rows.lambda1 > 0, -(rows.W * step).sum(-1), 0)
    first = torch.where(against > 0, norms**2 / against.clamp_min(_TINY), torch.inf).amin(1)
    length = torch.ones_like(before)
    pending = torch.ones_like(before, dtype=torch.bool)
    result = W
    for halving in range(_HALVINGS):
        moved = rows.W + length[:, None, None] * step
        # Set a row that would reverse to zero: the minimum along the step is at zero or beyond it.
        turned = (against > 0) & (length[:, None] * against >= norms**2 * (1 - 1e-12))
        moved = torch.where(turned[..., None], 0, moved)
        trial = rows.scatter(moved, W.shape[1])
        after = loss(problem, problem.features @ trial) + penalty(problem, trial)
        accepted = pending & (after <= before + 1e-4 * length * slope_along.clamp_max(0) + noise)
        result = torch.where(accepted[:, None, None], trial, result)
        pending = pending & ~accepted
        if not bool(pending.any()):
            break
        # With more rows than the samples determine, the step is long in directions that do not change the loss.
        shorter = length / 2 if halving < _PLAIN_HALVINGS else torch.minimum(length / 2, first)
        length = torch.where(pending, shorter, length)
    return result, ~pending & (-slope_along > 1e-28 * before)
