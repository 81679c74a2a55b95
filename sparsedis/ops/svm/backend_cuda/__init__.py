"""The CUDA backend: one block of threads per task, the whole solve in one launch. See docs/cuda.md."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from sparsedis.ops.common.backend import Outputs, Request, empty_outputs
from sparsedis.ops.common.cuda.machine import emulated, machine
from sparsedis.ops.common.cuda.programs import Program
from sparsedis.ops.common.cuda.protocol import Limits, Machine
from sparsedis.ops.common.precision import returned_dtype
from sparsedis.ops.svm.backend_cuda import arguments, memory
from sparsedis.ops.svm.backend_cuda.memory import Shape
from sparsedis.ops.svm.backend_torch import TorchBackend
from sparsedis.ops.svm.signature import Differentials, Inputs, Options, Saved, check_values, shapes

# Largest order n (k-1) of the Newton matrix, and largest number of classes.
LARGEST_ORDER = 2048
MOST_CLASSES = 64
# Scratch memory of a launch, in bytes; it limits the number of resident blocks. Then that of a block.
LARGEST_SCRATCH = 2 << 30
LARGEST_BLOCK = 1 << 30
# (largest order of the Newton matrix, threads per block with a multiprocessor of its own, threads per block if blocks
# share multiprocessors). Measured on an H100 (docs/cuda.md).
THREADS = ((32, 128, 128), (128, 256, 128), (LARGEST_ORDER, 512, 512))
# From this number of features on, passes over the features occupy the largest number of threads.
MANY_FEATURES = 4096
# Thread limits that kernels are compiled for; a higher limit leaves fewer registers per thread.
THREAD_LIMITS = (256, 512)

KERNELS = ("solve_in_float", "solve_in_double", "adjoint")

_FEATURES = {torch.float32: "float", torch.float64: "double", torch.float16: "Half", torch.bfloat16: "BFloat16"}


@cache
def program(kernel: str, feature: str, classes: int | None, threads: int = THREAD_LIMITS[0]) -> Program:
    """The program of one of KERNELS.

    Args:
        kernel: its name.
        feature: C++ type of the features.
        classes: number of classes that it is compiled for; None for any number.
        threads: largest number of threads per block.
    """
    macros: dict[str, object] = {"SPARSEDIS_FEATURE": feature, "SPARSEDIS_THREADS": threads}
    if classes is not None:
        macros["SPARSEDIS_CLASSES"] = classes
    return Program.of(kernel, f"svm/cuda/{kernel}.cu", macros)


def threads_for(shape: Shape, exclusive: bool) -> int:
    """Threads per block; ``exclusive``: every block has a multiprocessor of its own."""
    order = max(shape.order, LARGEST_ORDER if shape.d >= MANY_FEATURES else 0)
    return next(alone if exclusive else sharing for largest, alone, sharing in THREADS if order <= largest)


def thread_limit(threads: int) -> int:
    """The smallest of THREAD_LIMITS that allows this number of threads per block."""
    return next(limit for limit in THREAD_LIMITS if threads <= limit)


def shared_bytes(shape: Shape, products: int, threads: int, limit: int, exclusive: bool) -> int:
    """Shared memory per block, in bytes. If blocks share a multiprocessor, as many fit as its registers allow."""
    return memory.shared_bytes(shape, products, limit if exclusive else limit * threads // thread_limit(threads))


class CudaBackend:
    """CUDA kernels for tensors on NVIDIA GPUs, compiled at first use.

    With SPARSEDIS_CUDA_EMULATION=1 it accepts CPU tensors, but only if selected by name.

    Scratch memory besides the outputs: ``memory.solve_scratch`` bytes per resident block. The number of resident blocks
    is limited by the device and by LARGEST_SCRATCH, independently of the batch.
    """

    name = "cuda"
    checks_values = True

    def available(self) -> str | None:
        return machine().available()

    def supports(self, request: Request) -> str | None:
        on_cpu = emulated()
        if request.device.type != ("cpu" if on_cpu else "cuda"):
            return f"it takes CUDA tensors, and under SPARSEDIS_CUDA_EMULATION=1 CPU tensors, got {request.device.type}"
        if on_cpu and not request.named:
            return "on the CPU it is emulated, for tests, and only used with backend='cuda'"
        if request.solver != "newton":
            return f"it has the solver 'newton', got {request.solver!r}"
        if request.n_classes > MOST_CLASSES:
            return f"it takes up to {MOST_CLASSES} classes, got {request.n_classes}"
        shape = Shape(request.n_samples, request.n_features, request.n_classes)
        if shape.order > LARGEST_ORDER:
            return f"it factors matrices of order n (k - 1) up to {LARGEST_ORDER}, got {shape.order}"
        scratch = memory.solve_scratch(shape, 8, request.dtype.itemsize)
        if scratch > LARGEST_BLOCK:
            return f"it has up to {LARGEST_BLOCK} bytes of scratch memory per task, but {scratch} are needed"
        return None

    def warm(self, dtype: torch.dtype, n_classes: int) -> None:
        """Compile the kernels for a dtype of features and a number of classes, on every device.

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
            _load(machine(), programs, device)

    def solve(self, inputs: Inputs, options: Options) -> Outputs:
        X = inputs.features
        out = empty_outputs(X, inputs.lambda1, *shapes(inputs, options))
        call = _Call(inputs, options.n_classes)
        kernels = _kernels(X.dtype)[:-1]
        plans = call.load(kernels, out.weights.dtype.itemsize)
        counters = X.new_zeros(len(kernels), arguments.COUNTERS, dtype=torch.int32)
        pending_gap = inputs.lambda1.new_empty(len(X))
        given = arguments.options(options), arguments.solutions(out)
        for plan, counted in zip(plans, counters, strict=True):
            call.launch(plan, arguments.Solve, given, counted, pending_gap)
            if call.machine.capturing(X.device):
                continue
            _, refused, pending = counted.tolist()
            if refused:
                check_values(inputs, options)
                raise ValueError("the CUDA kernels found an invalid value in their input")
            if not pending:
                break
        return out

    def adjoint(self, inputs: Inputs, options: Options, saved: Saved, grad_weights: Tensor) -> Differentials:
        X = inputs.features
        dtype = returned_dtype(X.dtype)
        out = Differentials(X.new_empty(X.shape, dtype=dtype), *(inputs.lambda1.new_empty(len(X)) for _ in range(3)))
        call = _Call(inputs, options.n_classes)
        tensors = (saved.dual.contiguous(), saved.active.contiguous(), grad_weights.to(dtype).contiguous())
        (plan,) = call.load(KERNELS[-1:], dtype.itemsize)
        counters = X.new_zeros(arguments.COUNTERS, dtype=torch.int32)
        addresses = [value.data_ptr() for value in (*tensors, *out)]
        call.launch(plan, arguments.Adjoint, addresses, counters, inputs.lambda1)
        return out._replace(features=out.features.to(X.dtype))

    def tangent(self, inputs: Inputs, options: Options, saved: Saved, tangents: Differentials) -> Tensor:
        return TorchBackend().tangent(inputs, options, saved, tangents)


def _kernels(dtype: torch.dtype) -> tuple[str, ...]:
    """The kernels needed for features of that dtype."""
    return KERNELS[1:] if dtype == torch.float64 else KERNELS


def _load(target: Machine, programs: Sequence[Program], device: torch.device) -> None:
    """Compile or load the programs that are not loaded yet, concurrently.

    Raises:
        RuntimeError: a CUDA graph is being captured.
    """
    missing = [one for one in programs if not target.loaded(one, device)]
    if not missing:
        return
    if target.capturing(device):
        raise RuntimeError(
            "the CUDA kernels for this type of features and number of classes are not loaded yet, and cannot be while "
            "a CUDA graph is captured: solve once, with its gradient, before the capture"
        )
    with ThreadPoolExecutor(len(missing)) as pool:
        list(pool.map(lambda one: target.kernel(one, device), missing))


class _Plan(NamedTuple):
    """Launch configuration of a kernel for tasks of one shape."""

    program: Program
    threads: int
    shared_bytes: int  # per block
    scratch_bytes: int  # per block


def _plan(
    kernel: str, feature: torch.dtype, shape: Shape, value: int, limits: Limits, exclusive: bool, any_k: bool
) -> _Plan:
    """The plan for a device with these limits.

    Args:
        kernel: one of KERNELS.
        feature: dtype of the features.
        shape: of a task.
        value: size of a weight, in bytes.
        limits: of the device.
        exclusive: every block has a multiprocessor of its own.
        any_k: compile the kernel for any number of classes.
    """
    threads = threads_for(shape, exclusive)
    compiled = program(kernel, _FEATURES[feature], None if any_k else shape.k, thread_limit(threads))
    if kernel == "adjoint":
        products, scratch = value, memory.adjoint_scratch(shape, value)
    else:
        products = 4 if kernel == "solve_in_float" else 8
        scratch = memory.solve_scratch(shape, products, value)
    shared = shared_bytes(shape, products, threads, limits.shared_bytes, exclusive)
    return _Plan(compiled, threads, shared, scratch)


class _Call:
    """The tensors of one call, in a layout that the kernels read, and the launches on them."""

    def __init__(self, inputs: Inputs, n_classes: int) -> None:
        self.machine = machine()
        self._features = inputs.features.resolve_neg()
        self._tensors = [value.contiguous() for value in inputs[1:]]
        self._batch, n, d = self._features.shape
        self._shape = Shape(n, d, n_classes)
        self._device = self._features.device
        self._limits = self.machine.limits(self._device)
        self._problems = arguments.problems(self._features, n_classes, *self._tensors)

    def load(self, kernels: Sequence[str], value: int) -> list[_Plan]:
        """Load the kernels and return their plans; ``value``: size of a weight, in bytes."""
        exclusive, dtype = self._batch <= self._limits.multiprocessors, self._features.dtype
        # In the emulation one build for all numbers of classes saves compilations.
        any_k = emulated()
        plans = [_plan(kernel, dtype, self._shape, value, self._limits, exclusive, any_k) for kernel in kernels]
        _load(self.machine, [plan.program for plan in plans], self._device)
        return plans

    def launch(
        self,
        plan: _Plan,
        kind: type[ctypes.Structure],
        given: Sequence[object],
        counters: Tensor,  # (COUNTERS,) int32, initially 0
        pending_gap: Tensor,  # (B,) float64, unused by the adjoint
    ) -> None:
        """Launch a kernel for all tasks on the device's current stream.

        ``given`` are the arguments of the structure ``kind`` between the problems and the workspace.
        """
        kernel = self.machine.kernel(plan.program, self._device)
        blocks = self._limits.multiprocessors * kernel.resident_blocks(plan.threads, plan.shared_bytes)
        blocks = max(1, min(self._batch, blocks, LARGEST_SCRATCH // max(plan.scratch_bytes, 1)))
        scratch = self._features.new_empty(blocks * plan.scratch_bytes, dtype=torch.uint8)
        workspace = arguments.Workspace(
            plan.shared_bytes, scratch.data_ptr(), plan.scratch_bytes, counters.data_ptr(), pending_gap.data_ptr()
        )
        kernel.launch(kind(self._problems, *given, workspace), blocks, plan.threads, plan.shared_bytes)
