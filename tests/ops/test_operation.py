"""Eager calls bypass the dispatcher, with the same results, and remain visible to modes, profiler and subclasses."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparsedis import solve_lasso, solve_logistic, solve_svm
from sparsedis.ops.common.batches import apply_in_slices
from sparsedis.ops.lasso import backend_torch as lasso
from sparsedis.ops.logistic import backend_torch as logistic
from sparsedis.ops.svm import OPERATION, Options
from sparsedis.ops.svm import backend_torch as svm
from tests.tasks import random_task

NAME = "sparsedis::svm"


class Names(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function.name())
        return function(*args, **(kwargs or {}))


def arguments():
    X, y = random_task(0, way=3, shots=3, d=20, batch=2)
    one = torch.ones(2, dtype=torch.float64)
    values = [value.requires_grad_() for value in (0.5 * one, one.clone(), 0.1 * one)]
    return [X.requires_grad_(), y, *values, torch.ones(y.shape, dtype=torch.float64)]


OPTIONS = (*Options(n_classes=3, solver="newton", tol=1e-9, max_iter=50, exact=True), "torch", False)


def test_direct_and_custom_calls_give_the_same_bits():
    results = []
    for call in (OPERATION.solve, OPERATION.solve.custom):
        given = arguments()
        output = call(*given, *OPTIONS)
        inputs = [given[0], *given[2:5]]
        results.append((*output, *torch.autograd.grad(output[0].square().sum(), inputs)))
    for direct, custom in zip(*results, strict=True):
        assert torch.equal(direct, custom)


def test_without_gradients_nothing_is_recorded():
    with torch.no_grad():
        assert not any(value.requires_grad for value in OPERATION.solve(*arguments(), *OPTIONS))
    plain = [value.detach() for value in arguments()]
    assert not any(value.requires_grad for value in OPERATION.solve(*plain, *OPTIONS))


def test_the_operation_is_visible_to_modes_and_the_profiler():
    X, y = random_task(0, way=3, shots=3, d=20)
    with Names() as mode:
        solve_svm(X, y, lambda1=0.5, n_classes=3)
    assert NAME in {name.removesuffix(".default") for name in mode.seen}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        solve_svm(X, y, lambda1=0.5, n_classes=3)
    assert NAME in {event.key for event in profile.key_averages()}


def test_fake_tensors_have_shapes_and_no_values():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        X, y = torch.empty(2, 6, 10), torch.zeros(2, 6, dtype=torch.int64)
        solution = solve_svm(X, y, lambda1=0.5, n_classes=3)
        assert solution.weights.shape == (2, 10, 3)
        assert solve_lasso(X, torch.empty(2, 6), lambda1=0.5).weights.shape == (2, 10)


def test_tensor_subclasses_intercept_the_operation():
    seen = []

    class Subclass(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(getattr(function, "__name__", str(function)))
            return super().__torch_function__(function, types, args, kwargs or {})

    X, y = random_task(0, way=3, shots=3, d=20)
    solution = solve_svm(X.as_subclass(Subclass), y, lambda1=0.5, n_classes=3)
    assert any("svm" in name for name in seen)
    expected = solve_svm(X, y, lambda1=0.5, n_classes=3).weights
    assert torch.equal(solution.weights.as_subclass(torch.Tensor), expected)


@pytest.mark.parametrize("custom", [False, True])
def test_a_second_derivative_raises(custom):
    given = arguments()
    weights = (OPERATION.solve.custom if custom else OPERATION.solve)(*given, *OPTIONS)[0]
    (grad,) = torch.autograd.grad(weights.square().sum(), given[0], create_graph=True)
    with pytest.raises(RuntimeError, match="has a first derivative only"):
        grad.sum().backward()


@pytest.mark.parametrize("module", [svm, lasso, logistic])
def test_batches_that_exceed_memory_are_solved_in_slices(module, monkeypatch):
    X, y = random_task(1, way=3, shots=4, d=12, batch=5)
    targets = X[..., 0] + 0.1 * y

    def run():
        Z = X.clone().requires_grad_()
        options = {"lambda1": 0.2, "backend": "torch"}
        if module is lasso:
            solution = solve_lasso(Z, targets, **options)
        else:
            solve = solve_svm if module is svm else solve_logistic
            solution = solve(Z, y, lambda2=1.0, n_classes=3, **options)
        return solution, torch.autograd.grad(solution.weights.square().sum(), Z)[0]

    whole, whole_grad = run()
    seen = []
    monkeypatch.setattr(module, "_MEMORY", 1)
    monkeypatch.setattr(module, "apply_in_slices", lambda *given: seen.append(given) or apply_in_slices(*given))
    parts, parts_grad = run()
    assert len(seen) == 2
    for name in ("weights", "dual", "gap", "n_iter", "status", "active"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(parts_grad, whole_grad, rtol=1e-9, atol=1e-12)


def test_slices_are_as_large_as_memory_allows():
    lengths = []

    def run(a, b):
        lengths.append(len(a))
        return a + b, b

    values = torch.arange(7.0)
    total, second = apply_in_slices(run, (values, 10 * values), 100, 399)
    assert lengths == [3, 3, 1]
    assert torch.equal(total, 11 * values)
    assert torch.equal(second, 10 * values)
    lengths.clear()
    apply_in_slices(run, (values, values), 100, 50)
    assert lengths == [1] * 7
