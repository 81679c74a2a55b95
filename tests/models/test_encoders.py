"""The encoders against the papers and against compositions of PyTorch's functions."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparsedis.models import R2D2, Conv4, DropBlock, ResNet12, build


@pytest.mark.parametrize(
    ("encoder", "side", "features"),
    [
        (ResNet12(), 84, 16_000),  # MetaOptNet, section 4
        (ResNet12(pooled=True), 84, 640),
        (R2D2(), 32, 8_192),  # R2-D2, section 4: 8,192 on CIFAR-FS, 51,200 on miniImageNet
        (R2D2(), 84, 51_200),
        (Conv4(64, 3, final_pool=True), 84, 1_600),
    ],
    ids=["resnet12", "pooled", "r2d2-32", "r2d2-84", "conv4"],
)
def test_numbers_of_features(encoder: nn.Module, side: int, features: int) -> None:
    assert encoder.features(side, side) == features
    with torch.no_grad():
        assert encoder.eval()(torch.rand(2, 1, 3, side, side)).shape == (2, 1, features)


def test_numbers_of_parameters() -> None:
    """Counted from the layers; 12.4 million for ResNet-12 with these widths."""

    def block(a: int, b: int) -> int:
        return 9 * a * b + 2 * 9 * b * b + a * b + 4 * 2 * b

    expected = block(3, 64) + block(64, 160) + block(160, 320) + block(320, 640)
    assert sum(p.numel() for p in ResNet12().parameters()) == expected
    blocks = [(3, 96), (96, 192), (192, 384), (384, 512)]
    assert sum(p.numel() for p in R2D2().parameters()) == sum(9 * a * b + 2 * b for a, b in blocks)


def test_resnet12_agrees_with_its_definition() -> None:
    torch.manual_seed(0)
    encoder = ResNet12(8, 3, drop_rate=0.0).train()
    images = torch.rand(6, 3, 20, 20)

    def normalised(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()

    maps = images
    for block in encoder.blocks:
        weights = [layer.weight for layer in block.residual if isinstance(layer, nn.Conv2d)]
        inner = maps
        for i, weight in enumerate(weights):
            inner = normalised(F.conv2d(inner, weight, padding=1))
            inner = F.leaky_relu(inner, 0.1) if i < 2 else inner
        maps = F.max_pool2d(F.leaky_relu(inner + normalised(F.conv2d(maps, block.shortcut[0].weight)), 0.1), 2)
    torch.testing.assert_close(encoder(images), maps.flatten(1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["conv4", "resnet12", "resnet12-pooled", "r2d2"])
def test_encoders_are_built_by_name(name: str) -> None:
    encoder = build(name, (1, 28, 28), 8)
    images = torch.rand(2, 3, 1, 28, 28)
    features = encoder(images)
    assert features.shape == (2, 3, encoder.features(28, 28))
    features.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())
    with torch.device("meta"):
        assert build(name, (1, 28, 28), 8).state_dict().keys() == encoder.state_dict().keys()


def test_final_width_is_only_for_conv4() -> None:
    assert build("conv4", (1, 28, 28), 8, 12)(torch.rand(2, 1, 28, 28)).shape == (2, 12 * 9)
    for name in ("resnet12", "r2d2"):
        with pytest.raises(ValueError, match=f"final_width: expected none for the encoder {name}, got 12"):
            build(name, (1, 28, 28), 8, 12)


def test_identity_returns_its_input() -> None:
    table = torch.rand(2, 5, 7)
    assert build("identity", (7,))(table) is table


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vgg", (3, 84, 84), "encoder: expected one of conv4, resnet12"),
        ("identity", (3, 84, 84), r"encoder: expected conv4, .* for inputs of shape \(3, 84, 84\), got 'identity'"),
        ("conv4", (7,), r"encoder: expected identity for inputs of shape \(7,\), got 'conv4'"),
        ("resnet12", (3, 15, 28), "images: expected at least 16x16 pixels, got 15x28"),
        ("r2d2", (3, 28, 15), "images: expected at least 16x16 pixels"),
    ],
)
def test_invalid_names_and_shapes_are_rejected(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(name, shape)


@pytest.mark.parametrize("encoder", [ResNet12, R2D2])
def test_invalid_widths_are_rejected(encoder: type[nn.Module]) -> None:
    for width, message in ((0, "width: expected a number >= 1"), (3, "width: expected an even number")):
        with pytest.raises(ValueError, match=message):
            encoder(width)
    with pytest.raises(ValueError, match="images: expected shape"):
        encoder(2, 3)(torch.rand(1, 1, 28, 28))


class TestDropBlock:
    def test_squares_are_dropped(self) -> None:
        torch.manual_seed(0)
        dropped = DropBlock(0.1, block=3, ramp=0)(torch.ones(50, 4, 9, 11)) == 0
        for image in dropped.flatten(0, 1):
            # Every dropped pixel lies in a complete dropped square, so a morphological opening changes nothing.
            inner = F.max_pool2d(-image.float()[None, None], 3, 1) == -1
            again = F.max_pool2d(F.pad(inner.float(), (2, 2, 2, 2)), 3, 1)[0, 0] > 0
            assert torch.equal(again, image)
        assert dropped.any()

    def test_the_share_is_dropped_and_the_mean_preserved(self) -> None:
        torch.manual_seed(0)
        maps = torch.ones(400, 8, 10, 10)
        out = DropBlock(0.1, block=5, ramp=0)(maps)
        assert 0.07 < (out == 0).double().mean() < 0.11  # 0.1 minus overlaps
        torch.testing.assert_close(out.mean(), torch.tensor(1.0), rtol=1e-4, atol=0)

    def test_the_rate_grows_with_steps_only(self) -> None:
        layer = DropBlock(0.5, block=1, ramp=4)
        maps = torch.ones(20, 5, 20, 20)
        shares = []
        for _ in range(6):
            torch.manual_seed(0)
            first = layer(maps)
            torch.manual_seed(0)
            assert torch.equal(layer(maps), first), "a forward pass can be repeated"
            shares.append((first == 0).double().mean().item())
            layer.step()
        assert shares == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 0.5], abs=0.02)
        assert layer.state_dict()["steps"] == 6

    def test_evaluation_mode_and_small_maps(self) -> None:
        maps = torch.ones(3, 2, 2, 2)
        assert DropBlock(0.5).eval()(maps) is maps
        torch.manual_seed(0)
        out = DropBlock(0.5, block=5, ramp=0)(torch.ones(100, 2, 2, 3))
        assert torch.isfinite(out).all()
        assert (out == 0).any()

    @pytest.mark.parametrize("arguments", [{"rate": 1.0}, {"rate": -0.1}, {"rate": 0.1, "block": 0}])
    def test_invalid_arguments_are_rejected(self, arguments: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="expected a number"):
            DropBlock(**arguments)  # type: ignore[arg-type]
