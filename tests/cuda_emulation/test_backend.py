"""Tests specific to the CUDA backend: memory, scheduling of tasks, thread counts, refusals."""

import pytest
import torch

from sparsedis import solve_svm, svm_lambda1_max
from sparsedis.ops.common.cuda import emulation
from sparsedis.ops.common.cuda.protocol import Limits
from sparsedis.ops.svm import backend_cuda
from sparsedis.ops.svm.backend_cuda import memory
from tests.tasks import random_task

pytestmark = pytest.mark.slow

SHAPES = [(2, 1, 5), (3, 4, 30), (5, 5, 40), (4, (1, 9, 2, 4), 3), (20, 1, 17)]


def solve_and_differentiate(X, y, relative=0.2, lambda2=1.0, dual_reg=0.3):
    """Solution and gradients as a list of tensors; the defaults use the full form, the finish and the adjoint."""
    X = X.clone().requires_grad_()
    lambda1 = (relative * svm_lambda1_max(X.detach(), y)).requires_grad_()
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, dual_reg=dual_reg, backend="cuda")
    assert solution.certified.all()
    weight = torch.arange(solution.weights.numel(), dtype=X.dtype).view_as(solution.weights).cos()
    gradients = torch.autograd.grad((weight * solution.weights).sum(), (X, lambda1))
    return [solution.weights.detach(), solution.dual, solution.n_iter, *gradients]


def assert_same_bits(a, b):
    for left, right in zip(a, b, strict=True):
        assert torch.equal(left, right)


# The full form, the light form, no group Lasso.
@pytest.mark.parametrize(("relative", "lambda2"), [(0.2, 1.0), (0.2, 1e3), (0.0, 1.0)])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, pytest.param(torch.float16, marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize(("way", "shots", "d"), SHAPES)
def test_any_amount_of_shared_memory_gives_the_same_bits(way, shots, d, dtype, relative, lambda2, monkeypatch):
    """Without shared memory, the emulation also detects scratch memory that is too small."""
    X, y = random_task(d, way=way, shots=shots, d=d, dtype=dtype)
    plenty = solve_and_differentiate(X, y, relative, lambda2)
    monkeypatch.setattr(memory, "shared_bytes", lambda *_: memory.FIXED)
    assert_same_bits(solve_and_differentiate(X, y, relative, lambda2), plenty)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_vectorised_and_scalar_feature_reads_give_the_same_bits(dtype):
    """Rows start at multiples of four features in all, some or no tasks of the batch."""
    X, y = random_task(0, way=3, shots=3, d=40, batch=3, dtype=dtype)
    batch, n, d = X.shape
    given = {"lambda1": 0.5, "lambda2": 10.0, "n_classes": 3, "backend": "cuda"}
    expected = solve_svm(X, y, **given)
    for row, task, first in ((d, n * d + 1, 0), (d, n * d, 1), (d + 4, n * (d + 4), 4), (d + 1, n * (d + 1), 0)):
        storage = torch.full((batch * task + first,), torch.nan, dtype=dtype)
        view = storage[first:].as_strided(X.shape, (task, row, 1))
        view.copy_(X)
        found = solve_svm(view, y, **given)
        assert_same_bits([found.weights, found.dual, found.margin], [expected.weights, expected.dual, expected.margin])


def test_padding_may_allow_two_slices_of_the_matrix(monkeypatch):
    """Samples without weight reduce its order; the matrix of all samples would have a single slice."""
    X, y = random_task(0, way=5, shots=7, d=40, dtype=torch.float32)
    weight = torch.ones(y.shape)
    weight[:, :3] = 0  # order 128 of 140
    monkeypatch.setattr(memory, "shared_bytes", lambda *_: memory.FIXED)
    given = {"lambda1": 0.5, "lambda2": 10.0, "n_classes": 5}
    padded = solve_svm(X, y, sample_weight=weight, backend="cuda", **given)
    alone = solve_svm(X[:, 3:], y[:, 3:], backend="cuda", **given)
    assert padded.certified.all()
    torch.testing.assert_close(padded.weights, alone.weights, rtol=0, atol=0)


def test_any_number_of_blocks_gives_the_same_bits(monkeypatch):
    X, y = random_task(1, batch=5, dtype=torch.float32)
    many = solve_and_differentiate(X, y)
    monkeypatch.setattr(emulation, "_LIMITS", Limits(shared_bytes=48 << 10, multiprocessors=2))
    assert_same_bits(solve_and_differentiate(X, y), many)
    # A single block, as if memory were short.
    monkeypatch.setattr(backend_cuda.CudaBackend, "supports", lambda self, request: None)
    monkeypatch.setattr(backend_cuda, "LARGEST_SCRATCH", 1)
    assert_same_bits(solve_and_differentiate(X, y), many)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shots", "d"), [(3, 50), (15, 90)])
def test_any_number_of_threads_gives_the_same_bits(shots, d, dtype, monkeypatch):
    X, y = random_task(2, way=5, shots=shots, d=d, dtype=dtype)
    wanted = solve_svm(X, y, lambda1=0.2 * svm_lambda1_max(X, y), lambda2=1.0, dual_reg=0.3, backend="cpp")
    results = []
    for threads in (32, 128, 384, 512):
        monkeypatch.setattr(backend_cuda, "threads_for", lambda *_, threads=threads: threads)
        results.append(solve_and_differentiate(X, y))
        assert_same_bits(results[-1], results[0])
    assert (results[0][0] - wanted.weights).norm() <= 1e-7 * wanted.weights.norm()


@pytest.mark.parametrize("relative", [0.2, 1.5])  # with some features active, and none
def test_every_output_is_written(relative):
    """Outputs are filled with NaN (bytes with 1) before the kernel runs."""
    X, y = random_task(11, batch=2, dtype=torch.float32)
    clean = solve_and_differentiate(X, y, relative)
    torch.use_deterministic_algorithms(True)
    try:
        assert_same_bits(solve_and_differentiate(X, y, relative), clean)
    finally:
        torch.use_deterministic_algorithms(False)


def test_tasks_that_fail_in_float32_are_solved_in_float64(monkeypatch):
    """With features of large means, float32 iterations fail, and float64 continues from their best point."""
    X, y = random_task(3, way=4, shots=4, d=20, batch=3, dtype=torch.float32)
    X[1] += 3e3
    solution = solve_svm(X, y, lambda1=0.0, lambda2=1.0, backend="cuda")  # lambda1 = 0 always uses float64
    assert solution.certified[[0, 2]].all()
    relative = torch.full((3,), 0.05)
    mixed = solve_svm(X, y, lambda1=relative * svm_lambda1_max(X, y), lambda2=1.0, backend="cuda")
    of_cpp = solve_svm(X, y, lambda1=relative * svm_lambda1_max(X, y), lambda2=1.0, backend="cpp")
    assert mixed.status.tolist() == of_cpp.status.tolist()
    assert (mixed.relative_gap <= 2 * of_cpp.relative_gap + 1e-6).all()


@pytest.mark.parametrize(
    ("index", "value"), [((1, 2, 3), torch.nan), ((0, 0, 0), torch.inf), ((1, 11, 29), -torch.inf)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_non_finite_features_are_rejected(index, value, dtype):
    X, y = random_task(5, batch=2, dtype=dtype)
    X[index] = value
    with pytest.raises(ValueError, match=r"features: .*finite"):
        solve_svm(X, y, lambda1=1.0, backend="cuda")


def test_unsupported_solvers_and_sizes_are_rejected():
    X, y = random_task(6)
    for arguments, reason in (({"solver": "fista"}, "newton"), ({"n_classes": 65}, "64 classes")):
        with pytest.raises(ValueError, match=reason):
            solve_svm(X, y, lambda1=1.0, backend="cuda", **arguments)
    with pytest.raises(ValueError, match="up to 2048"):
        solve_svm(X.expand(1, 12, 30).repeat(1, 60, 1), y.repeat(1, 60), lambda1=1.0, n_classes=4, backend="cuda")


def test_auto_does_not_choose_the_emulation():
    X, y = random_task(7)
    assert solve_svm(X, y, lambda1=1.0).backend != "cuda"
