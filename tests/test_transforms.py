"""Forward mode, torch.func and batched gradients of every operation, against finite differences and autograd."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from sparsedis import nn, solve_lasso, solve_logistic, solve_ridge, solve_svm, svm_lambda1_max
from sparsedis.ops import lasso, logistic
from sparsedis.ops import svm as svm_operation
from sparsedis.ops.common.custom_op import may_be_differentiated
from sparsedis.ops.registry import OPERATIONS
from tests.tasks import random_task

F64 = torch.float64
X, LABELS = random_task(3, way=3, shots=3, d=5, batch=2)
TARGETS = X @ torch.tensor([[1.0, -0.5, 0.0, 0.0, 0.3], [0.2, 0.0, -1.0, 0.0, 0.0]], dtype=F64).mT
WEIGHT = torch.tensor([[1.0, 0.0, 0.7, 2.0, 1.0, 0.5, 1.0, 1.0, 0.3]], dtype=F64).expand(2, -1)


class Case(NamedTuple):
    """A function of tensors that returns weights, the point at which it is differentiated, and its operation."""

    weights: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    name: str


def value(number: float) -> Tensor:
    return torch.tensor(number, dtype=F64)


def svm(X: Tensor, lambda1: Tensor, lambda2: Tensor, dual_reg: Tensor) -> Tensor:
    options = {"lambda1": lambda1, "lambda2": lambda2, "dual_reg": dual_reg, "tol": 1e-13}
    return solve_svm(X, LABELS, n_classes=3, sample_weight=WEIGHT, **options).weights


def dense_svm(X: Tensor, lambda2: Tensor) -> Tensor:
    return solve_svm(X, LABELS, lambda1=0.0, lambda2=lambda2, dual_reg=0.5, n_classes=3, tol=1e-13).weights


def logistic_with_intercept(X: Tensor, lambda1: Tensor, lambda2: Tensor) -> Tensor:
    options = {"lambda1": lambda1, "lambda2": lambda2, "intercept": True, "n_classes": 3, "tol": 1e-13}
    solution = solve_logistic(X, LABELS, sample_weight=WEIGHT, **options)
    return torch.cat([solution.weights, solution.intercept[:, None]], 1)


CASES = {
    "svm": Case(svm, (X, value(2.0), value(4.0), value(0.5)), "svm"),
    "dense svm": Case(dense_svm, (X, value(4.0)), "svm"),
    "lasso": Case(
        lambda X, y, lambda1, lambda2: (
            solve_lasso(X, y, lambda1=lambda1, lambda2=lambda2, sample_weight=WEIGHT, tol=1e-13).weights
        ),
        (X, TARGETS[..., 0], value(0.2), value(0.1)),
        "lasso",
    ),
    "ridge": Case(
        lambda X, y, lambda2: solve_ridge(X, y, lambda2=lambda2, sample_weight=WEIGHT).weights,
        (X, TARGETS, value(0.3)),
        "ridge",
    ),
    "ridge of fewer samples": Case(
        lambda X, lambda2: solve_ridge(X[:, :4], TARGETS[:, :4, 0], lambda2=lambda2).weights, (X, value(0.3)), "ridge"
    ),
    "logistic": Case(
        lambda X, lambda1, lambda2: (
            solve_logistic(X, LABELS, lambda1=lambda1, lambda2=lambda2, n_classes=3, tol=1e-13).weights
        ),
        (X, value(0.05), value(0.1)),
        "logistic",
    ),
    "logistic with an intercept": Case(logistic_with_intercept, (X, value(0.05), value(0.1)), "logistic"),
}
BACKENDS = {"svm": ("cpp", "torch"), "lasso": ("cpp", "torch")}
EVERY = [(name, backend) for name, case in CASES.items() for backend in BACKENDS.get(case.name, ("torch",))]


@pytest.fixture(params=EVERY, ids=["-".join(pair) for pair in EVERY])
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Case:
    name, backend = request.param
    found = CASES[name]
    operation = OPERATIONS[found.name]
    chosen = operation.backend(backend)
    if reason := chosen.available():
        pytest.skip(f"backend {backend!r} is not available: {reason}")
    monkeypatch.setattr(operation, "backends", [chosen])
    return found


def jacobians(case: Case) -> list[Tensor]:
    """The Jacobian in every input, row by row with autograd."""
    inputs = [tensor.clone().requires_grad_() for tensor in case.inputs]
    weights = case.weights(*inputs)
    rows = [torch.autograd.grad(entry, inputs, retain_graph=True) for entry in weights.flatten()]
    return [torch.stack(column).reshape(*weights.shape, *column[0].shape) for column in zip(*rows, strict=True)]


def directions(case: Case) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(tensor.shape, generator=generator, dtype=F64) for tensor in case.inputs)


def along(jacobian: list[Tensor], tangents: tuple[Tensor, ...]) -> Tensor:
    dims = (tangent.dim() for tangent in tangents)
    return sum(
        (J * t).sum(tuple(range(-dim, 0))) if dim else J * t for J, t, dim in zip(jacobian, tangents, dims, strict=True)
    )


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-11)


@pytest.mark.slow
def test_gradcheck_in_all_modes(case):
    inputs = tuple(tensor.clone().requires_grad_() for tensor in case.inputs)
    options = {
        "check_forward_ad": True,
        "check_batched_grad": True,
        "check_batched_forward_grad": True,
        "fast_mode": True,
    }
    assert torch.autograd.gradcheck(case.weights, inputs, eps=1e-5, atol=1e-6, rtol=1e-5, **options)


def test_jvp_and_dual_numbers_agree_with_the_jacobian(case):
    tangents = directions(case)
    expected = along(jacobians(case), tangents)
    assert expected.abs().max() > 1e-3
    output, tangent = jvp(case.weights, case.inputs, tangents)
    assert_close(output, case.weights(*case.inputs))
    assert_close(tangent, expected)
    for record in (False, True):
        with forward_ad.dual_level(), torch.set_grad_enabled(record):
            duals = map(forward_ad.make_dual, case.inputs, tangents)
            assert_close(forward_ad.unpack_dual(case.weights(*duals)).tangent, expected)


def test_a_tangent_of_one_input_alone(case):
    """The other inputs have no tangent."""
    J, t = jacobians(case)[-1], value(0.7)
    _, tangent = jvp(lambda last: case.weights(*case.inputs[:-1], last), case.inputs[-1:], (t,))
    assert_close(tangent, J * t)


@pytest.mark.slow
def test_jacobians_agree_with_autograd(case):
    expected = jacobians(case)
    every = tuple(range(len(case.inputs)))
    for transform in (jacfwd, jacrev):
        for ours, theirs in zip(transform(case.weights, every)(*case.inputs), expected, strict=True):
            assert_close(ours, theirs)
    for strategy in ("reverse-mode", "forward-mode"):
        ours = torch.autograd.functional.jacobian(case.weights, case.inputs, vectorize=True, strategy=strategy)
        for a, b in zip(ours, expected, strict=True):
            assert_close(a, b)


def test_batched_gradients_agree_with_single_ones(case):
    inputs = [tensor.clone().requires_grad_() for tensor in case.inputs]
    weights = case.weights(*inputs)
    cotangents = torch.randn(3, *weights.shape, generator=torch.Generator().manual_seed(2), dtype=F64)
    together = torch.autograd.grad(weights, inputs, cotangents, retain_graph=True, is_grads_batched=True)
    for i, cotangent in enumerate(cotangents):
        alone = torch.autograd.grad(weights, inputs, cotangent, retain_graph=True)
        for ours, theirs in zip(together, alone, strict=True):
            assert_close(ours[i], theirs)


def test_gradients_of_torch_func_agree_with_autograd(case):
    every = tuple(range(len(case.inputs)))
    inputs = [tensor.clone().requires_grad_() for tensor in case.inputs]
    expected = torch.autograd.grad(case.weights(*inputs).square().sum(), inputs)
    weights, pull = vjp(case.weights, *case.inputs)
    for ours in (
        grad(lambda *inputs: case.weights(*inputs).square().sum(), every)(*case.inputs),
        pull(2 * weights),  # outside the transform
    ):
        for a, b in zip(ours, expected, strict=True):
            assert_close(a, b)


@pytest.mark.slow
def test_transforms_can_be_nested(case):
    """Derivatives inside vmap, and vmap inside derivatives, over values of the last input, a penalty."""
    penalties = case.inputs[-1] * torch.tensor([0.8, 1.0, 1.3], dtype=F64)
    others, t = case.inputs[:-1], directions(case)

    def loss(last: Tensor) -> Tensor:
        return case.weights(*others, last).square().sum()

    def tangent(last: Tensor) -> Tensor:
        return jvp(case.weights, (*others, last), t)[1]

    alone = torch.stack([grad(loss)(penalty) for penalty in penalties])
    assert_close(vmap(grad(loss))(penalties), alone)
    assert_close(grad(lambda penalties: vmap(loss)(penalties).sum())(penalties), alone)
    assert_close(vmap(tangent)(penalties), torch.stack([tangent(penalty) for penalty in penalties]))
    assert_close(jvp(vmap(loss), (penalties,), (torch.ones_like(penalties),))[1], alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "second",
    [
        lambda loss, x, t: grad(lambda x: (grad(loss)(x) * t).sum())(x),
        lambda loss, x, t: jvp(grad(loss), (x,), (t,)),
        lambda loss, x, t: grad(lambda x: jvp(loss, (x,), (t,))[1])(x),
        lambda loss, x, t: jvp(lambda x: jvp(loss, (x,), (t,))[1], (x,), (t,)),
    ],
    ids=["reverse-reverse", "forward-reverse", "reverse-forward", "forward-forward"],
)
def test_a_second_derivative_raises(case, second):
    def loss(x: Tensor) -> Tensor:
        return case.weights(x, *case.inputs[1:]).square().sum()

    with pytest.raises(RuntimeError, match="has a first derivative only"):
        second(loss, case.inputs[0], directions(case)[0])


@pytest.mark.parametrize(
    ("weights", "penalty"),
    [
        (lambda X, v: solve_lasso(X, TARGETS[..., 0], lambda1=v, relative=True).weights, 0.2),
        (lambda X, v: solve_ridge(X, TARGETS, lambda2=v, relative=True).weights, 0.2),
        (lambda X, v: solve_logistic(X, LABELS, lambda1=v, lambda2=0.1, n_classes=3, relative=True).weights, 0.3),
        (lambda X, v: nn.GroupLassoSVM(0.2, tol=1e-12)(X, v * X, LABELS, 3).logits, 1.5),
    ],
    ids=["lasso", "ridge", "logistic", "head"],
)
def test_the_scale_of_a_relative_penalty_is_constant_in_both_modes(weights, penalty):
    inputs = (X, value(penalty))
    case = Case(weights, inputs, "")
    t = directions(case)
    expected = along(jacobians(case), t).detach()
    assert_close(jvp(weights, inputs, t)[1], expected)
    with forward_ad.dual_level(), torch.no_grad():
        tangent = forward_ad.unpack_dual(weights(*map(forward_ad.make_dual, inputs, t))).tangent
    assert_close(tangent, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tangents_have_the_dtype_of_the_weights(case, dtype):
    def weights(X: Tensor) -> Tensor:
        return case.weights(X, *case.inputs[1:])

    exact = jvp(weights, (case.inputs[0].to(dtype).double(),), (case.inputs[0].to(dtype).double(),))
    rounded = jvp(weights, (case.inputs[0].to(dtype),), (case.inputs[0].to(dtype),))
    assert rounded[0].dtype == rounded[1].dtype == torch.float32
    torch.testing.assert_close(rounded[1].double(), exact[1], rtol=1e-3, atol=1e-4)


def test_at_lambda1_max_every_tangent_is_zero():
    lambda1 = 1.01 * svm_lambda1_max(X, LABELS)
    _, tangent = jvp(lambda X, v: solve_svm(X, LABELS, lambda1=v).weights, (X, lambda1), (X, lambda1))
    assert (tangent == 0).all()


@pytest.mark.parametrize("module", [svm_operation, lasso, logistic], ids=lambda module: module.OPERATION.name)
def test_tangents_do_not_depend_on_how_tasks_are_split_for_memory(module, monkeypatch):
    case = CASES[module.OPERATION.name]
    t = directions(case)
    expected = jvp(case.weights, case.inputs, t)[1]
    monkeypatch.setattr(module.backend_torch, "_MEMORY", 1)
    assert_close(jvp(case.weights, case.inputs, t)[1], expected)


class Arguments(TorchDispatchMode):
    """Records the arguments of calls to the operation ``name``."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.seen: list[tuple] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name() == self.name:
            self.seen.append(args)
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_opcheck_tangent(name):
    case = CASES[name]
    with Arguments(f"sparsedis::{name}_tangent") as mode:
        jvp(case.weights, case.inputs, directions(case))
    (given,) = mode.seen
    torch.library.opcheck(
        OPERATIONS[name].tangent.custom, [value.clone() if isinstance(value, Tensor) else value for value in given]
    )


def test_the_profiler_shows_tangents():
    case = CASES["svm"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        jvp(case.weights, case.inputs, directions(case))
    seen = {event.key for event in profile.key_averages()}
    assert {"sparsedis::svm", "sparsedis::svm_tangent"} <= seen


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_forward_mode_inside_a_compiled_function_raises(name):
    case = CASES[name]
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda X, t: jvp(case.weights, (X, *case.inputs[1:]), t)[1], fullgraph=True, backend="eager"
    )
    with pytest.raises(Exception, match=f"sparsedis::{case.name}: forward mode .* Use reverse mode there"):
        compiled(X, directions(case))


@pytest.mark.parametrize("warm", [False, True])
def test_a_compiled_function_refuses_dual_numbers_from_outside(warm):
    case = CASES["lasso"]
    torch._dynamo.reset()
    compiled = torch.compile(lambda X: case.weights(X, *case.inputs[1:]), fullgraph=True, backend="eager")
    if warm:
        compiled(X)
    with forward_ad.dual_level(), torch.no_grad(), pytest.raises(Exception, match="sparsedis::lasso: forward mode"):
        compiled(forward_ad.make_dual(X, X))


def test_may_be_differentiated_detects_all_modes():
    plain, leaf = torch.ones(2), torch.ones(2, requires_grad=True)
    assert not may_be_differentiated(plain, 1.0)
    assert may_be_differentiated(plain, leaf)
    with torch.no_grad():
        assert not may_be_differentiated(leaf)
        with forward_ad.dual_level():
            assert may_be_differentiated(plain)
    seen = []
    vmap(lambda v: seen.append((v.requires_grad, may_be_differentiated(v))) or v)(leaf)
    assert seen == [(False, True)]  # requires_grad is False on vmap's wrapper
