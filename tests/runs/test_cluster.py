"""Runs on the workers of a Dask cluster, here two processes on this machine."""

import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from rich.console import Console

from sparsedis import cli
from sparsedis.runs import cluster, folder, jobs
from sparsedis.runs.cluster import Cluster, Requirements
from sparsedis.runs.jobs import HERE, Workers
from sparsedis.runs.process import Job
from tests.runs import small

distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a scheduler with two workers, each of which executes one run at a time."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as local:
        yield local.scheduler_address


def execute(runs: list[Job], workers: Workers) -> tuple[dict[str, str], str]:
    text = io.StringIO()
    return jobs.run(runs, workers, Console(file=text, width=200)), text.getvalue()


@pytest.mark.slow
def test_runs_on_a_cluster_agree_with_runs_in_one_process(
    scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same bytes, although a worker is killed during a run, which is resumed elsewhere from its checkpoint.

    Relative folders refer to the command's working directory, not to the workers'.
    """
    monkeypatch.chdir(tmp_path)
    out = Path("cluster")
    runs = [small.job(out, fault="keeper-once", seed=1), small.job(out, seed=2)]
    failures, text = execute(runs, Workers(scheduler=scheduler))
    assert failures == {}
    (first, killed), (second, _) = small.starts(runs[0])
    assert (first, second) == (0, 4)
    with pytest.raises(ProcessLookupError):
        os.kill(killed, 0)
    assert f"{runs[1].name}: done" in text
    assert "no workers" not in text
    assert (tmp_path / out / runs[1].name / folder.RESULTS).is_file()
    assert not list(out.glob(".*")), "the token is gone"
    assert json.loads((runs[0].out / folder.CONFIG).read_text())["threads"] == 1

    in_turn = [small.job(tmp_path / "in turn", threads=1, seed=seed) for seed in (1, 2)]
    assert execute(in_turn, HERE)[0] == {}
    small.assert_same_numbers(runs, in_turn)


@pytest.mark.slow
def test_an_interrupt_stops_the_runs(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They save a checkpoint and end before the command does."""
    run = small.job(tmp_path, iterations=10_000, save_every=10_000, validate_every=10_000, pause=0.01)

    def interrupted(board: object) -> None:
        if (run.out / folder.METRICS).exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(jobs.Board, "refresh", interrupted)
    with pytest.raises(KeyboardInterrupt):
        execute([run], Workers(scheduler=scheduler))
    assert (run.out / folder.LAST).exists()
    ((_, number),) = small.starts(run)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_unsuitable_workers_are_refused(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cluster.files, "write", lambda path, content: None)  # as if the workers did not share the folder
        with pytest.raises(
            ValueError,
            match=r"^scheduler: worker tcp://.*: expected to find the files of .*, a folder that all workers",
        ):
            Cluster(scheduler, tmp_path)
    monkeypatch.setattr(cluster, "_versions", lambda: "sparsedis 0.0.1 and torch 2.6.0")
    with pytest.raises(
        ValueError,
        match=r"^scheduler: worker tcp://.*: expected sparsedis 0\.0\.1 and torch 2\.6\.0, as here, got spars",
    ):
        Cluster(scheduler, tmp_path)
    assert not list(tmp_path.iterdir()), "the token is gone"


def test_terms_are_checked_on_the_worker(tmp_path: Path) -> None:
    """Before every run, because workers may be added or replaced."""
    token = tmp_path / "token"
    terms = Requirements(token, "content", cluster._versions())
    assert "expected to find the files" in terms.unmet()
    for content in (b"", b"other", b"\xff"):
        token.write_bytes(content)
        assert "expected to find the files" in terms.unmet()
    token.write_bytes(b"content")
    assert terms.unmet() == ""
    assert "got sparsedis" in terms._replace(versions="another").unmet()


@pytest.mark.slow
@pytest.mark.parametrize("answer", [None, b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"\0" * 64], ids=repr)
def test_addresses_without_a_scheduler_are_reported(
    answer: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server, a silent one, or one with another protocol."""
    monkeypatch.setattr(cluster, "_CONNECT", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if answer is None:
            server.close()
        else:
            threading.Thread(target=_answer, args=(server, answer), daemon=True).start()
        address = f"tcp://127.0.0.1:{port}"
        for command in ("compare", "disentangle-sweep"):
            assert cli.main([command, "--scheduler", address, "--out", str(tmp_path / "out")]) == 2
            message = f"sparsedis: scheduler: expected a Dask scheduler at {address}, found none\n"
            assert capsys.readouterr() == ("", message)
    assert not list(tmp_path.iterdir())


def _answer(server: socket.socket, answer: bytes) -> None:
    """Send the same answer on every connection until the server is closed."""
    connections = []
    with suppress(OSError):
        while True:
            connections.append(server.accept()[0])
            connections[-1].sendall(answer)


@pytest.mark.slow
def test_the_address_of_a_worker_is_refused(scheduler: str, tmp_path: Path) -> None:
    with distributed.Client(scheduler, set_as_default=False) as client:
        worker = next(iter(client.scheduler_info()["workers"]))
    with pytest.raises(ValueError, match=f"^scheduler: expected a Dask scheduler at {worker}, found a Worker$"):
        Cluster(worker, tmp_path)
    assert not list(tmp_path.iterdir())
