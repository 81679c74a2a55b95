"""Signals: Ctrl-C interrupts the C++ kernels between tasks or iterations, and they keep working afterwards."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from sparsedis import solve_lasso, solve_svm
from sparsedis.ops import lasso
from sparsedis.ops import svm as svm_operation
from sparsedis.ops.common import compiled
from tests.tasks import random_task

F64 = torch.float64
# Seconds until the signal, and until it must have been handled. A batch takes at least 5 seconds on two threads.
DELAY, PATIENCE = 0.3, 2.0
BATCH = 4_000

pytestmark = [
    pytest.mark.skipif(compiled.COMPILED._kernels is None, reason="the C++ kernels are not built"),
    pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals"),
]


@pytest.fixture(params=["OpenMP-1", "OpenMP-2", "threads-2"])
def pool(request: pytest.FixtureRequest) -> Iterator[None]:
    """The thread pool that runs the tasks, and its size."""
    kind, count = request.param.split("-")
    kernels, openmp, before = compiled.COMPILED._kernels, compiled._openmp(), torch.get_num_threads()
    if kind == "OpenMP" and not openmp:
        pytest.skip("PyTorch has no OpenMP here")
    kernels.use_openmp(openmp if kind == "OpenMP" else 0)
    torch.set_num_threads(int(count))
    yield
    kernels.use_openmp(openmp)
    torch.set_num_threads(before)


def many(*tensors: Tensor) -> list[Tensor]:
    """A batch of many copies of a task."""
    return [tensor.detach().expand(BATCH, *tensor.shape[1:]) for tensor in tensors]


def svm() -> tuple[Tensor, Tensor]:
    return random_task(0, way=5, shots=15, d=60)


def regression() -> tuple[Tensor, Tensor]:
    X, y = random_task(0, way=5, shots=4, d=600)
    return X, y.to(F64)


def solving_svms() -> Callable[[], object]:
    X, y = many(*svm())
    return lambda: solve_svm(X, y, lambda1=1.0, n_classes=5, backend="cpp")


def differentiating_svms() -> Callable[[], object]:
    """With a large system, as many entries are free."""
    X, y = random_task(0, way=10, shots=15, d=60)
    solution, one = solve_svm(X, y, lambda1=0.1, dual_reg=50.0), torch.ones(1, dtype=F64)
    problem = many(X, y, 0.1 * one, one, 50 * one, torch.ones_like(X[..., 0]))
    solved = many(solution.dual, solution.active, solution.weights)
    options = svm_operation.Options(n_classes=10, solver="newton", tol=1e-5, max_iter=200, exact=True)
    return lambda: svm_operation.OPERATION.adjoint(*problem, *solved, *options, "cpp")


def solving_lassos() -> Callable[[], object]:
    X, y = many(*regression())
    return lambda: solve_lasso(X, y, lambda1=0.05, backend="cpp")


def differentiating_lassos() -> Callable[[], object]:
    """With a large system, as nearly all features are active."""
    X, y = regression()
    solution, one = solve_lasso(X, y, lambda1=1e-4, lambda2=0.1), torch.ones(1, dtype=F64)
    problem = many(X, y, 1e-4 * one, 0.1 * one, torch.ones_like(y))
    solved = many(solution.weights, solution.dual, solution.weights)
    options = lasso.Options(tol=1e-10, max_iter=1000)
    return lambda: lasso.OPERATION.adjoint(*problem, *solved, *options, "cpp")


WORK = [solving_svms, differentiating_svms, solving_lassos, differentiating_lassos]


def after(seconds: float, work: Callable[[], object]) -> float:
    """Send SIGINT to this process while ``work`` runs; return the seconds from the signal to the end of ``work``."""
    sent = []

    def send() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(seconds, send)
    timer.start()
    try:
        work()
    finally:
        timer.join()
    return time.perf_counter() - sent[0]


@pytest.fixture
def handler() -> Iterator[Callable[[Callable[..., object]], None]]:
    """Sets the handler of SIGINT for the duration of the test."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda function: signal.signal(signal.SIGINT, function)  # type: ignore[misc, func-returns-value]
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("start", WORK)
def test_ctrl_c_ends_a_batch(start, pool):
    work = start()

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            work()

    assert after(DELAY, interrupted) < PATIENCE
    assert solve_svm(*svm(), lambda1=1.0, backend="cpp").certified.all()
    assert solve_lasso(*regression(), lambda1=0.05, backend="cpp").certified.all()


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["fista", "bcd"])
def test_ctrl_c_ends_a_long_task(solver, pool):
    """Between two iterations, of which it would take more than ten thousand."""
    X, y = random_task(3, way=10, shots=60, d=300, batch=2)

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            solve_svm(X, y, lambda1=1.0, lambda2=0.1, solver=solver, tol=1e-15, max_iter=100_000, backend="cpp")

    assert after(DELAY, interrupted) < PATIENCE


def test_the_exception_of_a_custom_handler_is_raised(handler):
    def refuse(*_: object) -> None:
        raise LookupError("the handler's own")

    handler(refuse)
    work = solving_svms()

    def interrupted() -> None:
        with pytest.raises(LookupError, match="the handler's own"):
            work()

    assert after(DELAY, interrupted) < PATIENCE


def test_ctrl_c_ends_a_backward_pass():
    """PyTorch's engine runs backward passes on the CPU in the calling thread."""
    start = differentiating_svms()

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            start()
            return grad

    def interrupted() -> None:
        with pytest.raises(KeyboardInterrupt):
            Slow.apply(torch.ones(2, requires_grad=True)).sum().backward()

    assert after(DELAY, interrupted) < PATIENCE


@pytest.mark.slow
def test_after_a_handler_that_solves_and_returns_the_batch_continues(handler, pool):
    X, y = random_task(1, way=5, shots=8, d=100, batch=6)
    X, y = X.repeat(30, 1, 1), y.repeat(30, 1)
    expected = solve_svm(X, y, lambda1=1.0, n_classes=5, backend="cpp").weights
    small, labels = random_task(2, way=3, shots=20, d=50, batch=3)
    alone = solve_svm(small, labels, lambda1=1.0, backend="cpp").weights
    inside = []
    handler(lambda *_: inside.append(solve_svm(small, labels, lambda1=1.0, backend="cpp").weights))
    results = []

    def work() -> None:
        while not inside:
            results.append(solve_svm(X, y, lambda1=1.0, n_classes=5, backend="cpp").weights)

    after(0.2, work)
    assert torch.equal(inside[0], alone)
    assert all(torch.equal(result, expected) for result in results)


@pytest.mark.slow
def test_ctrl_c_does_not_interrupt_a_solve_in_another_thread():
    X, y = random_task(1, way=5, shots=8, d=100, batch=300)
    expected = solve_svm(X, y, lambda1=1.0, n_classes=5, backend="cpp").weights
    results = []

    def interrupted() -> None:
        thread = threading.Thread(
            target=lambda: results.append(solve_svm(X, y, lambda1=1.0, n_classes=5, backend="cpp"))
        )
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)
        thread.join()

    after(0.15, interrupted)
    assert torch.equal(results[0].weights, expected)
