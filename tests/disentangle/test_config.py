import json
from dataclasses import replace

import pytest

from sparsedis.disentangle.config import DisentangleConfig


def test_presets_set_defaults_and_can_be_overridden() -> None:
    quick, published = DisentangleConfig(), DisentangleConfig(preset="published")
    assert (published.iterations, published.groups, published.group_tasks) == (20_000, 8, 1)
    assert (published.learning_rate, published.schedule, published.inner_samples) == (1e-3, "constant", 25)
    assert quick.iterations < published.iterations
    mine = DisentangleConfig(preset="published", iterations=7, learning_rate=0.5, schedule="cosine")
    assert (mine.iterations, mine.learning_rate, mine.schedule, mine.groups) == (7, 0.5, "cosine", 8)
    # Values set by the preset are kept when others change.
    assert replace(mine, seed=1).iterations == 7


def test_json_round_trip(small: DisentangleConfig) -> None:
    for config in (DisentangleConfig(), DisentangleConfig(preset="published"), small):
        assert DisentangleConfig.from_json(json.loads(json.dumps(config.as_json()))) == config
    assert small.difference(small) is None
    assert small.difference(replace(small, lambda1=0.3)) == "lambda1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"preset": "slow"}, "preset: expected one of quick, published, got 'slow'"),
        ({"inner": "lars"}, "inner: expected one of lasso, ridge, got 'lars'"),
        ({"schedule": "step"}, "schedule: expected one of preset, cosine, constant, got 'step'"),
        ({"factors": "laplace"}, "factors: expected one of gaussian, uniform, got 'laplace'"),
        ({"factors": "uniform"}, r"rho: expected 0 for uniform factors, got 0\.9"),
        ({"rho": 1.0}, r"rho: expected a number from 0 to below 1, got 1\.0"),
        ({"rho": -0.1}, r"rho: expected a finite number >= 0, got -0\.1"),
        ({"noise": 2}, r"noise: expected a number from 0 to 1, got 2\.0"),
        ({"lambda1": float("nan")}, "lambda1: expected a finite number >= 0, got nan"),
        ({"lambda1": "x"}, "lambda1: expected a finite number >= 0, got 'x'"),
        ({"tasks": "blocks-4"}, "tasks: expected blocks that divide 6 factors, got 'blocks-4'"),
        ({"tasks": None}, "tasks: expected a string, got None"),
        ({"iterations": -1}, "iterations: expected a whole number >= 1, got -1"),
        ({"iterations": 1.5}, r"iterations: expected a whole number >= 1, got 1\.5"),
        ({"measured_images": 5}, "measured_images: expected a whole number >= 20, got 5"),
        ({"split": 1}, "split: expected true or false, got 1"),
        ({"threads": 0}, "threads: expected a whole number >= 1, got 0"),
        ({"threads": True}, "threads: expected a whole number >= 1, got True"),
    ],
)
def test_invalid_settings_are_rejected(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DisentangleConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [None, [], {}, {"rho": 0.5}, {**DisentangleConfig().as_json(), "more": 1}])
def test_invalid_json_is_rejected(settings: object) -> None:
    with pytest.raises(ValueError, match="settings: expected exactly preset, inner"):
        DisentangleConfig.from_json(settings)
