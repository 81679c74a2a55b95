"""The heads: logits, learned hyperparameters, the solution that they keep, torch.compile."""

import copy
import io
import math
import pickle
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from sparsedis import solve_svm, svm_lambda1_max
from sparsedis.nn import GroupLassoLogistic, GroupLassoSVM, HeadOutput, Prototypes, Ridge, SparseHead
from tests.tasks import random_task

HEADS = {
    "group-lasso-svm": GroupLassoSVM,
    "ridge": Ridge,
    "group-lasso-logistic": lambda **options: GroupLassoLogistic(lambda2=0.01, **options),
}


@pytest.fixture
def task():
    support, labels = random_task(0, batch=2, d=40, dtype=torch.float32)
    query, query_labels = random_task(0, batch=2, d=40, shots=4, dtype=torch.float32)
    return support, labels, query, query_labels


def test_logits_are_the_scaled_scores_of_the_exact_svm(task):
    support, labels, query, _ = task
    head = GroupLassoSVM(lambda1=0.3, lambda2=2.0, logit_scale=1.7)
    output = head(query, support, labels)
    expected = solve_svm(support, labels, lambda1=0.3 * svm_lambda1_max(support, labels), lambda2=2.0)
    assert isinstance(output, HeadOutput)
    torch.testing.assert_close(output.logits, 1.7 * query @ expected.weights)
    assert torch.equal(output.active, expected.active)
    assert head.last_solution.certified.all()
    assert not head.last_solution.weights.requires_grad


def test_head_accepts_the_arguments_of_the_published_head(task):
    support, labels, query, _ = task
    logits, active = GroupLassoSVM(0.1)(query, support, labels, 3, 4)
    assert logits.shape == (2, 12, 3)
    assert active.shape == (2, 40)
    assert active.dtype == torch.bool


def test_relative_lambda1_has_no_gradient_through_its_maximum(task):
    support, labels, _, _ = task
    support = support.double().requires_grad_()
    head = GroupLassoSVM(0.3, 2.0, tol=1e-12).double()
    head.solve(support, labels).weights.square().sum().backward()
    frozen = support.detach().clone().requires_grad_()
    lambda1 = 0.3 * svm_lambda1_max(frozen, labels)
    solve_svm(frozen, labels, lambda1=lambda1, lambda2=2.0, tol=1e-12).weights.square().sum().backward()
    torch.testing.assert_close(support.grad, frozen.grad)


def test_absolute_lambda1_is_passed_to_the_solver(task):
    support, labels, _, _ = task
    head = GroupLassoSVM(2.0, relative=False)
    torch.testing.assert_close(head.solve(support, labels).weights, solve_svm(support, labels, lambda1=2.0).weights)


@pytest.mark.parametrize("name", ["lambda1", "lambda2", "dual_reg"])
def test_learned_hyperparameters_stay_positive_and_get_gradients(task, name):
    support, labels, query, query_labels = task
    head = GroupLassoSVM(0.2, 2.0, 0.5, learn=(name,))
    start = float(head.hyperparameter(name).detach())
    optimizer = torch.optim.SGD(head.parameters(), lr=100.0)
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(
            head(query, support, labels).logits.flatten(0, 1), query_labels.flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        assert head.log[name].grad.abs() > 0
        torch.nn.utils.clip_grad_value_(head.parameters(), 0.01)
        optimizer.step()
    assert head.hyperparameter(name) > 0
    assert head.hyperparameter(name) != start


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("name", ["group-lasso-svm", "group-lasso-logistic"])
def test_a_learned_lambda1_without_active_features_warns_once(task, name, relative):
    support, labels, query, _ = task
    head = HEADS[name](lambda1=0.1, relative=relative, learn=("lambda1",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head(query, support, labels, 3)
        with torch.no_grad():
            head.log["lambda1"].fill_(math.log(1000.0))
        head.eval()(query, support, labels, 3)
        HEADS[name](lambda1=1000.0, relative=relative)(query, support, labels, 3)  # not learned, so intended
    head.train()
    with pytest.warns(
        RuntimeWarning, match=r"every feature of every task is off at lambda1 = 1e\+03.*learned"
    ) as warned:
        output = head(query, support, labels, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head(query, support, labels, 3)
    assert ("of the one that turns all of them off" in str(warned[0].message)) == relative
    assert not output.active.any()


def test_state_dict_contains_learned_hyperparameters_only():
    head = GroupLassoSVM(0.2, learn=("lambda1", "lambda2"))
    assert set(head.state_dict()) == {"scale", "log.lambda1", "log.lambda2"}
    assert set(GroupLassoSVM().state_dict()) == {"scale"}


def test_padding_of_the_support_set_has_no_influence(task):
    support, labels, _, _ = task
    weight = torch.ones(labels.shape)
    weight[:, -1] = 0
    head = GroupLassoSVM(0.2, tol=1e-10)
    torch.testing.assert_close(
        head.solve(support, labels, 3, weight).weights,
        head.solve(support[:, :-1], labels[:, :-1], 3).weights,
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_heads_compile_once_for_all_shapes(name, task):
    """Compiled calls keep no solution, because its tensors have no values while they are traced."""
    support, labels, query, _ = task
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    learn = ("lambda2",) if name == "ridge" else ("lambda1", "lambda2")
    head = HEADS[name](learn=learn, throw=True)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager", dynamic=True)
    for views in ((query[:, 5:], support, labels), (query[:, 1:, 2:], support[:, 2:, 2:], labels[:, 2:])):
        given = *(view.contiguous() for view in views), 3
        expected = head(*given).logits
        assert head.last_solution.certified.all()
        torch.testing.assert_close(compiled(*given).logits, expected)
        assert head.last_solution is None
        copy.deepcopy(head)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", HEADS)
def test_no_solution_without_values_is_kept(name, task):
    support, labels, query, _ = task
    head = HEADS[name](throw=True, tol=1e-3)
    given = query, support, labels, 3

    def under_vmap():
        return torch.func.vmap(lambda q, s: head(q[None], s[None], labels[:1], 3).logits)(query, support)

    def under_grad():
        return torch.func.grad(lambda s: head(query, s, labels, 3).logits.square().sum())(support)

    def on_fakes():
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fakes = [mode.from_tensor(value) for value in (query, support, labels)]
            return torch.func.functional_call(head, {"scale": mode.from_tensor(head.scale)}, (*fakes, 3))

    def that_raises():
        with pytest.raises(ValueError, match="features"):
            head(query, support * float("nan"), labels, 3)

    for call in (under_vmap, under_grad, on_fakes, that_raises):
        head(*given)
        assert head.last_solution.certified.all()
        call()
        assert head.last_solution is None
        copy.deepcopy(head)
    head(*given)
    assert head.last_solution is not None


@pytest.mark.parametrize("name", HEADS)
def test_copies_and_pickles_do_not_contain_the_solution(name, task):
    support, labels, query, _ = task
    head = HEADS[name](learn=("lambda2",))
    expected = head(query, support, labels, 3).logits
    saved = io.BytesIO()
    torch.save(head, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), loaded):
        assert other.last_solution is None
        assert torch.equal(other(query, support, labels, 3).logits, expected)
        assert other.last_solution is not None
    assert head.last_solution is not None


@pytest.mark.slow
@pytest.mark.parametrize("head", [Ridge(), Prototypes(), GroupLassoSVM()])
def test_under_compile_a_head_requires_the_number_of_classes(head, task):
    support, labels, query, _ = task
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"n_classes: expected an int under torch\.compile"):
        torch.compile(head, fullgraph=True, backend="eager")(query, support, labels)


def test_head_is_finite_under_autocast(task):
    support, labels, query, _ = task
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = GroupLassoSVM(0.2)(query.bfloat16(), support.bfloat16(), labels)
    assert torch.isfinite(output.logits).all()


def test_an_encoder_can_be_trained_through_the_head(task):
    support, labels, query, query_labels = task
    torch.manual_seed(0)
    encoder, head = torch.nn.Linear(40, 20), GroupLassoSVM(0.1, 5.0)
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 0.01)
    losses = []
    for _ in range(20):
        logits = head(encoder(query), encoder(support), labels).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), query_labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_prototypes_are_nearest_class_means(task):
    support, labels, query, _ = task
    logits, active = Prototypes(logit_scale=2.0)(query, support, labels, 3, 4)
    means = torch.stack([support[:, labels[0] == c].mean(1) for c in range(3)], 1)
    torch.testing.assert_close(logits, -2.0 * torch.cdist(query, means) ** 2 / 40, rtol=1e-4, atol=1e-4)
    assert active.all()


def test_lambda1_zero_is_the_dense_svm(task):
    support, labels, query, _ = task
    output = GroupLassoSVM(0.0, 2.0)(query, support, labels)
    torch.testing.assert_close(output.logits, query @ solve_svm(support, labels, lambda1=0.0, lambda2=2.0).weights)
    assert output.active.all()


def test_ridge_is_the_closed_form(task):
    """(X^T X / n + lambda2 m I) W = X^T Y / n with m the mean squared norm of a sample, solved densely in float64."""
    support, labels, query, _ = task
    output = Ridge(0.3, logit_scale=1.7)(query, support, labels, 3, 4)
    X, n = support.double(), support.shape[1]
    scale = X.square().sum((1, 2)) / n
    targets = torch.nn.functional.one_hot(labels, 3).double()
    system = X.mT @ X / n + 0.3 * scale[:, None, None] * torch.eye(X.shape[2], dtype=torch.float64)
    expected = 1.7 * query.double() @ torch.linalg.solve(system, X.mT @ targets / n)
    torch.testing.assert_close(output.logits.double(), expected, rtol=1e-3, atol=1e-4)
    assert output.active.all()


@pytest.mark.parametrize("intercept", [False, True])
def test_logistic_satisfies_the_optimality_conditions(task, intercept):
    support, labels, query, _ = task
    support, query = support.double(), query.double()
    head = GroupLassoLogistic(0.3, 0.05, intercept, relative=True, logit_scale=2.0).double()
    output = head(query, support, labels, 3)
    solution, n = head.last_solution, support.shape[1]
    W, b = solution.weights, solution.intercept if intercept else torch.zeros(2, 3, dtype=torch.float64)
    targets = torch.nn.functional.one_hot(labels, 3).double()
    residual = (support @ W + b[:, None]).softmax(-1) - targets
    zero = targets.mean(1, keepdim=True) if intercept else torch.full((2, 1, 3), 1 / 3, dtype=torch.float64)
    lambda1 = 0.3 * (support.mT @ (targets - zero) / n).norm(dim=2).amax(1)
    gradient = support.mT @ residual / n + 0.05 * W
    active = W.norm(dim=2) > 0
    assert 0 < active.sum() < active.numel()
    assert torch.equal(output.active, active)
    stationary = gradient + lambda1[:, None, None] * W / W.norm(dim=2, keepdim=True).clamp_min(1e-300)
    assert stationary[active].abs().max() < 1e-4 * lambda1.max()
    assert (gradient.norm(dim=2)[~active] <= (lambda1[:, None].expand_as(active) * (1 + 1e-4))[~active]).all()
    if intercept:
        assert residual.sum(1).abs().max() < 1e-4
    torch.testing.assert_close(output.logits, 2.0 * (query @ W + b[:, None]))


@pytest.mark.parametrize("name", HEADS)
def test_heads_share_one_interface(name, task):
    """Features, scale and learned hyperparameters get gradients; the last solution is detached from the graph."""
    support, labels, query, query_labels = task
    head = HEADS[name](learn=("lambda2",))
    support = support.clone().requires_grad_()
    output = head(query, support, labels, n_way=3, n_shot=4)
    assert (output.logits.shape, output.active.shape) == ((2, 12, 3), (2, 40))
    torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), query_labels.flatten()).backward()
    assert support.grad.abs().sum() > 0
    assert head.log["lambda2"].grad.abs() > 0
    assert head.scale.grad.abs() > 0
    assert set(head.state_dict()) == {"scale", "log.lambda2"}
    assert not head.last_solution.weights.requires_grad
    assert head.last_solution.certified.all()


def test_a_subclass_without_solve_raises(task):
    support, labels, query, _ = task
    with pytest.raises(NotImplementedError):
        SparseHead({"lambda2": 1.0}, ("lambda2",), (), True, 1.0)(query, support, labels)


@pytest.mark.parametrize(
    ("head", "arguments", "message"),
    [
        (Ridge, {"lambda2": 0.0}, r"lambda2: expected a number > 0, got 0\.0"),
        (Ridge, {"learn": ("lambda1",)}, "learn: expected one of 'lambda2', got 'lambda1'"),
        (GroupLassoLogistic, {"lambda1": -1.0}, "lambda1: expected"),
        (GroupLassoLogistic, {"learn": ("lambda2",)}, r"lambda2: expected a number > 0, got 0\.0"),
    ],
)
def test_invalid_arguments_of_ridge_and_logistic_are_rejected(head, arguments, message):
    with pytest.raises(ValueError, match=message):
        head(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"lambda1": -0.1}, ValueError, "lambda1: expected a number >= 0|lambda1: expected"),
        ({"lambda2": 0.0}, ValueError, "lambda2: expected a number > 0, got 0.0"),
        ({"dual_reg": 0.0, "learn": ("dual_reg",)}, ValueError, "dual_reg: expected a number > 0, got 0.0"),
        ({"learn": ("lambda3",)}, ValueError, "learn: expected one of 'lambda1', 'lambda2', 'dual_reg', got 'lambda3'"),
        ({"learn": "lambda1"}, TypeError, "learn: expected a sequence of names"),
        ({"lambda1": "0.1"}, TypeError, "lambda1: expected a number, got str"),
    ],
)
def test_invalid_arguments_of_the_svm_are_rejected(arguments, error, message):
    with pytest.raises(error, match=message):
        GroupLassoSVM(**arguments)


@pytest.mark.parametrize("head", [GroupLassoSVM(), Prototypes(), Ridge(), GroupLassoLogistic()])
def test_invalid_shapes_are_rejected(head, task):
    support, labels, query, _ = task
    with pytest.raises(ValueError, match=r"query: expected shape \(2, q, 40\), got \(2, 12, 39\)"):
        head(query[..., 1:], support, labels)
    with pytest.raises(ValueError, match=r"support: expected shape \(B, n, d\)"):
        head(query, support[0], labels)
    with pytest.raises(ValueError, match="labels: expected shape"):
        head(query, support, labels[:, 1:])
