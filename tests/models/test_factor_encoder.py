import pytest
import torch

from sparsedis.models import FactorEncoder


def test_layers_have_the_published_sizes() -> None:
    """Convolutions 32-32-64-64 with kernels 4, 4, 2, 2, which reduce 64x64 to 4x4, then layers of 256 and d."""
    shapes = [tuple(p.shape) for p in FactorEncoder(6).parameters() if p.dim() > 1]
    assert shapes == [(32, 3, 4, 4), (32, 32, 4, 4), (64, 32, 2, 2), (64, 64, 2, 2), (256, 1024), (6, 256)]
    assert not list(FactorEncoder(6).norm.parameters())  # no learned scale or shift


def test_features_are_normalised() -> None:
    torch.manual_seed(0)
    encoder, images = FactorEncoder(5), torch.rand(40, 3, 64, 64)
    with torch.no_grad():  # the initial features' variance is below the normalisation's eps, a trained encoder's is not
        encoder.layers[-1].weight.mul_(1000)
    features = encoder(images)
    assert features.shape == (40, 5)
    assert features.mean(0).abs().max() < 1e-5
    assert (features.var(0, correction=0) - 1).abs().max() < 0.01
    encoder.eval()
    alone = encoder(images[:3])
    assert torch.allclose(encoder(images)[:3], alone, atol=1e-5)  # running statistics: images are independent


def test_memory_format_does_not_matter() -> None:
    torch.manual_seed(0)
    encoder, images = FactorEncoder(4).eval(), torch.rand(6, 3, 64, 64)
    assert torch.equal(encoder(images), encoder(images.contiguous(memory_format=torch.channels_last)))


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 64, 64), (3, 64, 64)])
def test_invalid_images_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"images: expected shape \(N, 3, 64, 64\)"):
        FactorEncoder()(torch.zeros(shape))


def test_invalid_arguments_are_rejected() -> None:
    with pytest.raises(ValueError, match="features: expected a number >= 1, got 0"):
        FactorEncoder(0)
