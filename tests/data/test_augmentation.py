import sys

import pytest
import torch

from sparsedis.data.augmentation import augmentation


@pytest.mark.parametrize("kind", ["crop-flip", "crop-flip-color"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_by_itself_and_repeatable(kind: str, channels: int) -> None:
    change = augmentation(kind, (20, 24))  # type: ignore[arg-type]
    images = torch.rand(1, channels, 20, 24).expand(30, -1, -1, -1)
    torch.manual_seed(0)
    first = change(images)
    torch.manual_seed(0)
    assert torch.equal(change(images), first)
    assert first.shape == images.shape
    assert 0 <= first.min() <= first.max() <= 1
    assert len(first.flatten(1).unique(dim=0)) > 10
    assert not list(change.state_dict())


@pytest.mark.slow
def test_a_crop_moves_the_image_and_a_flip_turns_it() -> None:
    images = torch.arange(400.0).reshape(1, 1, 20, 20).expand(50, -1, -1, -1) / 400
    torch.manual_seed(0)
    centre = augmentation("crop-flip", (20, 20))(images)[:, 0, 8:12, 8:12]
    steps = (centre[:, 0, 1] - centre[:, 0, 0]) * 400
    assert set(steps.round().int().tolist()) == {-1, 1}
    torch.testing.assert_close(steps.abs(), torch.ones(50), rtol=0, atol=1e-3)
    offsets = ((centre[:, 0, 0] - images[0, 0, 8, 8]) * 400 / 20).round()
    assert len(offsets.unique()) > 2


def test_none_is_the_identity() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert augmentation("none", (8, 8))(images) is images


def test_without_kornia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match=r"augment: kornia is not installed; pip install 'sparsedis\[fewshot\]'"):
        augmentation("crop-flip", (8, 8))
