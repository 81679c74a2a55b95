import io
import json
from pathlib import Path

from rich.console import Console

from sparsedis.runs import folder
from sparsedis.runs.board import Board
from sparsedis.runs.process import LOG
from tests.runs import small


def terminal(height: int) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=height, color_system=None)


def shown(console: Console) -> str:
    """The output since the last call."""
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    console.file.seek(0)
    console.file.truncate()
    return text


def write(path: Path, *lines: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_board_shows_the_states_of_runs(tmp_path: Path) -> None:
    runs = [small.job(tmp_path, seed=seed) for seed in range(4)]
    write(runs[0].out / folder.METRICS, {"iteration": 12, "split": "validation", "accuracy": 0.98765})
    write(runs[1].out / LOG, "an earlier try")
    console = terminal(40)
    with Board(runs, {"right-0"}, console) as board:
        text = shown(console)
        assert "runs: 3 waiting, 1 done" in text
        assert "accuracy 0.9877" in text
        write(runs[1].out / LOG, "an earlier try", "another")
        write(
            runs[1].out / folder.METRICS,
            {"iteration": 4, "split": "validation", "loss": 0.25, "mcc": 0.5},
            {"iteration": 7, "split": "train", "loss": 0.75},
        )
        board.refresh()
        (row,) = [line for line in shown(console).splitlines() if "right-1" in line]
        assert [cell.strip() for cell in row.split("│")[1:6]] == ["right-1", "running", "7/12", "loss 0.25", ""]
        board.retry(runs[1], "[bold]its process died")  # not interpreted as markup
        board.failed(runs[2], "no such data")
        board.refresh()
        text = shown(console)
        assert "runs: 2 waiting, 1 done, 1 failed" in text
        assert "again: [bold]its process died" in text
        assert "no such data" in text
        board.refresh()
        assert "running" not in shown(console), "the log is that of the previous attempt"


def test_more_runs_than_lines_are_abbreviated(tmp_path: Path) -> None:
    """Running and failed runs have priority; at the end all are shown."""
    runs = [small.job(tmp_path, seed=seed) for seed in range(30)]
    console = terminal(12)
    with Board(runs, {f"right-{seed}" for seed in range(20)}, console) as board:
        board.failed(runs[29], "no such data")
        board.failed(runs[7], "no such data")
        shown(console)
        board.refresh()
        text = shown(console)
        assert [f"right-{seed} " in text for seed in (0, 7, 19, 20, 22, 23, 29)] == [0, 1, 0, 1, 1, 0, 1]
        assert "runs: 9 waiting, 19 done, 2 failed" in text
        assert "and 25 more" in text
    assert all(f"right-{seed} " in shown_at_end for shown_at_end in [shown(console)] for seed in range(30))


def test_incomplete_lines_of_metrics_are_ignored(tmp_path: Path) -> None:
    """Only the end of a long file is read, and lines that are incomplete or not metrics are ignored."""
    run = small.job(tmp_path)
    run.out.mkdir()
    (run.out / LOG).touch()
    long = [{"iteration": i, "split": "train", "text": "x" * 1000} for i in range(200)]
    write(run.out / folder.METRICS, *long, {"iteration": 200, "split": "validation", "n": 3}, [1], 5, {"split": "x"})
    with (run.out / folder.METRICS).open("ab") as file:
        file.write(b'{"iteration": 201, "sp\xff')
    console = Console(file=io.StringIO(), width=100)
    with Board([run], (), console) as board:
        (run.out / LOG).write_text("begun")
        board.refresh()
        board.refresh()
    assert shown(console).splitlines() == [f"runs: 1 waiting, in {tmp_path}", "right-0: running"]
    assert board._rows["right-0"].iteration == 200
    assert board._rows["right-0"].validation == "n 3"
