"""Consistency of the API: names, order, defaults and meaning of arguments in all solvers; labels in all heads."""

import inspect

import numpy as np
import pytest
import torch

import sparsedis
from sparsedis import nn, solve_lasso, solve_logistic, solve_ridge, solve_svm
from tests.tasks import random_task

F64 = torch.float64
INTEGERS = (
    torch.int8,
    torch.int16,
    torch.int32,
    torch.uint8,
    *(torch.uint16, torch.uint32, torch.uint64),  # torch implements few operations for these
)
SOLVERS = {"svm": solve_svm, "lasso": solve_lasso, "ridge": solve_ridge, "logistic": solve_logistic}
HEADS = {
    "svm": lambda: nn.GroupLassoSVM(0.1),
    "logistic": lambda: nn.GroupLassoLogistic(0.1),
    "ridge": lambda: nn.Ridge(0.1),
    "prototypes": nn.Prototypes,
}


def case(name):
    """Features, labels or targets, and hyperparameters for one of SOLVERS."""
    X, labels = random_task(0, way=3, shots=4, d=10, batch=2)
    given = labels if name in ("svm", "logistic") else X[..., 0] + 0.3 * labels
    return X, given, {"lambda2": 0.5} if name == "ridge" else {"lambda1": 0.05, "lambda2": 0.5}


def test_arguments_have_the_same_order_and_defaults_in_all_solvers():
    order = ["features", "labels", "targets", "lambda1", "lambda2", "dual_reg", "intercept", "relative", "reduction"]
    order += ["n_classes", "sample_weight", "solver", "backend", "tol", "max_iter", "throw"]
    defaults = {"relative": False, "sample_weight": None, "backend": "auto", "tol": 1e-5, "throw": False}
    for name, solve in SOLVERS.items():
        parameters = inspect.signature(solve).parameters
        assert list(parameters) == [argument for argument in order if argument in parameters], name
        for argument, default in defaults.items():
            assert parameters[argument].default == default, (name, argument)


@pytest.mark.parametrize("name", SOLVERS)
def test_reduction_sum_is_n_times_mean(name):
    """With penalties times N, the total sample weight: the same weights and relative gap, N times the objective."""
    X, given, hyper = case(name)
    weight = torch.rand(X.shape[:2], generator=torch.Generator().manual_seed(1), dtype=F64) + 0.5
    total = weight.sum(1)
    options = {"sample_weight": weight, "tol": 1e-12}
    mean = SOLVERS[name](X, given, **hyper, reduction="mean", **options)
    scaled = {argument: value * total for argument, value in hyper.items()}
    summed = SOLVERS[name](X, given, **scaled, reduction="sum", **options)
    torch.testing.assert_close(summed.weights, mean.weights, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(summed.objective, total * mean.objective)
    torch.testing.assert_close(summed.relative_gap, mean.relative_gap, rtol=1, atol=1e-11)
    with pytest.raises(ValueError, match="reduction: expected one of 'sum', 'mean', got 'none'"):
        SOLVERS[name](X, given, **hyper, reduction="none")


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVERS)
def test_gradcheck_with_reduction_sum(name):
    X, given, hyper = case(name)
    values = [torch.tensor(value, dtype=F64) for value in hyper.values()]

    def weights(X, *values):
        options = dict(zip(hyper, values, strict=True))
        return SOLVERS[name](X, given, **options, reduction="sum", tol=1e-13).weights

    inputs = [value.requires_grad_() for value in (X[:, :, :4].contiguous(), *values)]
    assert torch.autograd.gradcheck(weights, inputs, eps=1e-5, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", ["svm", "lasso", "logistic"])
def test_relative_lambda1_is_a_multiple_of_lambda1_max(name, reduction):
    X, given, hyper = case(name)
    lambda1_max = getattr(sparsedis, f"{name}_lambda1_max")(X, given, reduction=reduction)
    options = {"lambda2": hyper["lambda2"], "reduction": reduction, "tol": 1e-10}
    relative = SOLVERS[name](X, given, lambda1=0.3, relative=True, **options)
    absolute = SOLVERS[name](X, given, lambda1=0.3 * lambda1_max, **options)
    assert relative.sparsity.min() > 0
    torch.testing.assert_close(relative.weights, absolute.weights, rtol=1e-6, atol=1e-9)
    assert (SOLVERS[name](X, given, lambda1=1.001, relative=True, **options).weights == 0).all()


@pytest.mark.parametrize("name", ["svm", "lasso", "logistic"])
def test_a_task_with_zero_features_does_not_fail_the_batch(name):
    """An encoder whose units are all inactive on one task returns zero features for it."""
    X, given, _ = case(name)
    dead = X.clone()
    dead[1] = 0
    solution = SOLVERS[name](dead, given, lambda1=0.3, relative=True)
    assert (solution.weights[1] == 0).all()
    assert solution.certified.all()
    torch.testing.assert_close(solution.weights[0], SOLVERS[name](X[0], given[0], lambda1=0.3, relative=True).weights)


@pytest.mark.parametrize("max_iter", [0.5, 2.0, True, "10"])
@pytest.mark.parametrize("name", ["svm", "lasso", "logistic"])
def test_max_iter_has_to_be_an_integer(name, max_iter):
    X, given, hyper = case(name)
    with pytest.raises(TypeError, match="max_iter: expected an int, got"):
        SOLVERS[name](X, given, **hyper, max_iter=max_iter)
    assert SOLVERS[name](X, given, **hyper, max_iter=np.int64(50)).certified.all()


@pytest.mark.parametrize("name", ["svm", "lasso", "logistic"])
def test_max_iter_has_no_upper_limit_and_has_to_be_positive(name):
    """Values beyond a kernel's integer range mean no limit."""
    X, given, hyper = case(name)
    expected = SOLVERS[name](X, given, **hyper)
    for max_iter in (2**31, 10**20):
        assert torch.equal(SOLVERS[name](X, given, **hyper, max_iter=max_iter).weights, expected.weights)
    for max_iter in (0, -1, -(10**20)):
        with pytest.raises(ValueError, match=f"max_iter: expected a finite number > 0, got {max_iter}"):
            SOLVERS[name](X, given, **hyper, max_iter=max_iter)
    with pytest.raises(TypeError, match="max_iter: expected an int, got float"):
        SOLVERS[name](X, given, **hyper, max_iter=1e20)


NUMBERS = [np.float32, np.float64, np.float16, np.longdouble, torch.tensor, lambda x: torch.tensor(x, dtype=F64)]


@pytest.mark.parametrize("made", NUMBERS)
@pytest.mark.parametrize("name", SOLVERS)
def test_hyperparameters_may_be_numbers_of_any_library(name, made):
    """0.5 and 2^-10 are exact in all of these types."""
    X, given, hyper = case(name)
    exact = dict.fromkeys(hyper, 0.5)
    expected = SOLVERS[name](X, given, **exact, tol=2.0**-10)
    numbers = {argument: made(value) for argument, value in exact.items()}
    solution = SOLVERS[name](X, given, **numbers, tol=made(2.0**-10))
    assert torch.equal(solution.weights, expected.weights)
    whole = SOLVERS[name](X, given, **dict.fromkeys(hyper, np.int64(1)), tol=1e-3)
    assert torch.equal(whole.weights, SOLVERS[name](X, given, **dict.fromkeys(hyper, 1), tol=1e-3).weights)


INVALID = [
    (True, TypeError),
    (np.bool_(True), TypeError),
    (torch.tensor(True), TypeError),
    (1j, TypeError),
    (torch.tensor(1j), TypeError),
    ("0.5", TypeError),
    (None, TypeError),
    ([0.5], TypeError),
    (torch.ones(2, 2), (TypeError, ValueError)),
    (torch.ones((), device="meta"), ValueError),
    (torch.ones(2).to_sparse(), TypeError),
    (float("nan"), ValueError),
    (float("inf"), ValueError),
    (np.float32("nan"), ValueError),
    (torch.tensor(float("nan")), ValueError),
    (torch.tensor(float("inf")), ValueError),
    (10**400, ValueError),
]
NEGATIVE = [(-0.5, ValueError), (torch.tensor(-0.5), ValueError)]


@pytest.mark.parametrize(("value", "error"), INVALID + NEGATIVE)
@pytest.mark.parametrize("name", SOLVERS)
def test_invalid_hyperparameters_are_rejected(name, value, error):
    X, given, hyper = case(name)
    names = [*hyper, "tol", *(["dual_reg"] if name == "svm" else [])]
    for argument in names:
        with pytest.raises(error, match=f"^{argument}: expected "):
            SOLVERS[name](X, given, **{**hyper, argument: value})


@pytest.mark.parametrize(("value", "error"), INVALID + NEGATIVE)
@pytest.mark.parametrize("head", [nn.GroupLassoSVM, nn.GroupLassoLogistic, nn.Ridge, nn.Prototypes])
def test_heads_reject_invalid_hyperparameters(head, value, error):
    for argument, parameter in inspect.signature(head).parameters.items():
        if isinstance(parameter.default, float) and (
            argument != "logit_scale" or not any(value is one for one, _ in NEGATIVE)
        ):
            with pytest.raises(error, match=f"^{argument}: expected "):
                head(**{argument: value})


@pytest.mark.parametrize("head", [nn.GroupLassoSVM, nn.GroupLassoLogistic, nn.Ridge])
def test_heads_accept_numbers_of_any_library(head):
    for value in (np.float32(0.5), torch.tensor(0.5), np.int64(1)):
        assert head(lambda2=value, logit_scale=value).hyperparameter("lambda2") == float(value)
    with pytest.raises(TypeError, match="lambda2: expected a constant, got a tensor that requires a gradient"):
        head(lambda2=torch.tensor(0.5, requires_grad=True))
    for options in ({"tol": 0}, {"throw": 1}, {"relative": 0.1}, {"tol": True}):
        with pytest.raises((TypeError, ValueError), match=f"^{next(iter(options))}: expected "):
            head(**options)
    if head is not nn.Ridge:
        with pytest.raises(TypeError, match="max_iter: expected an int, got float"):
            head(max_iter=0.5)


FLAGS = [(name, flag) for name in SOLVERS for flag in ("relative", "throw")] + [("logistic", "intercept")]


@pytest.mark.parametrize(("name", "flag"), FLAGS)
def test_flags_have_to_be_bools(name, flag):
    """relative=0.1, for example, is a mistake and does not mean True."""
    X, given, hyper = case(name)
    for value in (0.1, 1, "no", None, torch.tensor(True)):
        with pytest.raises(TypeError, match=f"{flag}: expected True or False, got"):
            SOLVERS[name](X, given, **hyper, **{flag: value})
    assert SOLVERS[name](X, given, **hyper, **{flag: np.bool_(True)}).certified.all()


def jagged(X):
    return torch.nested.nested_tensor(list(X), layout=torch.jagged)


UNSUPPORTED = [
    (lambda X: X.to_sparse(), TypeError, "expected a dense tensor, got layout torch.sparse_coo; to_dense"),
    (lambda X: torch.nested.nested_tensor(list(X)), TypeError, "expected a dense tensor, got a nested one"),
    (jagged, TypeError, "expected a dense tensor, got a nested one"),
    (
        lambda X: torch.quantize_per_tensor(X.float(), 0.1, 0, torch.qint8),
        TypeError,
        "expected a dense tensor, got a quantized one; dequantize",
    ),
    (lambda X: X.to("meta"), ValueError, "expected (device cpu|a tensor with values, got one on the device meta)"),
    (lambda X: X.to(torch.complex64), TypeError, "expected a(n integer| floating-point| real) dtype"),
    (lambda X: X.numpy(), TypeError, "expected a torch.Tensor, got ndarray"),
    (lambda X: X.float().to(torch.float8_e4m3fn), TypeError, "expected an? (integer|floating-point|real) dtype"),
]


@pytest.mark.filterwarnings("ignore:.*nested.*:UserWarning", "ignore:.*quantize.*")
@pytest.mark.parametrize(("made", "error", "message"), UNSUPPORTED)
@pytest.mark.parametrize("name", SOLVERS)
def test_unsupported_tensors_are_rejected(name, made, error, message):
    X, given, hyper = case(name)
    target = list(inspect.signature(SOLVERS[name]).parameters)[1]
    weight = torch.ones(X.shape[:2], dtype=F64)
    with pytest.raises(error, match=f"features: {message}"):
        SOLVERS[name](made(X), given, **hyper)
    with pytest.raises(error, match=f"{target}: {message}"):
        SOLVERS[name](X, made(given), **hyper)
    with pytest.raises(error, match=f"sample_weight: {message}"):
        SOLVERS[name](X, given, **hyper, sample_weight=made(weight))


@pytest.mark.filterwarnings("ignore:.*nested.*:UserWarning", "ignore:.*quantize.*")
@pytest.mark.parametrize(("made", "error", "message"), UNSUPPORTED)
@pytest.mark.parametrize("head", HEADS)
def test_heads_reject_unsupported_tensors(head, made, error, message):
    X, labels = random_task(0, way=3, shots=4, d=10, batch=2)
    X, query, head = X.float(), X[:, :5].float(), HEADS[head]()
    with pytest.raises(error, match=f"query: {message}"):
        head(made(query), X, labels, 3)
    with pytest.raises(error, match=f"(support|features): {message}"):
        head(query, made(X), labels, 3)
    with pytest.raises(error, match=f"labels: {message}"):
        head(query, X, made(labels), 3)
    with pytest.raises(error, match=f"sample_weight: {message}"):
        head(query, X, labels, 3, sample_weight=made(torch.ones(labels.shape)))
    with pytest.raises(TypeError, match=r"query: expected a floating-point dtype, got torch\.int64"):
        head(query.long(), X, labels, 3)


@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("name", ["svm", "logistic"])
def test_labels_may_have_any_integer_dtype(name, backend):
    X, labels, hyper = case(name)
    lambda1_max = getattr(sparsedis, f"{name}_lambda1_max")
    expected = SOLVERS[name](X, labels, **hyper, backend=backend)
    for dtype in INTEGERS:
        assert torch.equal(SOLVERS[name](X, labels.to(dtype), **hyper, backend=backend).weights, expected.weights)
        assert torch.equal(lambda1_max(X, labels.to(dtype)), lambda1_max(X, labels))
    for dtype in (torch.bool, torch.float32, torch.complex64):
        with pytest.raises(TypeError, match=rf"labels: expected an integer dtype \(int64\), got {dtype}"):
            SOLVERS[name](X, labels.to(dtype), **hyper, backend=backend)
    with pytest.raises(ValueError, match="labels: expected values from 0 to 2, got"):
        SOLVERS[name](X, torch.full_like(labels, -1).view(torch.uint64), **hyper, backend=backend, n_classes=3)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, *INTEGERS[-3:], torch.float16])
@pytest.mark.parametrize("name", SOLVERS)
def test_sample_weights_may_have_any_real_dtype(name, dtype):
    X, given, hyper = case(name)
    weight = torch.ones(X.shape[:2])
    weight[:, -2:] = 0
    expected = SOLVERS[name](X, given, **hyper, sample_weight=weight)
    assert torch.equal(SOLVERS[name](X, given, **hyper, sample_weight=weight.to(dtype)).weights, expected.weights)
    if name in ("svm", "logistic"):
        padded = torch.where(weight > 0, given, 99)
        assert torch.equal(SOLVERS[name](X, padded, **hyper, sample_weight=weight.to(dtype)).weights, expected.weights)


@pytest.mark.parametrize("head", HEADS)
def test_heads_name_labels_out_of_range(head):
    X, labels = random_task(0, way=3, shots=4, d=10, batch=2)
    X, head = X.float(), HEADS[head]()
    labels[1, 2] = 7
    with pytest.raises(ValueError, match=r"labels: expected values from 0 to 2, got 7 \(task 1, sample 2\)"):
        head(X[:, :5], X, labels, 3)
    labels[1, 2] = -3
    with pytest.raises(ValueError, match=r"labels: expected values from 0 to 2, got -3 \(task 1, sample 2\)"):
        head(X[:, :5], X, labels)


@pytest.mark.parametrize("name", SOLVERS)
def test_solutions_are_compared_by_identity(name):
    X, given, hyper = case(name)
    first, second = (SOLVERS[name](X, given, **hyper) for _ in range(2))
    assert first == first
    assert first != second
    assert first != None  # noqa: E711
    assert {first: 1}[first] == 1
    assert first in [second, first]


def test_too_many_classes_are_rejected():
    X, given, hyper = case("svm")
    with pytest.raises(ValueError, match="n_classes: expected at most 2147483647 classes, got 100000000000000000000"):
        solve_svm(X, given, **hyper, n_classes=10**20)


@pytest.mark.parametrize("head", HEADS)
def test_heads_accept_labels_of_any_integer_dtype(head):
    X, labels = random_task(0, way=3, shots=4, d=10, batch=2)
    X, query, head = X.float(), X[:, :5].float(), HEADS[head]()
    expected = head(query, X, labels, 3)
    for dtype in INTEGERS:
        assert torch.equal(head(query, X, labels.to(dtype), 3).logits, expected.logits)
        assert torch.equal(head(query, X, labels.to(dtype)).logits, expected.logits)
    assert torch.equal(head(query, X, labels, np.int64(3)).logits, expected.logits)
    assert torch.equal(head(query, X, labels).logits, expected.logits)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_heads_ignore_padding(head):
    """A sample of weight 0 has no influence, whatever its label and features are."""
    X, labels = random_task(0, way=3, shots=4, d=10, batch=2)
    X, query, head = X.float(), X[:, :5].float(), HEADS[head]()
    padded = torch.cat([X, 100 * torch.ones_like(X[:, :2])], 1)
    marked = torch.cat([labels, torch.full_like(labels[:, :2], -1)], 1)
    weight = torch.ones(marked.shape)
    weight[:, -2:] = 0
    expected = head(query, X, labels, 3)
    output = head(query, padded, marked, 3, sample_weight=weight)
    torch.testing.assert_close(output.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(output.active, expected.active)


@pytest.mark.parametrize("head", HEADS)
def test_heads_accept_a_task_with_zero_features(head):
    X, labels = random_task(0, way=3, shots=4, d=10, batch=2)
    X = X.float()
    X[1] = 0
    output = HEADS[head]()(X[:, :5], X, labels, 3)
    assert torch.isfinite(output.logits).all()
    assert (output.logits[1] == output.logits[1, 0, 0]).all()


def test_prototypes_do_not_suffer_from_cancellation():
    """Distances do not depend on the features' mean, here 1e4, whose square is 1e8."""
    X, labels = random_task(0, way=3, shots=4, d=10, batch=2)
    X = (X * 64).round() / 64  # so that X + 1e4 is exact in float32
    query = X[:, :5].float()
    head = nn.Prototypes()
    expected = head(query, X.float(), labels, 3).logits
    logits = head(query + 1e4, X.float() + 1e4, labels, 3).logits
    torch.testing.assert_close(logits, expected, rtol=2e-3, atol=2e-3)
