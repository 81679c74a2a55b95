"""Imports of the packages of the extra [disentangle], with an error that says how to install a missing one."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def need(module: str) -> Any:
    """Import a module of scipy or scikit-learn; if it is missing, the ImportError says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        package = {"sklearn": "scikit-learn"}.get(module.partition(".")[0], module.partition(".")[0])
        raise ImportError(f"this needs {package}: pip install 'sparsedis[disentangle]'") from error
