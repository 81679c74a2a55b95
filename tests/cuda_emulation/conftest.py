"""The CUDA backend without a device: its kernels are emulated on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparsedis.ops.registry import OPERATIONS
from sparsedis.ops.svm.backend_cuda import CudaBackend


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch, own_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Enable the emulation for CPU tensors; its kernels are compiled once for all test processes."""
    monkeypatch.setenv("SPARSEDIS_CACHE", str(tmp_path_factory.getbasetemp().parent / "cuda_emulation"))
    monkeypatch.setenv("SPARSEDIS_CUDA_EMULATION", "1")
    if reason := CudaBackend().available():
        pytest.skip(f"backend 'cuda' is not available: {reason}")


@pytest.fixture(params=["cuda"])
def backend(request: pytest.FixtureRequest, emulated: None, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend that "auto" tries first."""
    supports = CudaBackend.supports
    monkeypatch.setattr(CudaBackend, "supports", lambda self, query: supports(self, query._replace(named=True)))
    backends = sorted(OPERATIONS["svm"].backends, key=lambda backend: backend.name != request.param)
    monkeypatch.setattr(OPERATIONS["svm"], "backends", backends)
    return request.param
