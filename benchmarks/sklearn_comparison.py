"""Sparse linear classifiers on the data sets of scikit-learn, as a Markdown table and JSON.

python -m benchmarks.sklearn_comparison [--data iris wine ...] [--seeds 0 1 2] [--out FILE.json]
python -m benchmarks.sklearn_comparison --batching [--data ...]

Needs pip install -e '.[sklearn,dev]' (skglm). Features are standardised on the training part, 70% of the samples,
stratified by seed. Each method chooses among ten values of its one hyperparameter by the same five folds (the best mean
accuracy; of equal ones the sparsest) and is then fitted to the training part; that last fit is timed. With --batching:
the cross-validation of GroupLassoSVCCV, which is one batch, and the same fits one by one.

Times are processor time of one thread, which is less sensitive to other processes than wall time; the load is printed.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.base import BaseEstimator
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from benchmarks.measure import environment
from sparsedis import solve_logistic, solve_svm
from sparsedis.runs.files import write_json
from sparsedis.sklearn import GroupLassoLogisticRegression, GroupLassoSVC, GroupLassoSVCCV

DATA = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}
# Many features, to measure memory.
WIDE = partial(datasets.make_classification, 200, 5000, n_informative=10, random_state=0)
# Of digits, so that no search takes more than some seconds.
MOST_SAMPLES = 200
FOLDS = 5
CANDIDATES = 10
REPEATS = 3


@dataclass(frozen=True)
class Method:
    """A classifier, its hyperparameter's values from the sparsest on, and its duality gap if it can be computed."""

    name: str
    estimator: BaseEstimator
    grid: Mapping[str, Sequence[float]]
    gap: Callable[[Any, np.ndarray, np.ndarray], float | None]


def methods() -> list[Method]:
    """The methods of this package and its peers; skglm's only if it is installed."""
    falling, rising = np.geomspace(0.5, 5e-3, CANDIDATES), np.geomspace(1e-3, 10, CANDIDATES)
    found = [
        Method("GroupLassoSVC", GroupLassoSVC(), {"lambda1": falling}, _own_gap),
        Method("GroupLassoLogisticRegression", GroupLassoLogisticRegression(), {"lambda1": falling}, _own_gap),
    ]
    try:
        from benchmarks.peers.skglm import MultinomialGroupLasso
    except ImportError:
        print("skglm is not installed; pip install -e '.[dev]'")
    else:
        found.append(Method("skglm, multinomial", MultinomialGroupLasso(), {"lambda1": falling}, _logistic_gap))
    l1 = LinearSVC(penalty="l1", dual=False, max_iter=100_000)
    dense = LinearSVC(multi_class="crammer_singer", max_iter=100_000)
    return [
        *found,
        Method("LinearSVC, l1", l1, {"C": rising}, lambda *_: None),
        Method("LinearSVC, crammer_singer", dense, {"C": rising}, _svm_gap),
    ]


def compare(name: str, seed: int, candidates: Sequence[Method]) -> list[dict[str, Any]]:
    """A row per method."""
    X, X_test, y, y_test = split(name, seed)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    rows = []
    for method in candidates:
        start = time.process_time()
        search = GridSearchCV(method.estimator, {key: list(grid) for key, grid in method.grid.items()}, cv=folds)
        model = search.fit(X, y).best_estimator_
        searched = time.process_time() - start
        rows.append(
            {
                "data": name,
                "seed": seed,
                "method": method.name,
                "samples": len(X),
                "features": X.shape[1],
                "classes": len(model.classes_),
                "chosen": search.best_params_,
                "accuracy": model.score(X_test, y_test),
                "used": int((model.coef_ != 0).any(0).sum()),
                "seconds": statistics.median(_seconds(lambda model=model: model.fit(X, y)) for _ in range(REPEATS)),
                "search_seconds": searched,
                "gap": method.gap(model, X, y),
            }
        )
    return rows


def split(name: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Standardised features for training and test, and their labels."""
    X, y = WIDE() if name == "wide" else DATA[name](return_X_y=True)
    if name == "digits":
        X, y = X[:MOST_SAMPLES], y[:MOST_SAMPLES]
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=seed)
    scaler = StandardScaler().fit(X)
    return scaler.transform(X), scaler.transform(X_test), y, y_test


def markdown(record: Mapping[str, Any]) -> str:
    """A row per data set and method: means over the seeds, and the largest gap."""
    lines = [
        "| data (samples, features, classes) | method | accuracy | features used | one fit, ms | search, s | gap |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in record["rows"]:
        groups.setdefault((row["data"], row["method"]), []).append(row)
    for (data, method), rows in groups.items():
        first = rows[0]
        accuracy = [100 * row["accuracy"] for row in rows]
        spread = f" ± {statistics.stdev(accuracy):.1f}" if len(rows) > 1 else ""
        gaps = [row["gap"] for row in rows if row["gap"] is not None]
        shape = f"{data} ({first['samples']}, {first['features']}, {first['classes']})"
        values = (
            f"{statistics.mean(accuracy):.1f}{spread}",
            f"{statistics.mean(row['used'] for row in rows):.1f}",
            f"{1e3 * statistics.mean(row['seconds'] for row in rows):.1f}",
            f"{statistics.mean(row['search_seconds'] for row in rows):.2f}",
            f"{max(gaps):.0e}" if gaps else "-",
        )
        lines.append(f"| {shape} | {method} | {' | '.join(values)} |")
    return "\n".join(lines)


def batching(name: str) -> list[dict[str, Any]]:
    """Seconds and memory of the cross-validation of GroupLassoSVCCV, as one batch and as single fits."""
    return [{"data": name, "how": how, **_alone(how, name)} for how in _WAYS]


def batching_markdown(record: Mapping[str, Any]) -> str:
    """A row per data set and way of cross-validation."""
    lines = ["| data | cross-validation | s | MiB |", "|---|---|---|---|"]
    rows = record["rows"]
    lines += [f"| {row['data']} | {row['how']} | {row['seconds']:.2f} | {row['mebibytes']:.0f} |" for row in rows]
    return "\n".join(lines)


def _one_batch(X: np.ndarray, y: np.ndarray) -> None:
    GroupLassoSVCCV(20, cv=FOLDS).fit(X, y)


def _one_by_one(X: np.ndarray, y: np.ndarray) -> None:
    GridSearchCV(GroupLassoSVC(), {"lambda1": list(np.geomspace(1, 0.01, 20))}, cv=FOLDS).fit(X, y)


_WAYS = {"one batch": _one_batch, "fit by fit": _one_by_one}


def _alone(how: str, name: str) -> dict[str, Any]:
    """The measurement in a process of its own, whose peak memory no other measurement affects."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, how, name).result()


def _measured(how: str, name: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    X, _, y, _ = split(name, 0)
    GroupLassoSVC().fit(X, y)  # excludes what the first call loads
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = _seconds(lambda: _WAYS[how](X, y))
    return {"seconds": seconds, "mebibytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def _seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _own_gap(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    return model.dual_gap_


def _svm_gap(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    """The duality gap of coefficients without a group Lasso, with the dual point of this package."""
    labels = np.searchsorted(model.classes_, y)
    features = np.hstack([X, np.ones((len(X), 1))])
    W = _columns(np.c_[model.coef_, model.intercept_])
    scores = features @ W
    rows = np.arange(len(y))
    margins = 1 + scores - scores[rows, labels][:, None]
    margins[rows, labels] = 0
    objective = margins.max(1).sum() + np.square(W).sum() / (2 * model.C)
    n, k = scores.shape
    solver = "newton" if n * (k - 1) <= 2048 else "fista"
    best = solve_svm(
        torch.tensor(features), torch.tensor(labels), lambda1=0.0, lambda2=1 / model.C, solver=solver, tol=1e-9
    )
    return float((objective - (best.objective - best.gap)) / objective)


def _logistic_gap(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    """The duality gap of coefficients of the group-Lasso logistic regression, with the dual point of this package."""
    labels = torch.tensor(np.searchsorted(model.classes_, y))
    W = torch.tensor(_columns(model.coef_))
    scores = torch.tensor(X) @ W + torch.tensor(_columns(model.intercept_[:, None])[0])
    objective = torch.nn.functional.cross_entropy(scores, labels) + model.absolute_lambda1_ * W.norm(dim=1).sum()
    best = solve_logistic(torch.tensor(X), labels, lambda1=model.absolute_lambda1_, intercept=True)
    return float((objective - (best.objective - best.gap)) / np.log(scores.shape[1]))


def _columns(coef: np.ndarray) -> np.ndarray:
    """W (d, k) from coefficients in scikit-learn's shape."""
    return np.vstack([-coef, coef]).T / 2 if len(coef) == 1 else coef.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=[*DATA, "wide"], default=list(DATA))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--batching", action="store_true", help="measure cross-validation as one batch instead")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/sklearn.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    record = {**environment(torch.device("cpu"))}
    candidates = [] if options.batching else methods()
    for method in candidates:  # excludes compilation at first use
        method.estimator.fit(*split("iris", 0)[::2])
    record["rows"] = []
    for name in options.data:
        if options.batching:
            record["rows"] += batching(name)
        for seed in options.seeds if candidates else ():
            record["rows"] += compare(name, seed, candidates)
        record["load_at_the_end"] = os.getloadavg()[0]
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(options.out, record)
    print(batching_markdown(record) if options.batching else markdown(record))
    print(f"\nload of the machine: {record['machine']['load']:.1f} to {record['load_at_the_end']:.1f}")


if __name__ == "__main__":
    main()
