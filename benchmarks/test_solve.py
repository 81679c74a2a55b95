"""Every contender on every case, side by side. Only a gate can fail here, not a time.

The contenders of a case are measured together in interleaved rounds (:mod:`benchmarks.measure`). pytest-benchmark,
which would measure one after another, receives these times through a clock that replays them.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import gates
from benchmarks.measure import DIRECTIONS, Run
from benchmarks.peers import peers
from benchmarks.tasks import Case, cases


class ReplayClock:
    """A timer that replays given durations."""

    def __init__(self) -> None:
        self.now = 0.0
        self.durations: list[float] = []

    def __call__(self) -> float:
        return self.now

    def advance(self) -> None:
        self.now += self.durations.pop(0)


CLOCK = ReplayClock()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "contender" in metafunc.fixturenames:
        rows = [
            pytest.param(case, peer.name, direction, id=f"{case.name} | {peer.name} | {direction}")
            for case in cases(metafunc.config.getoption("--quick"))
            for peer in peers(case)
            for direction in DIRECTIONS
        ]
        metafunc.parametrize(("case", "contender", "direction"), rows)


@pytest.mark.benchmark(timer=CLOCK)
def test_solve(
    case: Case, contender: str, direction: str, run: Run, benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> None:
    result = run.case(case)[contender]
    if result["status"] != "measured":
        said = f"{contender}: {result['status']}: {result['reason']}"
        # A peer's failure is a finding; this package's is a bug.
        if result.get("ours") and result["status"] in ("failed", "refused"):
            pytest.fail(said)
        pytest.skip(said)
    benchmark.group = f"{case.name}, {direction}"
    benchmark.extra_info.update({key: result[key] for key in ("describe", "note", "count", "verdict")})
    CLOCK.durations = list(result[direction]["times"])
    benchmark.pedantic(CLOCK.advance, rounds=len(CLOCK.durations))


def test_gap_against_time(run: Run) -> None:
    asked = [point for point in run.curve()["points"] if point["setting"].startswith("tol ")]
    above = [
        (point["series"], point["setting"], point["gap"])
        for point in asked
        if point["gap"] > gates.limit(float(point["setting"].removeprefix("tol ")), torch.float32)
    ]
    assert not above, "solutions above the gap asked for"
