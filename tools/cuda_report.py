"""Compile every CUDA kernel for every architecture and report its registers, stack, spills and shared memory.

python tools/cuda_report.py [--arch sm_80,sm_90] [--kernel adjoint] [--feature float] [--classes 5] [--json FILE]
                            [--keep]

Needs NVRTC (pip install 'sparsedis[cuda]'), but no GPU.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

from sparsedis.ops.common.cuda import nvrtc
from sparsedis.ops.common.cuda.programs import cached
from sparsedis.ops.svm.backend_cuda import (
    KERNELS,
    THREAD_LIMITS,
    program,
    shared_bytes,
    thread_limit,
    threads_for,
)
from sparsedis.ops.svm.backend_cuda.memory import Shape

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
# The largest shared memory of a block and of a multiprocessor, in KiB, and a multiprocessor's threads (CUDA C++
# Programming Guide, "Compute capabilities"). All have 65536 registers, allocated to warps in units of 256.
LIMITS = {
    "sm_75": (64, 64, 1024),
    "sm_80": (163, 164, 2048),
    "sm_86": (99, 100, 1536),
    "sm_89": (99, 100, 1536),
    "sm_90": (227, 228, 2048),
    "sm_100": (227, 228, 2048),
    "sm_120": (99, 100, 1536),
}
SHAPES = {"5-way 1-shot": Shape(5, 640, 5), "5-way 5-shot": Shape(25, 640, 5), "5-way 15-shot": Shape(75, 1600, 5)}


def report(
    architectures: Sequence[str], kernels: Sequence[str], feature: str, classes: int, *, keep: bool = False
) -> Iterator[dict[str, Any]]:
    """One object per kernel, thread limit and architecture.

    threads: the limit compiled for; registers: per thread; stack, spill: bytes per thread, spill being the stores and
    loads of all functions, around_calls those of the kernel itself; shared: bytes of static shared memory; blocks:
    resident blocks per multiprocessor with the dynamic shared memory of each shape that is launched with this limit.
    keep: store the compiled code in the cache, where a process with the same NVRTC finds it.
    """
    for kernel, limit, architecture in product(kernels, THREAD_LIMITS, architectures):
        start = perf_counter()
        compiled = program(kernel, feature, classes, limit)
        done = nvrtc.compile_program(compiled, architecture, "--ptxas-options=-v")
        if keep:
            cached(compiled, nvrtc.description(architecture), ".cubin", _writing(done.code))
        numbers = resources(done.log)
        blocks = {
            name: _blocks(kernel, architecture, numbers["registers"], shape)
            for name, shape in SHAPES.items()
            if thread_limit(threads_for(shape, exclusive=False)) == limit
        }
        yield {
            "kernel": kernel,
            "threads": limit,
            "arch": architecture,
            "feature": feature,
            "classes": classes,
            **numbers,
            "blocks": blocks,
            "seconds": round(perf_counter() - start, 1),
        }


def _writing(code: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(code)

    return write


def resources(log: str) -> dict[str, int]:
    """The resources of a kernel and the functions that it calls, from the log of ptxas. around_calls: the kernel's own
    spills, which save registers across calls."""
    own = re.search(r"entry function .*\n.*Function properties.*\n(.*)", log)
    return {
        "around_calls": sum(map(int, re.findall(r"(\d+) bytes spill", own[1]))) if own else 0,
        "registers": max(map(int, re.findall(r"Used (\d+) registers", log))),
        "stack": max(map(int, re.findall(r"(\d+) bytes stack frame", log))),
        "spill": sum(map(int, re.findall(r"(\d+) bytes spill", log))),
        "shared": sum(map(int, re.findall(r"(\d+) bytes smem", log))),
    }


def _blocks(kernel: str, architecture: str, registers: int, shape: Shape) -> int:
    of_block, of_multiprocessor, most_threads = LIMITS[architecture]
    products = 8 if kernel == "solve_in_double" else 4
    threads = threads_for(shape, exclusive=False)
    reserved = (of_multiprocessor - of_block) << 10  # by the driver, per block
    shared = shared_bytes(shape, products, threads, of_block << 10, exclusive=False)
    by_registers = 65536 // ((registers * 32 + 255) // 256 * 256 * (threads // 32))
    return min(by_registers, most_threads // threads, (of_multiprocessor << 10) // (shared + reserved))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default=",".join(ARCHITECTURES), help="comma-separated architectures")
    parser.add_argument("--kernel", default=",".join(KERNELS), help="comma-separated kernels")
    parser.add_argument("--feature", default="float", choices=["float", "double", "Half", "BFloat16"])
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="store the code in the cache for other machines")
    parser.add_argument("--json", type=Path, help="write the objects to this file")
    given = parser.parse_args()
    if reason := nvrtc.available():
        raise SystemExit(reason)
    for name, chosen, known in (("--arch", given.arch, LIMITS), ("--kernel", given.kernel, KERNELS)):
        if unknown := set(chosen.split(",")) - set(known):
            raise SystemExit(f"{name}: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    rows = []
    columns = ("threads", "arch", "registers", "stack", "spill", "around_calls", "shared", "seconds")
    print(f"{'kernel':<16}", *(f"{name:>12}" for name in columns), " blocks", flush=True)
    chosen = given.arch.split(","), given.kernel.split(",")
    for row in report(*chosen, given.feature, given.classes, keep=given.keep):
        rows.append(row)
        blocks = ", ".join(f"{name} {count}" for name, count in row["blocks"].items())
        print(f"{row['kernel']:<16}", *(f"{row[name]:>12}" for name in columns), f" {blocks}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
