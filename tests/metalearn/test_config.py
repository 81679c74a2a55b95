import json
from dataclasses import replace
from typing import get_args

import pytest

from sparsedis.metalearn.config import HEAD_TITLES, HEADS, Head, TrainConfig


def test_every_head_has_defaults_and_a_title() -> None:
    assert set(HEADS) == set(HEAD_TITLES) == set(get_args(Head))


def test_json_round_trip(quick: TrainConfig) -> None:
    for config in (TrainConfig(), quick):
        assert TrainConfig.from_json(json.loads(json.dumps(config.as_json()))) == config


def test_settings_missing_in_earlier_versions_get_defaults(quick: TrainConfig) -> None:
    settings = quick.as_json()
    del settings["clip_norm"]
    assert TrainConfig.from_json(settings) == quick
    del settings["way"]
    with pytest.raises(ValueError, match="settings: expected exactly data, head, way"):
        TrainConfig.from_json(settings)


def test_runs_of_earlier_versions_keep_their_defaults(quick: TrainConfig) -> None:
    """They trained with all support images only and with one width."""
    settings = replace(quick, final_width=None).as_json()
    del settings["fewer_shots"]
    assert TrainConfig.from_json(settings) == replace(quick, fewer_shots=(), final_width=quick.width)
    settings = replace(quick, encoder="r2d2", final_width=None).as_json()
    del settings["fewer_shots"]
    assert TrainConfig.from_json(settings) == replace(quick, encoder="r2d2", final_width=None, fewer_shots=())


def test_difference_names_the_setting(quick: TrainConfig) -> None:
    assert quick.difference(quick) is None
    assert quick.difference(replace(quick, lambda2=3.0)) == "lambda2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"way": 1}, "way: expected a whole number >= 2, got 1"),
        ({"shot": True}, "shot: expected a whole number >= 1, got True"),
        ({"fewer_shots": (1, 0)}, "fewer_shots: expected a whole number >= 1, got 0"),
        ({"fewer_shots": 1}, "fewer_shots: expected numbers, got 1"),
        ({"iterations": 2.5}, r"iterations: expected a whole number >= 1, got 2\.5"),
        ({"seed": 2**32}, "seed: expected a whole number <= 4294967295, got 4294967296"),
        ({"threads": 1025}, "threads: expected a whole number <= 1024, got 1025"),
        ({"clip_norm": float("inf")}, "clip_norm: expected a finite number > 0, got inf"),
        ({"threads": 0}, "threads: expected a whole number >= 1, got 0"),
        (
            {"head": "knn"},
            "head: expected one of group-lasso-svm, svm, ridge, prototypes, group-lasso-logistic, got 'knn'",
        ),
        ({"learning_rate": float("nan")}, "learning_rate: expected a finite number > 0, got nan"),
        ({"lambda1": -0.1}, r"lambda1: expected a finite number >= 0, got -0\.1"),
        ({"lambda2": 0}, "lambda2: expected a finite number > 0, got 0"),
        ({"lambda2": "1"}, "lambda2: expected a finite number > 0, got '1'"),
        ({"test_shots": ()}, "test_shots: expected one number or more"),
        ({"test_shots": (1, 0)}, "test_shots: expected a whole number >= 1, got 0"),
        ({"data": None}, "data: expected a string, got None"),
        ({"encoder": "vgg"}, "encoder: expected one of conv4, resnet12"),
        ({"micro_batch": 3}, "micro_batch: expected a divisor of batch, 4, got 3"),
        ({"micro_batch": 0}, "micro_batch: expected a whole number >= 1, got 0"),
        ({"label_smoothing": 1.0}, "label_smoothing: expected a number below 1"),
        ({"head": "svm", "lambda1": 0.1}, "lambda1: expected none for the head svm, which has no such thing, got 0.1"),
        ({"head": "ridge", "dual_reg": 1.0}, "dual_reg: expected none for the head ridge"),
        ({"head": "ridge", "lambda2": 0.0}, "lambda2: expected a finite number > 0, got 0.0"),
        ({"head": "prototypes", "learn": ("lambda2",)}, "learn: expected names among none for the head prototypes"),
        ({"learn": ("scale",)}, "learn: expected names among lambda1, lambda2, dual_reg"),
        ({"tensorboard": 1}, "tensorboard: expected true or false, got 1"),
    ],
)
def test_invalid_settings_are_rejected(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [None, [], {}, {"way": 5}, {**TrainConfig().as_json(), "more": 1}])
def test_invalid_json_is_rejected(settings: object) -> None:
    with pytest.raises(ValueError, match="settings: expected exactly data, head"):
        TrainConfig.from_json(settings)


def test_every_head_has_its_own_hyperparameters() -> None:
    assert TrainConfig().hyperparameters == (0.05, 60.0, 0.0, 5.0)
    changed = TrainConfig(lambda1=0.4, learn=("lambda1",), seed=3)
    assert changed.hyperparameters == (0.4, 60.0, 0.0, 5.0)
    assert changed.with_head("ridge") == TrainConfig(head="ridge", seed=3)
    assert changed.with_head("svm").settled() == TrainConfig(
        head="svm", lambda1=0.0, lambda2=60.0, dual_reg=0.0, logit_scale=5.0, seed=3
    )
    for head in HEADS:
        settled = TrainConfig().with_head(head).settled()  # type: ignore[arg-type]
        assert settled.settled() == settled
        assert TrainConfig.from_json(settled.as_json()) == settled
