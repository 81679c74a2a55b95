import pytest
import torch

from sparsedis.models import Conv4


@pytest.mark.parametrize(
    ("options", "shape", "features"),
    [
        ({}, (2, 3, 1, 28, 28), 576),
        ({"width": 5}, (4, 1, 28, 28), 45),
        ({"width": 5, "in_channels": 3}, (3, 33, 47), 100),
        ({"width": 5, "final_pool": True}, (2, 1, 28, 28), 5),
        ({"width": 5, "final_width": 7}, (2, 1, 28, 28), 63),
    ],
)
def test_shapes_and_numbers_of_features(options: dict[str, int], shape: tuple[int, ...], features: int) -> None:
    encoder = Conv4(**options).eval()  # type: ignore[arg-type]
    assert encoder.features(*shape[-2:]) == features
    assert encoder(torch.rand(shape)).shape == (*shape[:-3], features)


def test_conv4_agrees_with_the_published_architecture() -> None:
    """Convolution, normalisation, ReLU, pooling; the implementation pools before the ReLU, with the same result."""
    torch.manual_seed(0)
    encoder = Conv4(6).double()
    images = torch.rand(5, 1, 28, 28, dtype=torch.float64)
    x = images
    for i, block in enumerate(encoder.blocks):
        x = block[1](block[0](x)).relu()
        x = torch.nn.functional.max_pool2d(x, 2) if i < 3 else x
    torch.testing.assert_close(encoder(images), x.flatten(1), rtol=1e-12, atol=1e-12)


def test_leading_dimensions_and_layout_do_not_matter() -> None:
    torch.manual_seed(0)
    encoder = Conv4(4).eval()
    images = torch.rand(2, 3, 1, 28, 28)
    torch.testing.assert_close(encoder(images)[1, 2], encoder(images[1, 2]))
    strided = images.transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(encoder(images), encoder(strided))


def test_every_parameter_has_a_gradient() -> None:
    encoder = Conv4(4)
    encoder(torch.rand(3, 1, 28, 28)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="width: expected a number >= 1, got 0"):
        Conv4(0)
    with pytest.raises(ValueError, match="final_width: expected a number >= 1, got 0"):
        Conv4(4, final_width=0)
    with pytest.raises(ValueError, match=r"images: expected shape \(\.\.\., 1, H, W\), got \(2, 3, 28, 28\)"):
        Conv4(4)(torch.rand(2, 3, 28, 28))
    with pytest.raises(ValueError, match="at least 8x8 pixels, got 7x28"):
        Conv4(4).features(7, 28)
