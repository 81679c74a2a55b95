"""Check that the memory of a training run is constant after its start.

    PYTHONPATH=. python tools/flat_memory.py [--minutes 60] [--allowed 2]

Runs `sparsedis train` with small settings and frequent validation, checkpoints and logs for the given time, and prints
the largest resident memory of every tenth of it. Exit code 1 if that of the last tenth is more than ``--allowed``
percent above that of the second (the first is the start). Linux only, because it reads /proc.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS = 10
SETTINGS = """--way 5 --shot 1 --query 5 --batch 4 --iterations 100000000 --width 8 --validate-every 100
    --validation-episodes 20 --log-every 10 --save-every 20 --threads 1"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--allowed", type=float, default=2, help="percent that memory may grow (default: 2)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "sparsedis", "train", *SETTINGS.split(), "--out", f"{folder}/run"]
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            largest = watch(process, 60 * args.minutes)
        finally:
            process.kill()
            _, error_output = process.communicate()
        lines = sum(1 for _ in (Path(folder) / "run" / "metrics.jsonl").open(encoding="utf-8"))
    if len(largest) < PARTS:
        print(f"the run ended after {len(largest)} parts: {error_output}")
        return 1
    growth = 100 * (largest[-1] / largest[1] - 1)
    print(f"{args.minutes:g} minutes, {lines} lines of metrics: {growth:+.2f}% from the second tenth to the last")
    return int(growth > args.allowed)


def watch(process: subprocess.Popen[str], seconds: float) -> list[float]:
    """The largest resident memory in MiB in each part of the time that the process lived through."""
    largest: list[float] = []
    for part in range(PARTS):
        end, most = time.monotonic() + seconds / PARTS, 0.0
        while time.monotonic() < end:
            if process.poll() is not None:
                return largest
            most = max(most, resident(process.pid))
            time.sleep(min(1.0, seconds / PARTS / 10))
        largest.append(most)
        print(f"{(part + 1) * seconds / PARTS / 60:5.1f} min: {most:.1f} MiB", flush=True)
    return largest


def resident(pid: int) -> float:
    """Resident memory of a process in MiB, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


if __name__ == "__main__":
    sys.exit(main())
