"""Entry points of the backend: slices the batch to the memory budget, runs the solver, and builds the outputs."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsedis.ops.common.backend import Outputs
from sparsedis.ops.common.batches import apply_in_slices
from sparsedis.ops.common.precision import returned_dtype
from sparsedis.ops.svm.backend_torch import TorchBackend
from sparsedis.ops.svm.backend_torch.finish import finish_solution
from sparsedis.ops.svm.backend_triton import memory, products
from sparsedis.ops.svm.backend_triton.adjoint import adjoint as adjoint_of
from sparsedis.ops.svm.backend_triton.certify import Progress, check
from sparsedis.ops.svm.backend_triton.fista import fista
from sparsedis.ops.svm.backend_triton.newton import newton
from sparsedis.ops.svm.backend_triton.tasks import Tasks, as_tasks
from sparsedis.ops.svm.outputs import outputs
from sparsedis.ops.svm.problem import Certificate, block_soft_threshold
from sparsedis.ops.svm.signature import Differentials, Inputs, Options, Saved
from sparsedis.ops.svm.thresholds import FINISH_GAP

# From this tolerance on, float32 features are multiplied in float32; below it only float64 products can certify.
SINGLE_TOLERANCE = 1e-6
_LARGEST_ADJOINT = 32


def solve(inputs: Inputs, options: Options) -> Outputs:
    """As :meth:`sparsedis.ops.common.backend.Backend.solve`."""
    features, tol, max_iter = inputs.features, options.tol, options.max_iter

    def run(*tensors: Tensor) -> Outputs:
        tasks, divisor = as_tasks(Inputs(*tensors), options.n_classes)
        if options.solver == "newton":
            progress = newton(tasks, tol, max_iter, product_dtype(features.dtype, FINISH_GAP), options.exact)
        else:
            progress = fista(tasks, tol, max_iter, product_dtype(features.dtype, tol))
            if options.exact:
                refine(tasks, progress, tol, max_iter)
        all_tasks = torch.ones_like(progress.going)
        at = check(tasks, progress.exact, all_tasks, torch.float64, store=True)
        shrunk = block_soft_threshold(at.V, at.norms, tasks.lambda1) / tasks.lambda2[:, None, None]
        at_dual = Certificate(at.V, at.norms, shrunk, at.scores, at.gap, at.objective)
        return outputs(
            tasks,
            divisor,
            progress.exact,
            at_dual,
            lambda weights: products.scores(tasks, weights, all_tasks, torch.float64),
            progress.n_iter.to(torch.int64),
            progress.status(tol),
            tol,
            returned_dtype(features.dtype),
            tasks.scale[:, None, None],
        )

    size = memory.task_bytes(features.shape, options.n_classes, options.solver)
    return Outputs(*apply_in_slices(run, inputs, size, memory.LARGEST))


def refine(tasks: Tasks, progress: Progress, tol: float, max_iter: int) -> None:
    """Refine first-order solutions to rounding error: by the finish, and if that fails by newton."""
    done = finish_solution(tasks.in_float64(), progress.exact)
    progress.keep_better(torch.arange(len(done.n_iter), device=done.n_iter.device), done.dual, done.relative_gap)
    unsettled = (~done.settled).nonzero()[:, 0]
    if len(unsettled):
        better = newton(
            tasks.take(unsettled), tol, max_iter, product_dtype(tasks.features.dtype, FINISH_GAP), exact=True
        )
        progress.keep_better(unsettled, better.exact, better.exact_gap)


def adjoint(inputs: Inputs, options: Options, saved: Saved, grad_weights: Tensor) -> Differentials:
    """As :meth:`sparsedis.ops.common.backend.Backend.adjoint`.

    ``saved.active`` is not used: a pass over the features recomputes it. Above 32 classes the kernel's tiles do not fit
    in registers, and the torch backend's adjoint runs on the same device.
    """
    if options.n_classes > _LARGEST_ADJOINT:
        return TorchBackend().adjoint(inputs, options, saved, grad_weights)

    def run(*tensors: Tensor) -> Differentials:
        *given, L, grad_W = tensors
        tasks, divisor = as_tasks(Inputs(*given), options.n_classes)
        grad_features, *others = adjoint_of(tasks, L.contiguous(), grad_W.contiguous())
        return Differentials(grad_features, *(value / divisor for value in others))

    size = memory.task_bytes(inputs.features.shape, options.n_classes, "newton")
    return Differentials(*apply_in_slices(run, (*inputs, saved.dual, grad_weights), size, memory.LARGEST))


def product_dtype(features: torch.dtype, tol: float) -> torch.dtype:
    """The dtype of products over the features, for features of that dtype and a relative gap of ``tol``."""
    return torch.float64 if features == torch.float64 or tol < SINGLE_TOLERANCE else torch.float32
