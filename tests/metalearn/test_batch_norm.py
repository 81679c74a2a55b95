"""Running statistics over several passes, against the formula applied by hand."""

import pytest
import torch
from torch import nn

from sparsedis.metalearn.batch_norm import RunningStatistics


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)
    ).train()


def twin(x: torch.Tensor) -> torch.Tensor:
    return x


PARTS = [torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_one_move_towards_the_mean(momentum: float | None) -> None:
    module = layers()
    for layer in (module[1], module[4]):
        layer.momentum = momentum
    module(PARTS[0])  # statistics that are no longer the first
    before = [layer.running_var.clone() for layer in (module[1], module[4])]
    own = []
    for part in PARTS:
        maps = module[0](part)
        own.append(maps.var((0, 2, 3)))
    statistics = RunningStatistics(module)
    with statistics.step(True, twin):
        for part in PARTS:
            module(part)
            statistics.add()
    share = momentum if momentum is not None else 1 / 2
    expected = (1 - share) * before[0] + share * torch.stack(own).mean(0)
    torch.testing.assert_close(module[1].running_var, expected)
    assert [int(layer.num_batches_tracked) for layer in (module[1], module[4])] == [2, 2]
    assert module[1].momentum == momentum


def test_the_order_of_the_passes_and_repetitions_do_not_matter() -> None:
    results = []
    for order, repeated in (((0, 1, 2), ()), ((2, 0, 1), (1, 0))):
        module = layers()
        statistics = RunningStatistics(module)
        with statistics.step(True, twin):
            for i in order:
                module(PARTS[i])
                statistics.add()
            for i in repeated:
                module(PARTS[i])  # for the gradient
        results.append(module.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, msg=name)


def test_of_one_pass_as_pytorch_does_it() -> None:
    results = []
    for several in (True, False):
        module = layers()
        statistics = RunningStatistics(module)
        with statistics.step(several, twin):
            module(PARTS[0])
            statistics.add()
        results.append(module.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, msg=name)


def test_an_error_leaves_the_momentum() -> None:
    module = layers()
    with pytest.raises(KeyError), RunningStatistics(module).step(True, twin):
        raise KeyError
    assert module[1].momentum == 0.1


def test_nothing_to_look_after() -> None:
    statistics = RunningStatistics(nn.Linear(2, 2))
    with statistics.step(True, twin):
        statistics.add()
