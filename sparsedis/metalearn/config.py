"""The settings of a training run, the hyperparameters of the heads, and presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, NamedTuple, get_args

import tyro

from sparsedis.data.augmentation import Augmentation
from sparsedis.models import encoders
from sparsedis.runs.command_line import OptionalFloat, OptionalInt, shown_default
from sparsedis.runs.config import RunConfig, check_integer

Head = Literal["group-lasso-svm", "svm", "ridge", "prototypes", "group-lasso-logistic"]
Encoder = Literal[encoders.Encoder, "custom"]
Optimizer = Literal["adam", "sgd"]
Schedule = Literal["cosine", "metaoptnet"]
Precision = Literal["no", "bf16", "fp16"]
Preset = Literal["quick", "metaoptnet", "omniglot"]
_UNSHOWN = tyro.conf.arg(help_behavior_hint=shown_default)
Grouping = Annotated[Literal["within-alphabet"] | None, _UNSHOWN]
Groups = Annotated[tuple[str, ...] | None, _UNSHOWN]
Align = Annotated[Literal["ink"] | None, _UNSHOWN]


class Hyperparameters(NamedTuple):
    """The hyperparameters of a head; None for one that the head does not have."""

    lambda1: float | None
    lambda2: float | None
    dual_reg: float | None
    logit_scale: float


HEADS: dict[str, Hyperparameters] = {  # default hyperparameters
    "group-lasso-svm": Hyperparameters(0.05, 60.0, 0.0, 5.0),
    "svm": Hyperparameters(None, 60.0, 0.0, 5.0),
    "ridge": Hyperparameters(None, 0.1, None, 10.0),
    "prototypes": Hyperparameters(None, None, None, 5.0),
    "group-lasso-logistic": Hyperparameters(0.02, 0.01, None, 2.0),
}

HEAD_TITLES: dict[str, str] = {
    "group-lasso-svm": "a support vector machine with a group Lasso, which uses few of the features",
    "svm": "a support vector machine on all features",
    "ridge": "ridge regression onto the labels, on all features",
    "prototypes": "the nearest mean of the classes",
    "group-lasso-logistic": "logistic regression with a group Lasso, which uses few of the features",
}
"""Description of each head."""

_CHOICES = {
    "head": get_args(Head),
    "encoder": get_args(Encoder),
    "augment": get_args(Augmentation),
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "precision": get_args(Precision),
}
_LEAST = {
    "way": 2,
    "shot": 1,
    "query": 1,
    "iterations": 1,
    "seed": 0,
    "batch": 1,
    "width": 1,
    "final_width": 1,
    "validate_every": 1,
    "validation_episodes": 1,
    "test_episodes": 1,
    "log_every": 1,
    "save_every": 1,
    "threads": 1,
    "micro_batch": 1,
    "image_size": 1,
    "validation_shot": 1,
    "test_query": 1,
}
_POSITIVE = ("learning_rate", "logit_scale")
_NOT_NEGATIVE = ("lambda1", "lambda2", "dual_reg", "weight_decay", "label_smoothing")


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """All settings of a run; runs with equal settings on the same machine give equal results.

    Raises:
        ValueError: a setting has the wrong type or is out of range; the message names it.
    """

    data: str = "pictograms"
    """Data set, NAME[:PATH]; `sparsedis data` lists them."""
    head: Head = "group-lasso-svm"
    """Classifier that is fitted to the features of every task."""
    way: int = 5
    """Classes per task."""
    shot: int = 5
    """Support images per class in training and validation."""
    fewer_shots: tuple[int, ...] = (1,)
    """Smaller numbers of support images to which training tasks are also fitted; those not below shot are ignored."""
    query: int = 10
    """Query images per class."""
    iterations: int = 300
    """Steps of the outer optimiser."""
    seed: int = 0
    """Seed of the initial weights and of all episodes."""
    batch: int = 4
    """Tasks per step, over all processes."""
    learning_rate: float = 1e-3
    """Initial learning rate."""
    lambda1: OptionalFloat = None
    """Weight of the group Lasso; at 1 no task uses a feature. The default: 0.05 for SVMs, 0.02 for logistic."""
    lambda2: OptionalFloat = None
    """Weight of the squared norm. Default: 60 for SVMs, 0.01 for logistic; ridge: 0.1 of the mean squared norm."""
    dual_reg: OptionalFloat = None
    """Smoothing of the hinge of the SVMs; the default, 0, is the exact hinge."""
    logit_scale: OptionalFloat = None
    """Initial value of the trainable scale of the logits. The default: 5, for ridge 10, for logistic regression 2."""
    width: int = 64
    """Channels of the encoder's first block."""
    final_width: OptionalInt = None
    """Channels of conv4's last block: more features at little cost; the default is eight times the width."""
    validate_every: int = 100
    """Steps between validations; the learner with the best validation is tested."""
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
    threads: OptionalInt = None
    """CPU threads; the default is PyTorch's."""
    device: str = "cpu"
    """Where to train, as PyTorch names it: cpu, cuda, mps..."""
    learn: tuple[Literal["lambda1", "lambda2", "dual_reg"], ...] = ()
    """Hyperparameters of the head to train as well."""
    encoder: Encoder = "conv4"
    """Encoder of images, 4608 features of 28x28 images for conv4; identity is for tables of features."""
    image_size: OptionalInt = None
    """Side to which images of a folder, or Omniglot's, are scaled; the default is their own, for Omniglot 28."""
    episodes: Grouping = None
    """Draw the classes of a task from one group, such as an alphabet of Omniglot; the default is any of the split."""
    left_out: Groups = None
    """Groups of classes, such as alphabets, to test on; all others train. None named: all train. Default: the split."""
    align: Align = None
    """Normalise position and size of the bright ink of every image before the encoder; the default leaves images."""
    augment: Augmentation = "none"
    """Random augmentation of the training images."""
    micro_batch: OptionalInt = None
    """Tasks per pass of the encoder, which share the statistics of batch normalisation; the default is the batch."""
    optimizer: Optimizer = "adam"
    """Adam, or SGD with Nesterov momentum 0.9."""
    weight_decay: float = 0.0
    """Weight decay of the optimiser."""
    schedule: Schedule = "cosine"
    """Learning-rate schedule: cosine decay to 0, or times 0.06, 0.012, 0.0024 from 1/3, 2/3, 5/6 of the steps on."""
    label_smoothing: float = 0.0
    """Probability that the loss moves from the true class to the others, in equal parts."""
    validation_shot: OptionalInt = None
    """Support images per class in validation; the default is that of training."""
    test_query: OptionalInt = None
    """Query images per class in validation and tests; the default is that of training."""
    precision: Precision = "no"
    """Mixed precision of the encoder; the solves are never below float32."""
    tensorboard: bool = False
    """Also write TensorBoard files."""
    clip_norm: OptionalFloat = None
    """Norm to which the gradient over all parameters is clipped; by default it is not clipped."""

    def __post_init__(self) -> None:
        self._check_texts(("data", "device"))
        self._check_choices(_CHOICES)
        self._check_flags(("tensorboard",))
        self._check_integers(_LEAST)
        if not isinstance(self.test_shots, tuple) or not self.test_shots:
            raise ValueError(f"test_shots: expected one number or more, got {self.test_shots!r}")
        for shot in self.test_shots:
            check_integer("test_shots", shot, 1)
        if not isinstance(self.fewer_shots, tuple):
            raise ValueError(f"fewer_shots: expected numbers, got {self.fewer_shots!r}")
        for shot in self.fewer_shots:
            check_integer("fewer_shots", shot, 1)
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise ValueError(f"micro_batch: expected a divisor of batch, {self.batch}, got {self.micro_batch}")
        if self.align not in (None, "ink"):
            raise ValueError(f"align: expected ink or none, got {self.align!r}")
        if self.episodes not in (None, "within-alphabet"):
            raise ValueError(f"episodes: expected within-alphabet or none, got {self.episodes!r}")
        texts = isinstance(self.left_out, tuple) and all(isinstance(group, str) for group in self.left_out)
        if self.left_out is not None and not texts:
            raise ValueError(f"left_out: expected names of groups, got {self.left_out!r}")
        self._check_head()
        convex = ("lambda2",) if self.head.endswith(("svm", "ridge")) else ()
        self._check_numbers((*_POSITIVE, *convex, "clip_norm"), zero=False)
        self._check_numbers(_NOT_NEGATIVE, zero=True)
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing: expected a number below 1, got {self.label_smoothing}")

    def _check_head(self) -> None:
        own = HEADS[self.head]._asdict()
        for name, value in own.items():
            given = getattr(self, name)
            if value is None and given is not None and given != 0:
                raise ValueError(
                    f"{name}: expected none for the head {self.head}, which has no such thing, got {given!r}"
                )
        if not isinstance(self.learn, tuple) or not set(self.learn) <= {k for k, v in own.items() if v is not None}:
            known = ", ".join(name for name, value in own.items() if value is not None and name != "logit_scale")
            raise ValueError(
                f"learn: expected names among {known or 'none'} for the head {self.head}, got {self.learn!r}"
            )

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The head's hyperparameters: those of the settings, or its defaults where they are None."""
        defaults = HEADS[self.head]._asdict()
        values = {name: getattr(self, name) for name in defaults}
        return Hyperparameters(**{name: defaults[name] if values[name] is None else values[name] for name in defaults})

    @property
    def evaluation_query(self) -> int:
        """Query images per class in validation and tests."""
        return self.query if self.test_query is None else self.test_query

    @classmethod
    def from_json(cls, settings: Any) -> TrainConfig:
        """As :meth:`RunConfig.from_json`. Settings that precede ``fewer_shots`` get its former default, none.

        They also keep conv4's former width of the last block.
        """
        if isinstance(settings, Mapping) and "fewer_shots" not in settings:
            settings = {**settings, "fewer_shots": []}
            if settings.get("encoder") == "conv4" and settings.get("final_width") is None:
                settings["final_width"] = settings.get("width")
        return super().from_json(settings)

    @property
    def last_channels(self) -> int | None:
        """Channels of conv4's last block; None for other encoders."""
        return self.final_width or 8 * self.width if self.encoder == "conv4" else self.final_width

    @property
    def training_shots(self) -> tuple[int, ...]:
        """Support images per class to which training tasks are fitted, ascending; the last one is ``shot``."""
        return (*sorted({shot for shot in self.fewer_shots if shot < self.shot}), self.shot)

    def settled(self) -> TrainConfig:
        """The same settings with all hyperparameters as numbers; 0 for those that the head lacks."""
        own = self.hyperparameters._asdict()
        values: dict[str, Any] = {name: 0.0 if value is None else value for name, value in own.items()}
        return replace(self, **values)

    def with_head(self, head: Head) -> TrainConfig:
        """The same settings with that head; a different head gets its own default hyperparameters."""
        if head == self.head:
            return self
        return replace(self, head=head, learn=(), lambda1=None, lambda2=None, dual_reg=None, logit_scale=None)


PRESETS: dict[str, TrainConfig] = {
    "quick": TrainConfig(),
    # Lee et al., CVPR 2019, section 4, and their code: 60 epochs of 1000 batches of 8 episodes, ResNet-12 on 4 devices.
    "metaoptnet": TrainConfig(
        data="miniimagenet",
        encoder="resnet12",
        shot=15,
        fewer_shots=(),
        query=6,
        iterations=60_000,
        batch=8,
        micro_batch=2,
        augment="crop-flip-color",
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=5e-4,
        schedule="metaoptnet",
        label_smoothing=0.1,
        logit_scale=1.0,
        validation_shot=5,
        test_query=15,
        validate_every=1000,
        validation_episodes=2000,
        test_episodes=2000,
        log_every=100,
        save_every=1000,
    ),
    # Within-alphabet one-shot classification (Lake et al., Science 2015); docs/few_shot.md has the experiments.
    "omniglot": TrainConfig(
        data="omniglot",
        encoder="r2d2",
        width=24,
        way=20,
        shot=1,
        fewer_shots=(),
        lambda1=0.12,
        query=3,
        batch=1,
        iterations=7500,
        episodes="within-alphabet",
        left_out=(),
        align="ink",
        augment="drawings",
        validate_every=500,
        test_shots=(1,),
        test_query=1,
    ),
}


def preset(name: str, head: Head | None = None) -> TrainConfig:
    """The settings of a preset, optionally with another head (:meth:`TrainConfig.with_head`)."""
    settings = PRESETS[name]
    return settings if head is None else settings.with_head(head)
