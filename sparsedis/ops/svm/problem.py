"""The group-Lasso multiclass SVM: primal, dual, primal map and certificate.

One task has features X (n, d), one-hot targets Y (n, k), sample weights s >= 0 and minimises over W (d, k)

    P(W) = sum_i s_i phi_i(m_i) + lambda1 sum_j ||W_j|| + lambda2/2 ||W||^2
    m_il = 1 - Y_il + x_i.W_l - x_i.W_{y_i}
    phi_i(m) = max over a in the simplex of <a, m> - rho/2 ||a - Y_i||^2,      rho = dual_reg / lambda2

The dual variable L (n, k) has its rows in the simplex. All functions are batched over B tasks of one shape and contain
only the formulas, without input checks or iterations.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from sparsedis.ops.common.precision import working_dtype
from sparsedis.ops.svm.signature import Inputs

_TINY = torch.finfo(torch.float64).tiny

P = TypeVar("P", bound="Problem")


@dataclass(frozen=True)
class Problem:
    """B tasks of one shape, in the working precision.

    Attributes:
        features: X, (B, n, d).
        targets: Y, one-hot, (B, n, k).
        weight: s, (B, n, 1); 0 marks padding. The solvers expect a maximum of 1 (see :func:`normalised`).
        lambda1: (B,), >= 0.
        lambda2: (B,), > 0.
        rho: dual_reg / lambda2, (B,), >= 0.
    """

    features: Tensor
    targets: Tensor
    weight: Tensor
    lambda1: Tensor
    lambda2: Tensor
    rho: Tensor

    def take(self: P, index: Tensor | slice) -> P:
        """The tasks selected by ``index``."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def with_unit_lambda1(self: P) -> P:
        """The same tasks with features divided by lambda1, which changes neither L nor the gap."""
        l1 = self.lambda1
        return replace(
            self, features=self.features / l1[:, None, None], lambda1=torch.ones_like(l1), lambda2=self.lambda2 / l1**2
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, n, d, k)."""
        return (*self.features.shape, self.targets.shape[2])


def normalised(inputs: Inputs, n_classes: int) -> tuple[Problem, Tensor]:
    """The same tasks in the working precision, scaled so that the largest sample weight of each task is 1.

    Dividing s, lambda1, lambda2 and dual_reg by the same number leaves L and W unchanged and divides P by it.

    Returns:
        The problem, and the divisor of each task, (B,).
    """
    dtype = working_dtype(inputs.features.device)
    weight = inputs.sample_weight.to(dtype)
    largest = weight.amax(1)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))
    l1, l2, reg = (value.to(dtype) for value in (inputs.lambda1, inputs.lambda2, inputs.dual_reg))
    problem = Problem(
        features=inputs.features.to(dtype),
        # Labels of padding are arbitrary.
        targets=torch.nn.functional.one_hot(torch.where(weight > 0, inputs.labels, 0), n_classes).to(dtype),
        weight=(weight / scale[:, None])[..., None],
        lambda1=l1 / scale,
        lambda2=l2 / scale,
        rho=reg / l2,
    )
    return problem, scale


def residual(problem: Problem, dual: Tensor) -> Tensor:
    """A = diag(s)(Y - L), (B, n, k), rows summing to zero.

    The label's entry is the sum of the others, not 1 - L_y: near a solution most rows are almost one-hot, so that the
    subtraction would keep only the rounding error.
    """
    others = dual * (1 - problem.targets)
    return problem.weight * (problem.targets * others.sum(-1, keepdim=True) - others)


def correlation(problem: Problem, rows: Tensor) -> Tensor:
    """X^T R for rows R (B, n, k): (B, d, k). With R = A it is V."""
    return problem.features.mT @ rows


def row_norms(values: Tensor) -> Tensor:
    """Euclidean norm over the classes: (B, d, k) -> (B, d)."""
    return torch.linalg.vector_norm(values, dim=-1)


def block_soft_threshold(values: Tensor, norms: Tensor, threshold: Tensor) -> Tensor:
    """BST(v, t) = (1 - t/||v||)_+ v for every row of (B, d, k); zero for a zero row."""
    shrink = (1 - threshold[:, None] / norms.clamp_min(_TINY)).clamp_min(0)
    return shrink[..., None] * values


def margins(problem: Problem, scores: Tensor) -> Tensor:
    """m_il = 1 - Y_il + x_i.W_l - x_i.W_{y_i} from the scores X W, (B, n, k)."""
    own = (scores * problem.targets).sum(-1, keepdim=True)
    return 1 - problem.targets + scores - own


def simplex_projection(points: Tensor) -> tuple[Tensor, Tensor]:
    """Euclidean projection of the last dimension onto the probability simplex.

    Returns:
        The projection max(z - tau, 0), and tau with the last dimension kept at 1.
    """
    k = points.shape[-1]
    ordered = points.sort(-1, descending=True).values
    count = torch.arange(1, k + 1, device=points.device, dtype=points.dtype)
    excess = (ordered.cumsum(-1) - 1) / count
    last = (ordered > excess).sum(-1, keepdim=True).clamp_min(1) - 1
    tau = excess.gather(-1, last)
    return (points - tau).clamp_min(0), tau


class Certificate(NamedTuple):
    """Primal map and duality gap at a dual point, from one pass over the features."""

    V: Tensor  # (B, d, k)
    norms: Tensor  # (B, d), of the rows of V
    weights: Tensor  # W(V) by the primal map, (B, d, k)
    scores: Tensor  # X W, (B, n, k)
    gap: Tensor  # P(W) - D(L), (B,)
    objective: Tensor  # P(W), (B,)

    @property
    def relative_gap(self) -> Tensor:
        """gap / P(W), (B,)."""
        return self.gap / self.objective.clamp_min(_TINY)


def certificate(problem: Problem, dual: Tensor) -> Certificate:
    """Primal map, primal value and duality gap of dual points L (B, n, k), rows in the simplex.

    The gap is computed as a sum of nonnegative terms to avoid cancellation. Let z = Y + m/rho, a its projection onto
    the simplex and tau the threshold of that projection. A sample contributes
    rho [ sum_l L_l (tau - z_l)_+ + ||a - L||^2 / 2 ];  for rho = 0 it contributes sum_l L_l (max m - m_l).
    """
    V = correlation(problem, residual(problem, dual))
    norms = row_norms(V)
    weights = block_soft_threshold(V, norms, problem.lambda1) / problem.lambda2[:, None, None]
    scores = problem.features @ weights
    slack, hinge = _sample_terms(problem, dual, scores)
    penalty = problem.lambda1 * row_norms(weights).sum(-1) + problem.lambda2 / 2 * (weights**2).sum((1, 2))
    return Certificate(V, norms, weights, scores, slack, hinge + penalty)


def _sample_terms(problem: Problem, dual: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Contributions of the samples to the gap and to the primal value at the scores X W, (B,) each."""
    m = margins(problem, scores)
    top = m.amax(-1, keepdim=True)
    hinge = top[..., 0]
    slack = (dual * (top - m)).sum(-1)
    if bool((problem.rho > 0).any()):
        rho = problem.rho[:, None, None]
        z = problem.targets + (m - top) / rho.clamp_min(_TINY)
        a, tau = simplex_projection(z)
        distance = ((a - dual) ** 2).sum(-1)
        smooth_slack = rho[..., 0] * ((dual * (tau - z).clamp_min(0)).sum(-1) + distance / 2)
        smooth_hinge = (a * m).sum(-1) - rho[..., 0] / 2 * ((a - problem.targets) ** 2).sum(-1)
        smooth = problem.rho[:, None] > 0
        slack = torch.where(smooth, smooth_slack, slack)
        hinge = torch.where(smooth, smooth_hinge, hinge)
    weight = problem.weight[..., 0]
    return (weight * slack).sum(1), (weight * hinge).sum(1)


def certificate_of(
    problem: Problem, dual: Tensor, at: Certificate, weights: Tensor, scores: Tensor
) -> tuple[Tensor, Tensor]:
    """Duality gap P(W) - D(L) and objective P(W), (B,) each, of weights W (B, d, k) other than W(V).

    By Fenchel-Young this again is a sum of nonnegative terms: those of the samples at the scores of W, and for every
    feature lambda1 ||W_j|| - <U_j, W_j> + lambda2/2 ||W_j - W(V_j)||^2 with U_j = V_j - lambda2 W(V_j). For an active
    feature the first difference is lambda1 ||W_j - <W_j, u> u||^2 / (||W_j|| + <W_j, u>), with u = V_j/||V_j||.
    ``at`` is the certificate of L, ``scores`` is X W.
    """
    slack, hinge = _sample_terms(problem, dual, scores)
    lengths, lambda1 = row_norms(weights), problem.lambda1[:, None]
    unit = at.V / at.norms.clamp_min(_TINY)[..., None]
    along = (weights * unit).sum(-1)
    across = ((weights - along[..., None] * unit) ** 2).sum(-1)
    # Positive if the feature is active and W is rounded. For an inactive feature W = 0 in both.
    norm_excess = torch.where(along > 0, across / (lengths + along).clamp_min(_TINY), lengths - along)
    distance = ((weights - at.weights) ** 2).sum(-1)
    gap = slack + (lambda1 * norm_excess).sum(1) + problem.lambda2 / 2 * distance.sum(1)
    return gap, hinge + lambda1[:, 0] * lengths.sum(1) + problem.lambda2 / 2 * (weights**2).sum((1, 2))


def rounding_of(problem: Problem, dual: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Effect of rounding on the gap of weights W (B, d, k), bounded through norms.

    Both values can exceed the gap if features are far from zero or the objective is tiny.

    Returns:
        error: bound on the error of the computed gap due to that of X W, (B,): sum_i s_i u (1 + ||x_i|| ||W||), with u
            the unit roundoff.
        attainable: a gap, (B,), that no dual point may be able to get below: error plus the effect on the scores of
            cancellation in V = X^T A, which is u ||x_i|| sum_i' ||x_i'|| ||A_i'|| / lambda2.
    """
    roundoff = torch.finfo(weights.dtype).eps / 2
    weight = problem.weight[..., 0]
    lengths = torch.linalg.vector_norm(problem.features, dim=2).to(weights.dtype)
    total = (weight * lengths).sum(1)
    error = roundoff * (weight.sum(1) + total * torch.linalg.vector_norm(weights, dim=(1, 2)))
    terms = (lengths * torch.linalg.vector_norm(residual(problem, dual), dim=2)).sum(1)
    return error, error + roundoff * total * terms / problem.lambda2


def dual_gradient(problem: Problem, dual: Tensor, scores: Tensor) -> Tensor:
    """Gradient of the dual objective f in L: s_i (Y_i - x_i W + rho (L_i - Y_i)), (B, n, k)."""
    rho = problem.rho[:, None, None]
    return problem.weight * (problem.targets - scores + rho * (dual - problem.targets))


def complementarity_margin(problem: Problem, dual: Tensor, at: Certificate) -> Tensor:
    """Scale-free distance >= 0 of dual points from a kink, where the solution is not differentiable, (B,).

    It is the minimum of | ||V_j|| / lambda1 - 1 | over the features and of max(L_il, multiplier_il) over the entries of
    present samples. The multiplier of the bound L_il >= 0, (g_il - min_l' g_il') / s_i, is in units of the hinge's
    margin. At a solution one of the two is 0; if both are, an infinitesimal change may or may not free the entry.
    """
    present = problem.weight > 0
    gradient = dual_gradient(problem, dual, at.scores)
    multiplier = (gradient - gradient.amin(-1, keepdim=True)) / torch.where(present, problem.weight, 1)
    entries = torch.where(present, torch.maximum(dual, multiplier), torch.inf).amin((1, 2))
    lambda1 = problem.lambda1[:, None]
    sparse = lambda1 > 0
    features = torch.where(sparse, (at.norms / torch.where(sparse, lambda1, 1) - 1).abs(), torch.inf).amin(1)
    return torch.minimum(entries, features)


def zero_threshold(features: Tensor, labels: Tensor, weight: Tensor, n_classes: int) -> Tensor:
    """max_j ||X_j^T diag(s)(Y - (1-Y)/(k-1))||, (B,): from this lambda1 on, W = 0 is a solution.

    It is an upper bound on the smallest such lambda1, not a tight one. Features (B, n, d) and weights (B, n) are in the
    working precision.
    """
    largest = weight.amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest, torch.ones_like(largest))  # the squared norms could underflow
    share = (weight / scale)[..., None]
    own = labels[..., None] == torch.arange(n_classes, device=labels.device)
    rows = torch.where(own, share, share * (-1 / (n_classes - 1)))
    return scale[:, 0] * row_norms(features.mT @ rows).amax(1)
