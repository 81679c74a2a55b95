"""All estimator checks of scikit-learn."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparsedis.sklearn import GroupLassoLogisticRegression, GroupLassoSVC, GroupLassoSVCCV


@pytest.mark.slow
@parametrize_with_checks(
    # Three folds, because the checks have classes of three samples.
    [GroupLassoSVC(), GroupLassoLogisticRegression(), GroupLassoSVCCV(3, cv=3)]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)
