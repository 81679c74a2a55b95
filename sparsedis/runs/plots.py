"""Shared code of the figures, which are drawn without a display and returned as PNG images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

_STYLES: dict[str, dict[str, Any]] = {"train": {"alpha": 0.4}, "validation": {"marker": "o"}}


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: Any) -> bytes:
    """The figure as a PNG image."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def curve(panel: Any, lines: Sequence[Mapping[str, Any]], split: str, key: str, label: str | None = None) -> None:
    """Plot one value of metrics.jsonl against the iteration.

    Args:
        panel: matplotlib axes.
        lines: of metrics.jsonl.
        split: "train" or "validation", which decides the style.
        key: of the value; lines without it leave a gap.
        label: for the legend; default: the split.
    """
    chosen = [line for line in lines if line["split"] == split]
    values = [line.get(key) for line in chosen]
    panel.plot([line["iteration"] for line in chosen], values, label=label or split, **_STYLES[split])


def overlay(lines: Mapping[str, Sequence[Mapping[str, Any]]], key: str, label: str) -> bytes:
    """A PNG image of one validation value against the iteration, with one curve per run.

    Args:
        lines: of metrics.jsonl, by the name of the run.
        key: of the value.
        label: of the value's axis.
    """
    image = figure(9, 3.5)
    panel = image.subplots()
    for name, own in lines.items():
        curve(panel, own, "validation", key, name)
    panel.set(xlabel="iteration", ylabel=label)
    panel.grid(alpha=0.3)
    if len(lines) <= 12:
        panel.legend(fontsize=7)
    return png(image)
