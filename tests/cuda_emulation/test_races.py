"""ThreadSanitizer finds no data races between the threads of a block in the emulation, except planted ones."""

import shutil
import subprocess
from pathlib import Path

import pytest

from sparsedis.ops.common.cuda.programs import sources

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++, whose ThreadSanitizer supports fibers"),
]

TEAM, CHOLESKY, SYSTEM = "common/cuda/team.hpp", "common/cuda/cholesky.hpp", "svm/cuda/system.hpp"
FAULTS = {
    "no barrier after a loop": (TEAM, "distribute(count, f);\n    wait();", "distribute(count, f);"),
    "no barrier after the diagonal block": (
        CHOLESKY,
        "factor_diagonal_block(0, false);\n    team.wait();",
        "factor_diagonal_block(0, false);",
    ),
    "one buffer for all reductions": (TEAM, "current_pad_ ^= 1;", "current_pad_ = 0;"),
    "a barrier in a branch": (
        TEAM,
        "if (thread() == 0) f();\n    wait();",
        "if (thread() == 0) {\n      f();\n      wait();\n    }",
    ),
    "no barrier after a panel": (
        CHOLESKY,
        "invert_diagonal_block(first);\n      team.wait();",
        "invert_diagonal_block(first);",
    ),
    "no barrier after a slice is written": (SYSTEM, "team.wait();\n        held.multiply(", "held.multiply("),
    "no warp barrier in the diagonal block": (CHOLESKY, "__syncwarp();\n      eliminate(", "eliminate("),
}


FLAGS = ["-std=c++17", "-Og", "-g1", "-Wno-unknown-pragmas", "-DSPARSEDIS_EMULATION", "-DSPARSEDIS_TSAN"]
FLAGS += ["-DSPARSEDIS_FEATURE=float", "-DSPARSEDIS_ADJOINT_ONLY"]


@pytest.fixture(scope="module")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The emulation, not instrumented, because it declares the synchronisation to ThreadSanitizer itself."""
    compiled = tmp_path_factory.mktemp("emulation") / "emulation.o"
    subprocess.run(["g++", *FLAGS, "-c", sources() / "common/cuda/emulation.cpp", "-o", compiled], check=True)
    return compiled


def build(csrc: Path, emulation: Path, folder: Path) -> Path:
    """Compile the adjoint kernel with ThreadSanitizer."""
    program = folder / "program"
    test = csrc.parent / "tests/kernels/sanitize_cuda.cpp"
    subprocess.run(["g++", *FLAGS, "-fsanitize=thread", test, emulation, "-o", program], check=True)
    return program


def run(program: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A modifiable copy of the kernels' sources and of the test program."""
    root = Path(__file__).parents[2]
    shutil.copytree(sources(), tmp_path / "csrc")
    (tmp_path / "tests").mkdir()
    shutil.copytree(root / "tests/kernels", tmp_path / "tests/kernels")
    return tmp_path / "csrc"


def test_the_kernels_have_no_data_races(copy, emulation, tmp_path):
    done = run(build(copy, emulation, tmp_path))
    assert done.returncode == 0, done.stderr
    assert "ran clean" in done.stdout


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault, copy, emulation, tmp_path):
    name, right, wrong = FAULTS[fault]
    text = (copy / name).read_text()
    assert text.count(right) == 1
    (copy / name).write_text(text.replace(right, wrong))
    done = run(build(copy, emulation, tmp_path))
    assert done.returncode != 0
    assert "data race" in done.stderr or "emulation: " in done.stderr, done.stderr
