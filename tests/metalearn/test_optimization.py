import pytest
import torch

from sparsedis.metalearn import optimization
from sparsedis.metalearn.config import PRESETS, TrainConfig


def test_metaoptnet_learning_rates() -> None:
    """0.1, then times 0.06, 0.012 and 0.0024 from epochs 20, 40 and 50 of 60 epochs of 1000 batches."""
    config = PRESETS["metaoptnet"]
    assert (config.iterations, config.batch, config.shot, config.query) == (60_000, 8, 15, 6)
    expected = {0: 0.1, 19_999: 0.1, 20_000: 0.006, 39_999: 0.006, 40_000: 0.0012, 50_000: 0.00024, 59_999: 0.00024}
    for step, rate in expected.items():
        assert optimization.learning_rate(config, step) == pytest.approx(rate, rel=1e-12), step


def test_cosine_learning_rates() -> None:
    config = TrainConfig(iterations=4, learning_rate=2.0)
    rates = [optimization.learning_rate(config, step) for step in range(5)]
    assert rates == pytest.approx([2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0])


def test_sgd_has_nesterov_momentum_and_weight_decay() -> None:
    """One step with momentum 0.9, by the formula."""
    config = TrainConfig(optimizer="sgd", learning_rate=0.5, weight_decay=0.1)
    layer = torch.nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(2.0)
    layer.weight.grad = torch.full((1, 1), 3.0)
    optimization.optimizer(config, layer).step()
    gradient = 3.0 + 0.1 * 2.0
    assert layer.weight.item() == pytest.approx(2.0 - 0.5 * (gradient + 0.9 * gradient))


def test_label_smoothing_is_that_of_metaoptnet() -> None:
    """Targets are 1 - eps for the label and eps / (k - 1) for each other class."""
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 6, 5), torch.randint(0, 5, (2, 6))
    target = torch.full((2, 6, 5), 0.1 / 4).scatter(2, labels[..., None], 0.9)
    expected = -(target * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(optimization.loss(TrainConfig(label_smoothing=0.1), logits, labels), expected)
    plain = -logits.log_softmax(-1).gather(2, labels[..., None]).mean()
    torch.testing.assert_close(optimization.loss(TrainConfig(), logits, labels), plain)
