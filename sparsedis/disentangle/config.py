"""The settings of a disentanglement run, and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from sparsedis.disentangle.factors import Factors
from sparsedis.disentangle.tasks import TaskDistribution
from sparsedis.runs.command_line import OptionalFloat, OptionalInt
from sparsedis.runs.config import RunConfig

Inner = Literal["lasso", "ridge"]
Preset = Literal["quick", "published"]
Schedule = Literal["preset", "cosine", "constant"]
Kind = Literal["gaussian", "uniform"]

_CHOICES = {
    "preset": get_args(Preset),
    "inner": get_args(Inner),
    "factors": get_args(Kind),
    "schedule": get_args(Schedule),
}
_PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "iterations": 1500,
        "groups": 2,
        "group_tasks": 128,
        "learning_rate": 2e-3,
        "schedule": "cosine",
        "validate_every": 150,
    },
    "published": {
        "iterations": 20_000,
        "groups": 8,
        "group_tasks": 1,
        "learning_rate": 1e-3,
        "schedule": "constant",
        "validate_every": 1000,
    },
}

_LEAST = {
    "iterations": 1,
    "groups": 1,
    "group_tasks": 1,
    "validate_every": 1,
    "seed": 0,
    "inner_samples": 1,
    "outer_samples": 1,
    "features": 1,
    "patience": 0,
    "validation_batches": 1,
    "test_batches": 1,
    "measured_images": 20,
    "log_every": 1,
    "save_every": 1,
    "threads": 1,
}
_NOT_NEGATIVE = ("rho", "noise", "lambda1", "outer_l1", "outer_l2", "target_noise", "weight_decay", "learning_rate")


@dataclass(frozen=True)
class DisentangleConfig(RunConfig):
    """All settings of a run; runs with equal settings on the same machine give equal results.

    Where documented, the number 0 stands for the preset's value, which replaces it.

    Raises:
        ValueError: a setting has the wrong type or is out of range; the message names it.
    """

    preset: Preset = "quick"
    """quick: minutes, 128 tasks share 50 images; published: 20,000 batches of 8 tasks, each with its own images."""
    inner: Inner = "lasso"
    """Regression that is fitted to the features of every task."""
    rho: float = 0.9
    """Correlation of any two factors before the restriction to the grid."""
    lambda1: float = 0.1
    """Weight of the inner penalty, relative to lambda1_max (Lasso) or to the samples' mean squared norm (ridge)."""
    tasks: str = "bernoulli"
    """Distribution of the coefficients: bernoulli, fixed-K, blocks-K, finite-K, laplace, gaussian."""
    noise: float = 1.0
    """Width of the uniform noise on the factors that determine the targets, in grid steps, 0 to 1."""
    data: str = "rendered"
    """Images: rendered, cache:FILE (sparsedis shapes3d --cache), h5:FILE (the published 3dshapes.h5)."""
    seed: int = 0
    """Seed of the initial weights, the noise on the factors and all tasks."""
    iterations: int = 0
    """Steps of the outer optimiser (AdamW); 0: the preset's."""
    groups: int = 0
    """Sets of images per step; 0: the preset's."""
    group_tasks: int = 0
    """Tasks per set of images; 1 draws images for every task; 0: the preset's."""
    inner_samples: int = 25
    """Images to which a task's regression is fitted."""
    outer_samples: int = 25
    """Images on which the outer loss is measured."""
    split: bool = False
    """Keep inner and outer samples apart; otherwise regression and loss both use all of them."""
    outer_l1: float = 0.0
    """Weight of the L1 penalty in the outer loss, relative as lambda1 is for the Lasso."""
    outer_l2: float = 0.0
    """Weight of the squared norm in the outer loss, relative as lambda1 is for ridge."""
    factors: Kind = "gaussian"
    """Distribution of the images; uniform needs rho 0."""
    target_noise: float = 0.1
    """Standard deviation of the noise on the targets, relative to that of the targets."""
    features: int = 6
    """Number of features of the encoder."""
    learning_rate: float = 0.0
    """Initial learning rate; 0: the preset's."""
    schedule: Schedule = "preset"
    """Learning rate: constant, cosine (decay to 0), or the preset's."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    patience: int = 0
    """Validations without improvement before the run stops; 0: no early stopping."""
    validate_every: int = 0
    """Steps between validations; the learner with the best one is tested; 0: the preset's."""
    validation_batches: int = 10
    """Batches of 128 tasks per validation."""
    test_batches: int = 50
    """Batches of 128 tasks in the test."""
    measured_images: int = 10_000
    """Images on which the metrics are computed at the end; validations use a fifth of them."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    save_every: int = 100
    """Steps between checkpoints to resume from."""
    threads: OptionalInt = None
    """CPU threads; the default is PyTorch's."""
    device: str = "cpu"
    """Where to train, as PyTorch names it: cpu, cuda, mps..."""
    clip_norm: OptionalFloat = None
    """Norm to which the gradient over all parameters is clipped; by default it is not clipped."""

    def __post_init__(self) -> None:
        self._check_choices(_CHOICES)
        for name, value in _PRESETS[self.preset].items():
            given = getattr(self, name)
            if given == "preset" or (given == 0 and given is not False):
                object.__setattr__(self, name, value)
        self._check_texts(("tasks", "data", "device"))
        self._check_flags(("split",))
        self._check_integers(_LEAST)
        self._check_numbers(_NOT_NEGATIVE, zero=True)
        self._check_numbers(("clip_norm",), zero=False)
        for name in _NOT_NEGATIVE:
            object.__setattr__(self, name, float(getattr(self, name)))
        Factors.check(self.factors, self.rho, self.noise)
        TaskDistribution(self.tasks)
