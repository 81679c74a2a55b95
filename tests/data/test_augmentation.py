import sys

import pytest
import torch

from sparsedis.data.augmentation import augmentation


@pytest.mark.parametrize("kind", ["crop-flip", "crop-flip-color"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_by_itself_and_repeatable(kind: str, channels: int) -> None:
    change = augmentation(kind, (20, 24))  # type: ignore[arg-type]
    images = torch.rand(1, channels, 20, 24).expand(2, 15, -1, -1, -1)
    torch.manual_seed(0)
    first = change(images)
    torch.manual_seed(0)
    assert torch.equal(change(images), first)
    assert first.shape == images.shape
    assert 0 <= first.min() <= first.max() <= 1
    assert len(first.flatten(2).flatten(0, 1).unique(dim=0)) > 10
    assert not list(change.state_dict())


@pytest.mark.slow
def test_a_crop_moves_the_image_and_a_flip_turns_it() -> None:
    images = torch.arange(400.0).reshape(1, 1, 20, 20).expand(50, -1, -1, -1) / 400
    torch.manual_seed(0)
    centre = augmentation("crop-flip", (20, 20))(images[None])[0, :, 0, 8:12, 8:12]
    steps = (centre[:, 0, 1] - centre[:, 0, 0]) * 400
    assert set(steps.round().int().tolist()) == {-1, 1}
    torch.testing.assert_close(steps.abs(), torch.ones(50), rtol=0, atol=1e-3)
    offsets = ((centre[:, 0, 0] - images[0, 0, 8, 8]) * 400 / 20).round()
    assert len(offsets.unique()) > 2


def test_the_drawings_of_a_task_are_turned_alike() -> None:
    images = torch.zeros(40, 6, 1, 21, 21)
    images[..., 2:5, 9:12] = 1  # a dot at the top
    torch.manual_seed(0)
    first = augmentation("drawings", (21, 21))(images)
    torch.manual_seed(0)
    assert torch.equal(augmentation("drawings", (21, 21))(images), first)
    assert len(first.flatten(2).flatten(0, 1).unique(dim=0)) == 240, "every image is another one"
    places = torch.arange(21.0) - 10
    weight = first[:, :, 0].sum((-2, -1))
    down = (first[:, :, 0].sum(-1) * places).sum(-1) / weight
    right = (first[:, :, 0].sum(-2) * places).sum(-1) / weight
    sides = torch.where(down.abs() > right.abs(), 2 * (down > 0), 1 + 2 * (right > 0))
    assert (sides == sides[:, :1]).all()
    assert set(sides[:, 0].tolist()) == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="augment: expected square images to turn, got 20x24"):
        augmentation("drawings", (20, 24))


def test_none_is_the_identity() -> None:
    images = torch.rand(1, 2, 3, 8, 8)
    assert augmentation("none", (8, 8))(images) is images


def test_without_kornia(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match=r"augment: kornia is not installed; pip install 'sparsedis\[fewshot\]'"):
        augmentation("crop-flip", (8, 8))
