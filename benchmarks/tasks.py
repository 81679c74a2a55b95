"""The cases (shapes, hyperparameters, kind of features) and the batches of tasks made from them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import sparsedis
from sparsedis import cache, svm_lambda1_max
from sparsedis.data import Episodes, load
from sparsedis.metalearn.config import TrainConfig
from sparsedis.metalearn.evaluate import encode
from sparsedis.metalearn.train import load_run, train

PUBLISHED = ("published", "published, by hand")


@dataclass(frozen=True)
class Case:
    """A batch of tasks of one shape.

    Attributes:
        groups: the figures and tables that the case belongs to: reference, d, batch, ways, sparsity, dense, encoder.
        ways: k.
        shots: samples per class; n = ways * shots.
        d: features.
        batch: tasks solved together.
        lambda1: absolute, or a multiple of each task's lambda1_max where ``relative``.
        lambda2: weight of the squared norm.
        features: "random" (clusters) or "encoder" (a Conv4 meta-trained on pictograms).
        peers: names of the peers to run beside this package's backends.
        solvers: of this package.
    """

    groups: tuple[str, ...]
    shots: int = 5
    d: int = 640
    ways: int = 5
    batch: int = 8
    lambda1: float = 4.0
    lambda2: float = 100.0
    relative: bool = False
    features: str = "random"
    peers: tuple[str, ...] = PUBLISHED
    solvers: tuple[str, ...] = ("newton",)

    @property
    def n(self) -> int:
        return self.ways * self.shots

    @property
    def name(self) -> str:
        times = " max" if self.relative else ""
        return (
            f"{self.features} {self.ways}-way {self.shots}-shot d={self.d} B={self.batch} "
            f"l1={self.lambda1:g}{times} l2={self.lambda2:g}"
        )


@dataclass(frozen=True)
class Tasks:
    """A batch, and the loss whose gradient is measured: sum(weights * cotangent).

    Attributes:
        features: X, (B, n, d), float32.
        labels: (B, n), int64.
        n_classes: k.
        lambda1, lambda2: (B,), float32.
        cotangent: dloss/dW, (B, d, k), float32.
    """

    features: Tensor
    labels: Tensor
    n_classes: int
    lambda1: Tensor
    lambda2: Tensor
    cotangent: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def first(self, count: int) -> Tasks:
        """The first ``count`` tasks."""
        return Tasks(
            self.features[:count],
            self.labels[:count],
            self.n_classes,
            self.lambda1[:count],
            self.lambda2[:count],
            self.cotangent[:count],
        )

    def to(self, device: torch.device) -> Tasks:
        tensors = (self.features, self.labels, self.lambda1, self.lambda2, self.cotangent)
        features, labels, lambda1, lambda2, cotangent = (tensor.to(device) for tensor in tensors)
        return Tasks(features, labels, self.n_classes, lambda1, lambda2, cotangent)


EVERY_SOLVER = ("newton", "fista", "bcd")
REFERENCE = (
    Case(
        ("reference", "d", "batch"),
        5,
        640,
        peers=(*PUBLISHED, "moreau", "jaxopt", "cvxpylayers", "qpth"),
        solvers=EVERY_SOLVER,
    ),
    Case(("reference", "d"), 5, 1600, peers=(*PUBLISHED, "moreau", "jaxopt", "qpth"), solvers=EVERY_SOLVER),
    Case(("reference",), 15, 1600, peers=(*PUBLISHED, "jaxopt"), solvers=EVERY_SOLVER),
    Case(("reference", "d"), 5, 16000, solvers=("newton", "fista")),
    Case(("reference",), 15, 16000, solvers=("newton", "fista")),
)


def cases(quick: bool) -> list[Case]:
    """The cases of a full run, or of a quick one of about four minutes."""
    if quick:
        return [
            replace(REFERENCE[0], solvers=("newton", "fista")),
            replace(REFERENCE[1], peers=PUBLISHED, solvers=("newton",)),
            replace(REFERENCE[2], peers=PUBLISHED, solvers=("newton",)),
            replace(REFERENCE[3], solvers=("newton",)),
            replace(REFERENCE[4], solvers=("newton",)),
            Case(("dense",), lambda1=0.0, peers=(*PUBLISHED, "qpth")),
            Case(("batch",), batch=32),
            Case(("encoder",), d=576, lambda1=0.1, lambda2=30.0, relative=True, features="encoder"),
        ]
    random = [
        *(Case(("d",), d=d) for d in (160, 4000)),
        *(Case(("batch",), batch=batch) for batch in (1, 32, 128, 1024)),
        *(Case(("ways",), ways=ways, batch=2) for ways in (2, 5, 10, 20)),  # the reference takes seconds for each task
        *(
            Case(("sparsity",), d=1600, lambda1=share, relative=True, solvers=("newton", "fista"))
            for share in (0.0, 0.05, 0.1, 0.2, 0.4, 0.7)
        ),
        *(
            Case(("dense",), shots, d, lambda1=0.0, peers=(*PUBLISHED, "qpth"))
            for shots, d in ((5, 640), (5, 1600), (15, 1600))
        ),
    ]
    encoder = [
        Case(
            ("encoder",),
            shots,
            576,
            lambda1=0.1,
            lambda2=30.0,
            relative=True,
            features="encoder",
            peers=(*PUBLISHED, "moreau", "jaxopt"),
            solvers=EVERY_SOLVER,
        )
        for shots in (1, 5)
    ]
    return [*REFERENCE, *random, *encoder]


def make(case: Case, encoder: Encoder) -> Tasks:
    """The tasks of a case, deterministically."""
    if case.features == "encoder":
        features, labels = encoder.tasks(case)
    else:
        features, labels = clusters(case)
    lambda1 = torch.full((case.batch,), case.lambda1)
    if case.relative:
        lambda1 = (lambda1 * svm_lambda1_max(features, labels, n_classes=case.ways)).float()
    return Tasks(
        features,
        labels,
        case.ways,
        lambda1,
        torch.full((case.batch,), case.lambda2),
        torch.randn(case.batch, case.d, case.ways, generator=torch.Generator().manual_seed(1)),
    )


def clusters(case: Case, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features (B, n, d) around a standard normal centre per class, with noise of the same size; labels (B, n)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(case.ways).repeat_interleave(case.shots)
    centres = torch.randn(case.batch, case.ways, case.d, generator=generator)
    features = centres[:, labels] + torch.randn(case.batch, case.n, case.d, generator=generator)
    return features, labels.expand(case.batch, -1).contiguous()


class Encoder:
    """Features of the test pictograms from a Conv4, which is trained once and then read from the cache.

    Args:
        run: folder of a run of ``sparsedis train`` to use instead.
        iterations: training steps.
    """

    def __init__(self, run: str | None, iterations: int) -> None:
        self._run = None if run is None else Path(run)
        self._iterations = iterations
        self._features: Tensor | None = None

    def describe(self) -> str:
        return str(self._run) if self._run else f"Conv4-64, {self._iterations} iterations on pictograms"

    def tasks(self, case: Case) -> tuple[Tensor, Tensor]:
        """Support features (B, n, d) and labels (B, n) of the first test episodes."""
        data = load("pictograms")
        if self._features is None:
            self._features = encode(load_run(self._run or self._trained())[0], data, "test")
        episodes = Episodes(data, "test", way=case.ways, shot=case.shots, query=1, seed=0, length=case.batch)
        batch = episodes.batch(0, case.batch)
        return self._features[batch.support], batch.support_labels

    def _trained(self) -> Path:
        config = TrainConfig(
            final_width=64,
            fewer_shots=(),
            lambda1=0.1,
            iterations=self._iterations,
            validate_every=self._iterations,
            validation_episodes=1,
            test_episodes=1,
            log_every=self._iterations,
            save_every=self._iterations,
        )
        key = json.dumps([config.as_json(), sparsedis.__version__], sort_keys=True)
        folder = cache.folder() / "benchmarks" / f"encoder-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        if not (folder / "results.json").is_file():  # the last file that a run writes
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
                train(config, Path(temporary) / "run")
                (Path(temporary) / "run").replace(folder)
        return folder
