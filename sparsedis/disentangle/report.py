"""What a person reads of a run: curves, the heat map of correlations, tables; and of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from sparsedis.runs import plots

if TYPE_CHECKING:
    from sparsedis.disentangle.train import Results


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


def curves(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """A PNG image of the lines of metrics.jsonl: loss, MCC and R, and the share of features used, by iteration."""
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
    """A PNG image of |correlations| (m, d) of factors with features."""
    figure = plots.figure(5, 4.4)
    panel = figure.subplots()
    strength = [[abs(value) for value in row] for row in correlations]
    shown = panel.imshow(strength, vmin=0, vmax=1, cmap="viridis")
    for row, values in enumerate(strength):
        for column, value in enumerate(values):
            colour = "black" if value > 0.6 else "white"
            panel.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    panel.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    panel.set(xlabel="feature", title=title, xticks=range(len(strength[0])))
    figure.colorbar(shown, label="|correlation|")
    return plots.png(figure)


def sweep_figure(groups: Sequence[Mapping[str, Any]], vary: str) -> bytes:
    """A PNG image of a sweep: MCC and R by the setting that varies, a line per method, error bars of one deviation.

    Args:
        groups: the rows of :func:`sparsedis.disentangle.sweep.summary`.
        vary: name of the setting.
    """
    figure = plots.figure(9, 3.6)
    panels = figure.subplots(1, 2)
    ticks = list(dict.fromkeys(str(group["value"]) for group in groups))
    for panel, key, label in ((panels[0], "mcc", "MCC"), (panels[1], "r", "R")):
        for shift, method in enumerate(dict.fromkeys(group["method"] for group in groups)):
            chosen = [group for group in groups if group["method"] == method]
            places = [ticks.index(str(group["value"])) + 0.06 * (shift - 1) for group in chosen]
            means, deviations = ([group[f"{key}_{what}"] for group in chosen] for what in ("mean", "sd"))
            panel.errorbar(places, means, yerr=deviations, marker="o", capsize=3, label=method)
        panel.set(xlabel=vary, ylabel=label, ylim=(0, 1.02))
        panel.set_xticks(range(len(ticks)), ticks)
        panel.grid(alpha=0.3)
    panels[0].legend()
    return plots.png(figure)


def sweep_table(groups: Sequence[Mapping[str, Any]], vary: str) -> str:
    """The same as a table in Markdown, with the number of seeds; one alone has no deviation."""
    lines = [f"| {vary} | method | seeds | MCC | R |", "|---|---|---|---|---|"]
    for group in groups:
        mcc, r = (
            f"{group[f'{key}_mean']:.3f}" + (f" ± {group[f'{key}_sd']:.3f}" if group["seeds"] > 1 else "")
            for key in ("mcc", "r")
        )
        lines.append(f"| {group['value']} | {group['method']} | {group['seeds']} | {mcc} | {r} |")
    return "\n".join(lines) + "\n"
