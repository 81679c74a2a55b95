"""The published algorithm: a few proximal steps on the dual, then the implicit gradient of their fixed point.

Five steps of projected gradient from L = 1/k with step lambda2/lambda_max(X X^T), no residual; then, as torchopt
offers it, conjugate gradients on the normal equations of the fixed point, five iterations with a ridge of
1/max(step)/1000. Source: Lachapelle et al., ICML 2023 (arXiv 2211.14666), section 3.3 and its code.

Twice: as published, with the fixed point differentiated automatically, and by hand, with matrix products over the whole
batch, which is several times quicker than the published way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gates import Outcome
from benchmarks.peers import Prepared
from benchmarks.tasks import Case, Tasks

STEPS, CG_ITERATIONS = 5, 5
_TINY = 1e-30


class Published:
    """See :class:`benchmarks.peers.Peer`. It promises neither a gap nor a gradient."""

    name = "published"
    automatic = True
    gap: float | None = None
    gradient: float | None = None

    def __init__(self, steps: int = STEPS, cg_iterations: int = CG_ITERATIONS, ridge: float | None = None) -> None:
        self.steps, self.cg_iterations, self.ridge = steps, cg_iterations, ridge

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
            layer = AutomaticLayer(tasks) if self.automatic else Layer(tasks)
            layer.solve(self.steps)
            weights = layer.weights()
            return Outcome(weights, layer.dual, *layer.gradients(tasks.cotangent, self.cg_iterations, self.ridge))

        return Prepared(forward, forward_backward, len(tasks))


class PublishedByHand(Published):
    """The same, its derivatives written out."""

    name = "published, by hand"
    automatic = False


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

    def solve(self, steps: int) -> None:
        """Steps of projected gradient on f(L) = sum_j (||V_j|| - lambda1)_+^2 / (2 lambda2) + <Y, L>."""
        for _ in range(steps):
            self.dual = _project(self.dual - self.step * self._gradient())[0]

    def weights(self) -> Tensor:
        """W = BST(V, lambda1)/lambda2, (B, d, k)."""
        V = self.X.mT @ (self.Y - self.dual)
        return self._shrink(V) * V

    def _shrink(self, V: Tensor) -> Tensor:
        norms = torch.linalg.vector_norm(V, dim=-1, keepdim=True)
        return (1 - self.lambda1 / norms.clamp_min(_TINY)).clamp_min(0) / self.lambda2

    def _gradient(self) -> Tensor:
        return self.Y - self.X @ self.weights()

    def gradients(self, c: Tensor, iterations: int, ridge: float | None) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients in X, lambda1 and lambda2 for dloss/dW = c (B, d, k).

        The step is L -> F(L) = proj(L - step g(L)). Its derivative is P (I - step H) with H = X J X^T, P the
        projection onto the face's directions. With r = dloss/dL, u solves (I - F')^T u = r, and P u, times the step,
        is the adjoint of section 4 of the package's derivation: at the exact fixed point both agree.
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
        face = (_project(self.dual - step * g)[0] > 0).to(X.dtype)
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

        ridge = (1 / step.max().item() / 1000) if ridge is None else ridge
        r = -(X @ J(c))
        u = _cg(lambda R: direct(transposed(R)) + ridge * R, direct(r), iterations)
        q = step * P(u)
        moved = J(total := c + X.mT @ q)
        grad_features = A @ moved.mT + q @ W.mT
        grad_lambda1 = -(on * total * U).sum((1, 2)) / self.lambda2[:, 0, 0]
        grad_lambda2 = -(total * W).sum((1, 2)) / self.lambda2[:, 0, 0]
        return grad_features, grad_lambda1, grad_lambda2


class AutomaticLayer(Layer):
    """The algorithm with the derivative of its step by torch.func, forward and reverse, as torchopt takes it."""

    def gradients(self, c: Tensor, iterations: int, ridge: float | None) -> tuple[Tensor, Tensor, Tensor]:
        parameters = self.X, self.lambda1, self.lambda2

        def weights(dual: Tensor, X: Tensor, lambda1: Tensor, lambda2: Tensor) -> Tensor:
            V = X.mT @ (self.Y - dual)
            norms = torch.linalg.vector_norm(V, dim=-1, keepdim=True).clamp_min(_TINY)
            return (1 - lambda1 / norms).clamp_min(0) / lambda2 * V

        def step(dual: Tensor, *given: Tensor) -> Tensor:
            return _project(dual - self.step * (self.Y - given[0] @ weights(dual, *given)))[0]

        _, pull = torch.func.vjp(weights, self.dual, *parameters)
        r, *direct = pull(c)
        _, pull_dual = torch.func.vjp(lambda dual: step(dual, *parameters), self.dual)

        def transposed(R: Tensor) -> Tensor:  # (I - F')^T
            return R - pull_dual(R)[0]

        def forward(R: Tensor) -> Tensor:  # I - F'
            return R - torch.func.jvp(lambda dual: step(dual, *parameters), (self.dual,), (R,))[1]

        ridge = (1 / self.step.max().item() / 1000) if ridge is None else ridge
        u = _cg(lambda R: forward(transposed(R)) + ridge * R, forward(r), iterations)
        _, pull_parameters = torch.func.vjp(lambda *given: step(self.dual, *given), *parameters)
        features, lambda1, lambda2 = (a + b for a, b in zip(direct, pull_parameters(u), strict=True))
        return features, lambda1.flatten(), lambda2.flatten()


def _project(points: Tensor) -> tuple[Tensor, Tensor]:
    """Projection of rows onto the simplex, by sorting; and the thresholds."""
    k = points.shape[-1]
    ordered = points.sort(-1, descending=True).values
    count = torch.arange(1, k + 1, device=points.device, dtype=points.dtype)
    excess = (ordered.cumsum(-1) - 1) / count
    last = (ordered > excess).sum(-1, keepdim=True).clamp_min(1) - 1
    tau = excess.gather(-1, last)
    return (points - tau).clamp_min(0), tau


def _cg(matvec: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """Conjugate gradients from 0, every task with its own step lengths."""

    def dot(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum((1, 2), keepdim=True)

    x = torch.zeros_like(b)
    residual, direction, square = b, b, dot(b, b)
    for _ in range(iterations):
        image = matvec(direction)
        length = square / dot(direction, image).clamp_min(_TINY)
        x = x + length * direction
        residual = residual - length * image
        previous, square = square, dot(residual, residual)
        direction = residual + square / previous.clamp_min(_TINY) * direction
    return x
