"""Optional dependencies: modules of the package's extras, imported on use, with one message if they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Top-level modules of optional dependencies, by the extra that installs them.
EXTRAS = {
    "train": ("tyro", "rich", "PIL", "matplotlib", "safetensors", "jinja2", "filelock"),
    "fewshot": ("kornia", "accelerate", "tensorboard"),
    "disentangle": ("scipy", "sklearn", "h5py"),
    "sklearn": ("sklearn", "scipy"),
    "cluster": ("distributed",),
    "cuda": ("cuda", "nvidia"),
    "triton": ("triton",),
}
_PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "cuda": "cuda-bindings", "nvidia": "nvidia-cuda-nvrtc"}


def need(module: str, purpose: str = "") -> Any:
    """Import a module of :data:`EXTRAS`.

    Raises:
        ImportError: the module is missing; the message names ``purpose``, the package and the command to install it.
    """
    try:
        import_module(module.partition(".")[0])
        return import_module(module)
    except ImportError as error:
        message = explained(error)
        raise ImportError(f"{purpose}: {message}" if purpose else message) from error


def explained(error: ImportError, extra: str | None = None) -> str:
    """The message of an import error; if the missing module belongs to an extra, with the command to install it.

    Args:
        error: the import error.
        extra: the extra to install, if several provide the module; default: the first.
    """
    module = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    for name, modules in EXTRAS.items():
        if module in modules and extra in (None, name):
            return f"{_PACKAGES.get(module, module)} is not installed; {command(name)}"
    return str(error)


def command(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'sparsedis[{extra}]'"
