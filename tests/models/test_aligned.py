import pytest
import torch
from torch.nn import functional as F

from sparsedis.models.aligned import align


def drawing(side: int = 160) -> torch.Tensor:
    """A smooth shape without symmetries."""
    places = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(places, places, indexing="ij")
    dots = ((0.1, -0.3, 0.1), (-0.25, 0.2, 0.08), (0.3, 0.3, 0.07))
    return sum(torch.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * s**2)) for a, b, s in dots)[None, None] / 2  # type: ignore[union-attr]


def test_alignment_does_not_depend_on_position_and_size() -> None:
    image = drawing()
    first = align(image)
    for scale, x, y in ((1.2, 0.1, -0.05), (1.5, -0.2, 0.1), (0.9, 0.05, 0.05)):
        transform = torch.tensor([[[scale, 0, x], [0, scale, y]]])
        moved = F.grid_sample(
            image, F.affine_grid(transform, [1, 1, 160, 160], align_corners=False), align_corners=False
        )
        assert (moved - image).abs().max() > 0.2
        torch.testing.assert_close(align(moved), first, atol=0.02, rtol=0)


def test_aligned_images_are_unchanged() -> None:
    first = align(drawing())
    torch.testing.assert_close(align(first), first, atol=0.01, rtol=0)


def test_blank_images_and_dots_do_not_affect_the_batch() -> None:
    blank, dot = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    dot[..., 3, 5] = 1
    batch = torch.cat([blank, dot, drawing(32)])
    found = align(batch)
    assert torch.equal(found[:1], blank)
    assert 0 < found[1].sum() <= 17, "enlarged at most four times in each direction"
    assert torch.equal(found[2:], align(batch[2:]))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("shape", [(2, 3, 20, 30), (1, 1, 1, 1)])
def test_any_shape_is_accepted_and_gradients_are_finite(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, requires_grad=True)
    found = align(images)
    assert found.shape == shape
    found.sum().backward()
    assert images.grad is not None
    assert torch.isfinite(images.grad).all()
