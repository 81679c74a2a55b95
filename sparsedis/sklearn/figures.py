"""Figures on matplotlib axes. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from typing import Any

from sparsedis.extras import need
from sparsedis.sklearn.data import Floats


def path(lambda1: Floats, norms: Floats, n_active: Any, axes: Any = None) -> Any:
    """Norms (L, d) of the features' coefficients against lambda1 (L,), and the number of active features (L,)."""
    axes = _axes(axes, "lambda1", "norm of a feature's coefficients")
    axes.plot(lambda1, norms, linewidth=1)
    _counted(axes, lambda1, n_active, norms.shape[1])
    return axes


def cross_validation(
    lambda1: Floats, label: str, accuracy: Floats, error: Floats, n_active: Floats, of: int, chosen: float, axes: Any
) -> Any:
    """Accuracies (L,) with standard errors, and numbers of active features, against lambda1 (L,)."""
    axes = _axes(axes, label, "accuracy on held-out samples")
    axes.errorbar(lambda1, accuracy, yerr=error, marker="o", markersize=3, capsize=2, color="C0")
    axes.axvline(chosen, color="black", linestyle=":", label="chosen")
    axes.legend(loc="lower left")
    _counted(axes, lambda1, n_active, of)
    return axes


def _axes(axes: Any, xlabel: str, ylabel: str) -> Any:
    if axes is None:
        _, axes = need("matplotlib.pyplot", "plot").subplots(layout="constrained")
    axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    return axes


def _counted(axes: Any, lambda1: Floats, n_active: Any, of: int) -> None:
    """Draw the number of active features on a second scale."""
    right = axes.twinx()
    right.plot(lambda1, n_active, color="C1", linestyle="--", drawstyle="steps-mid")
    right.set_ylim(0, 1.02 * of)
    right.set_ylabel(f"features used, of {of}", color="C1")
