"""Every solver of every build ends with a true certificate: random tasks in processes with a time limit."""

import pytest
import torch

from tools.hunt import BAD, FAMILIES, SOLVERS, HuntTask, Verdict, Worker, builds, draw, hunt, seeds, solve_and_check

LIMIT = 20.0  # seconds; a solve takes milliseconds

_INTEGERS = torch.tensor(
    [
        [0, -1, 0],
        [1, 0, -1],
        [-2, -2, 2],
        [-2, 2, -2],
        [-1, 0, 2],
        [0, 0, 0],
        [2, 2, 2],
        [1, -2, -1],
        [0, 2, 0],
        [0, 0, 1],
    ]
)
_ONE_FEATURE = torch.tensor([0, -2, -2, -1, 2, -1, 0, 1, -2, 2])[:, None]
_PAIRS = torch.arange(5).repeat(2)
# Tasks that once caused infinite loops in the simplex projection, by entries that differ by 1 up to rounding.
ENDLESS = {
    "integers, smoothed": HuntTask.of(_INTEGERS.float(), _PAIRS, 5, lambda1=0.0, dual_reg=1.0),
    "one feature": HuntTask.of(_ONE_FEATURE.float(), _PAIRS, 5, lambda1=0.0),
}


COMPILED = ("baseline", "avx2", "avx512")


@pytest.fixture(params=["torch", *COMPILED], scope="module")
def worker(request):
    """A solver process, which is replaced when a solve exceeds the time limit."""
    if request.param not in ("torch", *builds()):
        pytest.skip(f"{request.param} kernels were not built or are not supported by this processor")
    with Worker(request.param) as worker:
        yield worker


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDLESS)
def test_tasks_that_once_did_not_end_are_certified(worker, name):
    for solver in SOLVERS:
        verdict = worker(ENDLESS[name], solver, LIMIT)
        assert verdict.end == "certified", f"{solver}: {verdict}"


@pytest.mark.slow
def test_a_task_that_once_stalled_is_certified(worker):
    features = torch.tensor([[3.0, -2, -3, -2], [-1, 1, -1, 2]], dtype=torch.float64)
    labels = torch.tensor([2, 0])
    # 0.3 lambda1_max
    targets = torch.tensor([[-0.5, -0.5, 1], [1, -0.5, -0.5]], dtype=torch.float64)
    lambda1 = 0.3 * (features.T @ targets).norm(dim=1).max().item()
    verdict = worker(HuntTask.of(features, labels, 3, lambda1=lambda1), "newton", LIMIT)
    assert verdict.end == "certified", verdict


@pytest.mark.slow
@pytest.mark.parametrize("worker", COMPILED, indirect=True)
@pytest.mark.parametrize("family", ["integers", "binary", "one feature", "few samples"])
def test_solvers_end_on_tasks_with_many_ties(worker, family):
    for seed in range(60):
        task = draw(family, seed)
        for solver in SOLVERS:
            verdict = worker(task, solver, LIMIT)
            assert verdict.end not in BAD, (
                f"tools/hunt.py --replay '{family}:{seed}:{solver}:{worker.build}': {verdict}"
            )


@pytest.mark.slow
@pytest.mark.exhaustive
def test_random_tasks_for_ten_minutes():
    found = [
        f"{name}  {verdict}"
        for _, _, name, verdict in hunt(seeds(0, None, minutes=10), FAMILIES, SOLVERS, builds(), LIMIT)
        if verdict.end in BAD
    ]
    assert not found, "\n".join(found)


@pytest.mark.slow
def test_a_hanging_solve_is_found_and_the_next_one_runs():
    task = draw("clusters", 0)
    with Worker("torch") as worker:
        assert worker(task, "newton", 0.0).end == "hang"
        assert worker(task, "newton", 60.0).end == "certified"


def test_a_false_certificate_is_found(monkeypatch):
    task = draw("clusters", 0)
    assert solve_and_check(task, "newton", "torch").end == "certified"
    original = solve_and_check.__globals__["solve_svm"]

    def careless(*args, **kwargs):
        solution = original(*args, **kwargs)
        solution.weights.mul_(1.01)
        return solution

    monkeypatch.setitem(solve_and_check.__globals__, "solve_svm", careless)
    verdict = solve_and_check(task, "newton", "torch")
    assert verdict.end == "false certificate"
    assert verdict.gap > task.tol > verdict.claimed


def test_newton_is_reported_if_another_solver_certifies_alone(monkeypatch):
    ends = {"newton": "stalled", "fista": "certified", "bcd": "max_iter"}
    monkeypatch.setattr(Worker, "__call__", lambda self, task, solver, limit: Verdict(ends[solver]))
    found = [(name, verdict.end) for _, _, name, verdict in hunt([7], ["binary"], SOLVERS, ["torch"], LIMIT)]
    assert found == [
        ("binary:7:newton:torch", "beaten"),
        ("binary:7:fista:torch", "certified"),
        ("binary:7:bcd:torch", "max_iter"),
    ]


def test_tasks_are_determined_by_family_and_seed():
    for family in FAMILIES:
        first, second, other = draw(family, 3), draw(family, 3), draw(family, 4)
        assert torch.equal(first.features, second.features)
        assert first.lambda2 == second.lambda2
        assert first.lambda2 != other.lambda2
