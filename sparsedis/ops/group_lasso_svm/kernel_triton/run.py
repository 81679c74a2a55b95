"""From the operation's arguments to its results: the batch cut to the memory allowed, the solver, the certificate."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.group_lasso_svm.kernel_triton import products
from sparsedis.ops.group_lasso_svm.kernel_triton.adjoint import adjoint as adjoint_of
from sparsedis.ops.group_lasso_svm.kernel_triton.certify import Progress, check
from sparsedis.ops.group_lasso_svm.kernel_triton.fista import fista
from sparsedis.ops.group_lasso_svm.kernel_triton.newton import newton
from sparsedis.ops.group_lasso_svm.kernel_triton.tasks import Tasks, as_tasks
from sparsedis.ops.group_lasso_svm.reference import ReferenceBackend
from sparsedis.ops.group_lasso_svm.reference.finish import finish_solution
from sparsedis.ops.group_lasso_svm.returned import returned
from sparsedis.ops.group_lasso_svm.thresholds import FINISH_GAP
from sparsedis.ops.operation import in_parts
from sparsedis.problem import Certificate, block_soft_threshold

# From this tolerance on, products over float32 features are made in float32 (in float64 where only they can certify).
SINGLE_TOLERANCE = 1e-6
_LARGEST_ADJOINT = 32
# Scratch memory, in bytes, that the tasks solved together may take.
_MEMORY = 4 << 30


def solve(
    features: Tensor,
    labels: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    dual_reg: Tensor,
    sample_weight: Tensor,
    n_classes: int,
    solver: str,
    tol: float,
    max_iter: int,
    exact: bool,
) -> tuple[Tensor, ...]:
    """The contract's ``solve``; see :mod:`sparsedis.ops.group_lasso_svm`."""
    out = torch.promote_types(features.dtype, torch.float32)

    def run(X: Tensor, y: Tensor, l1: Tensor, l2: Tensor, reg: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        tasks, divisor = as_tasks(X, y, l1, l2, reg, weight, n_classes)
        if solver == "newton":
            progress = newton(tasks, tol, max_iter, working(features.dtype, FINISH_GAP), exact)
        else:
            progress = fista(tasks, tol, max_iter, working(features.dtype, tol))
            if exact:
                refine(tasks, progress, tol, max_iter)
        everyone = torch.ones_like(progress.going)
        at = check(tasks, progress.exact, everyone, torch.float64, store=True)
        scale = tasks.scale[:, None, None]
        shrunk = block_soft_threshold(at.V, at.norms, tasks.lambda1) / tasks.lambda2[:, None, None]
        linked = Certificate(at.V, at.norms, shrunk, at.scores, at.gap, at.objective)
        weights = (shrunk * scale).to(out)
        rounded = weights.to(torch.float64) / scale
        scores = products.scores(tasks, rounded, everyone, torch.float64)
        n_iter, status = progress.n_iter.to(torch.int64), progress.status(tol)
        return weights, *returned(tasks, divisor, progress.exact, linked, rounded, scores, n_iter, status, tol)

    tensors = (features, labels, lambda1, lambda2, dual_reg, sample_weight)
    return in_parts(run, tensors, _task_bytes(features, n_classes, solver), _MEMORY)


def refine(tasks: Tasks, progress: Progress, tol: float, max_iter: int) -> None:
    """Take what first-order steps found to rounding: by the finish, or failing that by newton."""
    done = finish_solution(tasks.in_float64(), progress.exact)
    progress.offer(torch.arange(len(done.turns), device=done.turns.device), done.dual, done.relative_gap)
    rough = (~done.settled).nonzero()[:, 0]
    if len(rough):
        better = newton(tasks.take(rough), tol, max_iter, working(tasks.features.dtype, FINISH_GAP), exact=True)
        progress.offer(rough, better.exact, better.exact_gap)


def adjoint(
    features: Tensor,
    labels: Tensor,
    lambda1: Tensor,
    lambda2: Tensor,
    dual_reg: Tensor,
    sample_weight: Tensor,
    dual: Tensor,
    active: Tensor,
    grad_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The contract's ``adjoint``; see :mod:`sparsedis.ops.group_lasso_svm`.

    ``active`` is not needed: a pass over the features makes it again. Of more than 32 classes it is the reference's, on
    the same device: the kernel's tiles do not fit in registers there.
    """
    if dual.shape[2] > _LARGEST_ADJOINT:
        return ReferenceBackend().adjoint(
            features, labels, lambda1, lambda2, dual_reg, sample_weight, dual, active, grad_weights
        )

    def run(
        X: Tensor, y: Tensor, l1: Tensor, l2: Tensor, reg: Tensor, weight: Tensor, L: Tensor, grad_W: Tensor
    ) -> tuple[Tensor, ...]:
        tasks, divisor = as_tasks(X, y, l1, l2, reg, weight, L.shape[2])
        grad_features, *others = adjoint_of(tasks, L.contiguous(), grad_W.contiguous())
        return grad_features, *(value / divisor for value in others)

    tensors = (features, labels, lambda1, lambda2, dual_reg, sample_weight, dual, grad_weights)
    size = _task_bytes(features, dual.shape[2], "newton")
    return in_parts(run, tensors, size, _MEMORY)  # type: ignore[return-value]


def working(features: torch.dtype, tol: float) -> torch.dtype:
    """What the products over the features are made in."""
    return torch.float64 if features == torch.float64 or tol < SINGLE_TOLERANCE else torch.float32


def _task_bytes(features: Tensor, n_classes: int, solver: str) -> int:
    """Scratch memory that a task takes."""
    _, n, d = features.shape
    # The features in float64, for the finish and the adjoint.
    size = 8 * (20 * n * n_classes + 3 * d * n_classes + n * d)
    if solver == "newton":
        # The matrix, its factor and its parts; V, u and, in the full form, some 15 more of their size.
        size += 8 * (3 * (n * (n_classes - 1)) ** 2 + 17 * d * n_classes)
    return size
