"""Importing the package and solving require only torch and numpy; the command line names the extra it needs."""

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from sparsedis.extras import EXTRAS

# Including Triton, which some builds of PyTorch install.
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
    """It does not import the readers of data sets; the command line names the extra that it needs."""
    command = [sys.executable, "-c", BLOCK + SOLVE + COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "svm, torch" in done.stdout
    assert done.stdout.endswith("\n" + 4 * "2\n")
    assert done.stderr == 4 * "sparsedis: tyro is not installed; pip install 'sparsedis[train]'\n"


def test_extras_lists_the_modules_of_every_extra():
    names = {"pillow": "PIL", "scikit-learn": "sklearn", "cuda-bindings": "cuda", "nvidia-cuda-nvrtc": "nvidia"}
    requirements = [Requirement(text) for text in metadata.requires("sparsedis") or []]
    for extra, modules in EXTRAS.items():
        own = {r.name for r in requirements if r.marker and r.marker.evaluate({"extra": extra})} - {"sparsedis"}
        assert {names.get(name, name) for name in own} == set(modules)
