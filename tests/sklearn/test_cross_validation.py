"""GroupLassoSVCCV: the scores of a grid search, computed in one batch, and the selection rules."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, ShuffleSplit, StratifiedKFold, cross_val_score
from sklearn.preprocessing import scale

from sparsedis.sklearn import GroupLassoSVC, GroupLassoSVCCV
from sparsedis.sklearn.cross_validation import _chosen
from tests.tasks import random_task


@pytest.fixture(scope="module")
def data():
    """Three clusters in random order, which differ in 4 of 12 features."""
    X, y = random_task(3, way=3, shots=15, d=12)
    X[0, :, 4:] = torch.randn(45, 8, generator=torch.Generator().manual_seed(0))
    order = np.random.default_rng(0).permutation(45)
    return X[0].numpy()[order], y[0].numpy()[order]


@pytest.fixture(scope="module")
def fitted(data):
    return GroupLassoSVCCV([0.02, 0.6, 0.2], lambda2s=[0.3, 3.0], cv=4, class_weight="balanced").fit(*data)


@pytest.mark.slow
def test_scores_agree_with_a_grid_search(data, fitted):
    grid = {"lambda1": [0.6, 0.2, 0.02], "lambda2": [0.3, 3.0]}
    search = GridSearchCV(GroupLassoSVC(class_weight="balanced"), grid, cv=4, scoring="balanced_accuracy").fit(*data)
    assert fitted.scores_.shape == (4, 2, 3)
    for fold in range(4):
        expected = search.cv_results_[f"split{fold}_test_score"].reshape(3, 2).T
        np.testing.assert_allclose(fitted.scores_[fold], expected)
    assert fitted.scores_.mean(0).max() == pytest.approx(search.best_score_)


def test_the_chosen_model_is_fitted_to_all_samples(data, fitted):
    assert fitted.lambda1s_.tolist() == [0.6, 0.2, 0.02]
    row, column = fitted.chosen_
    assert (fitted.lambda2s_[row], fitted.lambda1s_[column]) == (fitted.lambda2_, fitted.lambda1_)
    svc = GroupLassoSVC(fitted.lambda1_, fitted.lambda2_, class_weight="balanced").fit(*data)
    np.testing.assert_allclose(fitted.coef_, svc.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fitted.intercept_, svc.intercept_, rtol=1e-9, atol=1e-12)
    assert fitted.absolute_lambda1_ == pytest.approx(svc.absolute_lambda1_)
    assert (fitted.dual_gaps_ <= 1e-5).all()
    np.testing.assert_array_equal(fitted.predict(data[0]), svc.predict(data[0]))


def test_two_classes_agree_with_cross_val_score(data):
    X, y = (value[data[1] < 2] for value in data)
    model = GroupLassoSVCCV([0.5, 0.1], cv=3).fit(X, y)
    for i, lambda1 in enumerate((0.5, 0.1)):
        np.testing.assert_allclose(model.scores_[:, 0, i], cross_val_score(GroupLassoSVC(lambda1), X, y, cv=3))
    assert model.coef_.shape == (1, 12)


def test_any_splitter_is_accepted(data):
    X, y = data
    groups = np.arange(45) % 3
    for cv in (
        StratifiedKFold(3, shuffle=True, random_state=0),
        ShuffleSplit(2, random_state=0),
        list(LeaveOneGroupOut().split(X, y, groups)),
        [(groups != 0, groups == 0)],
    ):
        model = GroupLassoSVCCV([0.5, 0.1], cv=cv).fit(X, y)
        splits = cv if isinstance(cv, list) else list(cv.split(X, y))
        assert len(model.scores_) == len(splits)
        for scores, (train, test) in zip(model.scores_, splits, strict=True):
            assert scores[0, 1] == pytest.approx(GroupLassoSVC(0.1).fit(X[train], y[train]).score(X[test], y[test]))


def test_repeated_samples_count_repeatedly(data):
    X, y = data
    train, test = np.random.default_rng(0).integers(0, 45, 45), np.r_[0:45, 0:5, 0:5]
    model = GroupLassoSVCCV([0.1], cv=[(train, test)]).fit(X, y)
    alone = GroupLassoSVC(0.1).fit(X[train], y[train])
    assert model.scores_[0, 0, 0] == pytest.approx(alone.score(X[test], y[test]))


def test_sample_weights_also_weight_the_scores(data):
    X, y = data
    weight = np.random.default_rng(0).integers(0, 4, 45)
    train, test = np.arange(0, 30), np.arange(15, 45)
    model = GroupLassoSVCCV([0.1], cv=[(train, test)]).fit(X, y, sample_weight=weight)
    alone = GroupLassoSVC(0.1).fit(X[train], y[train], sample_weight=weight[train])
    assert model.scores_[0, 0, 0] == pytest.approx(alone.score(X[test], y[test], sample_weight=weight[test]))


def test_selection_rules():
    """Means 0.80, 0.84, 0.86 with 2, 5 and 9 features; the standard error of the best is 0.03."""
    mean, spread = np.array([[0.80, 0.84, 0.86]]), 0.03
    scores = mean + np.array([-spread, spread])[:, None, None]  # for two folds, the standard error equals spread
    used = np.array([[[2, 5, 9]]] * 2)
    assert _chosen(scores, used, "best") == (0, 2)
    assert _chosen(scores, used, "one_standard_error") == (0, 1)
    assert _chosen(scores[:1], used[:1], "one_standard_error") == (0, 2)  # one fold has no standard error
    equal = np.full((2, 1, 3), 0.8)
    assert _chosen(equal, used, "best") == (0, 0)
    assert _chosen(equal, np.full_like(used, 4), "best") == (0, 0)
    # For equal numbers of features the better model is chosen, whichever lambda2 it has.
    assert _chosen(np.array([[[0.8, 0.7], [0.81, 0.6]]] * 2), np.full((2, 2, 2), 4), "one_standard_error") == (1, 0)


def test_one_standard_error_is_sparser():
    X, y = load_breast_cancer(return_X_y=True)
    X, y = scale(X)[::4], y[::4]
    best = GroupLassoSVCCV(10).fit(X, y)
    sparse = GroupLassoSVCCV(10, rule="one_standard_error").fit(X, y)
    np.testing.assert_array_equal(best.scores_, sparse.scores_)
    assert sparse.lambda1_ > best.lambda1_
    assert np.count_nonzero(sparse.coef_.any(0)) < np.count_nonzero(best.coef_.any(0))


def test_invalid_input_is_rejected(data):
    X, y = data
    for parameters, message in [
        ({"rule": "worst"}, "rule: expected one of 'best', 'one_standard_error', got 'worst'"),
        ({"lambda2s": []}, "lambda2s: expected at least one number, got none"),
        ({"lambda2s": 0.0}, "lambda2: expected a finite number > 0"),
        ({"cv": [(np.arange(45), [])]}, "expected samples with weight to test on in every fold, got none in fold 0"),
        ({"cv": [(y < 2, y == 2)], "class_weight": {2: 0}}, "got none in fold 0"),
        ({"cv": 17}, "n_splits"),
    ]:
        with pytest.raises(ValueError, match=message):
            GroupLassoSVCCV(3, **parameters).fit(X, y)
    weight, early, late = (np.arange(45) < 30) + 0.0, np.arange(30), np.arange(30, 45)
    with pytest.raises(ValueError, match="expected samples with weight to train on in every fold, got none in fold 1"):
        GroupLassoSVCCV(3, cv=[(early, early), (late, early)]).fit(X, y, sample_weight=weight)


def test_plot_shows_scores_and_numbers_of_features(data, fitted):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    with pytest.raises(NotFittedError):
        GroupLassoSVCCV().plot(figure.subplots())
    figure.clear()
    axes = figure.subplots()
    assert fitted.plot(axes) is axes
    left, right = figure.axes
    row = fitted.chosen_[0]
    np.testing.assert_allclose(left.containers[0].lines[0].get_ydata(), fitted.scores_[:, row].mean(0))
    assert left.lines[-1].get_xdata()[0] == fitted.lambda1_
    np.testing.assert_allclose(right.lines[0].get_ydata(), fitted.n_active_[:, row].mean(0))
