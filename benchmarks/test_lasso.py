"""The Lasso and scikit-learn's. Only the gate can fail here, not a time."""

from __future__ import annotations

import pytest
import torch

from benchmarks import lasso


def test_lasso(pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sklearn")
    torch.set_num_threads(pytestconfig.getoption("--threads"))
    result = lasso.measure(rounds=3 if pytestconfig.getoption("--quick") else 9)
    with capsys.disabled():
        print(f"\n1000 Lassos, forward + backward: {result['ratio']:.0f} times as quick as scikit-learn's loop")
        for name, values in result["times"].items():
            print(f"  {name}: {1e3 * values['median']:.2f} ms")
