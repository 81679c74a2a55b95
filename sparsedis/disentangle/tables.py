"""Result tables of a run and of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsedis.disentangle.results import Results
from sparsedis.runs.tables import Grid


def table(results: Results, title: str) -> Grid:
    """The metrics, one per row."""
    rows = (
        ("MCC (Pearson)", results.mcc),
        ("MCC (Spearman)", results.mcc_spearman),
        ("R", results.r),
        ("DCI disentanglement", results.disentanglement),
        ("DCI completeness", results.completeness),
        ("DCI informativeness", results.informativeness),
        ("MCC after FastICA", results.mcc_ica),
        ("R after FastICA", results.r_ica),
        ("test loss", results.test_loss),
        ("features used per task", results.features_used),
        ("solves certified", results.certified),
    )
    cells = [(name, "missing" if value is None else f"{value:.4f}") for name, value in rows]
    return Grid(("metric", "value"), cells, title)


def sweep_grid(groups: Sequence[Mapping[str, Any]], vary: str) -> Grid:
    """The table of a sweep; no deviation for a single seed, and dashes for a method without results.

    Args:
        groups: the rows of :func:`sparsedis.disentangle.sweep.summary`.
        vary: name of the varied setting.
    """
    rows = []
    for group in groups:
        mcc, r = (_with_deviation(group[f"{key}_mean"], group[f"{key}_sd"]) for key in ("mcc", "r"))
        rows.append((str(group["value"]), group["method"], str(group["seeds"]), mcc, r))
    return Grid((vary, "method", "seeds", "MCC", "R"), rows, align="llrrr", boxed=False)


def sweep_table(groups: Sequence[Mapping[str, Any]], vary: str) -> str:
    """:func:`sweep_grid` in Markdown."""
    return sweep_grid(groups, vary).markdown()


def _with_deviation(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"
