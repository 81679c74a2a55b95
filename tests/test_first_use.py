"""The first use of the package in a process may be inside torch.compile or in several threads at once."""

import subprocess
import sys

import pytest

COMPILED = """
import os, sys, torch, torch._dynamo

# A forked process per operation, because importing torch takes as long as the rest.
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        break
    if os.waitpid(child, 0)[1]:
        sys.exit(f"in {name}")
else:
    sys.exit()

from sparsedis import solve_lasso, solve_logistic, solve_ridge, solve_svm

solve = {
    "svm": lambda X, y, v: solve_svm(X, y, lambda1=v, lambda2=2.0, n_classes=3),
    "lasso": lambda X, y, v: solve_lasso(X, y.to(X.dtype), lambda1=v, relative=True),
    "ridge": lambda X, y, v: solve_ridge(X, y.to(X.dtype), lambda2=v, relative=True),
    "logistic": lambda X, y, v: solve_logistic(X, y, lambda1=v, lambda2=0.1, n_classes=3, relative=True),
}[name]


def both(function, batch, n, d):
    generator = torch.Generator().manual_seed(n)
    X = torch.randn(batch, n, d, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.arange(n).remainder(3).expand(batch, n)
    v = torch.linspace(0.1, 0.3, batch, dtype=torch.float64, requires_grad=True)
    weights = function(X, y, v)
    return weights, *torch.autograd.grad(weights.square().sum(), (X, v))


for dynamic in (None, True):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(
        lambda X, y, v: solve(X, y, v).weights, fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    for shape in ((2, 12, 7), (3, 15, 8), (5, 18, 11)):
        for ours, theirs in zip(both(compiled, *shape), both(lambda *t: solve(*t).weights, *shape)):
            torch.testing.assert_close(ours, theirs)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 1 if dynamic else graphs <= 2, graphs
"""

THREADED = """
import importlib.abc, sys, threading, time, torch


class Slowly(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if "._cpp_" in name:
            time.sleep(0.3)


sys.meta_path.insert(0, Slowly())
from sparsedis import solve_lasso, solve_logistic, solve_ridge, solve_svm

X, y, t = torch.randn(1, 9, 5), torch.arange(9)[None] % 3, torch.randn(1, 9)
calls = [
    lambda: solve_svm(X, y, lambda1=0.5),
    lambda: solve_lasso(X, t, lambda1=0.1),
    lambda: solve_ridge(X, t, lambda2=0.1),
    lambda: solve_logistic(X, y, lambda1=0.1),
]
start, failures = threading.Barrier(16), []


def run(call):
    start.wait()
    try:
        call()
    except BaseException as error:
        failures.append(error)


threads = [threading.Thread(target=run, args=(calls[i % 4],)) for i in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not failures, failures
"""


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", script, *arguments], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("operations", [("svm", "lasso"), ("ridge", "logistic")], ids=" ".join)
def test_first_use_inside_torch_compile_with_any_shapes(operations):
    """One graph if shapes are dynamic from the start, and two if they are found to be dynamic."""
    run(COMPILED, *operations)


@pytest.mark.slow
def test_first_use_in_several_threads_at_once():
    run(THREADED)
