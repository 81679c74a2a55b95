"""The tasks as the kernels read them: features in their original storage, all small arrays in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsedis.ops.common.precision import returned_dtype
from sparsedis.ops.svm.problem import Problem, normalised
from sparsedis.ops.svm.signature import Inputs

# Bound on the exponents of scales: float32 has no normal powers of two below 2^-126.
_EXPONENT = 120


@dataclass(frozen=True)
class Tasks(Problem):
    """A :class:`Problem` whose features keep their dtype and layout.

    Attributes:
        features: (B, n, d), any floating dtype and strides. The problem's features are these times ``scale``.
        labels: (B, n) int32.
        scale: (B,), float64. L does not depend on it; W for the original features is this problem's W times ``scale``.
        wide: the features with half precision converted to float32, for kernels that multiply in float64.
    """

    labels: Tensor
    scale: Tensor
    wide: Tensor

    def readable(self, dtype: torch.dtype) -> tuple[Tensor | int, ...]:
        """Features and strides for kernels that multiply in ``dtype``."""
        chosen = self.wide if dtype == torch.float64 else self.features
        return (chosen, *chosen.stride())

    def in_float64(self) -> Problem:
        """The same tasks with scaled float64 features, for code in torch."""
        features = self.wide.to(torch.float64) * self.scale[:, None, None]
        return Problem(features, self.targets, self.weight, self.lambda1, self.lambda2, self.rho)

    def with_unit_lambda1(self) -> Tasks:
        """The same tasks with features divided by lambda1."""
        l1 = self.lambda1
        return replace(self, scale=self.scale / l1, lambda1=torch.ones_like(l1), lambda2=self.lambda2 / l1**2)


def as_tasks(inputs: Inputs, n_classes: int) -> tuple[Tasks, Tensor]:
    """The tasks, scaled so that each one's largest weight is 1 and its largest feature between 1 and 2.

    The latter prevents squares in float32 from underflowing or overflowing. The scale is a power of two, which causes
    no rounding.

    Returns:
        The tasks, and the divisor of each task's weights, (B,).
    """
    features = inputs.features
    problem, divisor = normalised(inputs._replace(features=features[:, :, :0]), n_classes)
    largest = torch.linalg.vector_norm(features, ord=torch.inf, dim=(1, 2)).to(torch.float64)
    exponent = torch.frexp(torch.where(largest > 0, largest, torch.ones_like(largest))).exponent - 1
    scale = torch.ldexp(torch.ones_like(largest), -exponent.clamp(-_EXPONENT, _EXPONENT))
    tasks = Tasks(
        features=features.resolve_neg(),
        targets=problem.targets,
        weight=problem.weight,
        lambda1=problem.lambda1 * scale,
        lambda2=problem.lambda2 * scale**2,
        rho=problem.rho,
        labels=torch.where(problem.weight[..., 0] > 0, inputs.labels, 0).to(torch.int32),
        scale=scale,
        wide=_wide(features),
    )
    return tasks, divisor


def readable(values: Tensor, dtype: torch.dtype) -> tuple[Tensor | int, ...]:
    """Values (B, ., d) and their strides for kernels that multiply in ``dtype``."""
    chosen = _wide(values) if dtype == torch.float64 else values
    return (chosen, *chosen.stride())


def _wide(values: Tensor) -> Tensor:
    """Half precision converted to float32, other dtypes unchanged.

    Triton 3.7 cannot compile a float64 product of operands loaded with 16 bits ("fp64 don't support largeK MMA").
    """
    return values.to(returned_dtype(values.dtype)).resolve_neg()
