"""Gradients of the SVM against finite differences of solves to 1e-13, and under compile, vmap and autocast."""

import pytest
import torch
from torch import Tensor

from sparsedis import solve_svm, svm_lambda1_max
from sparsedis.ops import svm
from tests.tasks import random_task

# Every test here runs with every backend.
pytestmark = pytest.mark.usefixtures("backend")


def tensors(*values: float) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("way", "lambda2", "dual_reg"), [(2, 2.0, 0.3), (3, 5.0, 0.3), (3, 0.3, 0.0), (4, 20.0, 2.0)])
def test_gradcheck(way, lambda2, dual_reg, weighted):
    X, y = random_task(way, way=way, shots=3, d=6)
    weight = torch.tensor([[0.0, 2.0, 0.7] * way]) if weighted else None
    lambda1 = float(0.15 * svm_lambda1_max(X, y, sample_weight=weight))
    # dual_reg = 0 is not differentiated, because a finite difference would leave the domain.
    hyperparameters = tensors(lambda1, lambda2, *([dual_reg] if dual_reg else []))

    def weights(X, *values):
        names = ("lambda1", "lambda2", "dual_reg")
        options = dict(zip(names, values, strict=False))
        return solve_svm(X, y, sample_weight=weight, tol=1e-13, **options).weights

    assert torch.autograd.gradcheck(
        weights,
        (X.requires_grad_(), *hyperparameters),
        eps=2e-5,
        atol=2e-6,
        rtol=1e-5,
        fast_mode=way > 2 or not weighted,
    )


@pytest.mark.slow
@pytest.mark.parametrize("dual_reg", [0.0, 0.5])
@pytest.mark.parametrize(("way", "shots", "d"), [(5, 5, 640), (5, 1, 64), (20, 1, 100), (20, 8, 200)])
def test_directional_derivatives_on_larger_tasks(way, shots, d, dual_reg):
    """Central differences along one direction in all inputs; 20-way 8-shot uses conjugate gradients."""
    X, y = random_task(way + d, way=way, shots=shots, d=d)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(X.shape, generator=generator, dtype=X.dtype)
    cotangent = torch.randn(1, d, way, generator=generator, dtype=X.dtype)
    values = [float(0.2 * svm_lambda1_max(X, y)), 5.0, dual_reg]
    moves = [0.7, -1.3, 0.4 if dual_reg else 0.0]

    def loss(X, lambda1, lambda2, reg):
        W = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2, dual_reg=reg, tol=1e-13).weights
        return (W * cotangent).sum()

    h = 1e-5
    shifted = [
        loss(X + sign * h * direction, *(v + sign * h * m for v, m in zip(values, moves, strict=True)))
        for sign in (1, -1)
    ]
    inputs = [X.clone().requires_grad_(), *tensors(*values)]
    grads = torch.autograd.grad(loss(*inputs), inputs)
    along = (grads[0] * direction).sum() + sum(g * m for g, m in zip(grads[1:], moves, strict=True))
    torch.testing.assert_close(along, (shifted[0] - shifted[1]) / (2 * h), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("solver", ["newton", "fista", "bcd"])
def test_the_gradient_does_not_depend_on_the_solver(solver):
    X, y = random_task(0, d=12)
    X.requires_grad_()

    def gradient(solver, tol):
        W = solve_svm(X, y, lambda1=2.0, lambda2=5.0, solver=solver, tol=tol, throw=True).weights
        return torch.autograd.grad(W.square().sum(), X)[0]

    torch.testing.assert_close(gradient(solver, 1e-9), gradient("newton", 1e-13), rtol=1e-4, atol=1e-7)


def test_at_lambda1_max_every_gradient_is_zero():
    X, y = random_task(1)
    lambda1 = (1.01 * svm_lambda1_max(X, y)).requires_grad_()
    (lambda2,) = tensors(2.0)
    X.requires_grad_()
    solution = solve_svm(X, y, lambda1=lambda1, lambda2=lambda2)
    grads = torch.autograd.grad(solution.weights.sum(), (X, lambda1, lambda2))
    assert all((grad == 0).all() for grad in grads)


def test_padding_gets_no_gradient():
    X, y = random_task(2)
    weight = torch.ones(y.shape)
    weight[0, :3] = 0
    X.requires_grad_()
    solve_svm(X, y, lambda1=1.0, sample_weight=weight).weights.square().sum().backward()
    assert (X.grad[0, :3] == 0).all()
    assert X.grad[0, 3:].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_have_the_dtype_of_their_inputs(dtype):
    X, y = random_task(3, dtype=torch.float32)
    X = X.to(dtype).requires_grad_()
    lambda1 = torch.tensor(1.0, requires_grad=True)
    solve_svm(X, y, lambda1=lambda1).weights.square().sum().backward()
    assert X.grad.dtype == dtype
    assert lambda1.grad.dtype == torch.float32


def test_only_the_weights_carry_gradients():
    X, y = random_task(4)
    solution = solve_svm(X.requires_grad_(), y, lambda1=1.0)
    assert solution.weights.requires_grad
    for name in ("dual", "gap", "relative_gap", "objective", "sparsity"):
        assert not getattr(solution, name).requires_grad


def test_a_second_derivative_raises():
    X, y = random_task(5)
    X.requires_grad_()
    W = solve_svm(X, y, lambda1=1.0).weights
    (grad,) = torch.autograd.grad(W.square().sum(), X, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivative only"):
        grad.sum().backward()


def test_only_the_problem_and_its_solution_are_saved_for_backward():
    X, y = random_task(6, d=50)
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t)
    with hooks:
        solve_svm(X.requires_grad_(), y, lambda1=1.0)
    n, d, k = 12, 50, 3
    assert sum(kept) == n * d + n + 3 + n + n * k + d  # features, labels, lambdas, sample weights, dual, active


@pytest.mark.slow
def test_compile_fullgraph():
    X, y = random_task(7, batch=2, dtype=torch.float32)

    def weights(X, lambda1):
        return solve_svm(X, y, lambda1=lambda1, n_classes=3).weights

    def gradients(function):
        inputs = X.clone().requires_grad_(), torch.tensor(1.0, requires_grad=True)
        value = function(*inputs)
        return value, *torch.autograd.grad(value.square().sum(), inputs)

    compiled = torch.compile(weights, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(gradients(compiled), gradients(weights), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
def test_compile_requires_the_number_of_classes():
    X, y = random_task(7)
    compiled = torch.compile(lambda X: solve_svm(X, y, lambda1=1.0).weights, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="n_classes"):
        compiled(X)


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (2, 0)])
def test_vmap(in_dims):
    X, y = random_task(8, batch=4)
    labels = y[0] if in_dims[1] is None else y
    mapped = torch.func.vmap(lambda X, y: solve_svm(X, y, lambda1=1.0, n_classes=3).weights, in_dims=in_dims)
    inputs = X.permute(1, 2, 0) if in_dims[0] == 2 else X
    inputs = inputs.clone().requires_grad_()
    result = mapped(inputs, labels)
    expected = solve_svm(X, y, lambda1=1.0).weights
    torch.testing.assert_close(result, expected)
    (grad,) = torch.autograd.grad(result.square().sum(), inputs)
    X.requires_grad_()
    (same,) = torch.autograd.grad(solve_svm(X, y, lambda1=1.0).weights.square().sum(), X)
    torch.testing.assert_close(grad, same.permute(1, 2, 0) if in_dims[0] == 2 else same)


def test_vmap_over_a_hyperparameter():
    X, y = random_task(9)
    values = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    mapped = torch.func.vmap(lambda v: solve_svm(X[0], y[0], lambda1=v, n_classes=3).sparsity)(values)
    assert mapped.tolist() == [solve_svm(X[0], y[0], lambda1=v).sparsity.item() for v in values]


def test_vmap_requires_the_number_of_classes():
    X, y = random_task(9, batch=2)
    with pytest.raises(ValueError, match=r"n_classes: expected an int under torch\.func\.vmap"):
        torch.func.vmap(lambda X, y: solve_svm(X, y, lambda1=1.0).weights)(X, y)


def test_autocast_does_not_change_the_solution():
    X, y = random_task(10, dtype=torch.float32)
    expected = solve_svm(X, y, lambda1=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        solution = solve_svm(X, y, lambda1=1.0)
    assert solution.weights.dtype == torch.float32
    torch.testing.assert_close(solution.weights, expected.weights)


def operation_arguments(requires_grad):
    X, y = random_task(11, batch=2)
    ones = torch.ones(2, dtype=torch.float64)
    parameters = [value.requires_grad_(requires_grad) for value in (ones.clone(), 2 * ones, 0.5 * ones)]
    return [X.requires_grad_(requires_grad), y, *parameters, torch.ones(y.shape, dtype=torch.float64)]


OPTIONS = svm.Options(n_classes=3, solver="newton", tol=1e-8, max_iter=50, exact=True)


@pytest.mark.slow
def test_opcheck_solve(backend):
    for requires_grad in (False, True):
        arguments = [*operation_arguments(requires_grad), *OPTIONS, backend, False]
        torch.library.opcheck(svm.OPERATION.solve.custom, arguments)


@pytest.mark.slow
def test_opcheck_adjoint(backend):
    X, y, *rest = operation_arguments(False)
    solution = solve_svm(X, y, lambda1=1.0, lambda2=2.0, dual_reg=0.5)
    grad = torch.randn(2, X.shape[2], 3, dtype=torch.float64)
    solved = solution.dual, solution.active, grad
    torch.library.opcheck(svm.OPERATION.adjoint.custom, [X, y, *rest, *solved, *OPTIONS, backend])


@pytest.mark.slow
def test_opcheck_lambda1_max():
    X, y, *_, weight = operation_arguments(False)
    torch.library.opcheck(svm.lambda1_max.custom, [X, y, weight, 3, True])


def test_without_group_lasso_a_feature_with_zero_weights_has_a_gradient():
    """A constant feature in a mirrored task: V_j = W_j = 0 exactly, but W_j changes with x_j."""
    X = torch.tensor([[[1.0, 0.5, 1.0], [-1.0, -0.5, 1.0]]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0, 1]])

    def weights(X):
        return solve_svm(X, y, lambda1=0.0, lambda2=1.0, dual_reg=0.3, tol=1e-13).weights

    assert weights(X)[0, 2].abs().max() < 1e-12
    assert torch.autograd.gradcheck(weights, (X,), eps=1e-5, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("solver", ["fista", "bcd"])
def test_the_finish_before_a_gradient_does_not_count_as_iterations(backend, solver):
    X, y = random_task(0, d=12)
    options = {"lambda1": 2.0, "lambda2": 5.0, "solver": solver}
    plain = solve_svm(X, y, **options)
    # max_iter limits the finish separately: it may take that many iterations after the solver has used all of them.
    finished = solve_svm(X.clone().requires_grad_(), y, max_iter=int(plain.n_iter.max()), **options)
    assert torch.equal(finished.n_iter, plain.n_iter)
    assert finished.certified.all()
    assert finished.relative_gap.max() < 1e-9 < plain.relative_gap.max()
