import json
from dataclasses import replace

import pytest

from sparsedis.metalearn.config import TrainConfig


def test_json_and_back(quick: TrainConfig) -> None:
    for config in (TrainConfig(), quick):
        assert TrainConfig.from_json(json.loads(json.dumps(config.as_json()))) == config


def test_difference(quick: TrainConfig) -> None:
    assert quick.difference(quick) is None
    assert quick.difference(replace(quick, lambda2=3.0)) == "lambda2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"way": 1}, "way: expected a whole number >= 2, got 1"),
        ({"shot": True}, "shot: expected a whole number >= 1, got True"),
        ({"iterations": 2.5}, r"iterations: expected a whole number >= 1, got 2\.5"),
        ({"threads": 0}, "threads: expected a whole number >= 1, got 0"),
        ({"head": "knn"}, "head: expected one of group-lasso-svm, prototypes, got 'knn'"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a finite number > 0, got nan"),
        ({"lambda1": -0.1}, r"lambda1: expected a finite number >= 0, got -0\.1"),
        ({"lambda2": 0}, "lambda2: expected a finite number > 0, got 0"),
        ({"lambda2": "1"}, "lambda2: expected a finite number > 0, got '1'"),
        ({"test_shots": ()}, "test_shots: expected one number or more"),
        ({"test_shots": (1, 0)}, "test_shots: expected a whole number >= 1, got 0"),
        ({"data": None}, "data: expected a string, got None"),
    ],
)
def test_bad_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [None, [], {}, {"way": 5}, {**TrainConfig().as_json(), "more": 1}])
def test_json_of_something_else(settings: object) -> None:
    with pytest.raises(ValueError, match="settings: expected exactly data, head"):
        TrainConfig.from_json(settings)
