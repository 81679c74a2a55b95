import sys

import pytest
import torch

from sparsedis.data.augmentation import _RotateAndMirror, augmentation


@pytest.mark.parametrize("kind", ["crop-flip", "crop-flip-color"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_augmented_independently_and_reproducibly(kind: str, channels: int) -> None:
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
def test_crops_shift_and_flips_mirror_the_image() -> None:
    images = torch.arange(400.0).reshape(1, 1, 20, 20).expand(50, -1, -1, -1) / 400
    torch.manual_seed(0)
    centre = augmentation("crop-flip", (20, 20))(images[None])[0, :, 0, 8:12, 8:12]
    steps = (centre[:, 0, 1] - centre[:, 0, 0]) * 400
    assert set(steps.round().int().tolist()) == {-1, 1}
    torch.testing.assert_close(steps.abs(), torch.ones(50), rtol=0, atol=1e-3)
    offsets = ((centre[:, 0, 0] - images[0, 0, 8, 8]) * 400 / 20).round()
    assert len(offsets.unique()) > 2


def test_drawings_differ_and_keep_their_ink() -> None:
    images = torch.zeros(4, 6, 1, 21, 21)
    images[..., 4:15, 9:12] = 1
    torch.manual_seed(0)
    first = augmentation("drawings", (21, 21))(images)
    torch.manual_seed(0)
    assert torch.equal(augmentation("drawings", (21, 21))(images), first)
    assert len(first.flatten(2).flatten(0, 1).unique(dim=0)) == 24
    # About as much ink as before, because scales are between 0.8 and 1.2 and shifts are small.
    assert (first.sum((-3, -2, -1)) / 33 > 0.5).all()
    assert (first.sum((-3, -2, -1)) / 33 < 1.6).all()
    with pytest.raises(ValueError, match="augment: expected square images to turn, got 20x24"):
        augmentation("drawings", (20, 24))


def test_drawings_of_a_task_are_rotated_and_mirrored_alike() -> None:
    image = torch.rand(1, 5, 5)
    versions = [turned for k in range(4) for turned in (image.rot90(k, (-2, -1)), image.rot90(k, (-2, -1)).flip(-1))]
    torch.manual_seed(0)
    turned = _RotateAndMirror()(image.expand(80, 3, -1, -1, -1))
    seen = [[i for i, version in enumerate(versions) if torch.equal(one, version)] for one in turned.flatten(0, 1)]
    assert all(len(one) == 1 for one in seen)
    kinds = torch.tensor(seen).reshape(80, 3)
    assert (kinds == kinds[:, :1]).all()
    assert set(kinds[:, 0].tolist()) == set(range(8))


def test_none_is_the_identity() -> None:
    images = torch.rand(1, 2, 3, 8, 8)
    assert augmentation("none", (8, 8))(images) is images


def test_a_missing_kornia_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(ImportError, match=r"augment: kornia is not installed; pip install 'sparsedis\[fewshot\]'"):
        augmentation("crop-flip", (8, 8))
