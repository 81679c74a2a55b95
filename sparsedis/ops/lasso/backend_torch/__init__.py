"""The torch backend: any device, working precision; the reference that the kernels are tested against."""

from __future__ import annotations

from torch import Tensor

from sparsedis.ops.common.any_device import AnyDevice
from sparsedis.ops.common.backend import Outputs
from sparsedis.ops.common.batches import apply_in_slices
from sparsedis.ops.common.least_squares import differentiate, normalised_weights, perturbed
from sparsedis.ops.common.precision import working
from sparsedis.ops.lasso.backend_torch.descent import descend
from sparsedis.ops.lasso.backend_torch.wide import ALWAYS_GRAM, descend_in_working_sets, is_wide, support_step
from sparsedis.ops.lasso.outputs import outputs
from sparsedis.ops.lasso.signature import Differentials, Inputs, Options, Saved

# Budget of scratch memory for the tasks that are solved together, in bytes.
_MEMORY = 1 << 29


class TorchBackend(AnyDevice):
    """Coordinate descent and direct solves in torch operations."""

    _descend = staticmethod(descend)

    def solve(self, inputs: Inputs, options: Options) -> Outputs:
        def run(*tensors: Tensor) -> Outputs:
            X, y, l1, l2, weight = tensors
            X, y = working(X), working(y)
            weight = normalised_weights(weight, X.dtype)
            task = (X, y, weight, l1, l2, options.tol, options.max_iter)
            solved = descend_in_working_sets(self._descend, *task) if is_wide(X) else self._descend(*task)
            return outputs(X, y, weight, l1, l2, *solved, tol=options.tol, features_dtype=inputs.features.dtype)

        return Outputs(*apply_in_slices(run, inputs, _task_bytes(inputs.features), _MEMORY))

    def adjoint(self, inputs: Inputs, options: Options, saved: Saved, grad_weights: Tensor) -> Differentials:
        def run(*tensors: Tensor) -> Differentials:
            X, _, _, l2, weight, w, residual, grad_w = tensors
            X, w = working(X), working(w)[..., None]
            weight = normalised_weights(weight, X.dtype)
            q = support_step(X, weight, l2, w[..., 0] != 0, working(grad_w))[..., None]
            grad_X, grad_y = differentiate(X, residual[..., None], weight, w, q)
            return Differentials(
                features=grad_X.to(inputs.features.dtype),
                targets=grad_y[..., 0].to(inputs.targets.dtype),
                lambda1=-(q * w.sign()).sum((1, 2)),
                lambda2=-(q * w).sum((1, 2)),
            )

        tensors = (*inputs, *saved, grad_weights)
        return Differentials(*apply_in_slices(run, tensors, _task_bytes(inputs.features), _MEMORY))

    def tangent(self, inputs: Inputs, options: Options, saved: Saved, tangents: Differentials) -> Tensor:
        def run(*tensors: Tensor) -> tuple[Tensor]:
            X, _, _, l2, weight, w, residual, dX, dy, dl1, dl2 = tensors
            X, dX = working(X), working(dX)
            w, dy = (working(value)[..., None] for value in (w, dy))
            weight = normalised_weights(weight, X.dtype)
            by_penalties = dl1[:, None, None] * w.sign() + dl2[:, None, None] * w
            right = perturbed(X, residual[..., None], weight, w, dX, dy) - by_penalties
            return (support_step(X, weight, l2, w[..., 0] != 0, right[..., 0]).to(saved.weights.dtype),)

        tensors = (*inputs, *saved, *tangents)
        return apply_in_slices(run, tensors, _task_bytes(inputs.features), _MEMORY)[0]


def _task_bytes(features: Tensor) -> int:
    """Scratch memory per task, in bytes."""
    _, n, d = features.shape
    gram = min(d, max(4 * n, ALWAYS_GRAM))  # size of the largest working set that most tasks need
    return 8 * (6 * n * d + 5 * gram * gram)
