"""Group-Lasso multinomial logistic regression: objective, certificate, derivatives, batched over tasks of one shape.

    P(W) = sum_i c_i [lse(x_i W) - x_i W_{y_i}] + lambda1 sum_j ||W_j|| + lambda2/2 ||W||^2,    c_i = s_i / sum s

over W (d, k). An intercept is one more feature, of ones, the last row of W, in neither penalty. The dual variable L
(n, k) has its rows in the simplex; with V = X^T diag(c)(Y - L) and g*(V) = sum_j (||V_j|| - lambda1)_+^2 / (2 lambda2),
or the bound ||V_j|| <= lambda1 where lambda2 = 0, the dual objective is D(L) = sum_i c_i H(L_i) - g*(V), H being the
entropy; an intercept adds the constraint that its row of V is zero.
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
        features: X, (B, n, d), with a last column of ones for an intercept.
        targets: Y, one-hot, (B, n, k).
        weight: c, (B, n, 1); 0 marks padding.
        lambda1, lambda2: of each row of W, (B, d): 0 for the intercept's.
        intercept: whether the last row is an intercept.
    """

    features: Tensor
    targets: Tensor
    weight: Tensor
    lambda1: Tensor
    lambda2: Tensor
    intercept: bool

    @classmethod
    def of(cls, inputs: Inputs, n_classes: int, intercept: bool) -> Problem:
        """The problem of an operation's inputs."""
        features, labels, lambda1, lambda2, sample_weight = inputs
        dtype = working_dtype(features.device)
        # What absent samples hold may be anything: their product with a weight of 0 need not be 0.
        X = torch.where(sample_weight[..., None] > 0, features.to(dtype), 0)
        penalised = X.new_ones(X.shape[0], X.shape[2])
        if intercept:
            X = torch.cat([X, X.new_ones(*X.shape[:2], 1)], 2)
            penalised = torch.nn.functional.pad(penalised, (0, 1))
        # Labels of samples without weight may be anything.
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
        """The tasks that ``index`` picks."""
        tensors = {field.name: getattr(self, field.name)[index] for field in fields(self) if field.name != "intercept"}
        return replace(self, **tensors)

    def columns(self, index: Tensor) -> Problem:
        """The problems in the features that ``index`` (B, m) picks, ascending, an intercept's among them."""
        features = self.features.gather(2, index[:, None].expand(-1, self.features.shape[1], -1))
        lambda1, lambda2 = self.lambda1.gather(1, index), self.lambda2.gather(1, index)
        return replace(self, features=features, lambda1=lambda1, lambda2=lambda2)

    @property
    def frequencies(self) -> Tensor:
        """Share of every class, (B, 1, k)."""
        return (self.weight * self.targets).sum(1, keepdim=True)

    def start(self) -> Tensor:
        """W = 0 with the intercept that is best for it, (B, d, k)."""
        W = self.features.new_zeros(*self.features.shape[::2], self.targets.shape[2])
        if self.intercept:
            best = self.frequencies.clamp_min(_TINY).log()
            W[:, -1:] = best - best.mean(-1, keepdim=True)
        return W


def loss(problem: Problem, scores: Tensor) -> Tensor:
    """The cross-entropies of scores X W, (B,)."""
    own = (scores * problem.targets).sum(-1, keepdim=True)
    return (problem.weight * (scores - own).logsumexp(-1, keepdim=True)).sum((1, 2))


def penalty(problem: Problem, W: Tensor) -> Tensor:
    """The group Lasso and the squared norm, (B,)."""
    return (problem.lambda1 * row_norms(W) + problem.lambda2 / 2 * W.square().sum(-1)).sum(1)


def row_norms(values: Tensor) -> Tensor:
    """Euclidean norm over the classes: (B, d, k) -> (B, d)."""
    return torch.linalg.vector_norm(values, dim=-1)


def probabilities(problem: Problem, scores: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(X W) and the loss's slope in the scores, (B, n, k) each."""
    p = scores.softmax(-1)
    return p, loss_slope(problem, p)


def loss_slope(problem: Problem, p: Tensor) -> Tensor:
    """c (p - Y) for probabilities p (B, n, k), rows summing to zero.

    The label's entry is minus the sum of the others, not p - 1, which would keep only the rounding error.
    """
    others = p * (1 - problem.targets)
    return problem.weight * (others - problem.targets * others.sum(-1, keepdim=True))


def certificate(problem: Problem, W: Tensor, rounded: Tensor | None = None) -> Certificate:
    """The duality gap of W (B, d, k), as a sum of terms that are not negative one by one: it does not cancel.

    The dual point is L = Y + a (p - Y), p being the probabilities, mixed with a constant row where an intercept asks
    for the class frequencies to be met. The smaller of two gaps: with a small enough for ||V_j|| <= lambda1, lambda2
    seen as part of the features; and for lambda2 > 0 with a = 1, by g*.

    With ``rounded`` (B, d, k), gap and objective are those of these weights; the dual point is still that of W, whose
    probabilities are the better ones.
    """
    scores = problem.features @ W
    p, _ = probabilities(problem, scores)
    Y, weight = problem.targets, problem.weight
    off = p * (1 - Y)
    if problem.intercept:
        mean, wanted = (weight * p).sum(1, keepdim=True), problem.frequencies
        mix = ((mean - wanted) / mean.clamp_min(_TINY)).amax(-1, keepdim=True).clamp(0, 1)
        row = torch.where(mix > 0, (wanted - (1 - mix) * mean).clamp_min(0), 0)  # times mix
        off = ((1 - mix) * p + row) * (1 - Y)
    # Y - L for a = 1, the label's entry as the sum of the others.
    A = Y * off.sum(-1, keepdim=True) - off
    V = problem.features.mT @ (weight * A)
    l1, l2 = problem.lambda1, problem.lambda2
    given = W
    if rounded is not None:
        given, scores = rounded, problem.features @ rounded
        p, _ = probabilities(problem, scores)
    size = row_norms(given)
    penalised = torch.ones_like(size, dtype=torch.bool)
    if problem.intercept:
        penalised[:, -1] = False
    v = (V - l2[..., None] * W) * penalised[..., None]
    excess = torch.where(penalised, row_norms(v) / l1.clamp_min(_TINY), 0).amax(1)
    a = (1 / excess.clamp_min(1))[:, None, None]

    def mismatch(a: Tensor | float) -> Tensor:
        """sum_i c_i KL(L_i || p_i), with KL summed from p phi(L/p - 1), phi(u) = (1 + u) log(1 + u) - u >= 0."""
        L = Y - a * A
        difference = torch.where(Y > 0, L - p, a * off - p)
        # L - p of the label, from the entries that are not the label's.
        own = (p * (1 - Y)).sum(-1, keepdim=True) - a * off.sum(-1, keepdim=True)
        difference = torch.where(Y > 0, own, difference)
        u = difference / p.clamp_min(_TINY)
        phi = torch.where(u.abs() < 1e-4, u * u / 2 * (1 - u / 3 + u * u / 6), torch.xlogy(1 + u, 1 + u) - u)
        return (weight * p * phi).clamp_min(0).sum((1, 2))

    scaled = mismatch(a) + (
        l2 / 2 * (given - a * W).square().sum(-1)
        + torch.where(penalised, (l1 * size - a[..., 0] * (v * given).sum(-1)).clamp_min(0), 0)
    ).sum(1)
    norms = row_norms(V)
    above = (norms - l1).clamp_min(0)
    terms = (
        (l2 * size - above) ** 2 / (2 * l2).clamp_min(_TINY)
        + (l1 - norms).clamp_min(0) * size
        + (norms * size - (V * given).sum(-1)).clamp_min(0)
    )
    by_conjugate = mismatch(1.0) + torch.where(penalised, terms, 0).sum(1)
    unscaled = (l2.amax(1) > 0) & (by_conjugate < scaled)
    gap = torch.where(unscaled, by_conjugate, scaled)
    a = torch.where(unscaled[:, None, None], 1.0, a)

    start = problem.start()
    at_zero = loss(problem, problem.features @ start)
    objective = loss(problem, scores) + penalty(problem, given)
    if rounded is not None:  # weights that overflow
        gap, objective = (value.nan_to_num(torch.inf, torch.inf) for value in (gap, objective))
    return Certificate(Y - a * A, gap, gap / at_zero.clamp_min(_TINY), objective)


def attainable(problem: Problem, W: Tensor) -> Tensor:
    """A relative gap that rounding may keep any W close to this one from going below, (B,).

    The scores of x_i are rounded by eps |x_i|^T |W|, its probabilities by that times 1 - p_y at most, and the gap, in
    which the products of V and W are sums over samples of these differences times scores, by |x_i|^T |W| times that.
    """
    p, _ = probabilities(problem, problem.features @ W)
    sizes = (problem.features.abs() @ W.abs()).amax(-1, keepdim=True)
    unsure = (p * (1 - problem.targets)).sum(-1, keepdim=True)
    left = torch.finfo(W.dtype).eps * (problem.weight * unsure * sizes**2).sum((1, 2))
    return left / loss(problem, problem.features @ problem.start()).clamp_min(_TINY)


def proximal_argument(problem: Problem, W: Tensor) -> Tensor:
    """Z_j = X_j^T diag(c) (Y - p) + W_j X_j^T diag(c) X_j / 2, (B, d, k).

    It is what proximal block coordinate descent thresholds, 1/2 being the bound on the softmax's curvature: a row is
    off where ||Z_j|| <= lambda1.
    """
    _, slope = probabilities(problem, problem.features @ W)
    return (problem.weight * problem.features**2).sum(1)[..., None] / 2 * W - problem.features.mT @ slope


def kink_margin(problem: Problem, W: Tensor) -> Tensor:
    """How far solutions W are from a kink, (B,), >= 0: min_j | ||Z_j|| / lambda1 - 1 |, inf without lambda1.

    Z is :func:`proximal_argument`. The margin is that of the correlation for a row that is off, and
    (X_j^T diag(c) X_j / 2 + lambda2) ||W_j|| / lambda1 for one that is on.
    """
    sparse = problem.lambda1 > 0
    share = row_norms(proximal_argument(problem, W)) / torch.where(sparse, problem.lambda1, 1)
    return torch.where(sparse, (share - 1).abs(), torch.inf).amin(1)


def zero_threshold(problem: Problem) -> Tensor:
    """The smallest lambda1 with W = 0, (B,): max_j ||X_j^T diag(c)(Y - 1/k)||; 1/k being the class frequencies
    with an intercept."""
    k = problem.targets.shape[2]
    p = problem.frequencies if problem.intercept else 1 / k
    V = problem.features.mT @ (problem.weight * (problem.targets - p))
    return row_norms(V)[:, : V.shape[1] - problem.intercept].amax(1)
