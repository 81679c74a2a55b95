"""GroupLassoSVC and GroupLassoLogisticRegression: solve_svm and solve_logistic with scikit-learn's interface."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from sparsedis.logistic import logistic_lambda1_max, solve_logistic
from sparsedis.sklearn.data import ClassWeight, Data, Floats, read, with_class_weight
from sparsedis.sklearn.grid import Settings, number, solve_grid
from sparsedis.sklearn.linear import LinearClassifier, reduce_two_classes, warn_unless_certified


class SupportVectorClassifier(LinearClassifier):
    """Base class of the SVM estimators: parameters as listed in :class:`Settings`, and `class_weight`."""

    class_weight: ClassWeight

    def _fit_all(self, data: Data, lambda1: float, lambda2: float) -> None:
        """Fit to all samples with their weights."""
        weight = with_class_weight(data, data.weight, self.class_weight)
        grid = solve_grid(data, weight[None], np.array([lambda1]), np.array([lambda2]), Settings.of(self))
        self.classes_ = data.classes
        self.coef_, self.intercept_ = grid.coef[0, 0, 0], grid.intercept[0, 0, 0]
        self.absolute_lambda1_ = float(grid.lambda1[0, 0])
        self.dual_gap_, self.n_iter_ = float(grid.dual_gap[0, 0, 0]), int(grid.n_iter[0, 0, 0])


class GroupLassoSVC(SupportVectorClassifier):
    """Linear multiclass SVM (Crammer-Singer) with feature selection, solved by solve_svm to a certified duality gap.

    It minimises over W (d, k), with the coefficients of each feature as a group,

        sum_i s_i max_l (1 - [l = y_i] + x_i.W_l - x_i.W_{y_i}) + lambda1 sum_j ||W_j|| + lambda2/2 ||W||^2

    Source: Lachapelle et al., ICML 2023 (arXiv 2211.14666), section 3.3. Scale the features first (StandardScaler),
    because the penalty treats them alike. The arithmetic is in float64. Sparse matrices are not supported.

    Args:
        lambda1: >= 0, weight of the group Lasso: the larger it is, the fewer features are used.
        lambda2: > 0, weight of the squared norm; 1/C of scikit-learn's SVMs.
        dual_reg: >= 0, smoothing of the hinge; 0 is the exact hinge.
        relative: if True, lambda1 is a multiple of :func:`sparsedis.svm_lambda1_max`, from which on no feature is used.
        fit_intercept: fit an intercept. The problem itself has none; as in LinearSVC, the intercept is the coefficient
            of an added constant feature, which is penalised like the others and included in lambda1_max.
        intercept_scaling: > 0, the value of the constant feature: the larger it is, the less the intercept is
            penalised.
        class_weight: None, "balanced" (every class has the same total weight), or a dict of weights by class.
        solver: "newton", "fista", "bcd", or "auto": newton for n (k-1) up to 2048, fista above.
        tol: > 0, the relative duality gap to reach; otherwise ConvergenceWarning.
        max_iter: default: as in :func:`sparsedis.solve_svm`; 20,000 if "auto" selects fista.

    Attributes:
        classes_: (k,), sorted.
        coef_: (k, d). For two classes (1, d), the second column of W minus the first. An unused feature has zeros.
        intercept_: (k,), or (1,) for two classes; 0 without an intercept.
        absolute_lambda1_: the absolute lambda1 of the objective.
        dual_gap_: the relative duality gap, gap / objective.
        n_iter_: number of iterations.
        n_features_in_, feature_names_in_: as in scikit-learn.
    """

    def __init__(
        self,
        lambda1: float = 0.02,
        lambda2: float = 1.0,
        *,
        dual_reg: float = 0.0,
        relative: bool = True,
        fit_intercept: bool = True,
        intercept_scaling: float = 1.0,
        class_weight: ClassWeight = None,
        solver: str = "auto",
        tol: float = 1e-5,
        max_iter: int | None = None,
    ) -> None:
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.dual_reg = dual_reg
        self.relative = relative
        self.fit_intercept = fit_intercept
        self.intercept_scaling = intercept_scaling
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> GroupLassoSVC:
        """Fit to samples X (n, d) with labels y (n,) of at least two classes and sample weights (n,) >= 0, default 1.

        Raises:
            TypeError, ValueError: invalid data or parameters; the message states what was expected and what was given.
        """
        data = read(self, X, y, sample_weight)
        self._fit_all(data, number("lambda1", self.lambda1), number("lambda2", self.lambda2))
        return self


class GroupLassoLogisticRegression(LinearClassifier):
    """Multinomial logistic regression with feature selection, solved by solve_logistic to a certified duality gap.

    It minimises over W (d, k) and an intercept b (k,), with the coefficients of each feature as a group,

        1/N sum_i s_i CE(x_i W + b, y_i) + lambda1 sum_j ||W_j|| + lambda2/2 ||W||^2,    N = sum_i s_i

    where CE is the cross-entropy of the softmax. Scale the features first (StandardScaler). The arithmetic is in
    float64. Sparse matrices are not supported.

    Args:
        lambda1: >= 0, weight of the group Lasso: the larger it is, the fewer features are used.
        lambda2: >= 0, weight of the squared norm; lambda1 or lambda2 must be positive.
        relative: if True, lambda1 is a multiple of :func:`sparsedis.logistic_lambda1_max`; features are used if and
            only if it is below 1.
        fit_intercept: fit an intercept, which is not penalised.
        class_weight: None, "balanced" (every class has the same total weight), or a dict of weights by class.
        tol: > 0, the relative duality gap to reach; otherwise ConvergenceWarning.
        max_iter: default: as in :func:`sparsedis.solve_logistic`.

    Attributes:
        classes_: (k,), sorted.
        coef_: (k, d). For two classes (1, d), the second column of W minus the first, as in scikit-learn's
            LogisticRegression. An unused feature has zeros.
        intercept_: (k,), or (1,) for two classes; 0 without an intercept.
        absolute_lambda1_: the absolute lambda1 of the objective.
        dual_gap_: the relative duality gap, gap / objective at zero weights.
        n_iter_: number of iterations.
        n_features_in_, feature_names_in_: as in scikit-learn.
    """

    def __init__(
        self,
        lambda1: float = 0.02,
        lambda2: float = 0.0,
        *,
        relative: bool = True,
        fit_intercept: bool = True,
        class_weight: ClassWeight = None,
        tol: float = 1e-5,
        max_iter: int | None = None,
    ) -> None:
        self.lambda1 = lambda1
        self.lambda2 = lambda2
        self.relative = relative
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> GroupLassoLogisticRegression:
        """Fit to samples X (n, d) with labels y (n,) of at least two classes and sample weights (n,) >= 0, default 1.

        Raises:
            TypeError, ValueError: invalid data or parameters; the message states what was expected and what was given.
        """
        data = read(self, X, y, sample_weight)
        weight = with_class_weight(data, data.weight, self.class_weight)
        lambda1 = number("lambda1", self.lambda1)
        task: Any = {
            "features": torch.tensor(data.X)[None],
            "labels": torch.tensor(data.labels)[None],
            "intercept": self.fit_intercept,
            "n_classes": len(data.classes),
            "sample_weight": torch.tensor(weight)[None],
        }
        solution = solve_logistic(
            **task,
            lambda1=lambda1,
            lambda2=number("lambda2", self.lambda2),
            relative=self.relative,
            tol=number("tol", self.tol),
            max_iter=self.max_iter,
        )
        warn_unless_certified(solution, self.tol)
        # As in solve_logistic, a scale of 0 (uninformative features) is replaced by 1.
        largest = float(logistic_lambda1_max(**task)) if self.relative else 1.0
        self.absolute_lambda1_ = lambda1 * (largest if largest > 0 else 1.0)
        self.classes_ = data.classes
        self.coef_ = reduce_two_classes(solution.weights[0].T.numpy())
        b = np.zeros(len(data.classes)) if solution.intercept is None else solution.intercept[0].numpy()
        self.intercept_ = reduce_two_classes(b[:, None])[:, 0]
        self.dual_gap_, self.n_iter_ = float(solution.relative_gap[0]), int(solution.n_iter[0])
        return self

    def predict_log_proba(self, X: ArrayLike) -> Floats:
        """Logarithms of the class probabilities of samples X (m, d), (m, k)."""
        scores: Any = self.decision_function(X)
        if scores.ndim == 1:
            scores = np.stack([np.zeros_like(scores), scores], 1)
        return log_softmax(scores, axis=1)

    def predict_proba(self, X: ArrayLike) -> Floats:
        """Class probabilities of samples X (m, d), (m, k)."""
        return np.exp(self.predict_log_proba(X))
