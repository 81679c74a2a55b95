"""The Lasso's Triton backend: interpreted and compared with the torch backend, and compiled for its targets."""

import pytest
import torch

from sparsedis import Status, lasso_lambda1_max, solve_lasso
from sparsedis.ops.common.backend import Request
from sparsedis.ops.lasso import OPERATION
from sparsedis.ops.lasso.backend_torch import descent
from tests import compiler

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def runs():
    backend = OPERATION.backend("triton")
    request = Request(torch.device(DEVICE), torch.float64, 20, 6, 1, "cd", named=True)
    if reason := backend.available() or backend.supports(request):
        pytest.skip(f"backend 'triton' cannot run: {reason}")


def regression(seed, n, d, batch):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(batch, n, d, generator=generator, dtype=torch.float64)
    y = X[..., 0] + 0.5 * torch.randn(batch, n, generator=generator, dtype=torch.float64)
    return X.to(DEVICE), y.to(DEVICE)


@pytest.mark.parametrize(
    ("n", "d", "relative", "lambda2"),
    [(20, 1, 0.1, 0.0), (20, 6, 0.03, 0.0), (9, 16, 0.1, 0.0), (15, 17, 0.2, 0.1), (8, 33, 0.3, 0.0)],
)
def test_agrees_with_the_torch_backend(n, d, relative, lambda2, monkeypatch):
    X, y = regression(n + d, n, d, batch=3)
    weight = torch.ones(3, n, device=DEVICE)
    weight[:, 0], weight[:, 1] = 0, 2.5
    lambda1 = torch.tensor([1.0, 0.0, 1.5], device=DEVICE) * relative * lasso_lambda1_max(X, y, sample_weight=weight)

    def run(backend):
        inputs = [X.clone().requires_grad_(), y.clone().requires_grad_(), lambda1.clone().requires_grad_()]
        solution = solve_lasso(
            inputs[0], inputs[1], lambda1=inputs[2], lambda2=lambda2, sample_weight=weight, backend=backend
        )
        return solution, torch.autograd.grad(solution.weights.square().sum(), inputs)

    with monkeypatch.context() as patch:
        # Poison outputs, so that entries that the kernel does not write are found.
        empty = torch.empty_like
        patch.setattr(
            torch, "empty_like", lambda *a, **k: (e := empty(*a, **k)).fill_(torch.nan if e.is_floating_point() else -9)
        )
        ours, our_grads = run("triton")
    theirs, their_grads = run("torch")
    assert ours.backend == "triton"
    assert ours.certified.all()
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(ours.objective, theirs.objective)
    assert torch.equal(ours.active, theirs.active)
    for a, b in zip(our_grads, their_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_weights_are_zero_at_lambda1_max_and_degenerate_features_are_certified():
    X, y = regression(0, 12, 6, batch=2)
    assert (solve_lasso(X, y, lambda1=1.0, relative=True, backend="triton").weights == 0).all()
    X[..., 1], X[..., 2] = X[..., 0], 0
    ours, theirs = (solve_lasso(X, y, lambda1=0.1, relative=True, backend=name) for name in ("triton", "torch"))
    assert ours.certified.all()
    torch.testing.assert_close(ours.objective, theirs.objective)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d", "shift", "relative"), [(6, 16, 100, 1e-3), (8, 16, 0, 1e-4), (5, 14, 1000, 1e-4)])
def test_nearly_dependent_features_are_certified(n, d, shift, relative):
    """Sweeps alone do not converge; for uncentred features, the Gram matrix has large rounding errors."""
    X, y = regression(3, n, d, batch=2)
    X = X + shift
    ours, theirs = (solve_lasso(X, y, lambda1=relative, relative=True, backend=name) for name in ("triton", "torch"))
    assert ours.certified.all()
    assert ours.n_iter.max() > descent.SWEEP_ITERATIONS
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours.objective, theirs.objective, rtol=1e-9, atol=0)


def test_status_reports_max_iter_and_precision():
    X, y = regression(1, 10, 16, batch=1)
    one = solve_lasso(X, y, lambda1=1e-3, relative=True, backend="triton", max_iter=1)
    assert one.status.item() == Status.MAX_ITER
    assert one.n_iter.item() == 1
    precise = solve_lasso(X[..., :3], y, lambda1=0.1, relative=True, backend="triton", tol=1e-30)
    assert precise.status.item() == Status.PRECISION
    assert precise.relative_gap.item() < 1e-13


def test_too_many_features_are_refused():
    X, y = regression(2, 5, 65, batch=1)
    with pytest.raises(ValueError, match="'triton' cannot run this: it takes up to 64 features, got 65"):
        solve_lasso(X, y, lambda1=0.1, backend="triton")


@pytest.mark.slow
@pytest.mark.parametrize(
    "targets",
    [["sm_80", "gfx942"], pytest.param(["sm_80", "sm_90", "sm_100", "gfx942"], marks=pytest.mark.exhaustive)],
    ids=["two targets", "all targets"],
)
def test_every_configuration_compiles(targets, tmp_path):
    results = compiler.compiled(tmp_path, tiles="lasso", targets=",".join(targets))
    assert len(results) == len(targets) * 3
    for row in results:
        assert row["spills"] <= (0 if row["constants"]["SIZE"] != "64" else 300)
        assert row["shared"] <= 48 * 1024  # available on these devices without opting in
