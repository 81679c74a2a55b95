"""The tasks as the kernels read them: features where they lie, everything small in float64."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsedis.ops.common.precision import returned_dtype
from sparsedis.ops.svm.problem import Problem, normalised
from sparsedis.ops.svm.signature import Inputs

# float32 has no powers of two beyond +-126.
_EXPONENT = 120


@dataclass(frozen=True)
class Tasks(Problem):
    """A :class:`Problem` whose features are left as they came.

    Attributes:
        features: (B, n, d), any floating dtype and strides; the problem's features are ``scale`` times these.
        labels: (B, n) int32.
        wide: the features, half precision as float32: what kernels that multiply in float64 read.
        scale: (B,), float64. L does not depend on it, W of the features as they came is ``scale`` times this problem's.
    """

    labels: Tensor
    scale: Tensor
    wide: Tensor

    def readable(self, dtype: torch.dtype) -> tuple[Tensor | int, ...]:
        """Features and strides for kernels that multiply in ``dtype``."""
        chosen = self.wide if dtype == torch.float64 else self.features
        return (chosen, *chosen.stride())

    def in_float64(self) -> Problem:
        """The same tasks with features in float64, scaled: what code in torch reads."""
        features = self.wide.to(torch.float64) * self.scale[:, None, None]
        return Problem(features, self.targets, self.weight, self.lambda1, self.lambda2, self.rho)

    def with_unit_lambda1(self) -> Tasks:
        """The same tasks, features divided by lambda1."""
        l1 = self.lambda1
        return replace(self, scale=self.scale / l1, lambda1=torch.ones_like(l1), lambda2=self.lambda2 / l1**2)


def as_tasks(inputs: Inputs, n_classes: int) -> tuple[Tasks, Tensor]:
    """The tasks, with the largest weight of each scaled to 1, and its largest feature to between 1 and 2.

    The latter so that squares of float32 neither vanish nor overflow; by a power of two, which rounds nothing.

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
    """(B, ., d) values and their strides for kernels that multiply in ``dtype``."""
    chosen = _wide(values) if dtype == torch.float64 else values
    return (chosen, *chosen.stride())


def _wide(values: Tensor) -> Tensor:
    """Half precision as float32, all else as it is.

    Triton 3.7 cannot compile a float64 product of operands loaded with 16 bits ("fp64 don't support largeK MMA").
    """
    return values.to(returned_dtype(values.dtype)).resolve_neg()
