"""Group-Lasso multinomial logistic regression: objective, certificate and derivatives, for a batch of equal shapes.

    P(W) = sum_i c_i [lse(x_i W) - x_i W_{y_i}] + lambda1 sum_j ||W_j|| + lambda2/2 ||W||^2,    c_i = s_i / sum s

over W (d, k). An intercept is an additional feature of ones, the last row of W, which is not penalised. The dual
variable L (n, k) has its rows in the simplex. The dual objective is D(L) = sum_i c_i H(L_i) - g*(V), where H is the
entropy, V = X^T diag(c)(Y - L) and g*(V) = sum_j (||V_j|| - lambda1)_+^2 / (2 lambda2). For lambda2 = 0, g* is the
constraint ||V_j|| <= lambda1. An intercept adds the constraint that its row of V is zero.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from sparsedis.ops.common.least_squares import normalised_weights
from sparsedis.ops.common.precision import working_dtype
from sparsedis.ops.common.primal import Certificate
from sparsedis.ops.logistic.signature import Inputs

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Problem:
    """B tasks of one shape, in the working precision.

    Attributes:
        features: X, (B, n, d), with an intercept the last column is ones.
        targets: Y, one-hot, (B, n, k).
        weight: c, (B, n, 1); 0 marks padding.
        lambda1, lambda2: penalties of every row of W, (B, d); 0 for the intercept's row.
        intercept: whether the last row of W is an intercept.
    """

    features: Tensor
    targets: Tensor
    weight: Tensor
    lambda1: Tensor
    lambda2: Tensor
    intercept: bool

    @classmethod
    def of(cls, inputs: Inputs, n_classes: int, intercept: bool) -> Problem:
        """Build the problem from an operation's inputs."""
        features, labels, lambda1, lambda2, sample_weight = inputs
        dtype = working_dtype(features.device)
        # Padding may hold NaN or inf, whose product with a weight of 0 is not 0.
        X = torch.where(sample_weight[..., None] > 0, features.to(dtype), 0)
        penalised = X.new_ones(X.shape[0], X.shape[2])
        if intercept:
            X = torch.cat([X, X.new_ones(*X.shape[:2], 1)], 2)
            penalised = torch.nn.functional.pad(penalised, (0, 1))
        # Labels of padding are arbitrary.
        known = torch.where(sample_weight > 0, labels, 0)
        return cls(
            X,
            torch.nn.functional.one_hot(known, n_classes).to(dtype),
            normalised_weights(sample_weight, dtype)[..., None],
            lambda1.to(dtype)[:, None] * penalised,
            lambda2.to(dtype)[:, None] * penalised,
            intercept,
        )

    def take(self, index: Tensor) -> Problem:
        """The tasks selected by ``index``."""
        tensors = {field.name: getattr(self, field.name)[index] for field in fields(self) if field.name != "intercept"}
        return replace(self, **tensors)

    def columns(self, index: Tensor) -> Problem:
        """The problem restricted to the features ``index`` (B, m), ascending; these must include an intercept's."""
        features = self.features.gather(2, index[:, None].expand(-1, self.features.shape[1], -1))
        lambda1, lambda2 = self.lambda1.gather(1, index), self.lambda2.gather(1, index)
        return replace(self, features=features, lambda1=lambda1, lambda2=lambda2)

    @property
    def frequencies(self) -> Tensor:
        """Weighted frequency of every class, (B, 1, k)."""
        return (self.weight * self.targets).sum(1, keepdim=True)

    def start(self) -> Tensor:
        """W = 0, with the optimal intercept for it if there is one, (B, d, k)."""
        W = self.features.new_zeros(*self.features.shape[::2], self.targets.shape[2])
        if self.intercept:
            best = self.frequencies.clamp_min(_TINY).log()
            W[:, -1:] = best - best.mean(-1, keepdim=True)
        return W


def loss(problem: Problem, scores: Tensor) -> Tensor:
    """Weighted sum of the cross-entropies at the scores X W, (B,)."""
    own = (scores * problem.targets).sum(-1, keepdim=True)
    return (problem.weight * (scores - own).logsumexp(-1, keepdim=True)).sum((1, 2))


def penalty(problem: Problem, W: Tensor) -> Tensor:
    """Group Lasso and squared-norm penalties, (B,)."""
    return (problem.lambda1 * row_norms(W) + problem.lambda2 / 2 * W.square().sum(-1)).sum(1)


def row_norms(values: Tensor) -> Tensor:
    """Euclidean norm over the classes: (B, d, k) -> (B, d)."""
    return torch.linalg.vector_norm(values, dim=-1)


def probabilities(problem: Problem, scores: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(X W) and the gradient of the loss in the scores, (B, n, k) each."""
    p = scores.softmax(-1)
    return p, loss_slope(problem, p)


def loss_slope(problem: Problem, p: Tensor) -> Tensor:
    """c (p - Y) for probabilities p (B, n, k), with rows summing to zero.

    The label's entry is minus the sum of the others: p - 1 would keep only the rounding error.
    """
    others = p * (1 - problem.targets)
    return problem.weight * (others - problem.targets * others.sum(-1, keepdim=True))


def certificate(problem: Problem, W: Tensor, rounded: Tensor | None = None) -> Certificate:
    """The duality gap of W (B, d, k), computed as a sum of nonnegative terms to avoid cancellation.

    The dual point is L = Y + a (p - Y), where p are the probabilities; with an intercept they are first mixed with a
    constant row so that they match the class frequencies. The result is the smaller of two gaps: for the largest
    a <= 1 with ||V_j|| <= lambda1, treating lambda2 as additional rows of the features; and for lambda2 > 0, for a = 1,
    by g*.

    With ``rounded`` (B, d, k), gap and objective are those of these weights. The dual point is still computed from W,
    whose probabilities are more accurate.
    """
    scores = problem.features @ W
    p, _ = probabilities(problem, scores)
    Y, weight = problem.targets, problem.weight
    off_label = p * (1 - Y)
    if problem.intercept:
        mean, wanted = (weight * p).sum(1, keepdim=True), problem.frequencies
        mix = ((mean - wanted) / mean.clamp_min(_TINY)).amax(-1, keepdim=True).clamp(0, 1)
        row = torch.where(mix > 0, (wanted - (1 - mix) * mean).clamp_min(0), 0)  # mix times the constant row
        off_label = ((1 - mix) * p + row) * (1 - Y)
    # Y - L for a = 1; the label's entry is the sum of the others to avoid cancellation.
    A = Y * off_label.sum(-1, keepdim=True) - off_label
    V = problem.features.mT @ (weight * A)
    l1, l2 = problem.lambda1, problem.lambda2
    returned = W
    if rounded is not None:
        returned, scores = rounded, problem.features @ rounded
        p, _ = probabilities(problem, scores)
    size = row_norms(returned)
    penalised = torch.ones_like(size, dtype=torch.bool)
    if problem.intercept:
        penalised[:, -1] = False
    v = (V - l2[..., None] * W) * penalised[..., None]
    excess = torch.where(penalised, row_norms(v) / l1.clamp_min(_TINY), 0).amax(1)
    a = (1 / excess.clamp_min(1))[:, None, None]

    def mismatch(a: Tensor | float) -> Tensor:
        """sum_i c_i KL(L_i || p_i), with KL as the sum of p phi(L/p - 1), phi(u) = (1 + u) log(1 + u) - u >= 0."""
        L = Y - a * A
        difference = torch.where(Y > 0, L - p, a * off_label - p)
        # L - p at the label, computed from the other entries.
        own = (p * (1 - Y)).sum(-1, keepdim=True) - a * off_label.sum(-1, keepdim=True)
        difference = torch.where(Y > 0, own, difference)
        u = difference / p.clamp_min(_TINY)
        phi = torch.where(u.abs() < 1e-4, u * u / 2 * (1 - u / 3 + u * u / 6), torch.xlogy(1 + u, 1 + u) - u)
        return (weight * p * phi).clamp_min(0).sum((1, 2))

    scaled = mismatch(a) + (
        l2 / 2 * (returned - a * W).square().sum(-1)
        + torch.where(penalised, (l1 * size - a[..., 0] * (v * returned).sum(-1)).clamp_min(0), 0)
    ).sum(1)
    norms = row_norms(V)
    above = (norms - l1).clamp_min(0)
    terms = (
        (l2 * size - above) ** 2 / (2 * l2).clamp_min(_TINY)
        + (l1 - norms).clamp_min(0) * size
        + (norms * size - (V * returned).sum(-1)).clamp_min(0)
    )
    by_conjugate = mismatch(1.0) + torch.where(penalised, terms, 0).sum(1)
    unscaled = (l2.amax(1) > 0) & (by_conjugate < scaled)
    gap = torch.where(unscaled, by_conjugate, scaled)
    a = torch.where(unscaled[:, None, None], 1.0, a)

    start = problem.start()
    at_zero = loss(problem, problem.features @ start)
    objective = loss(problem, scores) + penalty(problem, returned)
    if rounded is not None:  # weights that overflowed in rounding
        gap, objective = (value.nan_to_num(torch.inf, torch.inf) for value in (gap, objective))
    return Certificate(Y - a * A, gap, gap / at_zero.clamp_min(_TINY), objective)


def attainable(problem: Problem, W: Tensor) -> Tensor:
    """Bound on the relative gap that rounding may leave near W, (B,).

    The scores of x_i have rounding errors of eps |x_i|^T |W|, and the probabilities at most that times 1 - p_y. The gap
    contains products of V and W, which are sums over the samples of these differences times scores; this contributes
    another factor |x_i|^T |W|.
    """
    p, _ = probabilities(problem, problem.features @ W)
    sizes = (problem.features.abs() @ W.abs()).amax(-1, keepdim=True)
    unsure = (p * (1 - problem.targets)).sum(-1, keepdim=True)
    left = torch.finfo(W.dtype).eps * (problem.weight * unsure * sizes**2).sum((1, 2))
    return left / loss(problem, problem.features @ problem.start()).clamp_min(_TINY)


def proximal_argument(problem: Problem, W: Tensor) -> Tensor:
    """Z_j = X_j^T diag(c) (Y - p) + W_j X_j^T diag(c) X_j / 2, (B, d, k).

    Proximal block coordinate descent thresholds Z, with 1/2 as bound on the softmax's curvature: a row is inactive if
    ||Z_j|| <= lambda1.
    """
    _, slope = probabilities(problem, problem.features @ W)
    return (problem.weight * problem.features**2).sum(1)[..., None] / 2 * W - problem.features.mT @ slope


def kink_margin(problem: Problem, W: Tensor) -> Tensor:
    """Distance of solutions W from the nearest kink: min_j | ||Z_j|| / lambda1 - 1 |, (B,), inf if lambda1 = 0.

    Z is :func:`proximal_argument`. For an inactive row the term is the relative slack of its correlation, for an active
    row it is (X_j^T diag(c) X_j / 2 + lambda2) ||W_j|| / lambda1.
    """
    sparse = problem.lambda1 > 0
    share = row_norms(proximal_argument(problem, W)) / torch.where(sparse, problem.lambda1, 1)
    return torch.where(sparse, (share - 1).abs(), torch.inf).amin(1)


def zero_threshold(problem: Problem) -> Tensor:
    """The smallest lambda1 with W = 0, (B,): max_j ||X_j^T diag(c)(Y - 1/k)||.

    With an intercept the class frequencies take the place of 1/k.
    """
    k = problem.targets.shape[2]
    p = problem.frequencies if problem.intercept else 1 / k
    V = problem.features.mT @ (problem.weight * (problem.targets - p))
    return row_norms(V)[:, : V.shape[1] - problem.intercept].amax(1)
