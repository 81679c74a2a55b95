"""Moreau: the primal as a conic quadratic programme, all tasks in one batch, with its own backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gates import Bound, Outcome
from benchmarks.peers import Prepared, reason_not_importable
from benchmarks.tasks import Case, Tasks
from sparsedis.info import installed_version

TOL = 1e-6
# Entries n k d of the constraint matrix: above the first a task takes seconds, above the second more than a minute.
_WHOLE_BATCH, _LARGEST = 100_000, 250_000


class Moreau:
    """See :class:`benchmarks.peers.Peer`.

    Args:
        tol: tolerance for the gap, absolute and relative, and feasibility.
    """

    name = "moreau"
    gap: float | None = 1e-3
    gradient: Bound | None = None

    def __init__(self, tol: float = TOL) -> None:
        self.tol = tol

    def available(self) -> str | None:
        return reason_not_importable("moreau.torch")

    def supports(self, case: Case, device: torch.device) -> str | None:
        size = case.n * case.ways * case.d
        return None if size <= _LARGEST else f"left out: n k d above {_LARGEST}, where a task takes a minute and more"

    def describe(self) -> str:
        return f"moreau {installed_version('moreau')}, the primal with its scores as variables, tol {self.tol:g}"

    def prepare(self, tasks: Tasks) -> Prepared:
        n, d = tasks.features.shape[1:]
        part = tasks if n * d * tasks.n_classes <= _WHOLE_BATCH else tasks.first(1)
        programme = _Programme(part, self.tol)

        def forward() -> Outcome:
            with torch.no_grad():
                return Outcome(*programme.solve(part.features, part.lambda1, part.lambda2))

        def forward_backward() -> Outcome:
            inputs = tuple(x.detach().requires_grad_() for x in (part.features, part.lambda1, part.lambda2))
            W, L = programme.solve(*inputs)
            grads = torch.autograd.grad(W, inputs, part.cotangent.double())
            return Outcome(W.detach(), L.detach(), *grads)

        return Prepared(forward, forward_backward, len(part), details=programme.details)


class _Programme:
    """min sum_i xi_i + lambda1 sum_j t_j + lambda2/2 ||W||^2 over (t, W), the scores S and xi, with

        (t_j, W_j) in a second-order cone                                 d direct cones of k+1 variables
        X W - S = 0                                                       n k rows of d+1 entries
        S_il - S_i,y_i - xi_i <= Y_il - 1, where l = y_i: -xi_i <= 0      n k rows of 3 entries or 1

    whose last multipliers are L. Without S each of the last rows would have 2 d entries and couple two classes.

    Raises:
        ValueError: the tasks have different labels; the tasks of a batch share the structure of the constraints.
    """

    def __init__(self, tasks: Tasks, tol: float) -> None:
        import moreau
        from moreau.torch import Solver

        batch, n, d = tasks.features.shape
        k, labels = tasks.n_classes, tasks.labels[0].cpu()
        if not bool((tasks.labels.cpu() == labels).all()):
            raise ValueError("expected the same labels in all tasks of a batch")
        self._batch, self._n, self._d, self._k = batch, n, d, k
        self._Y = torch.nn.functional.one_hot(labels, k).double().to(tasks.features.device)
        cones = torch.arange(d * (k + 1)).reshape(d, k + 1)  # (t_j, W_j)
        W, S = cones[:, 1:], cones.numel() + torch.arange(n * k).reshape(n, k)
        xi = (cones.numel() + n * k + torch.arange(n))[:, None].expand(n, k)
        scores, margin = torch.arange(n * k).reshape(n, k), n * k + torch.arange(n * k).reshape(n, k)
        others = torch.ones(n, k).scatter_(1, labels[:, None], 0).bool()
        own = S.gather(1, labels[:, None]).expand(n, k)
        each = (n, k, d)
        entries = [
            (scores[:, :, None].expand(each), W.T.expand(each)),
            (scores, S),
            (margin[others], S[others]),
            (margin[others], own[others]),
            (margin, xi),
        ]
        rows = torch.cat([row.flatten() for row, _ in entries])
        columns = torch.cat([column.flatten() for _, column in entries])
        n_rows, n_columns = 2 * n * k, cones.numel() + n * k + n
        order = torch.argsort(rows * n_columns + columns)
        self._order = order.to(tasks.features.device)
        self._signs = (-1.0, 1.0, -1.0, -1.0)  # of the entries after those of X
        self._counts = [len(row.flatten()) for row, _ in entries[1:]]
        squared = torch.zeros(n_columns, dtype=torch.int64)
        squared[W] = 1
        device = "cuda" if tasks.features.device.type == "cuda" else "cpu"
        # On the CPU "qdldl" is the fastest of its factorisations at these sizes.
        method = "auto" if device == "cuda" else "qdldl"
        self._solver = Solver(
            n_columns,
            n_rows,
            _offsets(squared),
            W.flatten(),
            _offsets(torch.bincount(rows, minlength=n_rows)),
            columns[order],
            moreau.Cones(
                num_zero_cones=n * k,
                num_nonneg_cones=n * k,
                dir_cones=[moreau.DirectConeSpec(kind="soc", indices=cone) for cone in cones.tolist()],
            ),
            moreau.Settings(
                solver="ipm",
                device=device,
                batch_size=batch,
                enable_grad=True,
                ipm_settings=moreau.IPMSettings(
                    tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=tol, direct_solve_method=method
                ),
            ),
        )

    def solve(self, features: Tensor, lambda1: Tensor, lambda2: Tensor) -> tuple[Tensor, Tensor]:
        """W (B, d, k) and L (B, n, k), differentiable, in float64, which the solver requires."""
        batch, n, d, k = self._batch, self._n, self._d, self._k
        X, lambda1, lambda2 = features.double(), lambda1.double()[:, None], lambda2.double()[:, None]

        def constant(value: float, count: int) -> Tensor:
            return X.new_full((batch, count), value)

        constants = [constant(sign, count) for sign, count in zip(self._signs, self._counts, strict=True)]
        A = torch.cat([X[:, :, None].expand(batch, n, k, d).flatten(1), *constants], 1)[:, self._order]
        per_cone = torch.cat([lambda1, constant(0.0, k)], 1).repeat(1, d)
        q = torch.cat([per_cone, constant(0.0, n * k), constant(1.0, n)], 1)
        b = torch.cat([constant(0.0, n * k), (self._Y - 1).flatten().expand(batch, -1)], 1)
        solution = self._solver.solve(lambda2.repeat(1, d * k), A, q, b)
        W = solution.x[:, : d * (k + 1)].reshape(batch, d, k + 1)[..., 1:]
        return W, solution.z[:, n * k :].reshape(batch, n, k)

    def details(self, outcome: object) -> dict[str, object]:
        return {"n_iter": self._solver.info.iterations.tolist()}


def _offsets(counts: Tensor) -> Tensor:
    """The first index of every row of a compressed matrix, and the end of the last one."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
