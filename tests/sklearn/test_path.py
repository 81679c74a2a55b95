"""svc_path: fits for all lambda1 in one batch."""

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from sparsedis.sklearn import GroupLassoSVC, svc_path
from tests.tasks import random_task


@pytest.fixture(scope="module")
def data():
    X, y = random_task(0, way=3, shots=8, d=12)
    return X[0].numpy(), np.array(["a", "b", "c"])[y[0].numpy()]


def test_the_path_agrees_with_single_fits(data):
    X, y = data
    weight = np.linspace(0.5, 2, len(y))
    parameters = {"lambda2": 0.5, "class_weight": "balanced", "intercept_scaling": 2.0}
    path = svc_path(X, y, lambda1s=7, eps=0.02, sample_weight=weight, **parameters)
    assert path.lambda1.shape == (7,)
    np.testing.assert_allclose(path.lambda1[1:] / path.lambda1[:-1], 0.02 ** (1 / 6))
    assert path.classes.tolist() == ["a", "b", "c"]
    for i, relative in enumerate(np.geomspace(1, 0.02, 7)):
        svc = GroupLassoSVC(relative, **parameters).fit(X, y, sample_weight=weight)
        np.testing.assert_allclose(path.coef[i], svc.coef_, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(path.intercept[i], svc.intercept_, rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(path.active[i], svc.coef_.any(0))
        assert path.lambda1[i] == pytest.approx(svc.absolute_lambda1_)
        assert path.dual_gap[i] <= 1e-5
        assert path.n_iter[i] == svc.n_iter_


def test_the_path_starts_without_active_features(data):
    active = svc_path(*data).active.sum(1)
    assert len(active) == 30
    assert active[0] == 0
    assert active[-1] > 8


def test_values_of_lambda1_are_sorted(data):
    path = svc_path(*data, lambda1s=[0.1, 3.0, 1.0], relative=False, fit_intercept=False)
    assert path.lambda1.tolist() == [3.0, 1.0, 0.1]
    svc = GroupLassoSVC(1.0, relative=False, fit_intercept=False).fit(*data)
    np.testing.assert_allclose(path.coef[1], svc.coef_, rtol=1e-9, atol=1e-12)
    assert (path.intercept == 0).all()


def test_two_classes_have_one_row(data):
    X, y = (value[:16] for value in data)
    path = svc_path(X, y, lambda1s=3)
    assert path.coef.shape == (3, 1, 12)
    assert path.intercept.shape == (3, 1)


def test_invalid_grids_are_rejected(data):
    for parameters, error, message in [
        ({"lambda1s": 0}, ValueError, "lambda1s: expected a finite number > 0, got 0"),
        ({"lambda1s": []}, ValueError, "lambda1s: expected at least one number, got none"),
        ({"lambda1s": ["much"]}, TypeError, "lambda1s: expected a number, got str"),
        ({"lambda1s": [-1.0]}, ValueError, "lambda1: expected a finite number >= 0"),
        ({"eps": 1.0}, ValueError, "eps: expected a number between 0 and 1"),
        ({"eps": 0.0}, ValueError, "eps: expected a finite number > 0"),
        (
            {"lambda1s": 5, "relative": False},
            ValueError,
            "lambda1s: expected the values themselves with relative=False",
        ),
        ({"lambda1": 0.1}, TypeError, "lambda1"),
    ]:
        with pytest.raises(error, match=message):
            svc_path(*data, **parameters)


def test_uncertified_fits_cause_a_warning(data):
    with pytest.warns(ConvergenceWarning, match="of 5 fits are not certified"):
        svc_path(*data, lambda1s=5, max_iter=1, tol=1e-12)


def test_plot_shows_norms_and_numbers_of_features(data):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    path = svc_path(*data, lambda1s=5)
    axes = figure.subplots()
    assert path.plot(axes) is axes
    left, right = figure.axes
    assert len(left.lines) == 12
    np.testing.assert_allclose([line.get_ydata()[-1] for line in left.lines], np.linalg.norm(path.coef[-1], axis=0))
    np.testing.assert_array_equal(right.lines[0].get_ydata(), path.active.sum(1))
