"""The progress that the primal solvers record for a batch, on artificial weights and certificates."""

import pytest
import torch
from torch import Tensor

from sparsedis.ops.common.primal import PATIENCE, Certificate, Progress
from sparsedis.solution import Status

TOL = 1e-5


def at(gaps: list[float], objectives: list[float] | None = None) -> Certificate:
    gap = torch.tensor(gaps, dtype=torch.float64)
    objective = gap if objectives is None else torch.tensor(objectives, dtype=torch.float64)
    return Certificate(gap.clone(), gap.clone(), gap.clone(), objective.clone())


def weights(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def test_the_best_weights_are_kept_with_their_certificate() -> None:
    progress = Progress(weights(0, 0), at([1.0, 1.0]), TOL)
    assert progress.record(weights(1, 2), at([0.5, 0.1]), torch.tensor([False, False]), 1).all()
    assert progress.record(weights(3, 4), at([0.1, 0.5]), torch.tensor([True, True]), 2).all()
    assert progress.weights.flatten().tolist() == [3, 2]
    assert progress.certificate.relative_gap.tolist() == [0.1, 0.1]
    assert progress.certificate.dual.tolist() == [0.1, 0.1]
    assert progress.n_iter.tolist() == [2, 2]
    assert progress.status.tolist() == [Status.MAX_ITER] * 2


def test_a_task_that_starts_at_rounding_does_not_continue() -> None:
    progress = Progress(weights(0, 0, 0), at([0.0, 1e-6, 1.0]), TOL)
    assert progress.index.tolist() == [1, 2]
    assert progress.status.tolist() == [Status.CERTIFIED, Status.CERTIFIED, Status.MAX_ITER]


@pytest.mark.parametrize(
    ("gap", "same", "continues"),
    [(1e-14, False, False), (1e-7, False, True), (1e-7, True, True), (2e-6, False, True), (2e-6, True, False)],
)
def test_a_certified_task_continues_to_rounding(gap: float, same: bool, continues: bool) -> None:
    """It ends early only if an iteration keeps the active set and does not improve the gap."""
    progress = Progress(weights(0), at([1.0]), TOL)
    assert progress.record(weights(1), at([1e-6]), torch.tensor([False]), 1).all()
    assert progress.record(weights(2), at([gap]), torch.tensor([same]), 2).tolist() == [continues]
    assert progress.index.tolist() == [0] * continues
    assert progress.status.tolist() == [Status.CERTIFIED]
    assert progress.weights.item() == (2 if gap < 1e-6 else 1)


def test_a_task_stalls_without_a_better_gap_or_objective() -> None:
    progress = Progress(weights(0, 0), at([1.0, 1.0], [5, 5]), TOL)
    same = torch.tensor([True, True])
    for i in range(1, PATIENCE + 1):
        continues = progress.record(weights(1, 1), at([1.0, 1.0], [5 - i, 5]), same, i)
        assert continues.tolist() == [True, i < PATIENCE]
    assert progress.index.tolist() == [0]
    assert progress.status.tolist() == [Status.MAX_ITER, Status.STALLED]


def test_a_restart_may_raise_the_objective() -> None:
    progress = Progress(weights(0, 0), at([1.0, 1.0], [5, 5]), TOL)
    same = torch.tensor([True, True])
    for i in range(1, PATIENCE):
        progress.record(weights(1, 1), at([1.0, 1.0], [5, 5]), same, i)
    progress.restart(torch.tensor([False, True]))
    assert progress.record(weights(1, 1), at([1.0, 1.0], [9, 9]), same, PATIENCE).tolist() == [False, True]


def test_nan_ends_a_task_and_keeps_its_best_weights() -> None:
    progress = Progress(weights(0), at([1.0]), TOL)
    assert not progress.record(weights(7), at([torch.nan]), torch.tensor([False]), 1).any()
    assert progress.weights.item() == 0
    assert progress.status.tolist() == [Status.STALLED]
