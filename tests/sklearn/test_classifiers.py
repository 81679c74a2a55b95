"""GroupLassoSVC and GroupLassoLogisticRegression: the problems they solve, and scikit-learn's conventions."""

import io
import pickle
import sys
import warnings
from importlib import import_module

import joblib
import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from sparsedis import logistic_lambda1_max, solve_logistic, solve_svm, svm_lambda1_max
from sparsedis.ops.svm import naive
from sparsedis.sklearn import GroupLassoLogisticRegression, GroupLassoSVC
from tests.tasks import random_task

ESTIMATORS = [GroupLassoSVC, GroupLassoLogisticRegression]


def data(way=3, d=8, shots=6, seed=0):
    """Clustered samples (n, d) and labels (n,) as arrays; all features but the first three are noise."""
    X, y = random_task(seed, way=way, shots=shots, d=d)
    noise = np.random.default_rng(seed).normal(size=(X.shape[1], d - 3))
    return np.hstack([X[0, :, :3].numpy(), noise]), y[0].numpy()


def with_ones(X, value=1.0):
    return np.hstack([X, np.full((len(X), 1), value)])


def column_difference(W):
    """The columns of W (d, k) in scikit-learn's convention."""
    return (W[:, 1:] - W[:, :1]).T if W.shape[1] == 2 else W.T


@pytest.mark.parametrize("way", [2, 4])
@pytest.mark.parametrize("scaling", [None, 1.0, 3.0])
def test_svc_agrees_with_solve_svm(way, scaling):
    X, y = data(way)
    svc = GroupLassoSVC(0.2, 0.7, dual_reg=0.1, fit_intercept=scaling is not None, intercept_scaling=scaling or 1.0)
    svc.fit(X, y)
    given = X if scaling is None else with_ones(X, scaling)
    solution = solve_svm(torch.tensor(given), torch.tensor(y), lambda1=0.2, lambda2=0.7, dual_reg=0.1, relative=True)
    W = column_difference(solution.weights.numpy())
    np.testing.assert_allclose(svc.coef_, W[:, :8], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(svc.intercept_, 0 if scaling is None else scaling * W[:, 8], rtol=1e-9, atol=1e-12)
    assert svc.dual_gap_ == pytest.approx(float(solution.relative_gap), abs=1e-13)
    assert svc.n_iter_ == int(solution.n_iter)
    assert svc.absolute_lambda1_ == pytest.approx(0.2 * float(svm_lambda1_max(torch.tensor(given), torch.tensor(y))))
    absolute = clone(svc).set_params(relative=False, lambda1=svc.absolute_lambda1_).fit(X, y)
    np.testing.assert_allclose(absolute.coef_, svc.coef_, rtol=1e-9, atol=1e-12)
    scores = X @ svc.coef_.T + svc.intercept_
    np.testing.assert_allclose(svc.decision_function(X), scores[:, 0] if way == 2 else scores)


@pytest.mark.parametrize("way", [2, 3])
def test_svc_agrees_with_the_naive_implementation(way):
    X, y = data(way)
    svc = GroupLassoSVC(0.3, 2.0, dual_reg=0.5, relative=False, class_weight={0: 2.0}, tol=1e-9).fit(X, y)
    weight = torch.where(torch.tensor(y) == 0, 2.0, 1.0).double()
    l1, l2, reg = (torch.tensor(value, dtype=torch.float64) for value in (0.3, 2.0, 0.5))
    W, _ = naive.solve(torch.tensor(with_ones(X)), torch.tensor(y), weight, l1, l2, reg, way)
    expected = column_difference(W.numpy())
    np.testing.assert_allclose(np.c_[svc.coef_, svc.intercept_], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("way", [2, 3])
def test_svc_without_group_lasso_agrees_with_liblinear(way):
    X, y = data(way, shots=10)
    ours = GroupLassoSVC(0.0, 2.0).fit(X, y)
    peer = LinearSVC(C=0.5, multi_class="crammer_singer", tol=1e-10, max_iter=10**6).fit(X, y)
    np.testing.assert_allclose(ours.coef_, peer.coef_, atol=1e-5)
    np.testing.assert_allclose(ours.intercept_, peer.intercept_, atol=1e-5)


@pytest.mark.parametrize("way", [2, 4])
@pytest.mark.parametrize("intercept", [False, True])
def test_logistic_agrees_with_solve_logistic(way, intercept):
    X, y = data(way)
    model = GroupLassoLogisticRegression(0.1, 0.01, fit_intercept=intercept).fit(X, y)
    solution = solve_logistic(
        torch.tensor(X), torch.tensor(y), lambda1=0.1, lambda2=0.01, relative=True, intercept=intercept
    )
    np.testing.assert_allclose(model.coef_, column_difference(solution.weights.numpy()), rtol=1e-9, atol=1e-12)
    b = solution.intercept.numpy() if intercept else np.zeros(way)
    np.testing.assert_allclose(model.intercept_, column_difference(b[None])[:, 0], rtol=1e-9, atol=1e-12)
    scores = torch.tensor(X) @ solution.weights + torch.tensor(b)
    np.testing.assert_allclose(model.predict_proba(X), scores.softmax(1).numpy(), rtol=1e-9)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X))
    assert model.dual_gap_ == pytest.approx(float(solution.relative_gap), abs=1e-13)


@pytest.mark.parametrize("way", [2, 3])
def test_logistic_without_group_lasso_agrees_with_scikit_learn(way):
    X, y = data(way, shots=10)
    ours = GroupLassoLogisticRegression(0.0, 0.05).fit(X, y)
    # scikit-learn has one column for two classes, with half of the squared norm.
    C = 1 / (0.05 * len(y)) * (2 if way == 2 else 1)
    peer = LogisticRegression(C=C, tol=1e-12, max_iter=10**5, solver="newton-cg").fit(X, y)
    np.testing.assert_allclose(ours.coef_, peer.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(X), atol=1e-6)


@pytest.mark.parametrize("way", [2, 3])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_no_feature_is_used_from_lambda1_max_on(estimator, way):
    """All scores are equal then, so the first class is predicted unless there is an intercept."""
    X, y = data(way)
    for lambda1 in (1.0, 7.0):
        model = estimator(lambda1, fit_intercept=False).fit(X, y)
        assert (model.coef_ == 0).all()
        assert (model.predict(X) == 0).all()
    few = np.r_[0:3, 6 : len(y)]
    model = estimator(1.0).fit(X[few], y[few])
    assert (model.coef_ == 0).all()
    frequent = 1 if estimator is GroupLassoLogisticRegression else 0  # the SVM's intercept is penalised like a feature
    assert (model.predict(X) == frequent).all()


def test_logistic_lambda1_max_is_tight():
    X, y = data()
    model = GroupLassoLogisticRegression(0.999).fit(X, y)
    assert np.count_nonzero(model.coef_.any(0)) == 1
    largest = float(logistic_lambda1_max(torch.tensor(X), torch.tensor(y), intercept=True))
    assert model.absolute_lambda1_ == pytest.approx(0.999 * largest)
    absolute = GroupLassoLogisticRegression(model.absolute_lambda1_, relative=False).fit(X, y)
    assert absolute.absolute_lambda1_ == model.absolute_lambda1_
    np.testing.assert_allclose(absolute.coef_, model.coef_, rtol=1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_class_and_sample_weights_are_equivalent_to_repeated_samples(estimator):
    X, y = data(shots=(3, 6, 4))
    repeats = np.array([4, 1, 3])[y]
    repeated = estimator(0.1).fit(X.repeat(repeats, 0), y.repeat(repeats))
    for model in (
        estimator(0.1, class_weight={0: 4, 2: 3}).fit(X, y),
        estimator(0.1).fit(X, y, sample_weight=repeats),
        estimator(0.1, class_weight={0: 4}).fit(X, y, sample_weight=np.where(y == 2, 3, 1)),
    ):
        np.testing.assert_allclose(model.coef_, repeated.coef_, atol=1e-7)
        np.testing.assert_allclose(model.intercept_, repeated.intercept_, atol=1e-7)
    balanced = estimator(0.1, class_weight="balanced").fit(X, y)
    by_hand = estimator(0.1, class_weight={0: 13 / 9, 1: 13 / 18, 2: 13 / 12}).fit(X, y)
    np.testing.assert_allclose(balanced.coef_, by_hand.coef_, atol=1e-7)
    assert np.abs(balanced.coef_ - repeated.coef_).max() > 1e-3


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_samples_without_weight_are_ignored(estimator):
    X, y = data(way=4)
    weight = np.where((y == 3) | (np.arange(len(y)) % 5 == 1), 0.0, 1.0)
    model = estimator(0.1).fit(X, y, sample_weight=weight)
    alone = estimator(0.1).fit(X[weight > 0], y[weight > 0])
    assert model.classes_.tolist() == [0, 1, 2]
    np.testing.assert_allclose(model.coef_, alone.coef_, atol=1e-8)


@pytest.mark.parametrize("way", [2, 3])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_labels_may_be_strings(estimator, way):
    X, y = data(way, shots=10)
    names = np.array(["yes", "no", "maybe"])[y]
    model = estimator(0.1).fit(X, names)
    assert model.classes_.tolist() == sorted(set(names))
    assert model.predict(X).dtype == names.dtype
    assert model.score(X, names) > 0.8
    assert model.decision_function(X).shape == ((20,) if way == 2 else (30, 3))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_column_names_of_data_frames_are_checked(estimator):
    pandas = pytest.importorskip("pandas")
    X, y = data()
    frame = pandas.DataFrame(X, columns=list("abcdefgh"))
    model = estimator().fit(frame, y)
    assert model.feature_names_in_.tolist() == list("abcdefgh")
    np.testing.assert_array_equal(model.predict(frame), estimator().fit(X, y).predict(X))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("hgfedcba")])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators_can_select_features(estimator):
    X, y = data(shots=20)
    model = estimator(0.3).fit(X, y)
    used = model.coef_.any(0)
    assert 0 < used.sum() < 8
    selector = SelectFromModel(estimator(0.3), norm_order=2, threshold=1e-10).fit(X, y)
    np.testing.assert_array_equal(selector.get_support(), used)
    pipeline = make_pipeline(StandardScaler(), selector, estimator(0.0, 0.1)).fit(X, y)
    assert pipeline[-1].n_features_in_ == pipeline[1].get_support().sum() < 8
    assert pipeline.score(X, y) > 0.7


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators_can_be_searched_cloned_and_pickled(estimator):
    X, y = data(shots=10)
    search = GridSearchCV(estimator(), {"lambda1": np.array([0.5, 0.1], np.float32), "lambda2": [1, 2]}, cv=3).fit(X, y)
    copy = clone(search.best_estimator_)
    assert not hasattr(copy, "coef_")
    assert copy.get_params() == search.best_estimator_.get_params()
    stored = io.BytesIO()
    joblib.dump(search.best_estimator_, stored)
    for restored in (joblib.load(stored), pickle.loads(pickle.dumps(search.best_estimator_))):
        np.testing.assert_array_equal(restored.decision_function(X), search.decision_function(X))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_uncertified_fits_cause_a_warning(estimator):
    X, y = data()
    with pytest.warns(
        ConvergenceWarning, match=r"1 of 1 fits are not certified: .* expected 1e-12 or less\. .*max_iter"
    ):
        model = estimator(1e-4, max_iter=1, tol=1e-12).fit(X, y)
    assert model.dual_gap_ > 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert estimator(1e-4).fit(X, y).dual_gap_ <= 1e-5


MISSING = r"^sparsedis\.sklearn: scikit-learn is not installed; pip install 'sparsedis\[sklearn\]'$"
INVALID = [
    ({"lambda1": -1.0}, ValueError, "lambda1: expected a finite number >= 0, got -1"),
    ({"lambda1": "0.1"}, TypeError, "lambda1: expected a number, got str"),
    ({"lambda1": True}, TypeError, "lambda1: expected a number, got bool"),
    ({"lambda2": float("nan")}, ValueError, "lambda2: expected a finite number"),
    ({"tol": 0}, ValueError, "tol: expected a finite number > 0"),
    ({"max_iter": 2.5}, TypeError, "max_iter: expected an int"),
    ({"class_weight": "equal"}, ValueError, "class_weight: expected None, 'balanced' or a dict, got 'equal'"),
    ({"class_weight": {0: -1}}, ValueError, "class_weight: expected finite weights >= 0"),
]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("parameters", "error", "message"), INVALID)
def test_invalid_parameters_are_rejected(estimator, parameters, error, message):
    X, y = data()
    with pytest.raises(error, match=message):
        estimator(**parameters).fit(X, y)


def test_invalid_parameters_of_the_svm_are_rejected():
    X, y = data()
    for parameters, message in [
        ({"lambda2": 0.0}, "lambda2: expected a finite number > 0, got 0"),
        ({"intercept_scaling": 0.0}, "intercept_scaling: expected a finite number > 0, got 0"),
        ({"solver": "sgd"}, "solver: expected one of 'auto', 'newton'.*got 'sgd'"),
        ({"dual_reg": -1.0}, "dual_reg"),
    ]:
        with pytest.raises(ValueError, match=message):
            GroupLassoSVC(**parameters).fit(X, y)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_invalid_data_are_rejected(estimator):
    X, y = data()
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        estimator().fit(csr_array(X), y)
    with pytest.raises(ValueError, match="at least two classes with a weight above zero, got 1 class"):
        estimator().fit(X, np.zeros_like(y))
    with pytest.raises(ValueError, match="zero"):
        estimator().fit(X, y, sample_weight=np.zeros(len(y)))
    with pytest.raises(ValueError, match=r"[Nn]egative"):
        estimator().fit(X, y, sample_weight=-np.ones(len(y)))
    with pytest.raises(ValueError, match="NaN"):
        estimator().fit(np.full_like(X, np.nan), y)
    with pytest.raises(NotFittedError):
        estimator().predict(X)
    with pytest.raises(ValueError, match="features"):
        estimator().fit(X, y).predict(X[:, :3])


@pytest.mark.parametrize("solver", ["newton", "fista", "bcd"])
def test_all_solvers_agree(solver):
    X, y = data()
    model = GroupLassoSVC(solver=solver, tol=1e-9).fit(X, y)
    np.testing.assert_allclose(model.coef_, GroupLassoSVC().fit(X, y).coef_, atol=1e-4)


def test_many_samples_are_solved_by_fista(monkeypatch):
    X, y = data()
    first_order = GroupLassoSVC(solver="fista", max_iter=20_000).fit(X, y)
    monkeypatch.setattr("sparsedis.sklearn.grid._LARGEST_ORDER", len(y) * 2 - 1)
    model = GroupLassoSVC().fit(X, y)
    np.testing.assert_array_equal(model.coef_, first_order.coef_)
    with pytest.warns(ConvergenceWarning):
        assert GroupLassoSVC(max_iter=3).fit(X, y).n_iter_ == 3
    monkeypatch.setattr("sparsedis.sklearn.grid._FISTA_ITERATIONS", 5)
    with pytest.warns(ConvergenceWarning):
        assert GroupLassoSVC().fit(X, y).n_iter_ == 5
    monkeypatch.setattr("sparsedis.sklearn.grid._LARGEST_ORDER", len(y) * 2)
    assert np.abs(GroupLassoSVC().fit(X, y).coef_ - model.coef_).max() > 0


def test_for_zero_features_lambda1_max_counts_as_one():
    """lambda1_max is 0 then, and no feature is used."""
    X, y = np.zeros((6, 2)), np.arange(6) % 2
    model = GroupLassoSVC(fit_intercept=False).fit(X, y)
    assert model.absolute_lambda1_ == 0.02
    assert (model.coef_ == 0).all()


def test_a_missing_scikit_learn_is_explained(monkeypatch):
    for name in [*sys.modules]:
        if name.partition(".")[0] == "sklearn":
            monkeypatch.setitem(sys.modules, name, None)
        elif name.startswith("sparsedis.sklearn"):
            monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=MISSING):
        import_module("sparsedis.sklearn")
