"""Exact, certified, differentiable group-Lasso SVMs, solved in batches inside a network."""

from sparsedis import nn
from sparsedis._version import __version__
from sparsedis.lasso import lasso_lambda1_max, solve_lasso
from sparsedis.logistic import logistic_lambda1_max, solve_logistic
from sparsedis.ops.registry import backends
from sparsedis.ridge import solve_ridge
from sparsedis.solution import NotCertifiedError, Solution, Status
from sparsedis.svm import solve_svm, svm_lambda1_max

__all__ = [
    "NotCertifiedError",
    "Solution",
    "Status",
    "__version__",
    "backends",
    "lasso_lambda1_max",
    "logistic_lambda1_max",
    "nn",
    "solve_lasso",
    "solve_logistic",
    "solve_ridge",
    "solve_svm",
    "svm_lambda1_max",
]
