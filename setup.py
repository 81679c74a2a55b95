"""Builds the C++ kernels with ninja; all static metadata is in pyproject.toml.

SPARSEDIS_BUILD=auto (default) builds the CPU kernels if a C++17 compiler is found, cpu requires them (the build fails
otherwise), and 0 skips them. The CUDA kernels are compiled at first use; the package contains their source.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

PACKAGE = "sparsedis.ops"
# In order of compile time, the longest first.
KERNELS = ["csrc/svm/cpu/kernels.cpp", "csrc/lasso/cpu/kernels.cpp"]
BINDINGS = "csrc/bindings.cpp"  # independent of the instruction set: compiled once, with the first
# Python's own flags contain -fwrapv, which prevents the vectorisation of loops over int.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-fno-wrapv"]
FLAGS += ["-pthread"]
# False alarms of GCC in its own intrinsics and in Eigen, by the hundred; the last is for Clang, which lacks one.
FLAGS += ["-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-ignored-attributes", "-Wno-unknown-warning-option"]
# One module per instruction set, so that equal symbols do not clash; the best one that the CPU supports is imported.
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
}
CHOICES = ("auto", "cpu", "0")
# The sources of the CUDA kernels, compiled at first use.
DEVICE_SOURCES = ("common/*.hpp", "common/cuda/*", "svm/*.hpp", "svm/algorithm/*.hpp", "svm/cuda/*")


def choice() -> str:
    """The value of SPARSEDIS_BUILD, validated."""
    value = os.environ.get("SPARSEDIS_BUILD", "auto")
    if value not in CHOICES:
        raise SystemExit(f"SPARSEDIS_BUILD: expected one of {', '.join(CHOICES)}, got {value!r}")
    return value


def eigen() -> Path:
    """The folder of Eigen's headers, from the PyPI package cmeel-eigen."""
    for folder in map(Path, sys.path):
        headers = folder / "cmeel.prefix" / "include" / "eigen3"
        if headers.is_dir():
            return headers
    raise SystemExit("Eigen's headers were not found: pip install cmeel-eigen")


def extensions(value: str) -> list[Extension]:
    """One module per instruction set; none for SPARSEDIS_BUILD=0."""
    if value == "0":
        return []
    x86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
    return [
        Extension(
            f"{PACKAGE}._cpp_{name}",
            [*KERNELS, BINDINGS],
            define_macros=[("NDEBUG", "1"), ("EIGEN_MPL2_ONLY", "1")],
            extra_compile_args=[*FLAGS, *flags],
            extra_link_args=["-pthread"],
            # With "auto", a module that cannot be compiled is skipped; sparsedis.info reports it.
            optional=value == "auto",
        )
        for name, flags in INSTRUCTION_SETS.items()
        if x86 or name == "baseline"
    ]


class BuildPython(build_py):
    """Also copies the source of the CUDA kernels to sparsedis/csrc; an editable install reads it from csrc."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._device_sources().items():
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        copied = [] if self.editable_mode else list(self._device_sources().values())
        return super().get_outputs(include_bytecode) + copied

    def _device_sources(self) -> dict[str, str]:
        found = (path for pattern in DEVICE_SOURCES for path in Path("csrc").glob(pattern))
        return {str(path): str(Path(self.build_lib, "sparsedis", path)) for path in found}


class Build(build_ext):
    """Compiles what has changed, for all modules at once, with ninja.

    ninja's folder is in build/ and is kept between builds, because setuptools compiles an editable install in a
    temporary folder.
    """

    def build_extensions(self) -> None:
        if os.name == "posix":
            self.folder = Path("build", f"ninja-{self.plat_name}-{sys.implementation.cache_tag}")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_manifest()
            jobs = ["-j", str(self.parallel)] if self.parallel else []
            self._ninja("-k", "0", *jobs)  # goes on after errors, which build_extension reports
        self.parallel = None  # only copies remain
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        """Copies a module from ninja's folder; raises CompileError if it could not be compiled."""
        if os.name != "posix":
            raise CompileError("the kernels are compiled by GCC or Clang, on Linux and macOS")
        built = self._module(ext)
        if self._ninja("--quiet", str(built)) != 0:
            raise CompileError(f"{built} could not be compiled")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built, target)

    def copy_extensions_to_source(self) -> None:
        """Also removes the module of an earlier build if this build could not compile it."""
        for ext in self.extensions:
            name = self.get_ext_filename(ext.name)
            if not Path(self.build_lib, name).exists():
                Path(name).unlink(missing_ok=True)
        super().copy_extensions_to_source()

    def _module(self, ext: Extension) -> Path:
        return self.folder / Path(self.get_ext_filename(ext.name)).name

    def _ninja(self, *arguments: str) -> int:
        import ninja

        program = os.path.join(ninja.BIN_DIR, "ninja")
        return subprocess.run([program, "-f", str(self.folder / "build.ninja"), *arguments], check=False).returncode

    def _write_manifest(self) -> None:
        """Writes build.ninja, with rules per module; the compiler finds the headers that a file depends on (-MMD)."""
        import ninja
        import pybind11

        include = [f"-I{folder}" for folder in self.compiler.include_dirs]  # of Python
        for package, headers in (("pybind11", Path(pybind11.get_include())), ("cmeel-eigen", eigen())):
            include += ["-isystem", self._link(package, headers)]
        bindings = str((self.folder / BINDINGS).with_suffix(".o"))
        with open(self.folder / "build.ninja", "w", encoding="utf-8") as file:
            manifest = ninja.Writer(file, width=10**6)
            manifest.variable("builddir", str(self.folder))
            for ext in self.extensions:
                name = ext.name.rpartition(".")[2]
                macros = [f"-D{macro}={value}" for macro, value in ext.define_macros]
                compiler = [*self.compiler.compiler_so_cxx, *macros, *include, *ext.extra_compile_args]
                command = ninja.escape(shlex.join(compiler)) + " -MMD -MF $out.d -c $in -o $out"
                manifest.rule(f"compile{name}", command, depfile="$out.d", deps="gcc")
                linker = ninja.escape(shlex.join([*self.compiler.linker_so_cxx, *ext.extra_link_args]))
                manifest.rule(f"link{name}", f"{linker} $in -o $out")
                objects = [str((self.folder / name / source).with_suffix(".o")) for source in KERNELS]
                for source, target in zip(KERNELS, objects, strict=True):
                    manifest.build(target, f"compile{name}", source)
                if ext is self.extensions[0]:
                    manifest.build(bindings, f"compile{name}", BINDINGS)
                objects.append(bindings)
                manifest.build(str(self._module(ext)), f"link{name}", objects)

    def _link(self, package: str, headers: Path) -> str:
        """A link to a folder of headers whose name depends on the version only. pip installs the headers into a new
        folder for each build, which must not make ninja recompile everything."""
        link = self.folder / f"{package}-{version(package)}"
        link.unlink(missing_ok=True)
        link.symlink_to(headers.absolute())
        return str(link)


setup(ext_modules=extensions(choice()), cmdclass={"build_ext": Build, "build_py": BuildPython})
