"""Figures of a run and its tests, as PNG images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsedis.metalearn.results import Entry
from sparsedis.runs import plots


def curves(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """Accuracy and fraction of features used against the iteration, from the lines of metrics.jsonl."""
    figure = plots.figure(9, 3.5)
    panels = figure.subplots(1, 2)
    for panel, key, label in zip(panels, ("accuracy", "features_used"), ("accuracy", "features used"), strict=True):
        for split in ("train", "validation"):
            plots.curve(panel, lines, split, key)
        panel.set(xlabel="iteration", ylabel=label, ylim=(0, 1.02))
        panel.grid(alpha=0.3)
    panels[0].legend()
    return plots.png(figure)


def sweep(entries: Sequence[Entry]) -> bytes:
    """Accuracy against the fraction of features used, with one panel per kind of task.

    Sparse heads are curves, dense heads lines. Bars and bands are 95% confidence intervals, where available.
    """
    kinds = list(entries[0].tests)
    figure = plots.figure(4.5 * len(kinds), 3.6)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for panel, kind in zip(panels, kinds, strict=True):
        for number, head in enumerate(dict.fromkeys(entry.head for entry in entries)):
            chosen = [entry for entry in entries if entry.head == head]
            tests = [entry.tests[kind] for entry in chosen]
            color = f"C{number}"
            if chosen[0].lambda1 is None:
                accuracy, ci95 = tests[0].accuracy, tests[0].ci95
                panel.axhline(accuracy, color=color, linestyle="--", linewidth=1, label=head)
                if ci95 is not None:
                    panel.axhspan(accuracy - ci95, accuracy + ci95, color=color, alpha=0.12, linewidth=0)
                continue
            used = [test.features_used for test in tests]
            panel.errorbar(
                used,
                [test.accuracy for test in tests],
                [math.nan if test.ci95 is None else test.ci95 for test in tests],
                color=color,
                marker="o",
                markersize=4,
                capsize=2,
                label=head,
            )
            for entry, fraction, test in zip(chosen, used, tests, strict=True):
                panel.annotate(
                    f"{entry.lambda1:g}", (fraction, test.accuracy), (3, -9), textcoords="offset points", fontsize=7
                )
        panel.set(title=kind, xlabel="fraction of features used", ylabel="accuracy", xlim=(0, 1.02))
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    return plots.png(figure)


def usage(active: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """For every class that occurs, the fraction of its episodes whose classifier uses each feature.

    Args:
        active: (E, d) bool.
        classes: (E, way).

    Returns:
        The classes (C,), sorted, and the fractions (C, d).
    """
    found, places = classes.unique(return_inverse=True)
    member = torch.zeros(len(active), len(found), dtype=torch.float64).scatter_(1, places, 1.0)
    return found, (member.T @ active.double()) / member.sum(0)[:, None]


def heat_map(fractions: Tensor, names: Sequence[str]) -> bytes:
    """Heat map of the fractions (C, d) from :func:`usage`: classes as rows, features as columns, most used first."""
    order = fractions.mean(0).argsort(descending=True)
    figure = plots.figure(9, 1.2 + 0.16 * len(names))
    panel = figure.subplots()
    image = panel.imshow(
        fractions[:, order].numpy(), aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest"
    )
    panel.set_yticks(range(len(names)), names, fontsize=6, parse_math=False)
    panel.set(xlabel="feature, in the order of use", title="fraction of a class's tasks that use a feature")
    figure.colorbar(image, ax=panel)
    return plots.png(figure)


def reliability(bins: Tensor) -> bytes:
    """Reliability diagram with a histogram of the confidence, from bins (15, 3) as in ``Details``."""
    count, right, confidence = bins.numpy().T
    some = count > 0
    width = 1 / len(bins)
    left = np.arange(len(bins)) * width
    accuracy = right[some] / count[some]
    figure = plots.figure(4.5, 4.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    upper.bar(left[some], accuracy, width, align="edge", edgecolor="white")
    upper.plot(confidence[some] / count[some], accuracy, "k.")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    lower.bar(left, count / count.sum(), width, align="edge", edgecolor="white")
    lower.set(xlabel="confidence", ylabel="fraction of predictions")
    return plots.png(figure)
