"""The comparison with other classifiers: their duality gaps, and the table."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from benchmarks import sklearn_comparison as comparison
from sparsedis.sklearn import GroupLassoLogisticRegression, GroupLassoSVC


@pytest.fixture(scope="module")
def iris():
    X, _, y, _ = comparison.split("iris", 0)
    return X, y


@pytest.mark.parametrize("classes", [2, 3])
def test_the_gap_of_an_svm_follows_from_its_coefficients(iris, classes):
    X, y = (value[iris[1] < classes] for value in iris)
    model = LinearSVC(C=0.5, multi_class="crammer_singer", tol=1e-9, max_iter=10**6).fit(X, y)
    assert 0 <= comparison._svm_gap(model, X, y) < 1e-6
    ours = GroupLassoSVC(0.0, 2.0).fit(X, y)
    model.coef_, model.intercept_ = ours.coef_, ours.intercept_
    assert abs(comparison._svm_gap(model, X, y)) < 1e-9
    model.coef_ = 1.1 * model.coef_
    assert comparison._svm_gap(model, X, y) > 1e-3


@pytest.mark.parametrize("classes", [2, 3])
def test_the_gap_of_a_logistic_regression_follows_from_its_coefficients(iris, classes):
    X, y = (value[iris[1] < classes] for value in iris)
    model = GroupLassoLogisticRegression(0.01, relative=False).fit(X, y)
    assert abs(comparison._logistic_gap(model, X, y)) < 1e-9
    model.coef_ = 1.1 * model.coef_
    assert comparison._logistic_gap(model, X, y) > 1e-5


@pytest.mark.slow
def test_the_table_has_means_over_seeds(monkeypatch):
    monkeypatch.setattr(comparison, "FOLDS", 2)
    methods = [
        comparison.Method("ours", GroupLassoSVC(), {"lambda1": (0.5, 0.1)}, comparison._own_gap),
        comparison.Method("peer", LinearSVC(penalty="l1", dual=False), {"C": (0.1, 1.0)}, lambda *_: None),
    ]
    rows = [row for seed in (0, 1) for row in comparison.compare("iris", seed, methods)]
    assert [(row["method"], row["seed"]) for row in rows] == [("ours", 0), ("peer", 0), ("ours", 1), ("peer", 1)]
    ours = [row for row in rows if row["method"] == "ours"]
    assert all(row["gap"] <= 1e-5 and 0.6 < row["accuracy"] <= 1 and 1 <= row["used"] <= 4 for row in ours)
    table = comparison.markdown({"rows": rows}).splitlines()
    assert len(table) == 4
    mean = 50 * sum(row["accuracy"] for row in ours)
    assert table[2].startswith(f"| iris (105, 4, 3) | ours | {mean:.1f} ± ")
    assert table[3].endswith(" - |")


def test_the_training_part_is_standardised(iris):
    np.testing.assert_allclose(iris[0].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(iris[0].std(0), 1)
