"""What determines a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Head = Literal["group-lasso-svm", "prototypes"]

_LEAST = {
    "way": 2,
    "shot": 1,
    "query": 1,
    "iterations": 1,
    "seed": 0,
    "batch": 1,
    "width": 1,
    "validate_every": 1,
    "validation_episodes": 1,
    "test_episodes": 1,
    "log_every": 1,
    "save_every": 1,
}
_POSITIVE = ("learning_rate", "lambda2", "logit_scale")
_NOT_NEGATIVE = ("lambda1", "dual_reg")


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run; two runs with equal settings on the same machine are equal.

    Raises:
        ValueError: a setting of the wrong type or out of its range; the message names it.
    """

    data: str = "pictograms"
    """Data set, NAME[:PATH]: pictograms or omniglot:PATH."""
    head: Head = "group-lasso-svm"
    """Classifier that every task fits on the features."""
    way: int = 5
    """Classes per task."""
    shot: int = 5
    """Support images per class in training and validation."""
    query: int = 10
    """Query images per class."""
    iterations: int = 600
    """Steps of the outer optimiser (Adam, cosine decay to 0)."""
    seed: int = 0
    """Of the initial weights and of all episodes."""
    batch: int = 4
    """Tasks per step."""
    learning_rate: float = 1e-3
    """Initial learning rate."""
    lambda1: float = 0.1
    """Weight of the group Lasso, as a multiple of one that turns all features of the task off."""
    lambda2: float = 60.0
    """Weight of the squared norm."""
    dual_reg: float = 0.0
    """Smoothing of the hinge; 0 is the exact hinge."""
    logit_scale: float = 5.0
    """Initial value of the trainable scale of the logits."""
    width: int = 64
    """Channels of the encoder."""
    validate_every: int = 200
    """Steps between validations; the best of them is what is tested."""
    validation_episodes: int = 200
    """Tasks per validation."""
    test_episodes: int = 600
    """Tasks per test."""
    test_shots: tuple[int, ...] = (1, 5)
    """Support images per class, one number per test."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    save_every: int = 100
    """Steps between checkpoints to resume from."""
    threads: int | None = None
    """CPU threads; the default is PyTorch's."""
    device: str = "cpu"
    """Where to train, as PyTorch names it: cpu, cuda, mps..."""

    def __post_init__(self) -> None:
        for name in ("data", "device"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name}: expected a string, got {getattr(self, name)!r}")
        if self.head not in get_args(Head):
            raise ValueError(f"head: expected one of {', '.join(get_args(Head))}, got {self.head!r}")
        for name, least in _LEAST.items():
            _whole(name, getattr(self, name), least)
        if not isinstance(self.test_shots, tuple) or not self.test_shots:
            raise ValueError(f"test_shots: expected one number or more, got {self.test_shots!r}")
        for shot in self.test_shots:
            _whole("test_shots", shot, 1)
        if self.threads is not None:
            _whole("threads", self.threads, 1)
        for name in _POSITIVE + _NOT_NEGATIVE:
            value, zero = getattr(self, name), name in _NOT_NEGATIVE
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0 or (value == 0 and not zero):
                raise ValueError(f"{name}: expected a finite number {'>= 0' if zero else '> 0'}, got {value!r}")

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON has them; :meth:`from_json` reads them."""
        return {**asdict(self), "test_shots": list(self.test_shots)}

    @classmethod
    def from_json(cls, settings: Any) -> TrainConfig:
        """The inverse of :meth:`as_json`; ValueError where something is missing, unknown or bad."""
        known = [field.name for field in fields(cls)]
        if not isinstance(settings, Mapping) or set(settings) != set(known):
            raise ValueError(f"settings: expected exactly {', '.join(known)}")
        shots = settings["test_shots"]
        return cls(**{**settings, "test_shots": tuple(shots) if isinstance(shots, list) else shots})

    def difference(self, other: TrainConfig) -> str | None:
        """Name of the first setting in which the two differ."""
        return next((f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)), None)


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number >= {least}, got {value!r}")
