"""torch and numpy are enough to import the package and to solve; the command line says which extra it needs."""

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from sparsedis.extras import EXTRAS

# Triton too, which some builds of PyTorch bring along.
MODULES = [module for modules in EXTRAS.values() for module in modules]
BLOCK = f"""
import importlib.abc, sys


class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {MODULES!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Blocked())
"""
SOLVE = """
import torch, sparsedis

assert not any(name.startswith("sparsedis.data") for name in sys.modules)
X, y = torch.randn(2, 6, 5, requires_grad=True), torch.arange(6).remainder(3).expand(2, 6)
sparsedis.solve_svm(X, y, lambda1=0.1).weights.sum().backward()
sparsedis.solve_logistic(X, y, lambda1=0.01).weights.sum().backward()
sparsedis.solve_lasso(X, X[..., 0].detach(), lambda1=0.1).weights.sum().backward()
sparsedis.solve_ridge(X, X[..., 0].detach(), lambda2=0.1).weights.sum().backward()
sparsedis.nn.GroupLassoSVM()(X, X, y).logits.sum().backward()
from sparsedis import info

print(info.report())
"""


COMMANDS = """
import runpy

for arguments in [], ["train"], ["info"], ["--help"]:
    sys.argv = ["sparsedis", *arguments]
    try:
        runpy.run_module("sparsedis", run_name="__main__")
    except SystemExit as end:
        print(end.code)
"""


@pytest.mark.slow
def test_the_core_needs_torch_and_numpy_only():
    """Nor does it import the readers of data sets; and the command line says which extra it needs."""
    command = [sys.executable, "-c", BLOCK + SOLVE + COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "svm, torch" in done.stdout
    assert done.stdout.endswith("\n" + 4 * "2\n")
    assert done.stderr == 4 * "sparsedis: tyro is not installed; pip install 'sparsedis[train]'\n"


def test_what_each_extra_brings_is_known():
    names = {"pillow": "PIL", "scikit-learn": "sklearn", "cuda-bindings": "cuda", "nvidia-cuda-nvrtc": "nvidia"}
    requirements = [Requirement(text) for text in metadata.requires("sparsedis") or []]
    for extra, modules in EXTRAS.items():
        own = {r.name for r in requirements if r.marker and r.marker.evaluate({"extra": extra})} - {"sparsedis"}
        assert {names.get(name, name) for name in own} == set(modules)
