"""Running statistics over several passes, against the formula."""

import pytest
import torch
from torch import nn

from sparsedis.metalearn.batch_norm import RunningStatistics


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)
    ).train()


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


PARTS = [torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_one_step_towards_the_mean_of_all_passes(momentum: float | None) -> None:
    module = layers()
    for layer in (module[1], module[4]):
        layer.momentum = momentum
    module(PARTS[0])  # so that the statistics are not the initial ones
    before = [layer.running_var.clone() for layer in (module[1], module[4])]
    own = []
    for part in PARTS:
        maps = module[0](part)
        own.append(maps.var((0, 2, 3)))
    statistics = RunningStatistics(module)
    with statistics.step(True, identity):
        for part in PARTS:
            module(part)
            statistics.add()
    share = momentum if momentum is not None else 1 / 2
    expected = (1 - share) * before[0] + share * torch.stack(own).mean(0)
    torch.testing.assert_close(module[1].running_var, expected)
    assert [int(layer.num_batches_tracked) for layer in (module[1], module[4])] == [2, 2]
    assert module[1].momentum == momentum


def test_order_and_repetition_of_the_passes_do_not_matter() -> None:
    results = []
    for order, repeated in (((0, 1, 2), ()), ((2, 0, 1), (1, 0))):
        module = layers()
        statistics = RunningStatistics(module)
        with statistics.step(True, identity):
            for i in order:
                module(PARTS[i])
                statistics.add()
            for i in repeated:
                module(PARTS[i])  # recomputed for the gradient
        results.append(module.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, msg=name)


def test_statistics_of_one_pass_agree_with_pytorch() -> None:
    results = []
    for several in (True, False):
        module = layers()
        statistics = RunningStatistics(module)
        with statistics.step(several, identity):
            module(PARTS[0])
            statistics.add()
        results.append(module.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, msg=name)


def test_the_momentum_is_restored_after_an_error() -> None:
    module = layers()
    with pytest.raises(KeyError), RunningStatistics(module).step(True, identity):
        raise KeyError
    assert module[1].momentum == 0.1


def test_modules_without_batch_norm_are_accepted() -> None:
    statistics = RunningStatistics(nn.Linear(2, 2))
    with statistics.step(True, identity):
        statistics.add()
