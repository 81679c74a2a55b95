"""Profile the CUDA kernels on a device: time by function and by source line.

PYTHONPATH=. python tools/device_profile.py [--shape WAY SHOTS FEATURES TASKS] [--lambda1 4] [--lambda2 100]

Nsight Compute (ncu, with its Python module) samples the warps of one solve and its gradient, and nvdisasm maps
instructions to source lines. A function's share excludes functions that were not inlined into it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

SAMPLES = "smsp__pcsamp_warps_issue_stalled_"
NOT_ISSUED = "_not_issued"
DURATION = "gpu__time_duration.sum"


class Instruction(NamedTuple):
    offset: int  # bytes from the kernel's first instruction
    function: str  # mangled
    line: str  # file:number


def instructions(disassembly: str) -> Iterator[Instruction]:
    """The instructions in the output of nvdisasm -g -c."""
    function = line = ""
    for text in disassembly.splitlines():
        if found := re.match(r'\s*//## File "(?:[^"]*/)?([^"/]+)", line (\d+)', text):
            line = f"{found[1]}:{found[2]}"
        elif found := re.match(r"(\$?[\w$.]+):\s*$", text):
            function = function if found[1].startswith(".L") else found[1]
        elif found := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s", text):
            yield Instruction(int(found[1], 16), function, line)


def attributed(disassembly: str, samples: dict[int, Counter[str]]) -> dict[tuple[str, str], Counter[str]]:
    """The samples by function and line, each by the stall reason of the warp.

    Args:
        disassembly: of the kernel.
        samples: by address; the smallest address is the first instruction, which every warp executes.
    """
    first = min(samples, default=0)
    found: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for instruction in instructions(disassembly):
        place = instruction.function, instruction.line
        found[place] += samples.get(first + instruction.offset, Counter())
    return found


def table(shares: dict[str, Counter[str]], rows: int) -> list[str]:
    """The rows with the most samples: share in percent, name, and the three most frequent stall reasons."""
    total = sum(sum(seen.values()) for seen in shares.values()) or 1
    most = sorted(shares.items(), key=lambda item: -sum(item[1].values()))[:rows]
    lines = []
    for name, seen in most:
        own = sum(seen.values())
        if own:
            stalls = ", ".join(f"{stall} {100 * count // own}%" for stall, count in seen.most_common(3))
            lines.append(f"{100 * own / total:5.1f}%  {name}: {stalls}")
    return lines


@cache
def demangled(name: str) -> str:
    """The name without the package's namespaces; a kernel's name is unchanged."""
    mangled = re.search(r"_Z\w+", name)
    if mangled is None:
        return name
    told = subprocess.run(["c++filt", "-p", mangled[0]], capture_output=True, text=True, check=True).stdout.strip()
    return re.sub(r"sparsedis::(cuda::)?", "", told)


def sampled(report: Path) -> Iterator[tuple[str, float, dict[int, Counter[str]]]]:
    """For each kernel in ncu's report: name, milliseconds, samples by address."""
    ncu = Path(shutil.which("ncu") or "ncu").resolve()
    sys.path[:0] = [str(folder / "extras" / "python") for folder in ncu.parents]
    import ncu_report

    for action in ncu_report.load_report(str(report))[0]:
        samples: dict[int, Counter[str]] = defaultdict(Counter)
        for name in action.metric_names():
            metric = action.metric_by_name(name)
            stall = name.removeprefix(SAMPLES)
            executed = name == "inst_executed"
            if not executed and (stall == name or name.endswith(NOT_ISSUED)):
                continue
            for instance in range(metric.num_instances()):
                at = samples[metric.correlation_ids().as_uint64(instance)]
                if not executed:
                    at[stall] += metric.as_uint64(instance)
        yield action.name(), action.metric_by_name(DURATION).value() / 1e6, samples


def solve(given: argparse.Namespace) -> list[Path]:
    """Runs one solve and its gradient, compiled with line information; returns the files of the kernels' code."""
    import torch

    from sparsedis import solve_svm
    from sparsedis.ops.common.cuda import nvrtc
    from sparsedis.ops.common.cuda.devices import Devices

    nvrtc.OPTIONS = (*nvrtc.OPTIONS, "--generate-line-info")
    way, shots, d, tasks = given.shape
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(tasks, way, 1, d, generator=generator)
    features = (centres + torch.randn(tasks, way, shots, d, generator=generator)).flatten(1, 2).cuda().requires_grad_()
    labels = torch.arange(way, device="cuda").repeat_interleave(shots).expand(tasks, -1)
    solution = solve_svm(features, labels, lambda1=given.lambda1, lambda2=given.lambda2, backend="cuda")
    solution.weights.square().sum().backward()
    print(f"gap {solution.relative_gap.max():.1e}, {solution.n_iter.double().mean():.1f} iterations", file=sys.stderr)
    return Devices().code()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=4, metavar=("WAY", "SHOTS", "FEATURES", "TASKS"))
    parser.add_argument("--lambda1", type=float, default=4.0)
    parser.add_argument("--lambda2", type=float, default=100.0)
    parser.add_argument("--rows", type=int, default=25, help="rows of each table")
    parser.add_argument("--interval", type=int, default=3, help="sampling interval: 2^(5 + INTERVAL) cycles")
    parser.add_argument("--solve", action="store_true", help="only run the solve; print its code files")
    parser.set_defaults(shape=[5, 5, 640, 8])
    return parser.parse_args(arguments)


def main() -> None:
    given = parse()
    if given.solve:
        print(*solve(given), sep="\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "profile.ncu-rep"
        metrics = f"{DURATION},inst_executed,group:smsp__pcsamp_warp_stall_reasons"
        command = ["ncu", "--clock-control", "none", "--kernel-name", "regex:solve_in|adjoint", "--launch-count", "2"]
        command += ["--warp-sampling-interval", str(given.interval), "--warp-sampling-buffer-size", str(256 << 20)]
        command += ["--metrics", metrics, "-o", str(report), sys.executable, *sys.argv, "--solve"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.exists():
            sys.exit(f"ncu: {done.stdout[-400:]} {done.stderr[-400:]}")
        code = [Path(line) for line in done.stdout.splitlines() if line.endswith(".cubin")]
        for name, duration, samples in sampled(report):
            cubin = next(path for path in code if path.name.startswith(f"{name}-"))
            told = subprocess.run(["nvdisasm", "-g", "-c", str(cubin)], capture_output=True, text=True, check=True)
            print(f"{name}: {duration:.3f} ms")
            functions: dict[str, Counter[str]] = defaultdict(Counter)
            lines: dict[str, Counter[str]] = defaultdict(Counter)
            for (function, line), counted in attributed(told.stdout, samples).items():
                functions[demangled(function)] += counted
                lines[f"{line} in {demangled(function)}"] += counted
            print(*table(functions, given.rows), *table(lines, given.rows), sep="\n")


if __name__ == "__main__":
    main()
