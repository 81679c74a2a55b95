"""Runs on the workers of a Dask cluster, here two processes of this machine."""

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
from sparsedis.runs.cluster import Cluster, Terms
from sparsedis.runs.jobs import HERE, Workers
from sparsedis.runs.process import Job
from tests.runs import small

distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of one with two workers, each of which takes a run at a time."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as local:
        yield local.scheduler_address


def execute(runs: list[Job], workers: Workers) -> tuple[dict[str, str], str]:
    text = io.StringIO()
    return jobs.run(runs, workers, Console(file=text, width=200)), text.getvalue()


@pytest.mark.slow
def test_a_cluster_as_one_process(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes, though a worker is killed in the middle of a run, which goes on from its checkpoint elsewhere.

    A relative folder is that of the command; the workers have working directories of their own.
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
def test_an_interruption_stops_the_runs(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have saved a checkpoint and ended when the command does."""
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


def test_workers_that_cannot_take_part(scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cluster.files, "write", lambda path, content: None)  # a folder that the workers do not see
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


def test_terms(tmp_path: Path) -> None:
    """Of a worker, before every run: workers come and go."""
    token = tmp_path / "token"
    terms = Terms(token, "content", cluster._versions())
    assert "expected to find the files" in terms.complaint()
    for content in (b"", b"other", b"\xff"):
        token.write_bytes(content)
        assert "expected to find the files" in terms.complaint()
    token.write_bytes(b"content")
    assert terms.complaint() == ""
    assert "got sparsedis" in terms._replace(versions="another").complaint()


@pytest.mark.parametrize("answer", [None, b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"\0" * 64], ids=repr)
def test_no_scheduler(
    answer: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens; or somebody does, and is silent or says something else."""
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
    """To everybody the same, until the server is closed."""
    connections = []
    with suppress(OSError):
        while True:
            connections.append(server.accept()[0])
            connections[-1].sendall(answer)


@pytest.mark.slow
def test_a_worker_is_no_scheduler(scheduler: str, tmp_path: Path) -> None:
    with distributed.Client(scheduler, set_as_default=False) as client:
        worker = next(iter(client.scheduler_info()["workers"]))
    with pytest.raises(ValueError, match=f"^scheduler: expected a Dask scheduler at {worker}, found a Worker$"):
        Cluster(worker, tmp_path)
    assert not list(tmp_path.iterdir())
