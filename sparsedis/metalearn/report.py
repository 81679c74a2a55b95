"""What a person reads of a run: the curves and the table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from sparsedis.metalearn.evaluate import Evaluation


def percent(share: float | None, digits: int = 1) -> str:
    """A fraction as a percentage; a dash for None."""
    return "-" if share is None else f"{100 * share:.{digits}f}%"


def table(evaluations: Sequence[Evaluation], title: str) -> Table:
    """One row per evaluation."""
    result = Table(title=title)
    result.add_column("task")
    for heading in ("episodes", "accuracy", "features used", "solves certified"):
        result.add_column(heading, justify="right")
    for one in evaluations:
        result.add_row(
            f"{one.way}-way {one.shot}-shot",
            str(one.episodes),
            f"{percent(one.accuracy, 2)} ± {100 * one.ci95:.2f}",
            percent(one.features_used),
            percent(one.certified),
        )
    return result


def curves(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG image of the lines of metrics.jsonl: accuracy, and the share of features used, by iteration."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, key, label in zip(panels, ("accuracy", "features_used"), ("accuracy", "features used"), strict=True):
        for split, style in (("train", {"alpha": 0.4}), ("validation", {"marker": "o"})):
            chosen = [line for line in lines if line["split"] == split]
            values = [line[key] for line in chosen]
            panel.plot([line["iteration"] for line in chosen], values, label=split, **style)
        panel.set(xlabel="iteration", ylabel=label, ylim=(0, 1.02))
        panel.grid(alpha=0.3)
    panels[0].legend()
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()
