"""One API: an argument has the same name, place, default and meaning in every solver, and heads treat labels alike."""

import inspect

import numpy as np
import pytest
import torch

import sparsedis
from sparsedis import nn, solve_lasso, solve_logistic, solve_ridge, solve_svm
from tests.tasks import random_task

F64 = torch.float64
SOLVERS = {"svm": solve_svm, "lasso": solve_lasso, "ridge": solve_ridge, "logistic": solve_logistic}
HEADS = {
    "svm": lambda: nn.GroupLassoSVM(0.1),
    "logistic": lambda: nn.GroupLassoLogistic(0.1),
    "ridge": lambda: nn.Ridge(0.1),
    "prototypes": nn.Prototypes,
}


def case(name):
    """Features, labels or targets, and hyperparameters, for one of SOLVERS."""
    X, labels = random_task(0, way=3, shots=4, d=10, batch=2)
    given = labels if name in ("svm", "logistic") else X[..., 0] + 0.3 * labels
    return X, given, {"lambda2": 0.5} if name == "ridge" else {"lambda1": 0.05, "lambda2": 0.5}


def test_arguments_have_one_order_and_one_default():
    order = ["features", "labels", "targets", "lambda1", "lambda2", "dual_reg", "intercept", "relative", "reduction"]
    order += ["n_classes", "sample_weight", "solver", "backend", "tol", "max_iter", "throw"]
    defaults = {"relative": False, "sample_weight": None, "backend": "auto", "tol": 1e-5, "throw": False}
    for name, solve in SOLVERS.items():
        parameters = inspect.signature(solve).parameters
        assert list(parameters) == [argument for argument in order if argument in parameters], name
        for argument, default in defaults.items():
            assert parameters[argument].default == default, (name, argument)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_sum_is_n_times_a_mean(name):
    """Penalties N times as large, N being the total weight: the same weights, gap and objective times N."""
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
def test_gradients_of_a_sum(name):
    X, given, hyper = case(name)
    values = [torch.tensor(value, dtype=F64) for value in hyper.values()]

    def weights(X, *values):
        options = dict(zip(hyper, values, strict=True))
        return SOLVERS[name](X, given, **options, reduction="sum", tol=1e-13).weights

    inputs = [value.requires_grad_() for value in (X[:, :, :4].contiguous(), *values)]
    assert torch.autograd.gradcheck(weights, inputs, eps=1e-5, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", ["svm", "lasso", "logistic"])
def test_relative_is_a_multiple_of_lambda1_max(name, reduction):
    X, given, hyper = case(name)
    lambda1_max = getattr(sparsedis, f"{name}_lambda1_max")(X, given, reduction=reduction)
    options = {"lambda2": hyper["lambda2"], "reduction": reduction, "tol": 1e-10}
    relative = SOLVERS[name](X, given, lambda1=0.3, relative=True, **options)
    absolute = SOLVERS[name](X, given, lambda1=0.3 * lambda1_max, **options)
    assert relative.sparsity.min() > 0
    torch.testing.assert_close(relative.weights, absolute.weights, rtol=1e-6, atol=1e-9)
    assert (SOLVERS[name](X, given, lambda1=1.001, relative=True, **options).weights == 0).all()


@pytest.mark.parametrize("name", ["svm", "lasso", "logistic"])
def test_a_task_without_a_scale_does_not_refuse_the_batch(name):
    """An encoder that is dead on one task gives features of zero there."""
    X, given, _ = case(name)
    dead = X.clone()
    dead[1] = 0
    solution = SOLVERS[name](dead, given, lambda1=0.3, relative=True)
    assert (solution.weights[1] == 0).all()
    assert solution.certified.all()
    torch.testing.assert_close(solution.weights[0], SOLVERS[name](X[0], given[0], lambda1=0.3, relative=True).weights)


@pytest.mark.parametrize("max_iter", [0.5, 2.0, True, "10"])
@pytest.mark.parametrize("name", ["svm", "lasso", "logistic"])
def test_iterations_are_counted_in_integers(name, max_iter):
    X, given, hyper = case(name)
    with pytest.raises(TypeError, match="max_iter: expected an int, got"):
        SOLVERS[name](X, given, **hyper, max_iter=max_iter)
    assert SOLVERS[name](X, given, **hyper, max_iter=np.int64(50)).certified.all()


@pytest.mark.parametrize("head", HEADS)
def test_heads_treat_labels_alike(head):
    X, labels = random_task(0, way=3, shots=4, d=10, batch=2)
    X, query, head = X.float(), X[:, :5].float(), HEADS[head]()
    expected = head(query, X, labels, 3)
    for dtype in (torch.int32, torch.uint8, torch.int8):
        assert torch.equal(head(query, X, labels.to(dtype), 3).logits, expected.logits)
    assert torch.equal(head(query, X, labels, np.int64(3)).logits, expected.logits)
    assert torch.equal(head(query, X, labels).logits, expected.logits)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_heads_leave_out_padding(head):
    """A sample of weight 0 says nothing, whatever its label and its features are."""
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
def test_one_dead_task_does_not_refuse_a_batch(head):
    X, labels = random_task(0, way=3, shots=4, d=10, batch=2)
    X = X.float()
    X[1] = 0
    output = HEADS[head]()(X[:, :5], X, labels, 3)
    assert torch.isfinite(output.logits).all()
    assert (output.logits[1] == output.logits[1, 0, 0]).all()


def test_prototypes_do_not_cancel():
    """Distances do not change with what all features have in common: a mean of 1e4, where squares are 1e8."""
    X, labels = random_task(0, way=3, shots=4, d=10, batch=2)
    X = (X * 64).round() / 64  # exact in float32 beside the mean
    query = X[:, :5].float()
    head = nn.Prototypes()
    expected = head(query, X.float(), labels, 3).logits
    logits = head(query + 1e4, X.float() + 1e4, labels, 3).logits
    torch.testing.assert_close(logits, expected, rtol=2e-3, atol=2e-3)
