"""
A thousand sparse classifiers at once
=====================================

A batch of tasks is solved in one call. Every task has its own certificate, so run times can be shown together with the
accuracy that was reached.
"""

from time import perf_counter

import matplotlib.pyplot as plt
import torch

import sparsedis

# %%
# A thousand tasks with five classes, five samples per class and 200 features.

generator = torch.Generator().manual_seed(0)
TASKS, WAY, SHOT, FEATURES = 1000, 5, 5, 200
labels = torch.arange(WAY).repeat_interleave(SHOT).expand(TASKS, -1)
centres = torch.randn(TASKS, WAY, FEATURES, generator=generator)
features = centres.repeat_interleave(SHOT, 1) + torch.randn(TASKS, WAY * SHOT, FEATURES, generator=generator)


def solve(tasks):
    """Solve some of the tasks, forward and backward; return the solution and the time in seconds."""
    X = features[tasks].clone().requires_grad_()
    start = perf_counter()
    solution = sparsedis.solve_svm(X, labels[tasks], lambda1=0.2, lambda2=1.0, relative=True)
    solution.weights.square().sum().backward()
    return solution, perf_counter() - start


solve(slice(0, 10))  # the first call loads the kernels

# %%
# All tasks in one call, and one task at a time (measured on the first 100 and multiplied by ten):

solution, together = solve(slice(None))
alone = 10 * sum(solve(slice(i, i + 1))[1] for i in range(100))
print(f"{TASKS} tasks, forward and backward: {together:.2f} s in one call, {alone:.2f} s one by one")
print(f"certified: {solution.certified.double().mean():.1%}; largest relative gap {solution.relative_gap.max():.1e}")
print(f"features used: {solution.active.double().mean():.1%}; backend: {solution.backend}")

# %%
# The time of a first-order method to reach a given gap. It stops at ``tol``; the default solver continues to rounding
# error.

options = {"lambda1": 0.2, "lambda2": 1.0, "relative": True}
inputs = features[:100], labels[:100]
curve = []
for solver, tol in [("fista", 1e-2), ("fista", 1e-3), ("fista", 1e-4), ("fista", 1e-5), ("newton", 1e-5)]:
    start = perf_counter()
    found = sparsedis.solve_svm(*inputs, **options, solver=solver, tol=tol)
    curve.append((found.relative_gap.max().item(), perf_counter() - start))
    print(f"{solver}, tol {tol:.0e}: {curve[-1][1]:.3f} s, largest gap {curve[-1][0]:.1e}")

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
left.hist(solution.relative_gap.log10(), bins=30)
left.axvline(-5, color="C3", linestyle="--", label="asked for")
left.set(xlabel="relative gap, power of ten", ylabel="tasks", title=f"{TASKS} tasks in {together:.2f} s")
left.legend()
right.semilogx(*zip(*curve[:-1], strict=True), "o-", label="fista")
right.semilogx(*curve[-1], "s", label="newton (default)")
right.set(xlabel="largest relative gap of 100 tasks", ylabel="seconds, forward", ylim=0)
right.invert_xaxis()
right.legend(loc="center right")
plt.show()
