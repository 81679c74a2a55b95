"""Few-shot training with inner problems solved by the CUDA kernels."""

import pytest

from sparsedis.cli import main
from sparsedis.ops.svm.backend_cuda import CudaBackend

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("backend")]


def test_training_uses_the_cuda_kernels(omniglot_folder, tmp_path, monkeypatch, capsys):
    calls = {"solve": 0, "adjoint": 0}
    for name in calls:
        run = getattr(CudaBackend, name)

        def counted(self, *given, name=name, run=run):
            calls[name] += 1
            return run(self, *given)

        monkeypatch.setattr(CudaBackend, name, counted)
    out = tmp_path / "run"
    words = f"train --data omniglot:{omniglot_folder} --out {out} --way 3 --shot 2 --query 3 --batch 2 --iterations 3"
    words += " --width 8 --validate-every 3 --validation-episodes 4 --test-episodes 4 --test-shots 1 --threads 1"
    assert main(words.split()) == 0
    assert calls["adjoint"] == 3
    assert calls["solve"] > 3
    assert "certified 100.0%; " in capsys.readouterr().out
