"""Kill runs at random moments, resume them, and compare their files with those of an uninterrupted run.

    PYTHONPATH=. python tools/kill_and_resume.py train --kills 12
    PYTHONPATH=. python tools/kill_and_resume.py disentangle-sweep --kills 5 --seed 3

The command runs with small settings in a temporary folder. It is killed (SIGKILL) at a random moment within the
duration of a whole run and resumed, until it ends; then the next run begins. The files must be equal byte for byte,
except those that record when and where a run was computed. Exit code 1 if they are not.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sparsedis.runs import environment, report

FEW_SHOT = """--way 3 --shot 1 --query 2 --batch 2 --iterations 30 --width 4 --validate-every 10 --validation-episodes 5
    --test-episodes 10 --test-shots 1 --log-every 1 --save-every 1 --threads 1"""
DISENTANGLE = """--iterations 30 --groups 1 --group-tasks 4 --inner-samples 4 --outer-samples 4 --validate-every 10
    --validation-batches 1 --test-batches 1 --measured-images 60 --log-every 1 --save-every 1 --threads 1"""
COMMANDS = {
    "train": FEW_SHOT,
    "compare": f"{FEW_SHOT} --heads svm ridge --seeds 0",
    "sweep": f"{FEW_SHOT} --lambda1-grid 0.1 0.3 --baselines ridge --seeds 0",
    "disentangle": DISENTANGLE,
    "disentangle-sweep": f"{DISENTANGLE} --values 0 0.9 --seeds 0",
}
NOT_COMPARED = (environment.SECONDS, environment.ENVIRONMENT, report.REPORT)  # when and where a run was computed
RESUMED_BY_OPTION = ("train", "disentangle")  # the others by repeating the command


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--kills", type=int, default=12, help="number of kills in all (default: 12)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return examine(options.command, options.kills, random.Random(options.seed), Path(folder))


def examine(command: str, kills: int, moments: random.Random, folder: Path) -> int:
    """Kill the command as often as requested; returns the exit code."""
    begun, duration = time_uninterrupted(command, folder / "whole")
    expected = contents(folder / "whole")
    print(
        f"{command}: {duration:.1f} s, of which {begun:.1f} s until the first file; {len(expected)} files", flush=True
    )
    done, runs = 0, 0
    while done < kills:
        runs += 1
        out = folder / f"run-{runs}"
        at: list[float] = []
        while done < kills and not finishes(command, out, moment := moments.uniform(0.8 * begun, duration)):
            at.append(moment)
            done += 1
        if done == kills:
            finishes(command, out, None)  # completes the killed run
        actual = contents(out)
        differing = sorted(name for name in expected.keys() | actual.keys() if expected.get(name) != actual.get(name))
        shown = ", ".join(f"{one:.1f} s" for one in at) or "never"
        print(f"run {runs}: killed after: {shown}; {len(differing)} files differ", flush=True)
        if differing:
            print(f"different: {', '.join(differing)}")
            return 1
    print(f"{done} kills in {runs} runs: all files are those of the uninterrupted run")
    return 0


def time_uninterrupted(command: str, out: Path) -> tuple[float, float]:
    """Run to the end; returns the seconds until the first file appears, and in all."""
    start = time.monotonic()
    process = launch(command, out)
    while process.poll() is None and not any(path.is_file() for path in out.rglob("*")):
        time.sleep(0.01)
    begun = time.monotonic() - start
    end(process)
    return begun, time.monotonic() - start


def finishes(command: str, out: Path, moment: float | None) -> bool:
    """Start or resume the run; returns False if it was killed at ``moment``. Without a moment, it runs to its end."""
    process = launch(command, out)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    end(process)
    return True


def launch(command: str, out: Path) -> subprocess.Popen[str]:
    resumed = command in RESUMED_BY_OPTION and (out / "config.json").exists()
    words = [command, *COMMANDS[command].split(), "--out", str(out), *(["--resume"] if resumed else [])]
    return subprocess.Popen(
        [sys.executable, "-m", "sparsedis", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str]) -> None:
    """Wait for the process; raises SystemExit if it failed."""
    _, error_output = process.communicate()
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {error_output}")


def contents(folder: Path) -> dict[str, object]:
    """The files below the folder by name: JSON without times, others as bytes."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_COMPARED)
    return {
        str(path.relative_to(folder)): without_times(json.loads(path.read_bytes()))
        if path.suffix == ".json"
        else path.read_bytes()
        for path in files
    }


def without_times(value: Any) -> Any:
    """A JSON value, with the members "seconds" of its objects removed."""
    if isinstance(value, dict):
        return {name: without_times(member) for name, member in value.items() if name != "seconds"}
    return [without_times(member) for member in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
