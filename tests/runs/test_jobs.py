"""Runs in separate processes on this machine."""

import io
import json
import os
import subprocess
import sys
import time
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sparsedis import cli
from sparsedis.runs import folder, jobs, process
from sparsedis.runs.jobs import HERE, Workers
from sparsedis.runs.process import LOG, Job, Outcome
from tests.runs import small


def execute(runs: list[Job], workers: Workers) -> tuple[dict[str, str], str, list[list[str]]]:
    """The failures, the output, and the finished runs at every update."""
    text, updates = io.StringIO(), []
    failures = jobs.run(
        runs, workers, Console(file=text, width=200), lambda finished: updates.append([x.name for x in finished])
    )
    return failures, text.getvalue(), updates


@pytest.mark.slow
def test_parallel_runs_agree_with_sequential_ones(tmp_path: Path) -> None:
    """With the same bytes, although one process is killed and its run resumed from its checkpoint.

    A failed run is named, and only that run is repeated with the command.
    """
    settings: list[dict[str, Any]] = [{"fault": "kill-once", "seed": 1}, {"fault": "value", "seed": 2}, {"seed": 3}]
    out = tmp_path / "at once"
    runs = [small.job(out, threads=1, **one) for one in settings]
    out.mkdir()
    (out / "broken").touch()
    failures, text, updates = execute(runs, Workers(jobs=2))
    assert failures == {"value-2": "broken, as it was told"}
    assert [start for start, _ in small.starts(runs[0])] == [0, 4]
    assert len({os.getpid(), *(number for one in (runs[0], runs[2]) for _, number in small.starts(one))}) == 4
    log = (runs[0].out / LOG).read_text()
    assert log.count(", process ") == 2
    assert log.count("iteration 12/12\n") == 1
    assert f"its process died: killed by signal 9, Killed; see {runs[0].out / LOG}; is resumed\n" in text
    assert "value-2: failed: broken, as it was told\n" in text
    for one in (runs[0], runs[2]):
        assert f"{one.name}: iteration 12/12, loss " in text
        assert f"{one.name}: done; " in text
    assert text.count("\n") < 20, "a line per change, not per refresh"
    assert [len(names) for names in updates] == [1, 2]
    assert updates[-1] == ["kill-once-1", "right-3"], "in the order of the runs, whichever finishes first"

    (out / "broken").unlink()
    before = [small.starts(one) for one in (runs[0], runs[2])]
    failures, text, updates = execute(runs, Workers(jobs=2))
    assert failures == {}
    assert updates == [["kill-once-1", "right-3"], ["kill-once-1", "value-2", "right-3"]]
    assert text.startswith(f"runs: 1 waiting, 2 done, in {out}\n")
    assert [small.starts(one) for one in (runs[0], runs[2])] == before
    # All runs are finished, so no process is started.
    assert execute(runs, Workers(jobs=2)) == ({}, "", [["kill-once-1", "value-2", "right-3"]])

    in_turn = [small.job(tmp_path / "in turn", threads=1, seed=one["seed"]) for one in settings]
    assert execute(in_turn, HERE)[0] == {}
    small.assert_same_numbers(runs, in_turn)


class Scripted:
    """Replaces processes: returns the given outcomes of every run, one per attempt."""

    def __init__(self, **outcomes: list[Outcome | Exception]) -> None:
        self.outcomes, self.closed = outcomes, False

    def submit(self, job: Job) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        outcome = self.outcomes[job.name.partition("-")[0]].pop(0)
        if isinstance(outcome, CancelledError):
            future.cancel()
            future.set_running_or_notify_cancel()
        elif isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        return future

    def close(self) -> None:
        self.closed = True


def test_runs_are_given_up_after_three_crashes_or_one_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the cluster gives up."""
    died = Outcome("died", "killed")
    engine = Scripted(
        kill=[died, died, died, Outcome("done")],
        value=[Outcome("failed", "too large"), Outcome("done")],
        keeper=[RuntimeError("All workers died. See the logs."), Outcome("done")],
        bug=[CancelledError(), Outcome("done")],
        right=[died, died, Outcome("done")],
    )
    monkeypatch.setattr(jobs, "_engine", lambda *_: engine)
    monkeypatch.setattr(jobs, "_wait_for_results", lambda _: None)
    runs = [small.job(tmp_path, fault=fault) for fault in ("kill", "value", "keeper", "bug", "")]
    failures, text, updates = execute(runs, Workers(jobs=2))
    assert failures == {
        "kill-0": "killed",
        "value-0": "too large",
        "keeper-0": "RuntimeError: All workers died",
        "bug-0": "cancelled: the scheduler is gone",
    }
    assert updates == [["right-0"]]
    assert text.count("killed; is resumed\n") == 4
    assert [len(left) for left in engine.outcomes.values()] == [1, 1, 1, 1, 0]
    assert engine.closed


def test_the_reason_of_a_failure_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Programming errors also have a traceback in the log."""
    (tmp_path / "broken").touch()
    assert process.attempt(small.job(tmp_path, fault="value").dumps()) == "broken, as it was told"
    out, err = capfd.readouterr()
    assert out.endswith("failed: broken, as it was told\n")
    assert err == ""
    assert process.attempt(small.job(tmp_path, fault="bug").dumps()) == "KeyError: 'bug'"
    assert "Traceback" in capfd.readouterr().err
    text = json.loads(small.job(tmp_path).dumps())
    for change in ({"train": "tests.runs.none:train"}, {"settings": "os:none"}, {"config": {"iterations": 0}}):
        assert process.attempt(json.dumps({**text, **change}))
    assert process.attempt(small.job(tmp_path).dumps()) == ""


def test_a_failed_sequential_run_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    runs = [small.job(tmp_path, fault="value"), small.job(tmp_path, threads=2), small.job(tmp_path, seed=1)]
    threads = torch.get_num_threads()
    failures, _, updates = execute(runs, HERE)
    assert failures == {"value-0": "broken,\nas it was told"}
    assert updates == [["right-0"], ["right-0", "right-1"]]
    used = [json.loads((one.out / folder.RESULTS).read_text())["threads"] for one in runs[1:]]
    assert used == [2, threads], "the number of threads is not inherited by the next run"
    with pytest.raises(KeyError):  # programming errors are raised
        execute([small.job(tmp_path, fault="bug")], HERE)
    jobs.check({})
    with pytest.raises(
        ValueError, match=r"^2 runs failed: a, b: too large \(to try again: run the same command again\)$"
    ):
        jobs.check({"a": "too large", "b": "too large"})


def test_invalid_runs_are_refused_before_any_is_started(tmp_path: Path) -> None:
    runs = [small.job(tmp_path, seed=1), small.job(tmp_path)]
    (tmp_path / "right-0").mkdir()
    (tmp_path / "right-0" / folder.CONFIG).write_text(json.dumps(small.Small(iterations=9).as_json()))
    for workers in (HERE, Workers(jobs=2)):
        with pytest.raises(ValueError, match=r"resume: iterations: the run in .* has 9, got 12"):
            execute(runs, workers)
        with pytest.raises(ValueError, match="runs: expected different ones, got right-1, right-1"):
            execute([runs[0], runs[0]], workers)
    (tmp_path / "right-0" / folder.CONFIG).write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        execute(runs, Workers(jobs=2))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "right-0"]


def test_threads_are_divided_between_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number in the settings, or that of the run to be resumed, or else an equal share of the cores."""
    monkeypatch.setattr(jobs, "_cores", lambda: 8)
    assert [Workers(jobs=count).threads for count in (None, 1, 2, 3, 8, 20)] == [None, None, 4, 2, 1, 1]
    assert Workers(scheduler="tcp://host:8786").threads == 1
    new, begun = small.job(tmp_path), small.job(tmp_path, seed=1)
    begun.out.mkdir()
    (begun.out / folder.CONFIG).write_text(json.dumps(small.Small(seed=1, threads=3).as_json()))
    seen = {}
    monkeypatch.setattr(
        jobs, "_run_concurrently", lambda runs, *_: seen.update({one.name: one.config.threads for one in runs})
    )
    execute([new, begun], Workers(jobs=2))
    assert seen == {"right-0": 4, "right-1": 3}
    execute([small.job(tmp_path, threads=5)], Workers(jobs=2))
    assert seen["right-0"] == 5
    with pytest.raises(ValueError, match=r"resume: threads: the run in .* has 3, got 5"):
        execute([small.job(tmp_path, seed=1, threads=5)], Workers(jobs=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "jobs: expected a whole number >= 1, got 0"),
        ({"jobs": True}, "jobs: expected a whole number >= 1, got True"),
        ({"jobs": 1, "scheduler": "tcp://host:8786"}, "jobs: expected none with --scheduler"),
        *(
            ({"scheduler": address}, "scheduler: expected an address such as tcp://HOST:8786, got ")
            for address in (
                "",
                "host",
                "host:8786",
                "tcp://host",
                "tcp://:8786",
                "tcp://host:port",
                "tcp://a b:1",
                "-1",
            )
        ),
    ],
)
def test_invalid_workers_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Workers(**options)  # type: ignore[arg-type]


def test_a_missing_dask_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in {"distributed"} | {name for name in sys.modules if name.partition(".")[0] == "distributed"}:
        monkeypatch.setitem(sys.modules, name, None)
    for command in ("compare", "sweep", "disentangle-sweep"):
        assert cli.main([command, "--scheduler", "tcp://127.0.0.1:8786", "--out", str(tmp_path / "out")]) == 2
        message = "sparsedis: scheduler: distributed is not installed; pip install 'sparsedis[cluster]'\n"
        assert capsys.readouterr() == ("", message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["compare", "sweep", "disentangle-sweep"])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--jobs 0", "jobs: expected a whole number >= 1, got 0"),
        ("--scheduler host", "scheduler: expected an address such as tcp://HOST:8786, got 'host'"),
        (
            "--scheduler tcp://host:8786 --jobs 2",
            "jobs: expected none with --scheduler, whose workers say how many runs they take",
        ),
    ],
)
def test_errors_are_reported_in_one_line(
    command: str, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command, *words.split()]) == 2
    assert capsys.readouterr() == ("", f"sparsedis: {message}\n")


def test_jobs_can_be_serialised(tmp_path: Path) -> None:
    one = small.job(tmp_path, seed=3, pause=0.1 + 0.2)
    assert Job.loads(one.dumps()) == one


@pytest.mark.slow
def test_a_run_ends_with_its_keeper(tmp_path: Path) -> None:
    run = small.job(tmp_path, iterations=10_000, pause=0.01)
    command = [sys.executable, "-m", "sparsedis.runs.process", run.dumps()]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    with child:
        while not (run.out / folder.METRICS).exists():
            assert child.poll() is None
            time.sleep(0.02)
        assert child.communicate(timeout=5) == (b"", None)  # closes its stdin, as the death of a keeper does
        assert child.returncode == 1
    assert not run.finished()
