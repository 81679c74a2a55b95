"""Gradients at default settings against the oracle: the error quantiles given in docs/solvers.md."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from sparsedis.ops.common.cuda import machine
from tests.oracle import Exact
from tests.smooth_tasks import KINDS, SCALARS, SmoothTask, draw, gradient_errors, smooth_tasks

pytestmark = pytest.mark.slow

COUNT = 24


@cache
def drawn(kind: str, count: int) -> list[tuple[SmoothTask, Exact]]:
    """Small tasks, so that the oracle takes seconds; python -m benchmarks.gradients uses larger ones."""
    return list(smooth_tasks(kind, count, largest=120))


@pytest.mark.parametrize("kind", KINDS, scope="module")  # all backends in turn, on the same tasks
def test_error_quantiles_at_default_settings(kind, backend):
    count = COUNT // 2 if machine.emulated() else COUNT  # the emulation is to show that the kernels are right
    errors = [gradient_errors(task, at, backend, torch.float32) for task, at in drawn(kind, count)]
    for name in ("X", *SCALARS):
        ordered = np.sort([error[name] for error in errors])
        assert np.median(ordered) <= 1e-6, f"dloss/d{name}: {ordered}"
        assert np.quantile(ordered, 0.95) <= 1e-5, f"dloss/d{name}: {ordered}"
        assert ordered[-2] <= 1e-4, f"dloss/d{name}: {ordered}"
        assert ordered[-1] <= 2e-2, f"dloss/d{name}: {ordered}"


def test_a_task_at_a_kink_has_no_smooth_solution():
    task = draw("sparse", 0, largest=120)
    assert task.smooth() is not None

    def active(factor: float) -> int:
        return replace(task, lambda1=factor * task.lambda1).exact().active

    # Find the lambda1 at which a feature becomes (in)active to 1e-7, so that perturbations of 3e-7 cross the kink.
    low, high = 1.0, 1.5
    before = active(low)
    assert active(high) != before
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if active(middle) == before else (low, middle)
    assert replace(task, lambda1=low * task.lambda1).smooth() is None
