"""Compile the Triton kernels for devices of other machines; report their resources and predict their times.

    python tools/triton_report.py [--tiles 25x5,lasso] [--targets sm_90] [--features float32] [--json FILE] [...]

Needs no GPU: Triton's own compiler and assemblers compile the kernels. Exit code 1 if one does not compile, spills
registers or needs more shared memory than the target has. ``--docs`` puts the tables between the marks of a Markdown
file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sparsedis.ops.common import triton_device
from sparsedis.ops.common.triton_device import interpreted
from sparsedis.ops.common.triton_launch import Launch, options, recorded
from sparsedis.ops.lasso.backend_triton import kernel as lasso_kernel
from sparsedis.ops.svm import Inputs, Options, Saved
from sparsedis.ops.svm.backend_triton import fista as first_order
from sparsedis.ops.svm.backend_triton import hessian, run, tiles
from sparsedis.ops.svm.backend_triton.tasks import as_tasks
from tools.marked_text import replace_between_marks


@dataclass(frozen=True)
class Target:
    """The properties of a device that the tables need.

    Attributes:
        shared: largest shared memory of a program, in bytes.
        registers: 32-bit registers of a multiprocessor; threads: resident threads of a multiprocessor.
    """

    target: GPUTarget
    shared: int
    shared_per_processor: int
    registers: int
    threads: int


# NVIDIA: CUDA C programming guide, table of compute capabilities. AMD: CDNA3 instruction set guide (64 KiB of LDS, 512
# vector registers of 64 lanes for each of 4 SIMDs, 2048 work items).
TARGETS = {
    "sm_80": Target(GPUTarget("cuda", 80, 32), 163 << 10, 164 << 10, 65536, 2048),
    "sm_90": Target(GPUTarget("cuda", 90, 32), 227 << 10, 228 << 10, 65536, 2048),
    "sm_100": Target(GPUTarget("cuda", 100, 32), 227 << 10, 228 << 10, 65536, 2048),
    "gfx942": Target(GPUTarget("hip", "gfx942", 64), 64 << 10, 64 << 10, 4 * 512 * 64, 2048),
}
# A shape, samples x classes, for each tile of the launcher.
SHAPES = ("25x5", "75x5", "200x5", "25x20", "60x20", "32x64")
LASSO = "lasso"
_TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.bool: "i1",
}


def launches(shape: str, dtype: torch.dtype, *, amd: bool = False) -> list[Launch]:
    """The launches of such tasks, each configuration once, recorded without running them.

    ``shape``: samples x classes, as in "25x5", for solves, gradients and logits; or "lasso" for Lassos of all sizes.
    """
    triton_device.AMD = amd
    noted = lasso_launches() if shape == LASSO else svm_launches(*map(int, shape.split("x")), dtype)
    return list({configuration(launch): launch for launch in noted}.values())


def svm_launches(n: int, k: int, dtype: torch.dtype, d: int = 640) -> list[Launch]:
    """The launches of the solves and gradients of such tasks."""
    if tiles.tile_for(n, k) is None:
        return []
    X = torch.ones(2, n, d, dtype=dtype)
    y = (torch.arange(n) % k).expand(2, -1).contiguous()
    one = torch.ones(2, dtype=torch.float64)
    weight = torch.ones(y.shape, dtype=torch.float64)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # new memory is NaN, which recording replaces by 0
    try:
        with recorded() as noted:
            for tol, precision in itertools.product((1e-5, 1e-8), hessian.precisions()):
                hessian.PRECISION = precision
                run.solve(Inputs(X, y, one, 100 * one, one, weight), Options(k, "fista", tol, 2, exact=False))
                run.solve(Inputs(X, y, one, 100 * one, one, weight), Options(k, "newton", tol, 2, exact=False))
                run.solve(Inputs(X, y, 100 * one, one, one, weight), Options(k, "newton", tol, 2, exact=False))
                tasks, _ = as_tasks(Inputs(X, y, one, one, one, weight), k)
                for variant in ("fused", "shared"):
                    first_order.fista(tasks, tol, 2, run.product_dtype(dtype, tol), variant)
            dual = torch.full((2, n, k), 1 / k, dtype=torch.float64)
            active = torch.ones(2, d, dtype=torch.bool)
            inputs, options = Inputs(X, y, one, one, one, weight), Options(k, "newton", 1e-5, 2, exact=True)
            run.adjoint(inputs, options, Saved(dual, active), torch.ones(2, d, k))
    finally:
        torch.use_deterministic_algorithms(before)
    return noted


def lasso_launches() -> list[Launch]:
    """The launches of the Lasso for every supported number of features."""
    one, present = torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.int64)
    with recorded() as noted:
        for d in lasso_kernel.SIZES:
            H = torch.ones(2, d, d, dtype=torch.float64)
            lasso_kernel.descend(H, H[:, 0].contiguous(), one, one, present, 1e-10, 100)
    return noted


def configuration(launch: Launch) -> tuple[Any, ...]:
    """What the compiler specialises on: types, and which integers are 1 or divisible by 16."""
    seen = []
    for value in launch.arguments:
        if isinstance(value, torch.Tensor):
            seen.append("*" + _TYPES[value.dtype])
        else:
            seen.append("1" if value == 1 else "i32/16" if value % 16 == 0 else "i32")
    constants = tuple(sorted((name, str(value)) for name, value in launch.constants.items()))
    return (launch.kernel.fn.__name__, tuple(seen), constants, launch.num_warps)


def compiled(launch: Launch, target: Target) -> dict[str, Any]:
    """Compile a launch's kernel for the target; returns registers, spills and shared memory."""
    _, seen, _, warps = configuration(launch)
    names = launch.kernel.arg_names
    constants = dict(launch.constants)
    signature, attributes = {}, {}
    for place, (name, kind) in enumerate(zip(names, seen, strict=False)):
        if kind == "1":
            constants[name] = 1
            signature[name] = "constexpr"
        else:
            signature[name] = kind.removesuffix("/16")
            if kind.startswith("*") or kind.endswith("/16"):
                attributes[(place,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(launch.constants, "constexpr")
    source = ASTSource(launch.kernel, signature, constants, attributes)
    kernel = triton.compile(source, target=target.target, options=options(warps, amd=target.target.backend == "hip"))
    threads = warps * target.target.warp_size
    usage = _amd_usage(kernel.asm["amdgcn"]) if "amdgcn" in kernel.asm else _nvidia_usage(kernel.asm["cubin"])
    return {**usage, "shared": kernel.metadata.shared, "threads": threads}


def _nvidia_usage(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert found, f"cuobjdump said: {text}"
    # What does not fit in registers is spilled to the stack or to local memory.
    return {"registers": int(found[1]), "spills": int(found[2]) + int(found[3])}


def _amd_usage(assembly: str) -> dict[str, int]:
    def value(name: str) -> int:
        found = re.search(rf"\.{name}:\s+(\d+)", assembly)
        assert found, f"no .{name} in the assembly"
        return int(found[1])

    return {
        "registers": value("vgpr_count"),
        "spills": value("vgpr_spill_count") + value("private_segment_fixed_size"),
    }


def occupancy(row: dict[str, Any], target: Target) -> float:
    """Share of a multiprocessor's threads that programs of this kernel can occupy."""
    by_registers = target.registers // max(row["registers"] * row["threads"], 1)
    by_shared = target.shared_per_processor // (row["shared"] + 1024)
    programs = min(by_registers, by_shared, target.threads // row["threads"], 32)
    return programs * row["threads"] / target.threads


def table(
    shapes: list[str], targets: list[str], features: list[torch.dtype], once: bool = False
) -> Iterator[dict[str, Any]]:
    """A row per configuration and target; ``once``: for the last configuration of each kernel only, often float64."""
    done = set()
    for shape in shapes:
        for dtype in features:
            for name in targets:
                found = launches(shape, dtype, amd=TARGETS[name].target.backend == "hip")
                for launch in {one.kernel: one for one in found}.values() if once else found:
                    if (key := (configuration(launch), name)) in done:
                        continue
                    done.add(key)
                    row = {"kernel": launch.kernel.fn.__name__, "shape": shape, "target": name}
                    row |= {"features": _TYPES[dtype], "constants": {a: str(b) for a, b in launch.constants.items()}}
                    start = time.process_time()
                    try:
                        row |= compiled(launch, TARGETS[name])
                        row["occupancy"] = occupancy(row, TARGETS[name])
                        row["failure"] = ""
                        if row["spills"]:
                            row["failure"] = f"{row['spills']} bytes spilled"
                        if row["shared"] > TARGETS[name].shared:
                            row["failure"] = f"{row['shared']} bytes of shared memory, {TARGETS[name].shared} there are"
                    except Exception as error:
                        row["failure"] = f"{type(error).__name__}: {error}"
                    yield {**row, "seconds": round(time.process_time() - start, 2)}


def compiled_markdown(rows: list[dict[str, Any]]) -> str:
    """A line per kernel: the most registers and shared memory and the lowest occupancy over its configurations."""
    names = sorted({row["kernel"] for row in rows})
    targets = [name for name in TARGETS if any(row["target"] == name for row in rows)]
    lines = [f"| kernel | {' | '.join(targets)} |", "|---" * (len(targets) + 1) + "|"]
    for name in names:
        cells = []
        for target in targets:
            here = [row for row in rows if (row["kernel"], row["target"]) == (name, target)]
            if any(row["failure"] for row in here):
                cells.append(next(row["failure"] for row in here if row["failure"]))
                continue
            most = {key: max(row[key] for row in here) for key in ("registers", "shared")}
            least = min(row["occupancy"] for row in here)
            cells.append(f"{len(here)}: {most['registers']}, {most['shared'] / 1024:.0f} KiB, {least:.0%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    failed = sum(bool(row["failure"]) for row in rows)
    spilled = sum(row.get("spills", 0) > 0 for row in rows)
    return "\n".join([*lines, "", f"{len(rows)} compiled, {failed} failed, {spilled} with spilled registers."])


@dataclass(frozen=True)
class Ceiling:
    """The peak rates of a device (NVIDIA's data sheets, SXM): bytes and floating-point operations per second."""

    name: str
    memory: float
    single: float
    double: float
    processors: int


CEILINGS = (Ceiling("H100", 3.35e12, 67e12, 34e12, 132), Ceiling("A100 80 GB", 2.04e12, 19.5e12, 9.7e12, 108))
# The reference shapes: shots and features; 5 ways.
REFERENCE = ((5, 640), (5, 1600), (15, 1600), (5, 16000), (15, 16000))
BATCHES = (8, 1024)
# Assumptions of the predictions: the least seconds of a program for a block of features, the seconds of a launch, the
# share of active features.
_BLOCK_SECONDS, _LAUNCH_SECONDS, _ON = 1e-6, 4e-6, 0.3


def predicted(ceiling: Ceiling, batch: int, n: int, d: int, k: int) -> dict[str, Any]:
    """Bytes and flops of a first-order step and of a Newton iteration per task, and their times for a batch."""
    tile = tiles.checked_tile(n, k, torch.float32)
    # As in the launcher: two programs per multiprocessor, and at least four blocks per program.
    parts = max(1, min(-(-2 * ceiling.processors // batch), d // (4 * tile.BLOCK)))
    blocks = -(-d // (parts * tile.BLOCK)) * -(-batch * parts // (2 * ceiling.processors))
    launches = 0 if parts == 1 else 2

    step_bytes, step_flops = 4 * n * d, 4 * tile.N * d * tile.K
    step = {
        "bytes": batch * step_bytes / ceiling.memory,
        "flops": batch * step_flops / ceiling.single,
        "latency": blocks * _BLOCK_SECONDS + launches * _LAUNCH_SECONDS,
    }
    order, on = n * (k - 1), int(_ON * d)
    T = 32 if n <= 32 else 64
    squares = -(-n // T)
    gram_flops = 2 * on * k * (k + 1) // 2 * squares * (squares + 1) // 2 * T * T
    newton_bytes = 4 * n * d + 2 * 8 * d * k + 4 * n * on + 4 * 8 * order**2
    newton_flops = 4 * tile.N * d * tile.K + gram_flops + order**3 // 3
    iteration = {
        "bytes": batch * newton_bytes / ceiling.memory,
        "flops": batch * ((4 * tile.N * d * tile.K + order**3 / 3) / ceiling.double + gram_flops / ceiling.single),
        "latency": blocks * _BLOCK_SECONDS + 60 * _LAUNCH_SECONDS,
    }
    return {
        "step": (step_bytes, step_flops, *_bound(step)),
        "iteration": (newton_bytes, newton_flops, *_bound(iteration)),
    }


def _bound(times: dict[str, float]) -> tuple[str, float]:
    name = max(times, key=times.__getitem__)
    return name, times[name]


def predicted_markdown() -> str:
    """The times that bytes, flops or latency allow; a prediction, not a measurement."""
    triton_device.AMD = False
    head = "| shape, batch | step: MB, MFLOP per task | " + " | ".join(f"{c.name}: step" for c in CEILINGS)
    head += " | iteration: MB, MFLOP per task | " + " | ".join(f"{c.name}: iteration" for c in CEILINGS) + " |"
    lines = [head, "|---" * (head.count("|") - 1) + "|"]
    for shots, d in REFERENCE:
        for batch in BATCHES:
            results = [predicted(ceiling, batch, 5 * shots, d, 5) for ceiling in CEILINGS]
            cells = [f"{shots}-shot, d = {d}, {batch}"]
            for what in ("step", "iteration"):
                size, flops = results[0][what][:2]
                cells.append(f"{size / 1e6:.2f}, {flops / 1e6:.1f}")
                cells += [f"{result[what][3] * 1e6:.0f} us ({result[what][2]})" for result in results]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiles", default=",".join(SHAPES), help="samples x classes, or lasso; comma-separated")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--features", default="float32", help="dtypes, comma-separated")
    parser.add_argument("--once", action="store_true", help="only one configuration per kernel")
    parser.add_argument("--json", type=Path, help="file for every row")
    parser.add_argument("--docs", type=Path, help="Markdown file to put the tables into, between its marks")
    parser.add_argument("--from", dest="given", type=Path, help="read the rows from an earlier --json")
    chosen = parser.parse_args(arguments)
    if interpreted():
        parser.error("TRITON_INTERPRET is set: interpreted kernels cannot be compiled")
    dtypes = [getattr(torch, name) for name in chosen.features.split(",")]
    rows = json.loads(chosen.given.read_text()) if chosen.given else []
    for row in [] if chosen.given else table(chosen.tiles.split(","), chosen.targets.split(","), dtypes, chosen.once):
        rows.append(row)
        told = row["failure"] or "{registers} registers, {shared} bytes shared".format(**row)
        print(
            row["target"],
            row["kernel"],
            row["shape"],
            *row["constants"].values(),
            told,
            f"({row['seconds']} s)",
            flush=True,
        )
    failed = [row for row in rows if row["failure"]]
    print(f"{len(rows)} compiled, {len(failed)} failed, {sum(row['seconds'] for row in rows):.0f} s")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if chosen.docs:
        replace_between_marks(chosen.docs, "compiled", compiled_markdown(rows))
        replace_between_marks(chosen.docs, "predicted", predicted_markdown())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
