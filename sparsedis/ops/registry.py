"""All operations by name."""

from __future__ import annotations

from typing import Any

from sparsedis.ops import lasso, logistic, ridge, svm
from sparsedis.ops.common.backend import Backend

OPERATIONS = {module.OPERATION.name: module.OPERATION for module in (svm, lasso, ridge, logistic)}


def backends(operation: str = "svm") -> list[Backend[Any, Any, Any, Any]]:
    """The backends of an operation, "svm", "lasso", "ridge" or "logistic", in the order that "auto" tries them.

    Raises:
        ValueError: the operation is unknown.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"operation: expected one of {', '.join(map(repr, OPERATIONS))}, got {operation!r}")
    return list(OPERATIONS[operation].backends)
