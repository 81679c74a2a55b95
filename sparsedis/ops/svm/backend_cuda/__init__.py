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
# For which the kernels are compiled.
MOST_THREADS = 256

KERNELS = ("solve_in_float", "solve_in_double", "adjoint")

_FEATURES = {torch.float32: "float", torch.float64: "double", torch.float16: "Half", torch.bfloat16: "BFloat16"}


@cache
def program(kernel: str, feature: str, classes: int | None) -> Program:
    """One of KERNELS for a type of features, as the kernels call it; classes: None for any number."""
    macros: dict[str, object] = {"SPARSEDIS_FEATURE": feature, "SPARSEDIS_THREADS": MOST_THREADS}
    if classes is not None:
        macros["SPARSEDIS_CLASSES"] = classes
    return Program.of(kernel, f"svm/cuda/{kernel}.cu", macros)


def threads_for(shape: Shape) -> int:
    """Of a block: as many as the Newton matrix keeps busy, or a pass over many features."""
    if shape.d >= 2048:
        return MOST_THREADS
    return 64 if shape.order <= 32 else 128 if shape.order <= 128 else MOST_THREADS


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
        programs = [program(kernel, _FEATURES[dtype], classes) for kernel in _kernels(dtype)]
        for device in machine().devices():
            _load(programs, device)

    def solve(self, inputs: Inputs, options: Options) -> Outputs:
        X = inputs.features
        out = empty_outputs(X, inputs.lambda1, *shapes(inputs, options))
        call = _Call(inputs, options.n_classes)
        value = out.weights.dtype.itemsize
        counters = X.new_zeros(2, 2, dtype=torch.int32)
        waiting = inputs.lambda1.new_empty(call.batch)

        def given(workspace: arguments.Workspace) -> ctypes.Structure:
            return arguments.Solve(call.problems, arguments.options(options), arguments.solutions(out), workspace)

        call.load(_kernels(X.dtype)[:-1])
        # What the first leaves, if anything, the second solves.
        for kernel, products, counter in (("solve_in_float", 4, counters[0]), ("solve_in_double", 8, counters[1])):
            if products >= value:
                scratch = memory.solve_scratch(call.shape, products, value)
                call.launch(_Launch(kernel, given, products, scratch, counter, waiting))
        if not machine().capturing(X.device) and counters[:, 1].any():
            check_values(inputs, options)
            raise ValueError("the CUDA kernels found a value that the problem does not allow")
        return out

    def adjoint(self, inputs: Inputs, options: Options, saved: Saved, grad_weights: Tensor) -> Differentials:
        X = inputs.features
        dtype = returned_dtype(X.dtype)
        out = Differentials(X.new_empty(X.shape, dtype=dtype), *(inputs.lambda1.new_empty(len(X)) for _ in range(3)))
        call = _Call(inputs, options.n_classes)
        held = (saved.dual.contiguous(), saved.active.contiguous(), grad_weights.to(dtype).contiguous())
        scratch = memory.adjoint_scratch(call.shape, dtype.itemsize)
        counter = X.new_zeros(2, dtype=torch.int32)
        addresses = [value.data_ptr() for value in (*held, *out)]

        def given(workspace: arguments.Workspace) -> ctypes.Structure:
            return arguments.Adjoint(call.problems, *addresses, workspace)

        call.load(KERNELS[-1:])
        call.launch(_Launch("adjoint", given, dtype.itemsize, scratch, counter, inputs.lambda1))
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
    counters: Tensor  # (2,) int32, 0
    waiting: Tensor  # (B,) float64, where the kernel uses it


class _Call:
    """A call's tensors, made readable, and the launches on them."""

    def __init__(self, inputs: Inputs, n_classes: int) -> None:
        self._features = inputs.features.resolve_neg()
        others = [value.contiguous() for value in inputs[1:]]
        self._held = others
        self.batch, n, d = self._features.shape
        self.shape = Shape(n, d, n_classes)
        self.problems = arguments.problems(self._features, n_classes, *others)

    def load(self, kernels: Sequence[str]) -> None:
        """Make kernels ready to be launched."""
        _load([self._program(kernel) for kernel in kernels], self._features.device)

    def launch(self, given: _Launch) -> None:
        """Launch a kernel for all tasks on the current stream of the features' device."""
        device = self._features.device
        kernel = machine().kernel(self._program(given.kernel), device)
        limits = machine().limits(device)
        threads = threads_for(self.shape)
        shared = memory.shared_bytes(self.shape, given.products, limits.shared_bytes)
        blocks = limits.multiprocessors * kernel.resident_blocks(threads, shared)
        blocks = max(1, min(self.batch, blocks, LARGEST_SCRATCH // max(given.scratch_bytes, 1)))
        scratch = self._features.new_empty(blocks * given.scratch_bytes, dtype=torch.uint8)
        workspace = arguments.Workspace(
            shared, scratch.data_ptr(), given.scratch_bytes, given.counters.data_ptr(), given.waiting.data_ptr()
        )
        kernel.launch(given.arguments(workspace), blocks, threads, shared)

    def _program(self, kernel: str) -> Program:
        # The emulation's compiler need not be asked for every number of classes.
        return program(kernel, _FEATURES[self._features.dtype], None if emulated() else self.shape.k)
