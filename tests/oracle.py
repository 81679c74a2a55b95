"""The exact solution of one group-Lasso multiclass SVM and its exact gradients, in float64 and without the package.

The method differs from the package's. The primal in epigraph form

    min over W, t, xi, e of  sum_i s_i (xi_i + <Y_i, e_i> + ||e_i||^2 / (2 rho)) + lambda1 sum_j t_j + lambda2/2 ||W||^2
    subject to  (t_j, W_j) in a second-order cone,   q_il = xi_i + e_il - m_il(W) >= 0

(e = 0 where rho = dual_reg/lambda2 = 0) is a conic quadratic programme. A primal-dual interior-point method with
Nesterov-Todd scaling, as in Vandenberghe's coneqp, identifies the active features and margins. Newton's method on the
optimality conditions restricted to these, in W, xi and the multipliers z = diag(s) L of the active margins, then
converges to rounding. Gradients follow from the implicit function theorem for the same conditions.

    lambda2 W_j + lambda1 W_j/||W_j|| + X_j^T D^T z = 0 on active features    (1)
    xi_i + rho (z_il/s_i - Y_il) - m_il(W) = 0 on active margins                      (2)
    sum_l z_il = s_i                                                          (3)

where m = 1 - Y + D X W, and D subtracts the label's entry of a row from all of its entries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

GAP = 1e-12
KINK = 1e-9
TINY = np.finfo(np.float64).tiny


class NotSmoothError(ValueError):
    """The task is at a kink up to float64 rounding, so that its gradient does not exist or is unreliable."""


@dataclass(frozen=True)
class Exact:
    """The result of :func:`exact`.

    Attributes:
        weights: W, (d, k).
        dual: L, (n, k), rows in the simplex; zero for samples without weight. Not necessarily unique.
        grad_features: dloss/dX, (n, d).
        grad_lambda1, grad_lambda2, grad_dual_reg: dloss/d of the hyperparameters.
        gap: (P(W) - D(L)) / P(W), below 1e-12, or with P(W) - D(L) below 1e-14 sum_i s_i if P(W) is far below
            P(0) = sum_i s_i.
        margin: scale-free distance to a kink, the minimum of | ||V_j||/lambda1 - 1 | over the features and of
            max(L_il, q_il), q_il being the slack of the margin, over samples and classes.
        free: number of active margins; active: number of active features.
    """

    weights: Array
    dual: Array
    grad_features: Array
    grad_lambda1: float
    grad_lambda2: float
    grad_dual_reg: float
    gap: float
    margin: float
    free: int
    active: int


def exact(
    features: Array,
    labels: NDArray[np.int64],
    lambda1: float,
    lambda2: float,
    dual_reg: float,
    n_classes: int,
    grad_weights: Array,
    sample_weight: Array | None = None,
) -> Exact:
    """Solution and gradients of one task up to rounding, for the loss with dloss/dW = ``grad_weights``.

    Args:
        features: X, (n, d).
        labels: (n,), in 0..n_classes-1 for samples with weight.
        lambda1, lambda2, dual_reg: as in :func:`sparsedis.solve_svm`.
        n_classes: k.
        grad_weights: (d, k).
        sample_weight: s, (n,), all 1 by default; samples of weight 0 are left out.

    Raises:
        NotSmoothError: if the margin is below 1e-9, the gradients of the active margins are linearly dependent (as for
            a duplicated point), or the active features and margins could not be identified.
    """
    weight = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    present = weight > 0
    X, s = np.asarray(features, np.float64)[present], weight[present]
    Y = np.eye(n_classes)[np.asarray(labels)[present]]
    task = _Task(X, Y, s, float(lambda1), float(lambda2), float(dual_reg / lambda2))
    # Rescale so that lambda1 (or, if it is 0, lambda2) is 1; this leaves L unchanged.
    unit = lambda1 if lambda1 > 0 else lambda2**0.5
    at = _solve(replace(task, X=X / unit, lambda1=lambda1 / unit, lambda2=lambda2 / unit**2))
    W = at.W / unit
    dual = np.zeros((len(present), n_classes))
    dual[present] = at.z / s[:, None]
    gap, objective = duality_gap(features, labels, lambda1, lambda2, dual_reg, W, dual, weight)
    if not gap < GAP * max(objective, s.sum() / 100):
        raise NotSmoothError(f"expected a relative gap below {GAP:g}, got {gap / objective:.1e}")
    margin = _margin(task, at.z, W)
    if margin < KINK:
        raise NotSmoothError(f"expected a margin of at least {KINK:g}, got {margin:.1e}")
    c = np.asarray(grad_weights, np.float64)
    system = _System(task, W, at.on, at.free)
    if not system.regular:
        raise NotSmoothError(
            "the active margins are linearly dependent: L is not unique, and changing X separates them"
        )
    # p solves the symmetric [B, X^T D^T, 0; D X, -rho/s, -1; 0, -1^T, 0] p = (c, 0, 0).
    zero = np.zeros_like(at.z)
    p_W, _, p_z = system.solve(c, zero, zero[:, :1])
    grad_X = np.zeros(features.shape)
    grad_X[present] = task.A(at.z) @ p_W.T - task.D_transposed(p_z) @ W.T
    to_rho = float((p_z * (at.z / s[:, None] - task.Y)).sum())
    lengths = np.linalg.norm(W, axis=1)
    units = np.divide(W, lengths[:, None], out=np.zeros_like(W), where=lengths[:, None] > 0)
    return Exact(
        weights=W,
        dual=dual,
        grad_features=grad_X,
        grad_lambda1=-float((p_W * units).sum()),
        grad_lambda2=-float((p_W * W).sum()) - to_rho * dual_reg / lambda2**2,
        grad_dual_reg=to_rho / lambda2,
        gap=gap / objective,
        margin=margin,
        free=int(at.free.sum()),
        active=int(at.on.sum()),
    )


def duality_gap(
    features: Array,
    labels: NDArray[np.int64],
    lambda1: float,
    lambda2: float,
    dual_reg: float,
    weights: Array,
    dual: Array,
    sample_weight: Array,
) -> tuple[float, float]:
    """|P(W) - D(L)| and P(W) for any W (d, k) and L (n, k), in extended precision if the platform has it.

    Labels as for :func:`exact`. Rows of L are divided by their sums.
    """
    s = np.asarray(sample_weight)
    present = s > 0
    X, W, L, s = (np.asarray(value, np.longdouble) for value in (features[present], weights, dual[present], s[present]))
    Y = np.eye(W.shape[1], dtype=np.longdouble)[labels[present]]
    rho = np.longdouble(dual_reg) / np.longdouble(lambda2)
    L = L / L.sum(1, keepdims=True)
    scores = X @ W
    m = 1 - Y + scores - (scores * Y).sum(1, keepdims=True)
    a = _simplex(Y + m / rho) if rho > 0 else np.eye(W.shape[1], dtype=np.longdouble)[m.argmax(1)]
    hinge = (a * m).sum(1) - rho / 2 * ((a - Y) ** 2).sum(1)
    primal = s @ hinge + lambda1 * np.sqrt((W**2).sum(1)).sum() + lambda2 / 2 * (W**2).sum()
    others = L * (1 - Y)
    V = X.T @ (s[:, None] * (Y * others.sum(1, keepdims=True) - others))
    excess = np.maximum(np.sqrt((V**2).sum(1)) - lambda1, 0)
    smoothing = rho / 2 * ((L - Y) ** 2).sum(1)
    value = s @ (others.sum(1) - smoothing) - (excess**2).sum() / (2 * np.longdouble(lambda2))
    return float(abs(primal - value)), float(primal)


@dataclass(frozen=True)
class _Task:
    """The samples with positive weight: X (n, d), one-hot Y (n, k), s (n,)."""

    X: Array
    Y: Array
    s: Array
    lambda1: float
    lambda2: float
    rho: float

    def D(self, rows: Array) -> Array:
        """All columns of (n, k, ...) minus the label's column."""
        return rows - rows[np.arange(len(rows)), self.Y.argmax(1)][:, None]

    def D_transposed(self, rows: Array) -> Array:
        return rows - self.Y * rows.sum(1, keepdims=True)

    def A(self, z: Array) -> Array:
        """diag(s)(Y - L), (n, k), with the label's entry as the sum of the others, which avoids cancellation."""
        others = z * (1 - self.Y)
        return self.Y * others.sum(1, keepdims=True) - others

    def margins(self, W: Array) -> Array:
        return 1 - self.Y + self.D(self.X @ W)

    def hessian(self, C: _Blocks) -> Array:
        """D X C X^T D^T, (nk, nk)."""
        n, k = self.Y.shape
        H = np.zeros((n, k, n, k))
        H[:, np.arange(k), :, np.arange(k)] = (self.X * C.across) @ self.X.T
        columns = np.sqrt(C.along - C.across)[:, None] * C.units
        if columns.any():
            Z = np.einsum("ij,jl->ilj", self.X, columns).reshape(n * k, -1)
            H += (Z @ Z.T).reshape(n, k, n, k)
        return self.D(self.D(H).transpose(2, 3, 0, 1)).reshape(n * k, n * k)


@dataclass(frozen=True)
class _Blocks:
    """One k x k matrix per feature: across_j I + (along_j - across_j) u_j u_j^T, where u_j is a unit vector or zero."""

    across: Array  # (d,)
    along: Array  # (d,)
    units: Array  # (d, k)

    def __call__(self, rows: Array) -> Array:
        projected = (self.along - self.across) * (self.units * rows).sum(1)
        return self.across[:, None] * rows + projected[:, None] * self.units

    def inverse(self) -> _Blocks:
        return _Blocks(1 / self.across, 1 / self.along, self.units)


@dataclass(frozen=True)
class _Point:
    W: Array
    z: Array
    on: Mask  # active features, (d,)
    free: Mask  # active margins, (n, k)


def _solve(task: _Task) -> _Point:
    """Interior-point iterations until Newton's method on their active set converges to a solution."""
    reason = "the interior-point method did not come near a solution"
    for at in _interior_points(task):
        if at.gap > 1e-5:
            continue
        try:
            return _polish(at)
        except NotSmoothError as error:
            reason = str(error)
    raise NotSmoothError(reason)


def _interior_points(task: _Task) -> Iterator[_Interior]:
    """The iterates of the conic interior-point method, with Mehrotra's predictor and corrector."""
    at = _Interior.start(task)
    for _ in range(80):
        yield at
        if at.complement <= 1e-15 * at.primal:
            return
        mu = at.complement / at.degree
        system = _InteriorSystem(at)
        predictor = system.direction(-at.z * at.q, -system.cones.point)
        ahead = at.moved(predictor, min(1.0, at.reach(predictor)))
        target = min(1.0, max(ahead.complement / at.complement, 0.0)) ** 3 * mu
        step = system.direction(
            target - at.z * at.q - predictor.z * predictor.q, system.cones.corrector(predictor, target)
        )
        size = min(1.0, 0.99 * at.reach(step))
        if not size > 1e-10:  # the point is on the boundary up to rounding
            return
        at = at.moved(step, size)


@dataclass(frozen=True)
class _Step:
    """A search direction; lambda1, the first entry of U's cone, is constant."""

    W: Array
    U: Array
    t: Array
    z: Array
    xi: Array
    q: Array


@dataclass(frozen=True)
class _Interior:
    """A strictly feasible point: ||W_j|| < t_j, ||U_j|| < lambda1, z > 0, q > 0. For lambda1 = 0, U and t are zero."""

    task: _Task
    W: Array  # (d, k)
    U: Array  # (d, k)
    t: Array  # (d,)
    z: Array  # (n, k)
    xi: Array  # (n, 1)
    q: Array  # (n, k)

    @classmethod
    def start(cls, task: _Task) -> _Interior:
        k = task.Y.shape[1]
        z = np.repeat(task.s[:, None] / k, k, 1)
        V = task.X.T @ task.A(z)
        lengths = np.linalg.norm(V, axis=1, keepdims=True) + TINY
        W = np.maximum(1 - task.lambda1 / lengths, 0) * V / task.lambda2
        t = np.zeros(len(W)) if task.lambda1 == 0 else 1.1 * np.linalg.norm(W, axis=1) + 1 / task.lambda1
        margins = task.margins(W)
        xi = margins.max(1, keepdims=True) + 1
        return cls(task, W, V * np.minimum(0.9 * task.lambda1 / lengths, 1), t, z, xi, xi - margins)

    @property
    def degree(self) -> int:
        """Number of complementarity conditions."""
        return self.z.size + (len(self.t) if self.task.lambda1 > 0 else 0)

    @property
    def complement(self) -> float:
        return float((self.z * self.q).sum() + (self.task.lambda1 * self.t - (self.W * self.U).sum(1)).sum())

    @property
    def primal(self) -> float:
        task = self.task
        return float(task.s @ self.xi[:, 0] + task.lambda1 * self.t.sum() + task.lambda2 / 2 * (self.W**2).sum()) + TINY

    def residuals(self) -> tuple[Array, Array, Array]:
        """Residuals of V = lambda2 W + U, of the definition of q, and of sum_l z_il = s_i."""
        task, s = self.task, self.task.s[:, None]
        stationarity = task.X.T @ task.A(self.z) - task.lambda2 * self.W - self.U
        slack = self.xi + task.rho * (self.z / s - task.Y) - task.margins(self.W) - self.q
        return stationarity, slack, s - self.z.sum(1, keepdims=True)

    @property
    def gap(self) -> float:
        """The larger of the relative gap and the relative residuals."""
        stationarity, slack, _ = self.residuals()
        scale = abs(self.task.lambda2 * self.W + self.U).max() + self.task.lambda1 + TINY
        return max(self.complement / self.primal, abs(stationarity).max() / scale, abs(slack).max())

    def moved(self, step: _Step, size: float) -> _Interior:
        names = [field.name for field in fields(step)]
        return replace(self, **{name: getattr(self, name) + size * getattr(step, name) for name in names})

    def reach(self, step: _Step) -> float:
        """The largest feasible step size."""
        largest = min(_reach(self.z, step.z), _reach(self.q, step.q))
        if self.task.lambda1 > 0:
            bound = np.full_like(self.t, self.task.lambda1)
            largest = min(largest, _cone_reach(self.t, self.W, step.t, step.W))
            largest = min(largest, _cone_reach(bound, self.U, np.zeros_like(bound), step.U))
        return largest


class _InteriorSystem:
    """The interior-point method's Newton system, reduced to z and xi by elimination of W, t, U and q, and factored."""

    def __init__(self, at: _Interior) -> None:
        task, (n, k) = at.task, at.z.shape
        self._at, self._residuals = at, at.residuals()
        self.cones = _Scaling(at) if task.lambda1 > 0 else _NoCones()
        self._C = self.cones.inverse(task)
        diagonal = task.rho / task.s[:, None] + at.q / at.z
        M = task.hessian(self._C) + np.diag(diagonal.ravel())
        self._border = np.abs(np.diag(M)).mean()  # a scale for the unknown xi
        sums = self._border * np.kron(np.eye(n), np.ones((k, 1)))
        self._factor = linalg.lu_factor(np.block([[M, sums], [sums.T, np.zeros((n, n))]]))

    def direction(self, product: Array, cone: Array) -> _Step:
        """The Newton step that changes z q by ``product`` to first order and has W dz + W^-1 ds = ``cone``."""
        at, task, (stationarity, slack, sums) = self._at, self._at.task, self._residuals
        shift = self.cones.W(cone)
        offset = self._C(stationarity - task.lambda2 * shift[:, 1:]) + shift[:, 1:]
        rhs = product / at.z - slack + task.D(task.X @ offset)
        solution = linalg.lu_solve(self._factor, np.r_[rhs.ravel(), self._border * sums.ravel()])
        dz = solution[: rhs.size].reshape(rhs.shape)
        dV = -task.X.T @ task.D_transposed(dz)
        dW = self._C(dV) + offset
        dU = dV + stationarity - task.lambda2 * dW
        return _Step(
            W=dW,
            U=dU,
            t=shift[:, 0] + self.cones.squared_first(dU),
            z=dz,
            xi=self._border * solution[rhs.size :, None],
            q=(product - at.q * dz) / at.z,
        )


class _NoCones:
    """Replaces :class:`_Scaling` for lambda1 = 0, where W = V/lambda2."""

    point = np.zeros((1, 1))

    def W(self, rows: Array) -> Array:
        return np.zeros((1, 2))

    def inverse(self, task: _Task) -> _Blocks:
        same = np.full(task.X.shape[1], 1 / task.lambda2)
        return _Blocks(same, same, np.zeros((len(same), task.Y.shape[1])))

    def squared_first(self, dU: Array) -> Array:
        return np.zeros(len(dU))

    def corrector(self, step: _Step, target: float) -> Array:
        return self.point


class _Scaling:
    """Nesterov-Todd scaling of the cones (t_j, W_j) and (lambda1, -U_j), the rows of (d, 1+k), for all features.

    The scaling is W = sqrt(a/b) (2 v v^T - J) with J = diag(1, -1, ..., -1), and maps both to the same point.
    """

    def __init__(self, at: _Interior) -> None:
        self._J = np.r_[1.0, -np.ones(at.W.shape[1])]
        primal = np.c_[at.t, at.W]
        dual = np.c_[np.full_like(at.t, at.task.lambda1), -at.U]
        a, b = _cone_norm(primal), _cone_norm(dual)
        gamma = np.sqrt((1 + (primal * dual).sum(1) / (a * b)) / 2)
        self._w = (primal / a[:, None] + self._J * dual / b[:, None]) / (2 * gamma[:, None])
        self._v = (self._w + np.eye(1, len(self._J))) / np.sqrt(2 * (self._w[:, :1] + 1))
        self._ratio = a / b
        self.point = self.W(dual)

    def W(self, rows: Array) -> Array:
        """The scaling applied to rows (d, 1+k)."""
        product = 2 * (self._v * rows).sum(1, keepdims=True) * self._v - self._J * rows
        return np.sqrt(self._ratio)[:, None] * product

    def W_inverse(self, rows: Array) -> Array:
        mirrored = self._J * self._v
        product = 2 * (mirrored * rows).sum(1, keepdims=True) * mirrored - self._J * rows
        return product / np.sqrt(self._ratio)[:, None]

    def inverse(self, task: _Task) -> _Blocks:
        """C = (I + lambda2 Q)^-1 Q, where Q is the block of the squared scaling that acts on W."""
        w = self._w[:, 1:]
        length = np.linalg.norm(w, axis=1)
        across, along = self._ratio, self._ratio * (1 + 2 * length**2)
        units = w / (length + TINY)[:, None]
        return _Blocks(across / (1 + task.lambda2 * across), along / (1 + task.lambda2 * along), units)

    def squared_first(self, dU: Array) -> Array:
        """First entries of the squared scaling times (0, dU)."""
        return self._ratio * 2 * self._w[:, 0] * (self._w[:, 1:] * dU).sum(1)

    def corrector(self, step: _Step, target: float) -> Array:
        """u with point o u = target e - point o point - (W^-1 ds) o (W dz), where o is the Jordan product."""
        ds = self.W_inverse(np.c_[step.t, step.W])
        dz = self.W(np.c_[np.zeros_like(step.t), -step.U])
        p = self.point
        rhs = -_product(p, p) - _product(ds, dz)
        rhs[:, 0] += target
        first = (p[:, 0] * rhs[:, 0] - (p[:, 1:] * rhs[:, 1:]).sum(1)) / _cone_norm(p) ** 2
        return np.c_[first, (rhs[:, 1:] - first[:, None] * p[:, 1:]) / p[:, :1]]


def _product(a: Array, b: Array) -> Array:
    """Jordan product of the second-order cone, row by row."""
    return np.c_[(a * b).sum(1), a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:]]


def _cone_norm(rows: Array) -> Array:
    """sqrt(x_0^2 - ||x_1||^2), without cancellation of the squares."""
    length = np.linalg.norm(rows[:, 1:], axis=1)
    return np.sqrt(np.maximum((rows[:, 0] - length) * (rows[:, 0] + length), TINY))


def _reach(x: Array, dx: Array) -> float:
    return float(1 / max((-dx / x).max(), 1e-12))


def _cone_reach(t: Array, x: Array, dt: Array, dx: Array) -> float:
    """The largest step that keeps ||x + a dx|| <= t + a dt, over all rows."""
    a = dt**2 - (dx**2).sum(1)
    b = t * dt - (x * dx).sum(1)
    length = np.linalg.norm(x, axis=1)
    c = np.maximum((t - length) * (t + length), 0)
    root = np.sqrt(np.maximum(b * b - a * c, 0))
    # The smallest positive root of c + 2 b r + a r^2 is c / (-b + root) if that denominator is positive.
    denominator = root - b
    crossing = (denominator > 0) & ((a < 0) | ((b < 0) & (b * b >= a * c)))
    return float(np.where(crossing, c / np.where(crossing, denominator, 1), np.inf).min())


def _polish(at: _Interior) -> _Point:
    """Newton's method on conditions (1) to (3), starting from the active set of an interior point."""
    task, W, xi, z = at.task, at.W, at.xi, at.z
    free = z / task.s[:, None] > at.q
    free[np.arange(len(z)), z.argmax(1)] = True
    # Compare the larger eigenvalue of (t, W) relative to the objective with the smaller one of (lambda1, U) relative
    # to lambda1.
    larger, smaller = at.t + np.linalg.norm(W, axis=1), task.lambda1 - np.linalg.norm(at.U, axis=1)
    on = larger * task.lambda1**2 > smaller * at.primal if task.lambda1 > 0 else np.full(len(W), True)
    for _ in range(60):
        W, xi, z, turned = _newton(task, np.where(on[:, None], W, 0), xi, np.where(free, z, 0), on, free)
        if turned.any():
            on = on & ~turned
            continue
        V = task.X.T @ task.A(z)
        lengths = np.linalg.norm(V, axis=1)
        slack = xi + task.rho * (z / task.s[:, None] - task.Y) - task.margins(W)
        tiny = 1e-13 * max(1.0, abs(slack).max())
        wrong = (free & (z < 0)) | (~free & (slack < -tiny))
        missing = ~on & (lengths > task.lambda1 * (1 + 1e-13))
        if not wrong.any() and not missing.any():
            return _Point(W, z, on, free)
        free, on = free ^ wrong, on | missing
        W[missing] = (1 - task.lambda1 / lengths[missing])[:, None] * V[missing] / task.lambda2
        z = np.maximum(z, 0)
        if not free.any(1).all():
            break
    raise NotSmoothError("the active features and margins could not be identified")


def _newton(task: _Task, W: Array, xi: Array, z: Array, on: Mask, free: Mask) -> tuple[Array, Array, Array, Mask]:
    """(W, xi, z) with conditions (1) to (3), or before a step that reverses rows of W; and a mask of these rows."""
    before = np.inf
    for _ in range(30):
        F1, F2, F3, scale = _conditions(task, W, xi, z, on, free)
        error = max(abs(F1).max(initial=0) / scale, abs(F2).max(), abs(F3).max())
        if not np.isfinite(error):
            break
        if error < 1e-9 and error >= 0.5 * before:  # only rounding errors remain
            return W, xi, z, np.full(len(W), False)
        before = error
        dW, dxi, dz = _System(task, W, on, free).solve(-F1, -F2, -F3)
        turned = on & (((W + dW) * W).sum(1) <= 0) & (task.lambda1 > 0)
        if turned.any():
            return W, xi, z, turned
        W, xi, z = W + dW, xi + dxi, z + dz
    raise NotSmoothError("Newton's method on the active features and margins did not converge")


def _conditions(task: _Task, W: Array, xi: Array, z: Array, on: Mask, free: Mask) -> tuple[Array, Array, Array, float]:
    """Residuals of (1) to (3), zero outside the active set, and the scale of the first."""
    s = task.s[:, None]
    V = task.X.T @ task.A(z)
    lengths = np.where(on, np.linalg.norm(W, axis=1), 1)[:, None]
    F1 = np.where(on[:, None], task.lambda2 * W + task.lambda1 * W / lengths - V, 0)
    F2 = np.where(free, xi + task.rho * (z / s - task.Y) - task.margins(W), 0)
    return F1, F2, s - z.sum(1, keepdims=True), abs(V).max() + TINY


class _System:
    """The Jacobian of (1), (2) and s - sum_l z_il, factored after elimination of W."""

    def __init__(self, task: _Task, W: Array, on: Mask, free: Mask) -> None:
        self._task, self._on, self._free = replace(task, X=task.X[:, on]), on, free
        lengths = np.linalg.norm(W[on], axis=1)
        across = task.lambda2 + (task.lambda1 / lengths if task.lambda1 > 0 else np.zeros_like(lengths))
        self._B = _Blocks(across, np.full_like(lengths, task.lambda2), W[on] / (lengths[:, None] + TINY))
        self._C = self._B.inverse()
        sample, index = np.nonzero(free)[0], np.flatnonzero(free)
        m, n = len(index), len(free)
        self._ridge = (task.rho / task.s)[sample]
        H = self._task.hessian(self._C)[np.ix_(index, index)] + np.diag(self._ridge)
        self._border = max(abs(H).max(), TINY)
        sums = np.zeros((m, n))
        sums[np.arange(m), sample] = self._border
        matrix = np.block([[H, sums], [sums.T, np.zeros((n, n))]])
        lu, pivots, info = linalg.lapack.dgetrf(matrix)
        self.regular = info == 0 and linalg.lapack.dgecon(lu, abs(matrix).sum(0).max())[0] > 1e-13
        if self.regular:
            self._factor = lu, pivots
        else:  # L is not unique: take the solution of least norm
            values, vectors = linalg.eigh(matrix)
            keep = abs(values) > 1e-11 * abs(values).max()
            self._pseudo = (vectors[:, keep], values[keep])

    def _reduced(self, rhs: Array) -> Array:
        if self.regular:
            return linalg.lu_solve(self._factor, rhs)
        vectors, values = self._pseudo
        return vectors @ ((vectors.T @ rhs) / values)

    def _scatter(self, values: Array) -> Array:
        rows = np.zeros(self._free.shape)
        rows[self._free] = values
        return rows

    def solve(self, b1: Array, b2: Array, b3: Array) -> tuple[Array, Array, Array]:
        """(dW, dxi, dz) with B dW + X^T D^T dz = b1, dxi + rho/s dz - D X dW = b2, -sum_l dz_il = b3."""
        task, m = self._task, len(self._ridge)
        b1 = b1[self._on]

        def eliminated(r1: Array, r2: Array, r3: Array) -> tuple[Array, Array, Array]:
            rhs = r2 + task.D(task.X @ self._C(r1))
            solution = self._reduced(np.concatenate([rhs[self._free], -self._border * r3.ravel()]))
            dz = self._scatter(solution[:m])
            dW = self._C(r1 - task.X.T @ task.D_transposed(dz))
            return dW, self._border * solution[m:, None], dz

        dW, dxi, dz = eliminated(b1, b2, b3)
        for _ in range(2):  # iterative refinement of the full system
            r1 = b1 - self._B(dW) - task.X.T @ task.D_transposed(dz)
            r2 = np.where(self._free, b2 + task.D(task.X @ dW) - dxi, 0) - self._scatter(self._ridge * dz[self._free])
            r3 = b3 + dz.sum(1, keepdims=True)
            correction = eliminated(r1, r2, r3)
            dW, dxi, dz = dW + correction[0], dxi + correction[1], dz + correction[2]
        whole = np.zeros((len(self._on), dW.shape[1]))
        whole[self._on] = dW
        return whole, dxi, dz


def _simplex(rows: Array) -> Array:
    """Projection of every row onto the probability simplex."""
    ordered = -np.sort(-rows, 1)
    excess = (ordered.cumsum(1) - 1) / np.arange(1, rows.shape[1] + 1)
    last = (ordered > excess).sum(1) - 1
    return np.maximum(rows - excess[np.arange(len(rows)), last][:, None], 0)


def _margin(task: _Task, z: Array, W: Array) -> float:
    L = z / task.s[:, None]
    slack = task.rho * (L - task.Y) - task.margins(W)
    slack = slack - slack.min(1, keepdims=True)
    nearest = float(np.maximum(L, slack).min())
    if task.lambda1 > 0:
        lengths = np.linalg.norm(task.X.T @ task.A(z), axis=1)
        nearest = min(nearest, float(abs(lengths / task.lambda1 - 1).min()))
    return nearest
