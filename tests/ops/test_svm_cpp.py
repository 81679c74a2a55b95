"""The C++ backend against the torch backend: same solutions, any layout, any number of threads."""

import multiprocessing
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import pytest
import torch

import sparsedis
from sparsedis import solve_svm, svm_lambda1_max
from sparsedis.ops.common import compiled
from sparsedis.ops.common.backend import Request
from sparsedis.ops.svm import OPERATION, backend_cpp
from tests.tasks import random_task


@pytest.fixture(autouse=True)
def built():
    if reason := OPERATION.backend("cpp").available():
        pytest.skip(f"backend 'cpp' is not available: {reason}")


@pytest.fixture
def threads():
    """Sets the number of threads, which is restored after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def solve_and_differentiate(X, y, backend="cpp", **options):
    """The solution, and the gradients of a fixed linear loss in X, lambda1, lambda2 and dual_reg."""
    X = X.detach().requires_grad_()
    names = ("lambda1", "lambda2", "dual_reg")
    values = {
        name: torch.as_tensor(options.pop(name, 0.0), dtype=torch.float64).clone().requires_grad_() for name in names
    }
    solution = solve_svm(X, y, backend=backend, **values, **options)
    loss = torch.randn(solution.weights.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grads = torch.autograd.grad((solution.weights.double() * loss).sum(), [X, *values.values()])
    return solution, grads


def assert_same_bits(one, other):
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("lambda2", [1.0, 0.01, 1e-4])
def test_separable_tasks_converge_to_rounding(lambda2):
    """All samples are on the margin, so L is one-hot up to entries of the order of lambda2, like the objective.

    1 - L_y would lose these entries, and rounding errors of the margins exceed 1e-9 of the smallest objective, 3e-7.
    """
    X, y = random_task(5, way=5, shots=5, d=640, batch=8)
    options = {"n_classes": 5, "lambda2": lambda2, "tol": 1e-7}
    solution, (grad_X, *_) = solve_and_differentiate(X, y, **options)
    reference, (expected, *_) = solve_and_differentiate(X, y, backend="torch", **options)
    for one in (solution, reference):
        assert one.certified.all()
        assert one.n_iter.max() <= 12
        assert (one.relative_gap * one.objective <= 1e-13).all()
        assert (one.dual.sum(-1) - 1).abs().max() <= 1e-14
    torch.testing.assert_close(solution.weights, reference.weights, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(grad_X, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


def everything(solution, grads):
    return [
        solution.weights,
        solution.dual,
        solution.relative_gap,
        solution.objective,
        solution.n_iter,
        solution.active,
        *grads,
    ]


CASES = [
    # way, shots, d, lambda1 relative, lambda2, dual_reg
    (2, 3, 1, 0.3, 2.0, 0.0),
    (2, (7, 1), 63, 0.1, 5.0, 0.5),
    (3, (4, 5, 2), 17, 0.0, 3.0, 1.0),
    (5, 3, 641, 0.2, 50.0, 0.0),
    (5, 5, 300, 0.1, 0.01, 0.0),
    (20, 1, 1601, 0.2, 20.0, 0.3),
    (33, 1, 70, 0.1, 10.0, 0.0),
    (3, 4, 9001, 0.3, 20.0, 0.5),  # large enough for a working set
]


@pytest.mark.parametrize("solver", ["newton", "fista"])
@pytest.mark.parametrize(("way", "shots", "d", "relative", "lambda2", "dual_reg"), CASES)
def test_agrees_with_the_torch_backend(way, shots, d, relative, lambda2, dual_reg, solver):
    X, y = random_task(d, way=way, shots=shots, d=d, batch=2)
    options = {"lambda1": relative * svm_lambda1_max(X, y), "lambda2": lambda2, "dual_reg": dual_reg, "solver": solver}
    # The first-order solvers take the same steps, so they can be compared before they converge. Newton converges to
    # rounding, between 5e-13 and 1.2e-12 for the smallest penalty here, depending on the processor.
    options |= {"tol": 1e-11} if solver == "newton" else {"tol": 1e-9, "max_iter": 60}
    # With a gradient, the finish would also be applied to the first-order solvers' solutions.
    solve = solve_and_differentiate if solver == "newton" else lambda *task, **given: (solve_svm(*task, **given), ())
    ours, our_grads = solve(X, y, backend="cpp", **options)
    theirs, their_grads = solve(X, y, backend="torch", **options)
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.objective, theirs.objective)
    assert torch.equal(ours.status, theirs.status)
    assert (ours.n_iter - theirs.n_iter).abs().max() <= 2
    if solver == "newton":
        for a, b in zip(our_grads, their_grads, strict=True):
            assert (a - b).norm() <= 1e-5 * b.norm() + 1e-9


def test_bcd_takes_the_same_steps_as_the_torch_backend():
    X, y = random_task(3, way=4, shots=(3, 5, 2, 7), d=40, batch=2)
    weight = torch.ones(y.shape)
    weight[:, 2], weight[:, 5] = 0, 2.5
    options = {"lambda1": 3.0, "lambda2": 4.0, "sample_weight": weight, "solver": "bcd", "max_iter": 25}
    ours, theirs = (solve_svm(X, y, backend=backend, **options) for backend in ("cpp", "torch"))
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-9, atol=1e-12)
    assert theirs.n_iter.min() > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("relative", [0.0, 0.2])
def test_any_strides_give_the_same_bits(dtype, relative):
    X, y = random_task(4, way=3, shots=4, d=70, batch=3, dtype=dtype)
    options = {"lambda1": relative * svm_lambda1_max(X, y), "lambda2": 2.0}
    expected = everything(*solve_and_differentiate(X, y, **options))
    wide = torch.full((3, 14, 150), float("nan"), dtype=dtype)
    wide[:, 1:13, 5:145:2] = X
    for view in (X.mT.contiguous().mT, X.permute(2, 0, 1).contiguous().permute(1, 2, 0), wide[:, 1:13, 5:145:2]):
        assert view.stride() != X.stride()
        assert_same_bits(everything(*solve_and_differentiate(view, y, **options)), expected)
    same = X[:1].expand(3, -1, -1)
    first = solve_svm(X[:1], y[:1], lambda1=1.0)
    assert torch.equal(solve_svm(same, y, lambda1=1.0).weights, first.weights.expand(3, -1, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_number_of_threads_and_any_part_of_a_batch_give_the_same_bits(dtype, threads):
    X, y = random_task(5, way=4, shots=(3, 6, 1, 2), d=300, batch=7, dtype=dtype)
    options = {"lambda2": 3.0, "dual_reg": 0.1}
    lambda1 = torch.tensor([0.0, 0.01, 0.1, 0.2, 0.4, 1.0, 2.0], dtype=torch.float64) * svm_lambda1_max(X, y)
    threads(1)
    expected = everything(*solve_and_differentiate(X, y, lambda1=lambda1, **options))
    for count in (2, 3, 16):
        threads(count)
        assert_same_bits(everything(*solve_and_differentiate(X, y, lambda1=lambda1, **options)), expected)
    for part in (slice(0, 1), slice(3, 5), slice(5, 7)):
        alone = solve_svm(X[part], y[part], lambda1=lambda1[part], **options)
        assert torch.equal(alone.weights, expected[0][part])
        assert torch.equal(alone.dual, expected[1][part])


def test_every_instruction_set_agrees(monkeypatch):
    X, y = random_task(6, way=5, shots=5, d=333, batch=2)
    baseline = import_module("sparsedis.ops._cpp_baseline")
    options = {"lambda1": 0.2 * svm_lambda1_max(X, y), "lambda2": 5.0, "tol": 1e-12}
    results = {}
    for name in ("baseline", *baseline.instruction_sets()):
        monkeypatch.setattr(compiled.COMPILED, "_kernels", import_module(f"sparsedis.ops._cpp_{name}"))
        results[name] = solve_and_differentiate(X, y, **options)
    expected, expected_grads = results["baseline"]
    for solution, grads in results.values():
        torch.testing.assert_close(solution.weights, expected.weights, rtol=1e-6, atol=1e-8)
        for a, b in zip(grads, expected_grads, strict=True):
            assert (a - b).norm() <= 1e-5 * b.norm()


@pytest.mark.parametrize("c", [1e-25, 1e-10, 1e10])
def test_screening_in_float32_works_at_any_scale(c):
    X, y = random_task(7, way=4, shots=4, d=2000, dtype=torch.float64)
    lambda1 = 0.3 * svm_lambda1_max(X, y)
    exact = solve_svm(X, y, lambda1=lambda1, lambda2=20.0, tol=1e-12)
    scaled = solve_svm((c * X).float(), y, lambda1=c * lambda1, lambda2=20.0 * c**2)
    assert scaled.certified.all()
    assert (scaled.active != exact.active).double().mean() < 0.01


def test_the_position_of_a_non_finite_value_is_reported():
    X, y = random_task(8, batch=4)
    X[2, 5, 7] = float("inf")
    with pytest.raises(
        ValueError, match=r"features: .*got 1 NaN or infinite ones \(first: task 2, sample 5, feature 7\)"
    ):
        solve_svm(X, y, lambda1=1.0, backend="cpp")
    weight = torch.ones(y.shape)
    weight[2, 5] = 0  # padding has to be finite too
    with pytest.raises(ValueError, match="task 2, sample 5, feature 7"):
        solve_svm(X, y, lambda1=1.0, sample_weight=weight, backend="cpp")


def test_oversized_matrices_are_refused_and_auto_chooses_torch():
    X, _ = random_task(9, way=2, shots=2, d=3)
    order = backend_cpp.LARGEST_ORDER
    request = Request(X.device, X.dtype, order // 4 + 1, 10, 5, "newton")
    reason = f"it factors matrices of order n (k - 1) up to {order}, got {order + 4}"
    assert OPERATION.backend("cpp").supports(request) == reason
    assert OPERATION.choose("auto", request) == "torch"
    assert OPERATION.choose("auto", request._replace(solver="fista")) == "cpp"
    with pytest.raises(ValueError, match="backend 'cpp' cannot run this: it factors"):
        OPERATION.choose("cpp", request)
    elsewhere = request._replace(device=torch.device("cuda"), n_samples=5)
    assert OPERATION.backend("cpp").supports(elsewhere) == "it takes CPU tensors, got cuda"


def test_without_kernels_torch_is_used_with_one_warning(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(compiled, "import_module", missing)
    backend = backend_cpp.CppBackend(compiled.Compiled())
    monkeypatch.setattr(OPERATION, "backends", [backend, OPERATION.backend("torch")])
    X, y = random_task(10)
    with pytest.warns(RuntimeWarning, match=r"kernels are missing, .* 10 to 100 times as long: .*SPARSEDIS_BUILD=cpu"):
        assert solve_svm(X, y, lambda1=1.0).backend == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert solve_svm(X, y, lambda1=1.0).backend == "torch"
    assert "are not built" in (backend.available() or "")


def _solve_in_child(X, y, queue):
    queue.put(solve_svm(X, y, lambda1=1.0, n_classes=3, backend="cpp").weights.tolist())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform")
def test_solving_works_after_a_fork(threads):
    threads(2)
    X, y = random_task(11, batch=4)
    expected = solve_svm(X, y, lambda1=1.0, backend="cpp").weights
    # The child creates no tensors, because PyTorch's parallel loops, unlike the kernels, do not work after a fork.
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_solve_in_child, args=(X, y, queue))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert torch.equal(torch.tensor(queue.get(), dtype=expected.dtype), expected)


class Tasks(torch.utils.data.Dataset):
    """Solves a task per item, in the worker processes of a DataLoader."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        X, y = random_task(index, batch=2)
        return solve_svm(X, y, lambda1=1.0, backend="cpp").weights


def test_solving_works_in_data_loader_workers():
    solve_svm(*random_task(0, batch=2), lambda1=1.0, backend="cpp")
    loaded = list(torch.utils.data.DataLoader(Tasks(), batch_size=None, num_workers=2))
    assert all(torch.equal(loaded[i], Tasks()[i]) for i in range(6))


def test_solving_works_in_several_python_threads():
    tasks = [random_task(seed, way=5, shots=3, d=200, batch=3) for seed in range(12)]

    def run(task):
        return everything(*solve_and_differentiate(*task, lambda1=1.0, lambda2=2.0))

    expected = [run(task) for task in tasks]
    with ThreadPoolExecutor(4) as pool:
        for ours, theirs in zip(pool.map(run, tasks), expected, strict=True):
            assert_same_bits(ours, theirs)


@pytest.mark.slow
def test_a_large_batch_needs_memory_for_its_solution_only(tmp_path):
    script = """
import resource, sys, torch
from sparsedis import solve_svm
def peak(batch):
    X = torch.randn(1, 10, 500).expand(batch, -1, -1)
    y = (torch.arange(10) % 2).expand(batch, -1)
    solution = solve_svm(X, y, lambda1=1.0, n_classes=2)
    result = sum(v.numel() * v.element_size() for v in vars(solution).values() if isinstance(v, torch.Tensor))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, result
small, _ = peak(8)
large, result = peak(4096)
print(large - small, result)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=tmp_path)
    growth, result = map(int, done.stdout.split())
    assert growth < 2 * result + (16 << 20)  # results, their copies, and the allocator's reserve


def test_info_names_the_instruction_set():
    from sparsedis import info

    line = next(line for line in info.report().splitlines() if "svm, cpp" in line)
    assert line.endswith(f"available ({OPERATION.backend('cpp').instruction_set})")
    assert sparsedis.__version__ in info.report()
