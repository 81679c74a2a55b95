"""Selection of the machine that runs the CUDA kernels: the GPUs or their emulation."""

from __future__ import annotations

import os

from sparsedis.ops.common.cuda.devices import Devices
from sparsedis.ops.common.cuda.emulation import Emulation
from sparsedis.ops.common.cuda.protocol import Machine

_DEVICES, _EMULATION = Devices(), Emulation()


def emulated() -> bool:
    """Whether kernels are emulated on the CPU (SPARSEDIS_CUDA_EMULATION=1)."""
    return os.environ.get("SPARSEDIS_CUDA_EMULATION", "0").lower() in ("1", "true", "on", "yes", "y")


def machine() -> Machine:
    """The selected machine."""
    return _EMULATION if emulated() else _DEVICES
