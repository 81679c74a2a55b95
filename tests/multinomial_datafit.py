"""Multinomial logistic loss for skglm's group solvers, which include only the binary loss.

Numba's compilation is disabled: it takes half a minute, and the small test problems take seconds without it.
"""

import os

import pytest

os.environ["NUMBA_DISABLE_JIT"] = "1"  # has to be set before skglm imports numba
pytest.importorskip("skglm")

from benchmarks.peers.skglm import Multinomial

__all__ = ["Multinomial"]
