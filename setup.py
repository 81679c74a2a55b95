"""The C++ kernels, compiled by ninja; everything about the build that is static stands in pyproject.toml.

SPARSEDIS_BUILD=auto (default): the CPU kernels where a C++17 compiler is found, else none. cpu: the kernels, or the
build fails. 0: none. The CUDA kernels are compiled at first use: their source is a part of the package.
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
# The longest to compile first.
KERNELS = ["csrc/svm/cpu/kernels.cpp", "csrc/lasso/cpu/kernels.cpp"]
BINDINGS = "csrc/bindings.cpp"  # the same for all instruction sets: compiled once, for the first
# Python's own flags have -fwrapv, with which loops over ints are not vectorised.
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-fno-wrapv"]
FLAGS += ["-pthread"]
# A module for each: the same code, so one of them must not see another's functions, and the best that runs is imported.
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
}
CHOICES = ("auto", "cpu", "0")
# What the CUDA kernels are compiled from at first use.
DEVICE_SOURCES = ("common/*.hpp", "common/cuda/*", "svm/*.hpp", "svm/algorithm/*.hpp", "svm/cuda/*")


def choice() -> str:
    """SPARSEDIS_BUILD, checked."""
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
            # "auto" installs without what cannot be compiled; sparsedis.info then says so.
            optional=value == "auto",
        )
        for name, flags in INSTRUCTION_SETS.items()
        if x86 or name == "baseline"
    ]


class BuildPython(build_py):
    """Also copies the source of the CUDA kernels to sparsedis/csrc; an editable install reads it where it is."""

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
    """Compile what has changed, for all modules at once, with ninja.

    ninja's folder is in build/ and outlives the build: setuptools compiles an editable install in a temporary folder.
    """

    def build_extensions(self) -> None:
        if os.name == "posix":
            self.folder = Path("build", f"ninja-{self.plat_name}-{sys.implementation.cache_tag}")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write_manifest()
            jobs = ["-j", str(self.parallel)] if self.parallel else []
            self._ninja("-k", "0", *jobs)  # everything that can be compiled; build_extension tells what cannot
        self.parallel = None  # what is left to do is to copy files
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        """Copy a module from ninja's folder; CompileError where it is not up to date there."""
        if os.name != "posix":
            raise CompileError("the kernels are compiled by GCC or Clang, on Linux and macOS")
        built = self._module(ext)
        if self._ninja("--quiet", str(built)) != 0:
            raise CompileError(f"{built} could not be compiled")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(built, target)

    def copy_extensions_to_source(self) -> None:
        """Also remove a module that an earlier build left there, where this one could not compile it."""
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
        """build.ninja: a rule per module, its object files and itself; headers are found by the compiler (-MMD)."""
        import ninja
        import pybind11

        include = [f"-I{folder}" for folder in self.compiler.include_dirs]  # Python's
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
        """A folder of headers under a name that is the same for the same version: pip installs it anew for each build,
        somewhere else, which alone is no reason to compile everything."""
        link = self.folder / f"{package}-{version(package)}"
        link.unlink(missing_ok=True)
        link.symlink_to(headers.absolute())
        return str(link)


setup(ext_modules=extensions(choice()), cmdclass={"build_ext": Build, "build_py": BuildPython})
