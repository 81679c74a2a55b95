"""Markdown report and figures from the JSON of a run.

python -m benchmarks.report RESULTS.json [--readme README.md]

With --readme the table of ratios, with date and machine, replaces the text between the lines <!-- benchmarks --> and
<!-- /benchmarks --> of that file.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from tools.marked_text import replace_between_marks

Record = Mapping[str, Any]
_GAP_PROMISED = 1e-5
_DISTURBED = 0.2  # cores used by other processes
# Reference shapes by (shots, d): speed-up over the published algorithm on torchopt; and their mean.
_AGAINST_PUBLISHED = {(5, 640): 10, (5, 1600): 12, (15, 1600): 7, (5, 16000): 12, (15, 16000): 14}
_AGAINST_PUBLISHED_MEAN = 12


def write(record: Record, out: Path) -> str:
    """Write report.md and the figures to ``out``; returns the report."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = [name for name, draw in _FIGURES.items() if draw(record, out / f"{name}.png")]
    text = markdown(record)
    pictures = "".join(f"\n![{name}]({name}.png)\n" for name in drawn)
    (out / "report.md").write_text(text + pictures, encoding="utf-8")
    return text


def markdown(record: Record) -> str:
    """The report: machine, ratios, targets, one table per case, gap and gradient error against time."""
    parts = [heading(record), "## Reference shapes", ratio_table(record), summary_table(record)]
    parts += ["## Targets", targets_table(record), "## All cases"]
    for case in record["cases"]:
        about = f"### {case['name']}"
        if "sparsity" in case:
            about += (
                f"\n\n{100 * case['sparsity']:.0f}% of the features off; gradients compared in {case['smooth']} tasks "
                f"({case['checked'] - case['smooth']} at a kink)."
            )
        parts += [about, case_table(case)]
    if "curve" in record:
        parts += ["## Gap and gradient error against time", _curve_table(record["curve"])]
    return "\n\n".join(parts) + "\n"


def heading(record: Record) -> str:
    """Date, machine, versions and peak rates."""
    machine, ceiling = record["machine"], record["roofline"]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    kind = " (quick: few rounds)" if record["quick"] else ""
    load = machine.get("load")
    return (
        f"# Benchmark of {record['date']}{kind}\n\n"
        f"{machine['cpu']}, {machine['cores']} cores, {record['threads']} threads, device {record['device']}, "
        f"{machine['platform']}, Python {machine['python']}"
        + (f", load {load:.1f} at the start" if load is not None else "")
        + f".\nCommit {record['commit']}. {versions}.\n"
        f"Its own sgemm: {ceiling['sgemm_gflops']:.0f} GFLOP/s; copy: {ceiling['copy_gb_per_s']:.0f} GB/s (read and "
        f"written). Encoder features: {record['encoder']}.{disturbance(record)}"
    )


def disturbance(record: Record, group: str = "") -> str:
    """A warning that names the cases during which other processes used the CPU; ``group``: cases to consider."""
    cases = [case for case in record["cases"] if not group or group in case["case"]["groups"]]
    disturbed = {case["name"]: case.get("foreign_cores", 0.0) for case in cases}
    disturbed = {name: cores for name, cores in disturbed.items() if cores > _DISTURBED}
    if not disturbed:
        return ""
    named = "; ".join(f"{name} ({cores:.2f} cores)" for name, cores in disturbed.items())
    return (
        f" **Disturbed: in {len(disturbed)} of {len(cases)} cases other processes used more than {_DISTURBED} of "
        f"{record['machine']['cores']} cores, so that their times are not to be relied on: {named}.**"
    )


def case_table(case: Record) -> str:
    """Times in ms for the whole batch, and each contender's own gap and gradient error."""
    head = [
        "",
        "forward, ms",
        "forward + backward, ms",
        "gap: median / largest",
        "gradient error: median / largest",
        "in lambda1 / lambda2",
        "",
    ]
    rows = []
    for row in case["contenders"]:
        verdict = row.get("verdict")
        errors = ["-"] * 3
        if verdict is not None:
            of_lambdas = f"{_number(verdict['lambda1_error'])} / {_number(verdict['lambda2_error'])}"
            errors = [_pair(verdict, "gap"), _pair(verdict, "gradient_error"), of_lambdas]
        if row["status"] != "measured":
            rows.append([row["name"], "-", "-", *errors, f"{row['status']}: {row['reason']}"])
            continue
        notes = [row.get("note", "")]
        if (scale := _scale(case, row)) != 1:
            notes.append(f"{row['count']} of {case['case']['batch']} tasks timed, time multiplied by {scale:g}")
        if (rounds := min(len(row[direction]["times"]) for direction in ("forward", "forward_backward"))) < 3:
            notes.append(f"only {rounds} round{'s' if rounds > 1 else ''} in a direction")
        if row["details"].get("n_iter"):
            steps = row["details"]["n_iter"]
            notes.append(f"{min(steps)} to {max(steps)} iterations")
        rows.append(
            [
                row["name"],
                _spread(row["forward"], scale),
                _spread(row["forward_backward"], scale),
                *errors,
                "; ".join(filter(None, notes)),
            ]
        )
    return _table(head, rows)


def summary_table(record: Record) -> str:
    """Forward + backward in ms: a column per reference shape, a row per contender, gap and gradient error in brackets.

    A contender that was measured on none of the shapes is listed below the table with the reason, without a row.
    """
    cases = [case for case in record["cases"] if "reference" in case["case"]["groups"]]
    names = list(dict.fromkeys(row["name"] for case in cases for row in case["contenders"]))
    head = ["forward + backward, ms (largest gap; gradient error: median / largest)"]
    head += [_shape(case["case"]["shots"], case["case"]["d"]) for case in cases]
    rows: list[list[str]] = []
    reasons: dict[str, None] = {}
    for name in names:
        cells, measured = [name], False
        for case in cases:
            shape = _shape(case["case"]["shots"], case["case"]["d"])
            row = _row(case, name)
            if row is None:
                cells.append("-")
            elif row["status"] != "measured":
                cells.append(row["status"])
                # A refusal belongs to a shape; a missing package is reported once.
                where = f" at {shape}" if row["status"] in ("refused", "failed") else ""
                reasons[f"{name}, {row['status']}{where}: {row['reason']}"] = None
            else:
                scale = _scale(case, row)
                mark = "" if scale == 1 else f"; {row['count']} task timed"
                time = 1e3 * scale * row["forward_backward"]["median"]
                verdict = row["verdict"]
                cells.append(f"{_ms(time)} ({_number(verdict['gap'])}; {_pair(verdict, 'gradient_error')}{mark})")
                measured = True
        if measured:
            rows.append(cells)
    notes = "".join(f"\n- {reason}" for reason in reasons)
    return _table(head, rows) + (f"\n{notes}" if notes else "")


def ratio_table(record: Record, with_times: bool = False) -> str:
    """Speed-up over the published algorithm on torchopt: a column per reference shape, and the mean.

    Args:
        record: of a run.
        with_times: add rows with the times of both in ms, the largest gap and the largest gradient error.
    """
    ratios = _against_published(record)
    head = ["forward + backward: times as quick as the published algorithm on torchopt"]
    head += [*(_shape(shots, d) for shots, d in ratios), "geometric mean"]
    reached = [*ratios.values(), _geometric_mean(list(ratios.values()))]
    goals = [*_AGAINST_PUBLISHED.values(), _AGAINST_PUBLISHED_MEAN]
    rows = [
        ["this package", *("-" if ratio is None else f"{ratio:.1f}" for ratio in reached)],
        ["target", *(f"{goal:g}" for goal in goals)],
    ]
    if with_times:
        cases = [_reference(record, *shape) for shape in ratios]
        for name, found in (
            ("this package", [_best(case) for case in cases]),
            ("published", [_row(case, "published") for case in cases]),
        ):
            rows.append([f"{name}, ms (largest gap; gradient error)", *map(_time_and_errors, found), ""])
    return _table(head, rows)


def _time_and_errors(row: Record | None) -> str:
    if row is None or row["status"] != "measured":
        return "-"
    gap, error = (_number(row["verdict"][key]) for key in ("gap", "gradient_error"))
    return f"{_ms(1e3 * row['forward_backward']['median'])} ({gap}; {error})"


def _against_published(record: Record) -> dict[tuple[int, int], float | None]:
    return {shape: _times_quicker(_reference(record, *shape), "published") for shape in _AGAINST_PUBLISHED}


def _geometric_mean(ratios: list[float | None]) -> float | None:
    """The geometric mean; None unless all ratios are known."""
    known = [ratio for ratio in ratios if ratio is not None]
    return math.exp(sum(map(math.log, known)) / len(known)) if known and len(known) == len(ratios) else None


def targets(record: Record) -> list[tuple[str, str, str, str]]:
    """(name, bound, value reached, "met", "not met", "not measured" or, without a goal, "") of each target."""
    rows: list[tuple[str, str, str, str]] = []

    def add(
        what: str,
        goal: float | None,
        reached: float | None,
        *,
        at_most: bool = False,
        detail: str = "",
        unit: str = "x",
        missing: str = "",
    ) -> None:
        bound = "-" if goal is None else f"{'at most ' if at_most else ''}{goal:g}{unit}"
        if reached is None:
            rows.append((what, bound, missing or "-", "not measured"))
            return
        verdict = ""
        if goal is not None:
            verdict = "met" if (reached <= goal if at_most else reached >= goal) else "not met"
        rows.append((what, bound, f"{reached:.3g}{unit}{detail}", verdict))

    ratios = _against_published(record)
    for (shots, d), ratio in ratios.items():
        case, goal, shape = _reference(record, shots, d), _AGAINST_PUBLISHED[shots, d], _shape(shots, d)
        add(f"{shape}: against the published 5 steps on torchopt", goal, ratio, detail=_rounds(case, "published"))
        by_hand = "published, by hand"
        detail = _rounds(case, by_hand)
        add(f"{shape}: against them with derivatives by hand", None, _times_quicker(case, by_hand), detail=detail)
    add("the five on torchopt, geometric mean", _AGAINST_PUBLISHED_MEAN, _geometric_mean(list(ratios.values())))
    for (shots, d), peer, goal in (
        ((5, 640), "jaxopt", 100),
        ((5, 1600), "jaxopt", 100),
        ((15, 1600), "jaxopt", 100),
        ((5, 640), "cvxpylayers", 1000),
    ):
        case = _reference(record, shots, d)
        add(
            f"{_shape(shots, d)}: against {peer}",
            goal,
            _times_quicker(case, peer),
            detail=_rounds(case, peer),
            missing=_why_not(case, peer),
        )
    for case in record["cases"]:
        if "dense" in case["case"]["groups"]:
            what = f"lambda1 = 0, {case['case']['shots']}-shot, d={case['case']['d']}: against qpth"
            add(what, 20, _times_quicker(case, "qpth"), detail=_rounds(case, "qpth"), missing=_why_not(case, "qpth"))
    for shots, d in _AGAINST_PUBLISHED:
        case = _reference(record, shots, d)
        add(
            f"{_shape(shots, d)}: backward / forward",
            0.35,
            _backward_share(_best(case)),
            at_most=True,
            detail=_by(case),
            unit="",
        )
    per_task = {case["case"]["batch"]: case for case in record["cases"] if "batch" in case["case"]["groups"]}
    few, rise = _best(per_task.get(8)), None
    many = None if few is None else _row(per_task.get(1024), few["name"])
    if few is not None and many is not None and many["status"] == "measured":
        rise = many["forward_backward"]["median"] / few["forward_backward"]["median"] * 8 / 1024
    # 5% allow for the spread of the medians.
    add("time per task, 1024 tasks / 8 tasks", 1.05, rise, at_most=True, unit="")
    case = _reference(record, 15, 16000)
    newton = _best(case, "newton")
    rate = _rate(case, newton)
    share = None if rate is None else 100 * rate / record["roofline"]["sgemm_gflops"]
    add(
        "15-shot, d=16000: share of the machine's sgemm rate",
        40,
        share,
        detail=f" by {newton['name']}" if newton else "",
        unit="%",
    )
    return rows


def targets_table(record: Record) -> str:
    return _table(["", "target", "reached", ""], [list(row) for row in targets(record)])


def for_readme(record: Record) -> str:
    """The ratios to the published algorithm, with gaps, gradient errors, date and machine."""
    machine = record["machine"]
    quick = ", quick run" if record["quick"] else ""
    return (
        f"8 tasks, 5-way, float32, lambda1 = 4, lambda2 = 100, random clusters; {record['date'][:10]}, "
        f"{machine['cpu']}, {record['threads']} threads{quick}.{disturbance(record, 'reference')}\n\n"
        + ratio_table(record, with_times=True)
    )


def useful_flops(case: Record, row: Record) -> float:
    """Useful flops of a forward pass: iterations times 4 n d (k-1) + |S| (n(k-1))^2 + (n(k-1))^3 / 3, summed."""
    n, d, k = case["n"], case["case"]["d"], case["case"]["ways"]
    order = n * (k - 1)
    details = row["details"]
    return sum(
        steps * (4 * n * d * (k - 1) + active * order**2 + order**3 / 3)
        for steps, active in zip(details["n_iter"], details["active"], strict=True)
    )


def _rate(case: Record | None, row: Record | None) -> float | None:
    """Useful GFLOP/s of newton's forward pass."""
    if case is None or row is None or not row["name"].startswith("newton"):
        return None
    return useful_flops(case, row) / row["forward"]["median"] / 1e9


def _reference(record: Record, shots: int, d: int) -> Record | None:
    for case in record["cases"]:
        about = case["case"]
        if "reference" in about["groups"] and (about["shots"], about["d"]) == (shots, d):
            return case
    return None


def _row(case: Record | None, name: str) -> Record | None:
    return next((row for row in case["contenders"] if row["name"] == name), None) if case else None


def _best(case: Record | None, solver: str = "") -> Record | None:
    """This package's fastest certified contender, forward + backward; None if there is none."""
    if case is None:
        return None
    rows = [row for row in case["contenders"] if row.get("ours") and row["status"] == "measured"]
    certified = [row for row in rows if row["verdict"]["gap"] <= _GAP_PROMISED and row["name"].startswith(solver)]
    return min(certified, key=lambda row: row["forward_backward"]["median"], default=None)


def _backward_share(row: Record | None) -> float | None:
    """Backward time over forward time; None with fewer than three rounds, or if negative, which is noise."""
    if row is None or min(len(row[direction]["times"]) for direction in ("forward", "forward_backward")) < 3:
        return None
    share = row["forward_backward"]["median"] / row["forward"]["median"] - 1
    return share if share > 0 else None


def _why_not(case: Record | None, peer: str) -> str:
    """Why a peer has no figure."""
    row = _row(case, peer)
    return "" if row is None or row["status"] == "measured" else f"{peer} {row['status']}: {row['reason']}"


def _by(case: Record | None) -> str:
    best = _best(case)
    return "" if best is None else f" by {best['name']}"


def _rounds(case: Record | None, peer: str) -> str:
    """The fastest contender, and a warning if the peer was timed only once or twice."""
    row = _row(case, peer)
    if row is None or row["status"] != "measured" or (count := len(row["forward_backward"]["times"])) >= 3:
        return _by(case)
    return f"{_by(case)}; {peer} timed {count} time{'s' if count > 1 else ''} only"


def _times_quicker(case: Record | None, peer: str) -> float | None:
    best, other = _best(case), _row(case, peer)
    if case is None or best is None or other is None or other["status"] != "measured":
        return None
    return _scale(case, other) * other["forward_backward"]["median"] / best["forward_backward"]["median"]


def _scale(case: Record, row: Record) -> float:
    """The factor from the timed tasks to the batch."""
    return case["case"]["batch"] / row["count"]


def _shape(shots: int, d: int) -> str:
    return f"{shots}-shot, d={d}"


def _pair(values: Record, key: str) -> str:
    """Median and largest value."""
    return f"{_number(values[f'{key}_median'])} / {_number(values[key])}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _spread(times: Record, scale: float) -> str:
    median, low, high = (1e3 * scale * times[key] for key in ("median", "p20", "p80"))
    return f"{_ms(median)} ({_ms(low)} .. {_ms(high)})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _curve_table(curve: Record) -> str:
    rows = []
    for point in curve["points"]:
        times = [_spread(point[direction], 1) for direction in ("forward", "forward_backward")]
        errors = [_number(point["gap"]), _pair(point, "gradient_error")]
        rows.append([point["series"], point["setting"], *errors, *times])
    rows += [[series, "", "-", "-", "-", f"failed: {reason}"] for series, reason in curve["failed"].items()]
    head = ["", "setting", "largest gap", "gradient error: median / largest", "forward, ms", "forward + backward, ms"]
    return f"{curve['name']}.\n\n" + _table(head, rows)


def _draw_times(group: str, key: str, label: str, log: bool, per_task: bool = False) -> Callable[[Record, Path], bool]:
    def draw(record: Record, path: Path) -> bool:
        series: dict[str, list[tuple[float, float]]] = {}
        for case in record["cases"]:
            if group not in case["case"]["groups"]:
                continue
            for row in case["contenders"]:
                if row["status"] == "measured":
                    x = case[key] if key in case else case["case"][key]
                    seconds = _scale(case, row) * row["forward_backward"]["median"]
                    y = 1e3 * seconds / (case["case"]["batch"] if per_task else 1)
                    series.setdefault(row["name"], []).append((x, y))
        unit = "ms per task" if per_task else "ms"
        ordered = {name: sorted(points) for name, points in series.items()}
        return _plot(ordered, path, label, f"forward + backward, {unit}", log)

    return draw


def _draw_curve(record: Record, path: Path) -> bool:
    series: dict[str, list[tuple[float, float]]] = {}
    for point in record.get("curve", {}).get("points", []):
        # A gap of zero has no logarithm and is not drawn.
        series.setdefault(point["series"], []).append((1e3 * point["forward"]["median"], max(point["gap"], 1e-16)))
    return _plot(series, path, "forward, ms", "largest relative gap", True)


def _draw_gradients(record: Record, path: Path) -> bool:
    """Every contender of the curve's case at its settings; bars span the median to the largest error."""
    curve = record.get("curve", {"name": None, "points": []})
    series: dict[str, list[tuple[float, float, float]]] = {}

    def add(name: str, seconds: float, errors: Record) -> None:
        if errors["gradient_error"] is not None:
            median, largest = (max(errors[key], 1e-16) for key in ("gradient_error_median", "gradient_error"))
            series.setdefault(name, []).append((1e3 * seconds, median, largest))

    for point in curve["points"]:
        add(point["series"], point["forward_backward"]["median"], point)
    swept = set(series)
    for case in (case for case in record["cases"] if case["name"] == curve["name"]):
        for row in case["contenders"]:
            if row["status"] == "measured" and row["name"] not in swept:
                add(row["name"], _scale(case, row) * row["forward_backward"]["median"], row["verdict"])
    if not series:
        return False
    figure, axes = plt.subplots(figsize=(7, 5))
    for name, points in series.items():
        times, medians, largest = zip(*points, strict=True)
        above = [most - typical for typical, most in zip(medians, largest, strict=True)]
        axes.errorbar(times, medians, yerr=[[0.0] * len(above), above], fmt="o-", markersize=4, capsize=2, label=name)
    return _finish(figure, axes, path, "forward + backward, ms", "relative error of dloss/dX: median to largest", True)


def _draw_roofline(record: Record, path: Path) -> bool:
    """Useful flops per byte read (X twice per iteration, float32) against the rate reached."""
    ceiling = record["roofline"]
    series: dict[str, list[tuple[float, float]]] = {}
    for case in record["cases"]:
        if not case["case"]["lambda1"]:
            continue  # solved with the Gram matrix, to which the formula does not apply
        for row in case["contenders"]:
            rate = _rate(case, row) if row["status"] == "measured" else None
            if rate is not None:
                read = 8 * case["n"] * case["case"]["d"] * sum(row["details"]["n_iter"])
                series.setdefault(row["name"], []).append((useful_flops(case, row) / max(read, 1), rate))
    if not series:
        return False
    figure, axes = plt.subplots(figsize=(6, 4))
    for name, points in series.items():
        axes.plot(*zip(*points, strict=True), "o", label=name)
    reach = [0.5 * min(x for points in series.values() for x, _ in points)]
    reach += [2 * max(x for points in series.values() for x, _ in points)]
    grid = [reach[0] * (reach[1] / reach[0]) ** (i / 100) for i in range(101)]
    roof = [min(ceiling["sgemm_gflops"], x * ceiling["copy_gb_per_s"]) for x in grid]
    axes.plot(grid, roof, "k-", label="sgemm and copy of this machine")
    return _finish(figure, axes, path, "useful flops per byte of features read", "GFLOP/s", True)


def _plot(series: dict[str, list[tuple[float, float]]], path: Path, x: str, y: str, log: bool) -> bool:
    if not any(len(points) > 1 for points in series.values()):
        return False
    figure, axes = plt.subplots(figsize=(6, 4))
    for name, points in series.items():
        axes.plot(*zip(*points, strict=True), "o-", label=name)
    return _finish(figure, axes, path, x, y, log)


def _finish(figure: Any, axes: Any, path: Path, x: str, y: str, log: bool) -> bool:
    if log:
        axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)
    return True


_FIGURES: dict[str, Callable[[Record, Path], bool]] = {
    "time_features": _draw_times("d", "d", "features d", True),
    "time_batch": _draw_times("batch", "batch", "tasks in the batch", True, per_task=True),
    "time_ways": _draw_times("ways", "ways", "classes k", True),
    "time_sparsity": _draw_times("sparsity", "sparsity", "share of features off", False),
    "gap_time": _draw_curve,
    "gradient_time": _draw_gradients,
    "roofline": _draw_roofline,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, help="results.json of a run")
    parser.add_argument("--readme", type=Path, help="file to put the table of ratios into")
    arguments = parser.parse_args()
    record = json.loads(arguments.results.read_text(encoding="utf-8"))
    print(write(record, arguments.results.parent))
    if arguments.readme:
        replace_between_marks(arguments.readme, "benchmarks", for_readme(record))


if __name__ == "__main__":
    main()
