"""Figures of a run and of a sweep, as PNG images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparsedis.runs import plots


def curves(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss, MCC and R, and fraction of features used against the iteration, from the lines of metrics.jsonl."""
    figure = plots.figure(12, 3.5)
    panels = figure.subplots(1, 3)
    for panel, key, label in ((panels[0], "loss", "loss"), (panels[2], "features_used", "features used")):
        for split in ("train", "validation"):
            plots.curve(panel, lines, split, key)
        panel.set(xlabel="iteration", ylabel=label)
    panels[0].set_yscale("log")
    panels[2].set_ylim(0, 1.02)
    for key, label in (("mcc", "MCC"), ("r", "R")):
        plots.curve(panels[1], lines, "validation", key, label)
    panels[1].set(xlabel="iteration", ylabel="on factors drawn uniformly", ylim=(0, 1.02))
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.legend()
    return plots.png(figure)


def heat_map(correlations: Sequence[Sequence[float]], names: Sequence[str], title: str) -> bytes:
    """Heat map of the absolute correlations (m, d) of factors with features."""
    figure = plots.figure(5, 4.4)
    panel = figure.subplots()
    strength = [[abs(value) for value in row] for row in correlations]
    shown = panel.imshow(strength, vmin=0, vmax=1, cmap="viridis")
    for row, values in enumerate(strength):
        for column, value in enumerate(values):
            colour = "black" if value > 0.6 else "white"
            panel.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    panel.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    panel.set(xlabel="feature", xticks=range(len(strength[0])))
    panel.set_title(title, fontsize=10)
    figure.colorbar(shown, label="|correlation|")
    return plots.png(figure)


def sweep(groups: Sequence[Mapping[str, Any]], vary: str) -> bytes:
    """MCC and R against the varied setting, with a line per method and error bars of one standard deviation, if any.

    Args:
        groups: the rows of :func:`sparsedis.disentangle.sweep.summary`.
        vary: name of the varied setting.
    """
    figure = plots.figure(9, 3.6)
    panels = figure.subplots(1, 2)
    ticks = list(dict.fromkeys(str(group["value"]) for group in groups))
    for panel, key, label in ((panels[0], "mcc", "MCC"), (panels[1], "r", "R")):
        for shift, method in enumerate(dict.fromkeys(group["method"] for group in groups)):
            chosen = [group for group in groups if group["method"] == method and group["seeds"]]
            places = [ticks.index(str(group["value"])) + 0.06 * (shift - 1) for group in chosen]
            means = [group[f"{key}_mean"] for group in chosen]
            deviations = [math.nan if group[f"{key}_sd"] is None else group[f"{key}_sd"] for group in chosen]
            panel.errorbar(places, means, yerr=deviations, marker="o", capsize=3, label=method)
        panel.set(xlabel=vary, ylabel=label, ylim=(0, 1.02))
        panel.set_xticks(range(len(ticks)), ticks)
        panel.grid(alpha=0.3)
    panels[0].legend()
    return plots.png(figure)
