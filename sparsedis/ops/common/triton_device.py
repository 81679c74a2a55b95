"""Where Triton's kernels can run: CUDA and ROCm devices, or the CPU through the interpreter. Does not import Triton."""

from __future__ import annotations

import os

import torch

from sparsedis import extras
from sparsedis.ops.common.backend import Request

# Whether this PyTorch is built for AMD GPUs.
AMD = bool(torch.version.hip)


def interpreted() -> bool:
    """Whether Triton's kernels are interpreted on the CPU: TRITON_INTERPRET=1, set before Triton is imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


class TritonDevices:
    """Base class of the Triton backends: the supported machines and devices."""

    name = "triton"

    def available(self) -> str | None:
        try:
            import triton  # noqa: F401
        except ImportError as error:
            return f"Triton is not installed ({error}); {extras.command('triton')}"
        if interpreted() or torch.cuda.is_available():
            return None
        return "there is no CUDA or ROCm device (TRITON_INTERPRET=1 interprets it on the CPU, for tests)"

    def refuses_device(self, request: Request) -> str | None:
        """None if the backend supports the request's device, else the reason why not."""
        if request.device.type == "cpu":
            if not interpreted():
                return "it takes CUDA and ROCm tensors, and CPU tensors under TRITON_INTERPRET=1 only, got cpu"
            if not request.named:
                return "on the CPU it is interpreted, for tests, and only used with backend='triton'"
        elif request.device.type != "cuda":
            return f"it takes CUDA and ROCm tensors, got {request.device.type}"
        return None
