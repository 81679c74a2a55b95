"""The published algorithm: a few proximal steps on the dual, then the implicit gradient of their fixed point.

Five projected gradient steps from L = 1/k with step lambda2/lambda_max(X X^T), without a stopping criterion; then
torchopt's conjugate gradients on the normal equations of the fixed point, five iterations with a ridge of
1/max(step)/1000, with all tasks of a batch in one system. Source: Lachapelle et al., ICML 2023 (arXiv 2211.14666),
section 3.3 and its code.

There are two versions: on torchopt's ``custom_root``, like the authors' layer, and with the same derivatives by hand,
in matrix products over the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gates import Bound, Outcome
from benchmarks.peers import Prepared, reason_not_importable
from benchmarks.tasks import Case, Tasks
from sparsedis.info import installed_version

STEPS, CG_ITERATIONS = 5, 5
RTOL = 1e-5  # torchopt's default: conjugate gradients stop at this relative residual
_TINY = 1e-30


class PublishedByHand:
    """See :class:`benchmarks.peers.Peer`. Promises neither a gap nor a gradient."""

    name = "published, by hand"
    gap: float | None = None
    gradient: Bound | None = None

    def __init__(
        self,
        steps: int = STEPS,
        cg_iterations: int = CG_ITERATIONS,
        ridge: float | None = None,
        rtol: float = RTOL,
    ) -> None:
        self.steps, self.cg_iterations, self.ridge, self.rtol = steps, cg_iterations, ridge, rtol

    def available(self) -> str | None:
        return None

    def supports(self, case: Case, device: torch.device) -> str | None:
        return None

    def describe(self) -> str:
        return f"{self.steps} steps, {self.cg_iterations} CG iterations, torch {torch.__version__}"

    def prepare(self, tasks: Tasks) -> Prepared:
        def forward() -> Outcome:
            layer = Layer(tasks)
            layer.solve(self.steps)
            return Outcome(layer.weights(), layer.dual)

        def forward_backward() -> Outcome:
            layer = Layer(tasks)
            layer.solve(self.steps)
            grads = layer.gradients(tasks.cotangent, self.cg_iterations, self.ridge, self.rtol)
            return Outcome(layer.weights(), layer.dual, *grads)

        return Prepared(forward, forward_backward, len(tasks))


class Published(PublishedByHand):
    """The same on torchopt. As in the authors' layer the lambdas are constants: only the features have a gradient."""

    name = "published"

    def available(self) -> str | None:
        return reason_not_importable("torchopt")

    def describe(self) -> str:
        return f"{super().describe()}, torchopt {installed_version('torchopt')}"

    def prepare(self, tasks: Tasks) -> Prepared:
        def forward_backward() -> Outcome:
            features = tasks.features.detach().requires_grad_()
            layer = Layer(tasks)
            dual = self._solver(layer)(layer.dual, features)
            W = _weights(features, layer.Y - dual, layer.lambda1, layer.lambda2)
            (grad_features,) = torch.autograd.grad(W, features, tasks.cotangent)
            return Outcome(W.detach(), dual.detach(), grad_features)

        return Prepared(super().prepare(tasks).forward, forward_backward, len(tasks))

    def _solver(self, layer: Layer) -> Callable[[Tensor, Tensor], Tensor]:
        """(L, X) -> L after the steps, with the fixed point's gradient with respect to X."""
        from torchopt.diff.implicit import custom_root
        from torchopt.linear_solve import solve_normal_cg

        def residual(dual: Tensor, features: Tensor) -> Tensor:
            return dual - layer.stepped(dual, features)

        ridge = layer.ridge if self.ridge is None else self.ridge
        linear = solve_normal_cg(maxiter=self.cg_iterations, rtol=self.rtol, atol=0.0, ridge=ridge)

        @custom_root(residual, argnums=1, solve=linear)
        def solve(dual: Tensor, features: Tensor) -> Tensor:
            for _ in range(self.steps):
                dual = layer.stepped(dual, features)
            return dual

        return solve


class Layer:
    """The algorithm on a batch, in the features' own precision.

    Attributes:
        dual: L, (B, n, k).
        step: lambda2/lambda_max(X X^T), (B, 1, 1).
    """

    def __init__(self, tasks: Tasks) -> None:
        self.X = tasks.features
        self.Y = torch.nn.functional.one_hot(tasks.labels, tasks.n_classes).to(self.X.dtype)
        self.lambda1 = tasks.lambda1.to(self.X.dtype)[:, None, None]
        self.lambda2 = tasks.lambda2.to(self.X.dtype)[:, None, None]
        self.dual = torch.full_like(self.Y, 1 / tasks.n_classes)
        largest = torch.linalg.eigvalsh(self.X @ self.X.mT)[:, -1]
        self.step = self.lambda2 / largest[:, None, None]

    @property
    def ridge(self) -> float:
        """The ridge of the published code."""
        return 1 / self.step.max().item() / 1000

    def stepped(self, dual: Tensor, features: Tensor) -> Tensor:
        """A projected gradient step on f(L) = sum_j (||V_j|| - lambda1)_+^2 / (2 lambda2) + <Y, L>."""
        W = _weights(features, self.Y - dual, self.lambda1, self.lambda2)
        return _project(dual - self.step * (self.Y - features @ W))

    def solve(self, steps: int) -> None:
        for _ in range(steps):
            self.dual = self.stepped(self.dual, self.X)

    def weights(self) -> Tensor:
        """W, (B, d, k)."""
        return _weights(self.X, self.Y - self.dual, self.lambda1, self.lambda2)

    def gradients(self, c: Tensor, iterations: int, ridge: float | None, rtol: float) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients with respect to X, lambda1 and lambda2 for dloss/dW = c (B, d, k).

        A step is L -> F(L) = proj(L - step g(L)). Its derivative is P (I - step H) with H = X J X^T and P the
        projection onto the directions of the face. With r = dloss/dL, u solves (I - F')^T u = r, and P u times the step
        is the adjoint of section 4 of the package's derivation: they agree at the exact fixed point.
        """
        X, A, step = self.X, self.Y - self.dual, self.step
        V = X.mT @ A
        norms = torch.linalg.vector_norm(V, dim=-1, keepdim=True).clamp_min(_TINY)
        on = norms > self.lambda1
        t = (self.lambda1 / norms).clamp_max(1)
        U = V / norms
        radial, tangential = on / self.lambda2, (1 - t) / self.lambda2
        W = tangential * V
        g = self.Y - X @ W
        face = (_project(self.dual - step * g) > 0).to(X.dtype)
        size = face.sum(-1, keepdim=True)

        def J(R: Tensor) -> Tensor:
            along = (U * R).sum(-1, keepdim=True)
            return tangential * R + (radial - tangential) * along * U

        def P(R: Tensor) -> Tensor:
            return face * (R - (face * R).sum(-1, keepdim=True) / size)

        def H(R: Tensor) -> Tensor:
            return X @ J(X.mT @ R)

        def transposed(R: Tensor) -> Tensor:  # (I - F')^T
            R_face = P(R)
            return R - R_face + step * H(R_face)

        def direct(R: Tensor) -> Tensor:  # I - F'
            return R - P(R - step * H(R))

        ridge = self.ridge if ridge is None else ridge
        r = -(X @ J(c))
        u = _cg(lambda R: direct(transposed(R)) + ridge * R, direct(r), iterations, rtol)
        q = step * P(u)
        moved = J(total := c + X.mT @ q)
        grad_features = A @ moved.mT + q @ W.mT
        grad_lambda1 = -(on * total * U).sum((1, 2)) / self.lambda2[:, 0, 0]
        grad_lambda2 = -(total * W).sum((1, 2)) / self.lambda2[:, 0, 0]
        return grad_features, grad_lambda1, grad_lambda2


def _weights(X: Tensor, A: Tensor, lambda1: Tensor, lambda2: Tensor) -> Tensor:
    """W = BST(V, lambda1)/lambda2 for V = X^T A, (B, d, k)."""
    V = X.mT @ A
    norms = torch.linalg.vector_norm(V, dim=-1, keepdim=True)
    return (1 - lambda1 / norms.clamp_min(_TINY)).clamp_min(0) / lambda2 * V


def _project(points: Tensor) -> Tensor:
    """Projection of rows onto the simplex, by sorting."""
    k = points.shape[-1]
    ordered = points.sort(-1, descending=True).values
    count = torch.arange(1, k + 1, device=points.device, dtype=points.dtype)
    excess = (ordered.cumsum(-1) - 1) / count
    last = (ordered > excess).sum(-1, keepdim=True).clamp_min(1) - 1
    tau = excess.gather(-1, last)
    return (points - tau).clamp_min(0)


def _cg(matvec: Callable[[Tensor], Tensor], b: Tensor, iterations: int, rtol: float) -> Tensor:
    """Conjugate gradients from 0 as in torchopt: one step length for the whole batch."""
    x = torch.zeros_like(b)
    residual, direction, square = b, b, (b * b).sum()
    least = rtol**2 * square
    for _ in range(iterations):
        if square <= least:
            break
        image = matvec(direction)
        length = square / (direction * image).sum()
        x = x + length * direction
        residual = residual - length * image
        previous, square = square, (residual * residual).sum()
        direction = residual + square / previous * direction
    return x
