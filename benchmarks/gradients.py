"""The accuracy of gradients at default settings, against an oracle that shares no code with the package.

    PYTHONPATH=. python benchmarks/gradients.py [--tasks 371] [--kinds sparse smoothed] [--backend cpp reference]
        [--dtype float32] [--seed 0] [--shapes] [--answers FILE]

Relative errors of dloss/dX and of dloss/d of each hyperparameter for a random linear loss of W, as a Markdown table:
for random tasks of 2 to 10 ways, 1 to 15 shots and 20 to 700 features (tests/smooth_tasks.py defines the kinds), and
with ``--shapes`` for the benchmark's five shapes with dual_reg 0 and 1. Tasks at a kink are left out.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tasks import REFERENCE, Encoder, make
from sparsedis import svm_lambda1_max
from tests.oracle import Exact
from tests.smooth_tasks import KINDS, SCALARS, SmoothTask, gradient_errors, smooth_tasks

COLUMNS = ("tasks", "number", "backend", "features", "dloss/d", "median", "95%", "99%", "largest", "above 1%")


class Answers:
    """The oracle's answers, stored in a file, so that a rerun does not compute them again."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any] | None] = {}
        if path is not None and path.exists():
            self._known = torch.load(path, weights_only=True)
        self._saved = len(self._known)

    def __call__(self, task: SmoothTask) -> Exact | None:
        key = _digest(task)
        if key not in self._known:
            at = task.smooth()
            self._known[key] = None if at is None else {name: _stored(value) for name, value in asdict(at).items()}
        known = self._known[key]
        return None if known is None else Exact(**{name: _restored(value) for name, value in known.items()})

    def save(self) -> None:
        if self._path is not None and len(self._known) > self._saved:
            torch.save(self._known, self._path)
            self._saved = len(self._known)


def _digest(task: SmoothTask) -> str:
    digest = hashlib.sha256()
    for value in vars(task).values():
        digest.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    return digest.hexdigest()


def _stored(value: object) -> object:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _restored(value: object) -> object:
    return value.numpy() if isinstance(value, torch.Tensor) else value


def benchmark_tasks(
    dual_reg: float, answer: Callable[[SmoothTask], Exact | None]
) -> Iterator[tuple[SmoothTask, Exact]]:
    """The tasks of the benchmark's five shapes that are not at a kink."""
    for case in REFERENCE:
        batch = make(case, Encoder(None, iterations=0))
        most = svm_lambda1_max(batch.features, batch.labels, n_classes=batch.n_classes)
        for i in range(len(batch)):
            task = SmoothTask(
                features=batch.features[i].double(),
                labels=batch.labels[i],
                n_classes=batch.n_classes,
                lambda1=batch.lambda1[i].item(),
                lambda1_max=most[i].item(),
                lambda2=batch.lambda2[i].item(),
                dual_reg=dual_reg,
                sample_weight=torch.ones(case.n, dtype=torch.float64),
                cotangent=batch.cotangent[i].double(),
            )
            at = answer(task)
            if at is not None:
                yield task, at


def rows(name: str, tasks: list[tuple[SmoothTask, Exact]], backend: str, dtype: str) -> Iterator[str]:
    """One row of the table per derivative."""
    errors = [gradient_errors(task, at, backend, getattr(torch, dtype)) for task, at in tasks]
    for of in ("X", *SCALARS):
        values = np.array([error[of] for error in errors])
        spread = [f"{value:.1e}" for value in np.quantile(values, [0.5, 0.95, 0.99, 1])]
        yield _row(name, len(tasks), backend, dtype, of, *spread, f"{100 * (values > 0.01).mean():.1f}%")


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=371, help="number of random tasks per kind")
    parser.add_argument("--kinds", nargs="*", default=["sparse"], choices=KINDS, help="kinds of random tasks")
    parser.add_argument("--backend", nargs="+", default=["cpp", "torch"])
    parser.add_argument("--dtype", nargs="+", default=["float32"], choices=["float32", "float64"])
    parser.add_argument("--seed", type=int, default=0, help="seed of the first random task")
    parser.add_argument("--shapes", action="store_true", help="also use the benchmark's five shapes, 8 tasks each")
    parser.add_argument("--answers", type=Path, help="file that keeps the oracle's answers (hundreds of MB)")
    args = parser.parse_args()

    answers = Answers(args.answers)
    print(_row(*COLUMNS))
    print("|" + "---|" * len(COLUMNS))
    sources = {kind: smooth_tasks(kind, args.tasks, first=args.seed, answer=answers) for kind in args.kinds}
    if args.shapes:
        sources |= {f"the five shapes, dual_reg = {reg:g}": benchmark_tasks(reg, answers) for reg in (0.0, 1.0)}
    for name, source in sources.items():
        tasks = []
        while chunk := list(islice(source, 50)):
            tasks += chunk
            answers.save()
        for backend, dtype in product(args.backend, args.dtype):
            for row in rows(name, tasks, backend, dtype):
                print(row, flush=True)


if __name__ == "__main__":
    main()
