"""Memory of a block of the CUDA kernels: the sum of the arrays that csrc/svm/cuda allocates from its Memory.

Kernels also work without shared memory: arrays that do not fit are placed in scratch memory, whose size is computed as
if there were no shared memory. The emulation aborts if a task allocates more.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

_ALIGN = 16
_DOUBLE, _INT, _FLAG = 8, 4, 1
# Memory that launch.hpp reserves at the start of shared memory: the team's reduction buffers and the next task.
FIXED = 2 * 16 * _DOUBLE + _ALIGN
# Larger arrays are placed in scratch memory (csrc/common/cuda/memory.hpp), except for the Newton matrix and the slices
# of the product that forms it.
_SMALL = 16 << 10
_ANY = 1 << 62
# products.hpp and cholesky.hpp: rows of a tile and of a block of the factor; row stride of a slice and of an inverted
# diagonal block. system.hpp: largest order with two slices.
_TILE, _STRIDE = 16, 20
_ORDER_OF_TWO_SLICES = 128


class Shape(NamedTuple):
    """Shape of one task."""

    n: int  # samples
    d: int  # features
    k: int  # classes

    @property
    def m(self) -> int:
        return self.k - 1

    @property
    def order(self) -> int:
        """Order of the Newton matrix."""
        return self.n * self.m


class _Arrays(list[tuple[int, int]]):
    """Arrays: their size in bytes, and the largest size that is placed in shared memory."""

    def add(self, count: int, itemsize: int, most: int = _SMALL) -> None:
        self.append(((count * itemsize + _ALIGN - 1) // _ALIGN * _ALIGN, most))

    def bytes(self) -> int:
        return sum(size for size, _ in self)

    def shared_bytes(self) -> int:
        return sum(size for size, most in self if size <= most)


@cache
def solve_scratch(shape: Shape, products: int, value: int) -> int:
    """Bytes of scratch memory per block of solve_in_float or solve_in_double.

    Args:
        shape: of a task.
        products: size of a product in the Newton system, in bytes: 4 or 8.
        value: size of a feature in the arithmetic, in bytes: 4 or 8.
    """
    n, d, _ = shape
    m = shape.m
    persistent = _persistent_arrays(shape, products, value)
    system = _Arrays()
    _add_system(system, shape, products)
    _add_finish(system, shape)
    full = _Arrays()
    full.add((4 * m + 12) * d + 2 * n * m, _DOUBLE)
    write = _Arrays()
    write.add(m * d + n * m + n, _DOUBLE)
    gram = _Arrays()  # used by the primal map for lambda1 = 0, or by lipschitz()
    gram.add(n * n, _DOUBLE)
    scan = _Arrays()
    scan.add(n * m, value)
    scan.add(d, value)
    return persistent.bytes() + max(
        full.bytes() + system.bytes(), system.bytes() + gram.bytes() + write.bytes(), scan.bytes()
    )


@cache
def adjoint_scratch(shape: Shape, value: int) -> int:
    """Bytes of scratch memory per block of the adjoint."""
    n, d, k = shape
    arrays = _task_arrays(shape)
    arrays.add(n * k, _DOUBLE)
    _add_primal_map(arrays, shape, value, value)
    _add_system(arrays, shape, value)
    arrays.add(9 * n * k + 2 * shape.m * d + d, _DOUBLE)
    arrays.add(n * k, _FLAG)
    return arrays.bytes()


@cache
def shared_bytes(shape: Shape, products: int, limit: int) -> int:
    """Bytes of shared memory to launch a block with: the small arrays, and the Newton matrix if it fits.

    Arrays that grow with the number of features are left to the L1 cache, which needs the remaining memory
    (docs/cuda.md).

    Args:
        shape: of a task.
        products: size of a product in the Newton system, in bytes: 4 or 8.
        limit: largest amount of shared memory per block, in bytes.
    """
    without_features = shape._replace(d=0)
    small = _persistent_arrays(without_features, products, products)
    _add_finish(small, shape)
    system = _Arrays()
    _add_system(system, without_features, products)
    everything = FIXED + small.shared_bytes() + system.shared_bytes()
    if everything <= limit:
        return everything
    matrix, slices = _Arrays(), _Arrays()
    _add_matrix(matrix, shape, products)
    _add_slices(slices, shape, products)
    if FIXED + slices.shared_bytes() + matrix.shared_bytes() <= limit:
        return limit
    return min(limit, everything - matrix.shared_bytes())


def _padded_to_four(features: int) -> int:
    return (features + 3) // 4 * 4


def _padded_to_tile(rows: int) -> int:
    return (rows + _TILE - 1) // _TILE * _TILE


def _task_arrays(shape: Shape) -> _Arrays:
    arrays = _Arrays()
    arrays.add(shape.n, _INT)  # present
    arrays.add(shape.n, _INT)  # label
    arrays.add(shape.n, _DOUBLE)  # s
    return arrays


def _persistent_arrays(shape: Shape, products: int, value: int) -> _Arrays:
    """Arrays that live during the whole solve."""
    arrays = _task_arrays(shape)
    arrays.add(10 * shape.n * shape.k, _DOUBLE)  # Point
    arrays.add(shape.n * shape.k, _DOUBLE)  # the best dual point
    _add_primal_map(arrays, shape, products, value)
    return arrays


def _add_primal_map(arrays: _Arrays, shape: Shape, products: int, value: int) -> None:
    n, d, _ = shape
    for _ in range(3):
        arrays.add(shape.order, _DOUBLE)
    arrays.add(shape.order, products)
    arrays.add(n * _padded_to_four(d), value, 0)
    for count in (shape.m * d, shape.m * d, d, d, d):
        arrays.add(count, _DOUBLE, 0)
    arrays.add(d, _INT, 0)
    arrays.add((d + 31) // 32, _INT, 0)


def _add_slices(arrays: _Arrays, shape: Shape, products: int) -> None:
    """Slices of a symmetric product, which the inverted diagonal blocks of the factor later overwrite.

    Two slices are allocated for small matrices. A larger task also counts, because without its samples of weight 0 its
    matrix may be small.
    """
    rows = _padded_to_tile(shape.order) + _padded_to_tile(shape.n)
    order = min(shape.order, _ORDER_OF_TWO_SLICES)
    two = 2 * (_padded_to_tile(order) + _padded_to_tile(order // shape.m))
    arrays.add(max(rows, two) * _STRIDE, products, _ANY)


def _add_matrix(arrays: _Arrays, shape: Shape, products: int) -> None:
    order = shape.order
    arrays.add(order * (order + 1) // 2, products, _ANY)


def _add_system(arrays: _Arrays, shape: Shape, products: int) -> None:
    n, d, k = shape
    order = shape.order
    _add_slices(arrays, shape, products)
    _add_matrix(arrays, shape, products)
    arrays.add(4 * (_TILE * 4 + 4) + _TILE * 4, products)
    arrays.add(_TILE * _STRIDE, products)
    arrays.add(_padded_to_tile(order), products)
    arrays.add(1, _INT)
    arrays.add(_padded_to_tile(order), products)
    for count in (order, n, n + 1):
        arrays.add(count, _INT)
    arrays.add(n * (n + 1) // 2, products)
    arrays.add((k + 1) * _padded_to_four(d), products, 0)


def _add_finish(arrays: _Arrays, shape: Shape) -> None:
    arrays.add(12 * shape.n * shape.k, _DOUBLE)
    arrays.add(2 * shape.n * shape.k, _FLAG)
