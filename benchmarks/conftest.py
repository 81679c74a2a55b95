"""The options of the benchmark, the run that all its tests share, and the report at its end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import report
from benchmarks.measure import Run
from benchmarks.tasks import Encoder

_RUN = pytest.StashKey[Run]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sparsedis")
    group.addoption("--device", default="cpu", help="PyTorch device of the tasks")
    group.addoption("--quick", action="store_true", help="few cases, few rounds: about four minutes")
    group.addoption("--out", default="runs/benchmarks", help="folder for results.json, report.md and the figures")
    group.addoption("--threads", type=int, default=min(2, os.cpu_count() or 1), help="CPU threads of PyTorch")
    group.addoption("--encoder", default=None, help="folder of a run of sparsedis train, for the realistic features")


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    chosen = torch.device(pytestconfig.getoption("--device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"--device {chosen}: this machine or this PyTorch has no such device")
    if chosen.type not in ("cpu", "cuda"):
        pytest.skip(f"--device {chosen}: the gates need float64, which is tried on cpu and cuda only")
    return chosen


@pytest.fixture(scope="session")
def run(pytestconfig: pytest.Config, device: torch.device) -> Iterator[Run]:
    quick = pytestconfig.getoption("--quick")
    encoder = Encoder(pytestconfig.getoption("--encoder"), iterations=30 if quick else 300)
    run = Run(Path(pytestconfig.getoption("--out")), device, pytestconfig.getoption("--threads"), quick, encoder)
    pytestconfig.stash[_RUN] = run
    yield run
    run.save()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    run = config.stash.get(_RUN, None)
    if run is None or not run.record["cases"]:
        return
    text = report.write(run.record, run.out)
    terminalreporter.section("report")
    terminalreporter.write_line(text)
    terminalreporter.write_line(f"written to {run.out.resolve()}: results.json, report.md and the figures")
