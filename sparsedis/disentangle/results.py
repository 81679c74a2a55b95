"""The results of a run, and functions that read them from its folder.

In addition to the files of every run (:mod:`sparsedis.runs.folder`), a disentanglement run writes

correlations.png   correlations of the features with the factors
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsedis.disentangle.config import DisentangleConfig
from sparsedis.runs import folder
from sparsedis.runs.environment import seconds

CORRELATIONS = "correlations.png"


@dataclass(frozen=True)
class Results:
    """The results of a run, with the metrics of the learner with the best validation.

    Attributes:
        iteration: the step of that learner.
        iterations: number of steps done.
        validation_loss, test_loss: outer loss.
        features_used: fraction of the features that a test task's regression uses.
        certified: certified fraction of the test tasks.
        mcc, mcc_spearman, r: for factors drawn uniformly.
        disentanglement, completeness, informativeness: DCI, for the same factors.
        mcc_ica, r_ica: for the features transformed by FastICA, fitted to features of the training distribution; None
            if it could not be fitted.
        ica_missing: the reason why it could not be fitted, or None.
        correlations: (6, d), of factors with features, for factors drawn uniformly; features ordered by the assignment
            of ``mcc``.
        largest_gap: largest relative duality gap of the test tasks; None in results of earlier versions.
    """

    iteration: int
    iterations: int
    validation_loss: float
    test_loss: float
    features_used: float
    certified: float
    mcc: float
    mcc_spearman: float
    r: float
    disentanglement: float
    completeness: float
    informativeness: float
    mcc_ica: float | None
    r_ica: float | None
    ica_missing: str | None
    correlations: list[list[float]]
    largest_gap: float | None = None


def record(out: str | Path) -> dict[str, Any]:
    """The main settings and results of a finished run, as written by ``--json``.

    Raises:
        FileNotFoundError: the folder holds no finished run.
        ValueError: a file of the run is damaged; the message names it.
    """
    out = Path(out)
    with _reading(out / folder.CONFIG) as settings:
        config = DisentangleConfig.from_json(settings)
    taken = seconds(out)
    with _reading(out / folder.RESULTS) as results:
        return {
            **{name: getattr(config, name) for name in ("inner", "rho", "lambda1", "noise", "tasks", "preset")},
            "mcc": results["mcc"],
            "r": results["r"],
            "dci": {name: results[name] for name in ("disentanglement", "completeness", "informativeness")},
            "mcc_ica": results["mcc_ica"],
            "r_ica": results["r_ica"],
            "ica_missing": results.get("ica_missing"),  # missing in earlier versions
            "iterations": results["iterations"],
            "seed": config.seed,
            "seconds": taken,
        }


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The JSON value in a file; errors, also in the block, become a ValueError that names the file."""
    try:
        yield json.loads(path.read_bytes())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
