"""Runs a small batch of every kind through the CUDA kernels, under compute-sanitizer or ncu.

python tools/device_driver.py [--shape WAY SHOTS FEATURES TASKS] [--device cuda]
"""

from __future__ import annotations

import argparse

import torch

from sparsedis import solve_svm, svm_lambda1_max

# way, shots, features, tasks; relative lambda1, lambda2: the light form, the full form, no group Lasso.
KINDS = (((3, 4, 70, 3), 0.2, 1e3), ((3, 4, 70, 3), 0.2, 1.0), ((3, 4, 70, 3), 0.0, 30.0), ((5, 15, 90, 2), 0.2, 10.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=4, metavar=("WAY", "SHOTS", "FEATURES", "TASKS"))
    parser.add_argument("--device", default="cuda", help="cpu with SPARSEDIS_CUDA_EMULATION=1")
    given = parser.parse_args()
    kinds = [(tuple(given.shape), 0.2, 100.0)] if given.shape else KINDS
    for (way, shots, d, tasks), relative, lambda2 in kinds:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(way).repeat_interleave(shots).expand(tasks, -1).contiguous().to(given.device)
        centres = torch.randn(tasks, way, d, generator=generator)
        noise = torch.randn(tasks, way * shots, d, generator=generator)
        for dtype in (torch.float32,) if given.shape else (torch.float32, torch.float64, torch.float16):
            features = (centres.repeat_interleave(shots, dim=1) + noise).to(given.device, dtype).requires_grad_()
            lambda1 = relative * svm_lambda1_max(features.detach(), labels)
            solution = solve_svm(features, labels, lambda1=lambda1, lambda2=lambda2, backend="cuda")
            solution.weights.float().square().sum().backward()
            assert features.grad is not None
            told = f"gap {solution.relative_gap.max().item():.1e}, {solution.n_iter.max().item()} iterations"
            state = "certified" if solution.certified.all() else "not certified"
            print(way, shots, d, tasks, dtype, told, state)


if __name__ == "__main__":
    main()
