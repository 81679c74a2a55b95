"""Multinomial logistic loss for skglm's group solvers, which come with the binary one only.

Numba is told to compile nothing: that takes half a minute, and the tests' problems are solved in seconds without.
"""

import os

import pytest

os.environ["NUMBA_DISABLE_JIT"] = "1"  # read by the first import of numba, which is skglm's
pytest.importorskip("skglm")

from benchmarks.peers.skglm import Multinomial

__all__ = ["Multinomial"]
