"""The CUDA backend: a block of threads per task, the whole solve in one launch. See docs/cuda.md."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis.ops.common.backend import Outputs, Request, empty_outputs
from sparsedis.ops.common.cuda.machine import emulated, machine
from sparsedis.ops.common.cuda.programs import Program
from sparsedis.ops.common.precision import returned_dtype
from sparsedis.ops.svm.backend_cuda import arguments, memory
from sparsedis.ops.svm.backend_cuda.memory import Shape
from sparsedis.ops.svm.backend_torch import TorchBackend
from sparsedis.ops.svm.signature import Differentials, Inputs, Options, Saved, check_values, shapes

# Largest order n (k-1) of the Newton matrix, and number of classes.
LARGEST_ORDER = 2048
MOST_CLASSES = 64
# Scratch memory of a launch, in bytes: fewer blocks run at once where more would take more than this. And of a block.
LARGEST_SCRATCH = 2 << 30
LARGEST_BLOCK = 1 << 30
# Threads of a block, by the largest order of the Newton matrix: where each block has a multiprocessor for itself, and
# where blocks share them. Measured on an H100 (docs/cuda.md).
THREADS = ((32, 128, 128), (128, 256, 128), (LARGEST_ORDER, 512, 512))
# Features from which on a pass over them keeps the most threads busy.
MANY_FEATURES = 4096
# For which kernels are compiled: with more threads, each has fewer registers.
THREAD_LIMITS = (256, 512)

KERNELS = ("solve_in_float", "solve_in_double", "adjoint")

_FEATURES = {torch.float32: "float", torch.float64: "double", torch.float16: "Half", torch.bfloat16: "BFloat16"}


@cache
def program(kernel: str, feature: str, classes: int | None, threads: int = THREAD_LIMITS[0]) -> Program:
    """One of KERNELS for a type of features, as the kernels call it; classes: None for any number; threads: at most."""
    macros: dict[str, object] = {"SPARSEDIS_FEATURE": feature, "SPARSEDIS_THREADS": threads}
    if classes is not None:
        macros["SPARSEDIS_CLASSES"] = classes
    return Program.of(kernel, f"svm/cuda/{kernel}.cu", macros)


def threads_for(shape: Shape, alone: bool) -> int:
    """Of a block, which has a multiprocessor alone or shares it with others."""
    order = max(shape.order, LARGEST_ORDER if shape.d >= MANY_FEATURES else 0)
    return next(of_alone if alone else sharing for largest, of_alone, sharing in THREADS if order <= largest)


def thread_limit(threads: int) -> int:
    """Which of THREAD_LIMITS such blocks are compiled for."""
    return next(limit for limit in THREAD_LIMITS if threads <= limit)


def shared_bytes(shape: Shape, products: int, threads: int, limit: int, alone: bool) -> int:
    """Shared memory of a block of so many threads, which has a multiprocessor alone or shares it with others: with as
    many as have registers."""
    return memory.shared_bytes(shape, products, limit if alone else limit * threads // thread_limit(threads))


class CudaBackend:
    """Kernels for tensors on NVIDIA's devices, compiled at first use.

    With SPARSEDIS_CUDA_EMULATION=1 it takes CPU tensors, and only where it is named.

    Scratch memory, beside the outputs: ``memory.solve_scratch`` bytes for every block that runs at once, which are as
    many as the device holds and LARGEST_SCRATCH allows, whatever the batch.
    """

    name = "cuda"
    checks_values = True

    def available(self) -> str | None:
        return machine().available()

    def supports(self, request: Request) -> str | None:
        if request.device.type != ("cpu" if emulated() else "cuda"):
            return f"it takes CUDA tensors, and under SPARSEDIS_CUDA_EMULATION=1 CPU tensors, got {request.device.type}"
        if emulated() and not request.named:
            return "emulated on the CPU it is for tests; backend='cuda' asks for it"
        if request.solver != "newton":
            return f"it has the solver 'newton', got {request.solver!r}"
        if request.n_classes > MOST_CLASSES:
            return f"it takes up to {MOST_CLASSES} classes, got {request.n_classes}"
        shape = Shape(request.n_samples, request.n_features, request.n_classes)
        if shape.order > LARGEST_ORDER:
            return f"it factors matrices of order n (k - 1) up to {LARGEST_ORDER}, got {shape.order}"
        scratch = memory.solve_scratch(shape, 8, request.dtype.itemsize)
        if scratch > LARGEST_BLOCK:
            return f"a task takes {scratch} bytes of scratch memory, of which it has up to {LARGEST_BLOCK}"
        return None

    def warm(self, dtype: torch.dtype, n_classes: int) -> None:
        """Compile the kernels for a type of features and a number of classes, on every device.

        Raises:
            ValueError: too many classes, or fewer than two.
        """
        if not 2 <= n_classes <= MOST_CLASSES:
            raise ValueError(f"classes: expected a number from 2 to {MOST_CLASSES}, got {n_classes}")
        classes = None if emulated() else n_classes
        programs = [
            program(kernel, _FEATURES[dtype], classes, limit) for limit in THREAD_LIMITS for kernel in _kernels(dtype)
        ]
        for device in machine().devices():
            _load(programs, device)

    def solve(self, inputs: Inputs, options: Options) -> Outputs:
        X = inputs.features
        out = empty_outputs(X, inputs.lambda1, *shapes(inputs, options))
        call = _Call(inputs, options.n_classes)
        value = out.weights.dtype.itemsize
        kernels = _kernels(X.dtype)[:-1]
        counters = X.new_zeros(len(kernels), arguments.COUNTERS, dtype=torch.int32)
        waiting = inputs.lambda1.new_empty(call.batch)

        def given(workspace: arguments.Workspace) -> ctypes.Structure:
            return arguments.Solve(call.problems, arguments.options(options), arguments.solutions(out), workspace)

        call.load(kernels)
        for kernel, counted in zip(kernels, counters, strict=True):
            products = 4 if kernel == "solve_in_float" else 8
            scratch = memory.solve_scratch(call.shape, products, value)
            call.launch(_Launch(kernel, given, products, scratch, counted, waiting))
            if call.machine.capturing(X.device):
                continue
            _, refused, waits = counted.tolist()
            if refused:
                check_values(inputs, options)
                raise ValueError("the CUDA kernels found a value that the problem does not allow")
            if not waits:
                break
        return out

    def adjoint(self, inputs: Inputs, options: Options, saved: Saved, grad_weights: Tensor) -> Differentials:
        X = inputs.features
        dtype = returned_dtype(X.dtype)
        out = Differentials(X.new_empty(X.shape, dtype=dtype), *(inputs.lambda1.new_empty(len(X)) for _ in range(3)))
        call = _Call(inputs, options.n_classes)
        held = (saved.dual.contiguous(), saved.active.contiguous(), grad_weights.to(dtype).contiguous())
        scratch = memory.adjoint_scratch(call.shape, dtype.itemsize)
        counters = X.new_zeros(arguments.COUNTERS, dtype=torch.int32)
        addresses = [value.data_ptr() for value in (*held, *out)]

        def given(workspace: arguments.Workspace) -> ctypes.Structure:
            return arguments.Adjoint(call.problems, *addresses, workspace)

        call.load(KERNELS[-1:])
        call.launch(_Launch("adjoint", given, dtype.itemsize, scratch, counters, inputs.lambda1))
        return out._replace(features=out.features.to(X.dtype))

    def tangent(self, inputs: Inputs, options: Options, saved: Saved, tangents: Differentials) -> Tensor:
        return TorchBackend().tangent(inputs, options, saved, tangents)


def _kernels(dtype: torch.dtype) -> tuple[str, ...]:
    """Those that features of that type need."""
    return KERNELS[1:] if dtype == torch.float64 else KERNELS


def _load(programs: Sequence[Program], device: torch.device) -> None:
    """Compile or load what is not there yet, all at once.

    Raises:
        RuntimeError: a CUDA graph is being captured.
    """
    missing = [one for one in programs if not machine().loaded(one, device)]
    if not missing:
        return
    if machine().capturing(device):
        raise RuntimeError(
            "the CUDA kernels for this type of features and number of classes are not loaded yet, and cannot be while "
            "a CUDA graph is captured: solve once, with its gradient, before the capture"
        )
    with ThreadPoolExecutor(len(missing)) as pool:
        list(pool.map(lambda one: machine().kernel(one, device), missing))


class _Launch(NamedTuple):
    kernel: str
    arguments: Callable[[arguments.Workspace], ctypes.Structure]
    products: int  # bytes of a product in the Newton system
    scratch_bytes: int  # of a block
    counters: Tensor  # (COUNTERS,) int32, 0
    waiting: Tensor  # (B,) float64, where the kernel uses it


class _Call:
    """A call's tensors, made readable, and the launches on them."""

    def __init__(self, inputs: Inputs, n_classes: int) -> None:
        self.machine = machine()
        self._features = inputs.features.resolve_neg()
        others = [value.contiguous() for value in inputs[1:]]
        self._held = others
        self.batch, n, d = self._features.shape
        self.shape = Shape(n, d, n_classes)
        self._limits = self.machine.limits(self._features.device)
        self._alone = self.batch <= self._limits.multiprocessors
        self._threads = threads_for(self.shape, self._alone)
        self.problems = arguments.problems(self._features, n_classes, *others)

    def load(self, kernels: Sequence[str]) -> None:
        """Make kernels ready to be launched."""
        _load([self._program(kernel) for kernel in kernels], self._features.device)

    def launch(self, given: _Launch) -> None:
        """Launch a kernel for all tasks on the current stream of the features' device."""
        kernel = self.machine.kernel(self._program(given.kernel), self._features.device)
        limits, threads = self._limits, self._threads
        shared = shared_bytes(self.shape, given.products, threads, limits.shared_bytes, self._alone)
        blocks = limits.multiprocessors * kernel.resident_blocks(threads, shared)
        blocks = max(1, min(self.batch, blocks, LARGEST_SCRATCH // max(given.scratch_bytes, 1)))
        scratch = self._features.new_empty(blocks * given.scratch_bytes, dtype=torch.uint8)
        workspace = arguments.Workspace(
            shared, scratch.data_ptr(), given.scratch_bytes, given.counters.data_ptr(), given.waiting.data_ptr()
        )
        kernel.launch(given.arguments(workspace), blocks, threads, shared)

    def _program(self, kernel: str) -> Program:
        # The emulation's compiler need not be asked for every number of classes.
        classes = None if emulated() else self.shape.k
        return program(kernel, _FEATURES[self._features.dtype], classes, thread_limit(self._threads))
