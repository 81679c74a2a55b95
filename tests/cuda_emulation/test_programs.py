"""Compilation and caching of programs; NVRTC, if it is installed."""

import os
import shutil
import stat
from collections import Counter
from pathlib import Path

import pytest
import torch

from sparsedis import info, solve_svm
from sparsedis.ops.common.cuda import devices, nvrtc, programs
from sparsedis.ops.common.cuda.emulation import Emulation
from sparsedis.ops.common.cuda.programs import Program, cached, sources
from sparsedis.ops.svm.backend_cuda import KERNELS, program
from tests.tasks import random_task
from tools import device_profile
from tools.cuda_report import ARCHITECTURES, resources

VERBOSE = "--ptxas-options=-v"
ONE = Program.of("one", "one.cu", {"B": 2, "A": "x"})


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SPARSEDIS_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


def test_macros_become_sorted_flags():
    assert ONE.flags() == ["-DA=x", "-DB=2"]
    assert Program.of("one", "one.cu", {"A": "x", "B": 2}) == ONE


def test_compiled_programs_are_cached(folder):
    calls = []

    def compile_to(path: Path) -> None:
        calls.append(path)
        path.write_text(f"code {len(calls)}")

    path = cached(ONE, "compiler 1", ".bin", compile_to)
    assert cached(ONE, "compiler 1", ".bin", compile_to) == path
    assert path.read_text() == "code 1"
    assert list(folder.iterdir()) == [path]
    # A different compiler or macro gives a different entry.
    assert cached(ONE, "compiler 2", ".bin", compile_to) != path
    assert cached(ONE._replace(macros=(("A", "y"),)), "compiler 1", ".bin", compile_to) != path
    assert len(calls) == 3


def test_changed_sources_are_compiled_again(folder, monkeypatch):
    before = cached(ONE, "compiler", ".bin", lambda path: path.touch())
    monkeypatch.setattr(programs, "_digest_of_sources", lambda: "changed")
    assert cached(ONE, "compiler", ".bin", lambda path: path.touch()) != before


def test_a_failed_compilation_leaves_no_files(folder):
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("line 1: error")

    with pytest.raises(RuntimeError, match="line 1"):
        cached(ONE, "compiler", ".bin", fail)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("place", ["file/below", "~no-such-user/x"])
def test_programs_compile_without_a_writable_cache(tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPARSEDIS_CACHE", place if place.startswith("~") else str(tmp_path / place))
    assert cached(ONE, "compiler", ".bin", lambda path: path.write_text("code")).read_text() == "code"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_cached_files_have_the_mode_of_ordinary_files(folder, mask, mode):
    before = os.umask(mask)
    try:
        path = cached(ONE, "compiler", ".bin", lambda path: path.write_text("code"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_an_empty_cache_file_is_compiled_again(folder):
    path = cached(ONE, "compiler", ".bin", lambda path: path.write_text("code"))
    path.write_bytes(b"")
    assert cached(ONE, "compiler", ".bin", lambda path: path.write_text("again")) == path
    assert path.read_text() == "again"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_is_used(folder):
    path = cached(ONE, "compiler", ".bin", lambda path: path.write_text("code"))
    folder.chmod(0o500)
    try:
        assert cached(ONE, "compiler", ".bin", lambda _: pytest.fail("compiled again")) == path
        assert cached(ONE, "another", ".bin", lambda path: path.write_text("code")).parent != folder
    finally:
        folder.chmod(0o700)


def test_warm_compiles_kernels_in_advance(capsys):
    info.warm([5])
    assert "for 5 classes" in capsys.readouterr().out
    for way in (1, 65):
        with pytest.raises(ValueError, match=f"from 2 to 64, got {way}"):
            info.warm([way])


def test_warm_without_a_device_raises(monkeypatch):
    monkeypatch.delenv("SPARSEDIS_CUDA_EMULATION")
    if torch.cuda.is_available():
        pytest.skip("there is a device")
    with pytest.raises(ValueError, match="cannot run here"):
        info.warm([5])


def test_nothing_is_compiled_while_a_graph_is_captured(monkeypatch):
    X, y = random_task(0, dtype=torch.float32)
    monkeypatch.setattr(Emulation, "loaded", lambda self, program, device: False)
    monkeypatch.setattr(Emulation, "capturing", lambda self, device: True)
    with pytest.raises(RuntimeError, match="solve once, with its gradient, before the capture"):
        solve_svm(X, y, lambda1=1.0, backend="cuda")


@pytest.fixture
def needs_nvrtc() -> None:
    if reason := nvrtc.available():
        pytest.skip(reason)


class TestDeviceProfile:
    """tools/device_profile.py: attribution of samples by a disassembly."""

    DISASSEMBLY = """
        //## File "/csrc/a.hpp", line 3
.text.solve:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        //## File "/csrc/b.hpp", line 7 inlined at "/csrc/a.hpp", line 4
.L_x_1:
        /*0010*/                   CALL.REL.NOINC `($solve$_ZN9sparsedis4cuda5otherEi) ;
$solve$_ZN9sparsedis4cuda5otherEi:
        /*0020*/                   RET.REL.NODEC R2 `(solve) ;
"""

    def test_samples_are_attributed_to_functions_and_lines(self):
        samples = {0x100: Counter(), 0x110: Counter(barrier=3), 0x120: Counter(wait=6, barrier=1)}
        found = device_profile.attributed(self.DISASSEMBLY, samples)
        assert found == {
            (".text.solve", "a.hpp:3"): Counter(),
            (".text.solve", "b.hpp:7"): Counter(barrier=3),
            ("$solve$_ZN9sparsedis4cuda5otherEi", "b.hpp:7"): Counter(wait=6, barrier=1),
        }

    def test_the_table_lists_the_largest_shares(self):
        shares = {"small": Counter(barrier=3), "none": Counter(), "large": Counter(wait=6, barrier=1)}
        assert device_profile.table(shares, 5) == [
            " 70.0%  large: wait 85%, barrier 14%",
            " 30.0%  small: barrier 100%",
        ]
        assert len(device_profile.table(shares, 1)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("needs_nvrtc")
class TestNvrtc:
    @pytest.mark.parametrize(
        ("kernel", "architecture"),
        [
            ("adjoint", "sm_90"),
            *(
                pytest.param(kernel, architecture, marks=pytest.mark.exhaustive)
                for kernel in KERNELS
                for architecture in ARCHITECTURES
                if (kernel, architecture) != ("adjoint", "sm_90")
            ),
        ],
    )
    def test_kernels_of_float_features_compile_without_spills(self, kernel, architecture):
        done = nvrtc.compile_program(program(kernel, "float", 5), architecture, VERBOSE)
        assert done.code[:4] == b"\x7fELF"
        found = resources(done.log)
        assert found["spill"] == found["around_calls"]
        # Registers saved around the assembly of the Newton matrix; solve_in_double, which few tasks use, saves more.
        assert found["around_calls"] <= {"solve_in_float": 128, "solve_in_double": 512, "adjoint": 0}[kernel]

    def test_a_provoked_spill_is_detected(self, tmp_path, monkeypatch):
        """The kernel is limited to a quarter of the registers."""
        shutil.copytree(sources(), tmp_path / "csrc")
        path = tmp_path / "csrc/common/cuda/platform.hpp"
        path.write_text(path.read_text().replace("(SPARSEDIS_THREADS, 1)", "(SPARSEDIS_THREADS, 4)"))
        monkeypatch.setattr(nvrtc, "sources", lambda: tmp_path / "csrc")
        log = nvrtc.compile_program(program("adjoint", "float", 5), "sm_90", VERBOSE).log
        assert resources(log)["spill"] > 0

    @pytest.mark.parametrize(("driver_version", "reason"), [(12080, "the driver is for CUDA 12"), (99000, None)])
    def test_a_driver_older_than_nvrtc_is_reported(self, driver_version, reason, monkeypatch):
        from cuda.bindings import driver

        monkeypatch.setattr(driver, "cuDriverGetVersion", lambda: (driver.CUresult.CUDA_SUCCESS, driver_version))
        monkeypatch.setattr(nvrtc, "version", lambda: (13, 0))
        devices._driver_too_old.cache_clear()
        result = devices._driver_too_old()
        devices._driver_too_old.cache_clear()
        assert result is None if reason is None else reason in result

    def test_newer_devices_get_ptx(self):
        assert nvrtc.architecture((9, 0)) == "sm_90"
        assert nvrtc.architecture((99, 0)).startswith("compute_")

    def test_errors_contain_the_compilers_messages(self, tmp_path, monkeypatch):
        (tmp_path / "wrong.cu").write_text("__global__ void f() { undeclared(); }")
        monkeypatch.setattr(nvrtc, "sources", lambda: tmp_path)
        with pytest.raises(RuntimeError, match="undeclared"):
            nvrtc.compile_program(Program.of("f", "wrong.cu", {}), "sm_90")
