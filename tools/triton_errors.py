"""The largest error of every Triton kernel against float64, and that of the Hessian's two float32 products.

    TRITON_INTERPRET=1 python tools/triton_errors.py [--docs docs/triton.md]

Without a GPU the kernels are interpreted: with the same arithmetic and dtypes, but summed in NumPy's order. "tf32x3" is
emulated by its definition.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from sparsedis.ops.svm import Inputs, lambda1_max
from sparsedis.ops.svm.backend_torch.adjoint import adjoint as torch_adjoint
from sparsedis.ops.svm.backend_torch.fista import fista as torch_fista
from sparsedis.ops.svm.backend_torch.hessian import active_curvature
from sparsedis.ops.svm.backend_torch.newton import LightForm
from sparsedis.ops.svm.backend_torch.newton import newton as torch_newton
from sparsedis.ops.svm.backend_triton import hessian, newton, products
from sparsedis.ops.svm.backend_triton.adjoint import adjoint
from sparsedis.ops.svm.backend_triton.certify import check
from sparsedis.ops.svm.backend_triton.fista import fista
from sparsedis.ops.svm.backend_triton.tasks import Tasks, as_tasks
from sparsedis.ops.svm.problem import Problem, certificate, normalised, simplex_projection
from tools.marked_text import replace_between_marks

SIZES = ((1, 1, 2), (7, 63, 3), (25, 640, 5), (75, 63, 5), (7, 1601, 20))
SINGLE, DOUBLE = torch.float32, torch.float64


def problems(n: int, d: int, k: int) -> tuple[Tasks, Problem]:
    """Two tasks, one of them with a smoothed hinge."""
    generator = torch.Generator().manual_seed(n + d + k)
    X = torch.randn(2, n, d, generator=generator)  # float32 values, so that rounding the input adds no error
    y = torch.randint(k, (2, n), generator=generator)
    one = torch.ones(2, dtype=DOUBLE)
    weight = torch.ones(2, n, dtype=DOUBLE)
    values = (0.2 * lambda1_max(X, y, weight, k, False), 20 * one, torch.tensor([0.0, 5.0], dtype=DOUBLE), weight)
    inputs = Inputs(X, y, *values)
    return as_tasks(inputs, k)[0], normalised(inputs, k)[0]


def error(ours: Tensor, exact: Tensor) -> float:
    """Largest difference relative to the largest entry."""
    return ((ours.double() - exact.double()).abs().max() / exact.double().abs().max().clamp_min(1e-300)).item()


def measured() -> dict[str, dict[torch.dtype, float]]:
    """The largest error over the sizes, by kernel and working precision."""
    found: dict[str, dict[torch.dtype, float]] = {}

    def note(name: str, dtype: torch.dtype, ours: Tensor, exact: Tensor) -> None:
        entry = found.setdefault(name, {})
        entry[dtype] = max(entry.get(dtype, 0.0), error(ours, exact))

    for n, d, k in SIZES:
        tasks, problem = problems(n, d, k)
        generator = torch.Generator().manual_seed(0)
        dual = simplex_projection(2 * torch.randn(2, n, k, generator=generator, dtype=DOUBLE))[0]
        all_tasks = torch.ones(2, dtype=torch.int32)
        scale = tasks.scale[:, None, None]
        exact = certificate(problem, dual)
        rows = torch.randn(2, n, k, generator=generator, dtype=DOUBLE)
        weights = scale * problem.features.mT @ rows
        for dtype in (SINGLE, DOUBLE):
            at = check(tasks, dual, all_tasks, dtype, store=True)
            note("pass_kernel: V", dtype, at.V, scale * exact.V)
            note("check_kernel: scores X W", dtype, at.scores, exact.scores)
            note("check_kernel: gap", dtype, at.gap / exact.objective, exact.gap / exact.objective)
            note(
                "gram_kernel: X X^T",
                dtype,
                hessian.gram(tasks, dtype),
                scale**2 * problem.features @ problem.features.mT,
            )
            note("correlation_kernel", dtype, products.correlation(tasks, rows, all_tasks, dtype), weights)
            given = scale * problem.features @ weights
            note("scores_kernel", dtype, products.scores(tasks, weights, all_tasks, dtype), given)
        if n * k > 125 or d > 640:
            continue  # the interpreter takes minutes
        for variant, name in (("fused", "steps_kernel"), ("shared", "step_kernel")):
            for dtype in (SINGLE, DOUBLE):
                ours = fista(tasks, 1e-12, 10, dtype, variant).exact
                note(f"{name}: L after 10 steps", dtype, ours, torch_fista(problem, 1e-12, 10).dual)
        if d > 100:
            continue
        for dtype in (SINGLE, DOUBLE):
            form, theirs = newton.KernelLightForm(tasks, all_tasks, dtype), LightForm(problem)
            form.advance(check(tasks, form.dual, all_tasks, DOUBLE, store=True))  # type: ignore[arg-type]
            theirs.advance(certificate(problem, theirs.dual))
            note("assemble, corrector and move_kernel: L after a step", dtype, form.dual, theirs.dual)
        solved = torch_newton(problem, 1e-11, 50).dual
        grad = torch.randn(2, d, k, generator=generator, dtype=DOUBLE)
        for ours, exactly, what in zip(
            adjoint(tasks, solved, grad),
            torch_adjoint(problem, solved, grad),
            ("features (written in float32)", "lambda1", "lambda2", "dual_reg"),
            strict=True,
        ):
            note(f"gradient_kernel: {what}", DOUBLE, ours, exactly)
    return found


def tf32(values: Tensor) -> Tensor:
    """float32 rounded to the 10 bits of TF32."""
    bits = values.float().contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def hessians() -> dict[str, float]:
    """The error of the Newton matrix with each kind of product, for 25 samples of 5 classes with 640 features."""
    _, problem = problems(25, 640, 5)
    dual = torch.full_like(problem.targets, 0.2)
    curvature = active_curvature(problem, certificate(problem, dual))
    rows = problem.features * curvature.alpha[:, None].sqrt()
    exact = rows @ rows.mT
    left, right = (rows * 1.0).float(), rows.mT.float()
    high, high_right = tf32(left), tf32(right)
    low, low_right = tf32(left - high), tf32(right - high_right)
    three = high @ low_right + low @ high_right + high @ high_right
    return {"ieee": error(left @ right, exact), "tf32x3": error(three, exact), "tf32": error(high @ high_right, exact)}


def markdown() -> str:
    lines = ["| kernel | in float32 | in float64 |", "|---|---|---|"]
    for name, errors in measured().items():
        shown = (f"{errors[dtype]:.1e}" if dtype in errors else "-" for dtype in (SINGLE, DOUBLE))
        lines.append(f"| {name} | {' | '.join(shown)} |")
    ways = hessians()
    lines += [
        "",
        f"The Hessian's products of float32: {', '.join(f'{name} {value:.1e}' for name, value in ways.items())}.",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--docs", type=Path, help="Markdown file to put the table into, between its marks")
    options = parser.parse_args(arguments)
    text = markdown()
    print(text)
    if options.docs:
        replace_between_marks(options.docs, "errors", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
