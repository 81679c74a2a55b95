"""Tables of the results of a run and of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from sparsedis.disentangle.results import Results


def table(results: Results, title: str) -> Table:
    """The metrics, one per row."""
    shown = Table(title=title)
    shown.add_column("metric")
    shown.add_column("value", justify="right")
    for name, value in (
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
    ):
        shown.add_row(name, f"{value:.4f}")
    return shown


def sweep_table(groups: Sequence[Mapping[str, Any]], vary: str) -> str:
    """The table of a sweep in Markdown; a single seed has no deviation.

    Args:
        groups: the rows of :func:`sparsedis.disentangle.sweep.summary`.
        vary: name of the setting that varies.
    """
    lines = [f"| {vary} | method | seeds | MCC | R |", "|---|---|---|---|---|"]
    for group in groups:
        mcc, r = (
            f"{group[f'{key}_mean']:.3f}" + (f" ± {group[f'{key}_sd']:.3f}" if group["seeds"] > 1 else "")
            for key in ("mcc", "r")
        )
        lines.append(f"| {group['value']} | {group['method']} | {group['seeds']} | {mcc} | {r} |")
    return "\n".join(lines) + "\n"
