"""Fixed points and their derivatives without optimisations, shared by the naive implementations."""

from collections.abc import Callable

import torch
from torch import Tensor


def fixed_point(step: Callable[[Tensor], Tensor], start: Tensor, tol: float = 1e-14, max_iter: int = 200_000) -> Tensor:
    """The solution of z = step(z) for a proximal gradient step, by accelerated iterations with adaptive restart.

    Source: Beck and Teboulle 2009; O'Donoghue and Candes 2015 (gradient restart).

    Raises:
        RuntimeError: no fixed point within ``max_iter`` steps.
    """
    z = ahead = start
    momentum = 1.0
    for _ in range(max_iter):
        after = step(ahead)
        if (after - ahead).norm() <= tol * max(1.0, float(after.norm())):
            return after
        if ((ahead - after) * (after - z)).sum() > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = after + (momentum - 1) / following * (after - z)
        z, momentum = after, following
    raise RuntimeError(f"no fixed point within {max_iter} steps")


def implicit_gradients(
    step: Callable[..., Tensor],
    output: Callable[..., Tensor],
    z: Tensor,
    parameters: tuple[Tensor, ...],
    cotangent: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of <cotangent, output(z, *parameters)> in the parameters, where z = step(z, *parameters).

    Implicit function theorem: dz = (I - dstep/dz)^-1 dstep/dparameters. If z is not unique, the system is
    singular but consistent, and any of its solutions gives the gradient.
    """
    z = z.detach().requires_grad_()
    theta = tuple(value.detach().requires_grad_() for value in parameters)
    loss = (cotangent * output(z, *theta)).sum()
    by_z, *direct = torch.autograd.grad(loss, (z, *theta), allow_unused=True)
    if by_z is None:
        by_z = torch.zeros_like(z)
    jacobian = torch.autograd.functional.jacobian(lambda z: step(z, *theta), z).reshape(z.numel(), z.numel())
    system = torch.eye(z.numel(), dtype=z.dtype) - jacobian.T
    v = torch.linalg.lstsq(system, by_z.reshape(-1, 1), driver="gelsd").solution.reshape(z.shape)
    indirect = torch.autograd.grad((v * step(z, *theta)).sum(), theta, allow_unused=True)
    pairs = zip(direct, indirect, theta, strict=True)
    return tuple(sum((g for g in (a, b) if g is not None), torch.zeros_like(t)) for a, b, t in pairs)
