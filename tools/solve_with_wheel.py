"""Check an installed wheel without a compiler: it must solve, with gradients, and use its own kernels if it has them.

python tools/solve_with_wheel.py, in an environment with the wheel and torch, from any folder but the repository.
"""

import os

import torch

import sparsedis

features = torch.randn(8, 25, 640, requires_grad=True)
labels = torch.arange(5).repeat(5).expand(8, -1)
# Wheels for Windows have no kernels, which only GCC and Clang compile.
backend = "cpp" if os.name == "posix" else "torch"
solution = sparsedis.solve_svm(features, labels, lambda1=0.1, relative=True, backend=backend)
solution.weights.sum().backward()
assert solution.certified.all()
assert features.grad is not None
assert torch.isfinite(features.grad).all()
print(f"{sparsedis.__file__}: solved by {backend}, largest relative gap {solution.relative_gap.max():.1e}")
