"""The kernels' arguments: ctypes structures that mirror those of csrc/svm/api.hpp and csrc/svm/cuda field by field."""

from __future__ import annotations

import ctypes
from ctypes import c_bool, c_double, c_int, c_int64, c_void_p

from torch import Tensor

from sparsedis.ops.common.backend import Outputs
from sparsedis.ops.svm.signature import SOLVERS
from sparsedis.ops.svm.signature import Options as SolveOptions


class Problems(ctypes.Structure):
    _fields_ = (
        ("batch", c_int64),
        ("samples", c_int64),
        ("features", c_int64),
        ("classes", c_int64),
        ("X", c_void_p),
        ("stride", c_int64 * 3),
        ("labels", c_void_p),
        ("lambda1", c_void_p),
        ("lambda2", c_void_p),
        ("dual_reg", c_void_p),
        ("weight", c_void_p),
    )


class Options(ctypes.Structure):
    _fields_ = (("solver", c_int), ("tol", c_double), ("max_iter", c_int64), ("exact", c_bool), ("threads", c_int))


class Solutions(ctypes.Structure):
    _fields_ = tuple((name, c_void_p) for name in Outputs._fields)


# Counters of a launch: tasks taken from the queue; flags for an invalid value and for tasks left to the next kernel.
COUNTERS = 3


class Workspace(ctypes.Structure):
    _fields_ = (
        ("shared_bytes", c_int64),
        ("scratch", c_void_p),
        ("scratch_bytes", c_int64),
        ("counters", c_void_p),
        ("pending_gap", c_void_p),
    )


class Solve(ctypes.Structure):
    _fields_ = (("problems", Problems), ("options", Options), ("solutions", Solutions), ("workspace", Workspace))


class Adjoint(ctypes.Structure):
    _fields_ = (
        ("problems", Problems),
        ("dual", c_void_p),
        ("active", c_void_p),
        ("grad_W", c_void_p),
        ("grad_X", c_void_p),
        ("grad_lambda1", c_void_p),
        ("grad_lambda2", c_void_p),
        ("grad_dual_reg", c_void_p),
        ("workspace", Workspace),
    )


def problems(features: Tensor, n_classes: int, *others: Tensor) -> Problems:
    """The structure with the tensors' addresses; the caller keeps the tensors alive.

    ``others``: labels, lambda1, lambda2, dual_reg, sample_weight.
    """
    addresses = [value.data_ptr() for value in others]
    strides = (c_int64 * 3)(*features.stride())
    return Problems(*features.shape, n_classes, features.data_ptr(), strides, *addresses)


def options(chosen: SolveOptions) -> Options:
    return Options(SOLVERS.index(chosen.solver), chosen.tol, chosen.max_iter, chosen.exact, 0)


def solutions(outputs: Outputs) -> Solutions:
    return Solutions(*(value.data_ptr() for value in outputs))
