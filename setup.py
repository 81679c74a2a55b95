"""The C++ kernels; everything about the build that is static stands in pyproject.toml.

SPARSEDIS_BUILD=auto (default): the CPU kernels where a C++17 compiler is found, else none. cpu: the kernels, or the
build fails. cuda: likewise, with the CUDA kernels. 0: none.
"""

import copy
import itertools
import os
import platform
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGE = "sparsedis.ops"
# The longest to compile first.
SOURCES = ["csrc/svm/cpu/kernels.cpp", "csrc/lasso/cpu/kernels.cpp", "csrc/bindings.cpp"]
FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
# A module for each: the same code, so one of them must not see another's functions, and the best that runs is imported.
INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
}
CHOICES = ("auto", "cpu", "cuda", "0")


def choice() -> str:
    """SPARSEDIS_BUILD, checked."""
    value = os.environ.get("SPARSEDIS_BUILD", "auto")
    if value not in CHOICES:
        raise SystemExit(f"SPARSEDIS_BUILD: expected one of {', '.join(CHOICES)}, got {value!r}")
    if value == "cuda":
        raise SystemExit("SPARSEDIS_BUILD=cuda: this version has no CUDA kernels")
    return value


def eigen() -> str:
    """The folder of Eigen's headers, from the PyPI package cmeel-eigen."""
    for folder in map(Path, sys.path):
        headers = folder / "cmeel.prefix" / "include" / "eigen3"
        if headers.is_dir():
            return str(headers)
    raise SystemExit("Eigen's headers were not found: pip install cmeel-eigen")


def extensions(value: str) -> list[Extension]:
    if value == "0":
        return []
    import pybind11

    include = ["-isystem", eigen(), "-isystem", pybind11.get_include()]
    x86 = platform.machine().lower() in ("x86_64", "amd64") and sys.maxsize > 2**32
    return [
        Extension(
            f"{PACKAGE}._cpp_{name}",
            SOURCES,
            depends=[str(path) for path in Path("csrc").rglob("*.hpp")],
            define_macros=[("SPARSEDIS_MODULE", f"_cpp_{name}"), ("NDEBUG", "1"), ("EIGEN_MPL2_ONLY", "1")],
            extra_compile_args=[*FLAGS, *flags, *include],
            extra_link_args=["-pthread"],
            language="c++",
            # "auto" installs without what cannot be compiled; sparsedis.info then says so.
            optional=value == "auto",
        )
        for name, flags in INSTRUCTION_SETS.items()
        if x86 or name == "baseline"
    ]


class Build(build_ext):
    """As many source files at a time as there are cores, whichever module they are for."""

    def build_extensions(self) -> None:
        compile_together = self.compiler.compile
        with ThreadPoolExecutor(self.parallel or os.cpu_count()) as cores:

            def compile_apart(sources: list[str], **options: Any) -> list[str]:
                files = cores.map(
                    lambda source: compile_together([source], **options), sorted(sources, key=SOURCES.index)
                )
                return list(itertools.chain.from_iterable(files))

            self.compiler.compile = compile_apart
            self.parallel = len(self.extensions)  # threads that wait for their files, and link them
            super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        """Object files of its own for each module: all are made of the same sources."""
        apart = copy.copy(self)
        apart.build_temp = os.path.join(self.build_temp, ext.name)
        super(Build, apart).build_extension(ext)


setup(ext_modules=extensions(choice()), cmdclass={"build_ext": Build})
