"""The Triton backend on a device, at the sizes that it is for: pytest -m gpu."""

import pytest
import torch

from sparsedis import solve_svm, svm_lambda1_max
from sparsedis.ops.common.triton_device import interpreted
from tests.tasks import random_task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device: this machine has none"),
    pytest.mark.skipif(interpreted(), reason="TRITON_INTERPRET is set: this is for the compiled kernels"),
]
GRID = [
    # way, shots, d, batch, lambda2, lambda1 relative
    (2, 1, 1, 3, 1.0, 0.1),
    (5, 5, 640, 8, 100.0, 0.2),
    (5, 5, 1600, 256, 100.0, 0.2),
    (5, 15, 1600, 64, 1.0, 0.1),
    (5, 5, 16000, 8, 100.0, 0.3),
    (5, 15, 16000, 8, 1000.0, 0.3),
    (5, 5, 400, 4, 0.01, 0.2),
    (20, 1, 640, 8, 1.0, 0.2),
    (20, 3, 640, 4, 100.0, 0.1),
    (33, 1, 1601, 4, 10.0, 0.2),
]


def gradients(X, y, backend, **options):
    X = X.detach().requires_grad_()
    solution = solve_svm(X, y, backend=backend, **options)
    loss = torch.randn(solution.weights.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (grad,) = torch.autograd.grad((solution.weights.double() * loss.to(X.device)).sum(), [X])
    return solution, grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("way", "shots", "d", "batch", "lambda2", "relative"), GRID)
def test_newton_and_its_gradients(way, shots, d, batch, lambda2, relative, dtype):
    X, y = (value.cuda() for value in random_task(d, way=way, shots=shots, d=d, batch=batch, dtype=dtype))
    lambda1 = relative * svm_lambda1_max(X, y)
    options = {"lambda1": lambda1, "lambda2": lambda2, "tol": 1e-5 if dtype == torch.float32 else 1e-11}
    ours, our_grad = gradients(X, y, "auto", **options)
    theirs, their_grad = gradients(X, y, "torch", **options)
    assert ours.backend == "triton"
    assert ours.certified.all()
    assert (ours.n_iter - theirs.n_iter).abs().max() <= 3
    torch.testing.assert_close(ours.objective, theirs.objective, rtol=2 * options["tol"], atol=0)
    if dtype == torch.float64:
        assert (our_grad - their_grad).norm() <= 1e-4 * their_grad.norm()


@pytest.mark.parametrize("batch", [8, 1024])  # features shared by programs, and a program for each task
def test_first_order_steps(batch):
    X, y = (value.cuda() for value in random_task(1, way=5, shots=5, d=640, batch=batch, dtype=torch.float32))
    solution = solve_svm(X, y, lambda1=4.0, lambda2=100.0, solver="fista")
    assert solution.backend == "triton"
    assert solution.certified.all()
    theirs = solve_svm(X[:8], y[:8], lambda1=4.0, lambda2=100.0, solver="fista", backend="torch")
    assert (solution.n_iter[:8] - theirs.n_iter).abs().max() <= 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    X, y = (value.cuda() for value in random_task(2, way=5, shots=5, d=640, batch=8, dtype=dtype))
    ours = solve_svm(X, y, lambda1=4.0, lambda2=100.0)
    theirs = solve_svm(X.float(), y, lambda1=4.0, lambda2=100.0, backend="torch")
    assert ours.certified.all()
    torch.testing.assert_close(ours.objective, theirs.objective, rtol=2e-5, atol=0)


def test_iterations_in_a_cuda_graph():
    from sparsedis.ops.svm.backend_triton import newton
    from sparsedis.ops.svm.backend_triton.certify import Progress
    from sparsedis.ops.svm.backend_triton.tasks import as_tasks
    from sparsedis.ops.svm.signature import Inputs

    X, y = (value.cuda() for value in random_task(3, way=5, shots=5, d=640, batch=8))
    one = torch.ones(8, dtype=torch.float64, device="cuda")
    tasks, _ = as_tasks(Inputs(X, y, 4 * one, 100 * one, 0 * one, torch.ones_like(y, dtype=torch.float64)), 5)
    progress = Progress(tasks, 1e-9, torch.float64)
    form = newton.KernelLightForm(tasks, progress.going, torch.float64)
    start = [value.clone() for value in form.variables]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # the compilers' turn
        newton.iterate_once(form, progress, 50)
    torch.cuda.current_stream().wait_stream(stream)
    for value, first in zip(form.variables, start, strict=True):
        value.copy_(first)
    fresh = Progress(tasks, 1e-9, torch.float64)
    for name, value in vars(fresh).items():
        getattr(progress, name).copy_(value)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(15):
            newton.iterate_once(form, progress, 50)
    graph.replay()
    assert (progress.relative_gap <= 1e-9).all()


def test_tensors_on_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two devices: this machine has one")
    X, y = (value.to("cuda:1") for value in random_task(4, way=5, shots=5, d=640, batch=8))
    ours, grad = gradients(X, y, "triton", lambda1=4.0, lambda2=100.0)
    assert ours.certified.all()
    assert grad.device == X.device
    assert torch.cuda.current_device() == 0
