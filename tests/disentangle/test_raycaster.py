"""Ray intersections against sphere tracing of signed distances, an independent method."""

import math

import pytest
import torch
from torch import Tensor

from sparsedis.disentangle import raycaster

SHAPES = ("cube", "cylinder", "sphere", "capsule")


def signed_distance(shape: str, scale: float, points: Tensor) -> Tensor:
    """Negative inside; outside at most the distance to the object, with the sizes that the module documents."""
    x, y, z = points.unbind(-1)
    across = (x**2 + y**2).sqrt()
    if shape == "cube":
        half, turn = 0.42 * scale, math.radians(28)
        u, v = math.cos(turn) * x + math.sin(turn) * y, -math.sin(turn) * x + math.cos(turn) * y
        return torch.stack([u.abs() - half, v.abs() - half, (z - half).abs() - half]).amax(0)
    if shape == "cylinder":
        return torch.maximum(across - 0.4 * scale, (z - 0.44 * scale).abs() - 0.44 * scale)
    if shape == "sphere":
        return (x**2 + y**2 + (z - 0.48 * scale) ** 2).sqrt() - 0.48 * scale
    radius = 0.33 * scale
    middle = z.clamp(radius, 1.05 * scale - radius)
    return (x**2 + y**2 + (z - middle) ** 2).sqrt() - radius


def rays(count: int = 4000) -> tuple[Tensor, Tensor]:
    """Rays from near the camera to near the object."""
    generator = torch.Generator().manual_seed(0)
    origin = torch.tensor([0.0, -3.0, 1.2]) + 0.3 * torch.randn(count, 3, generator=generator)
    target = torch.tensor([0.0, 0.0, 0.5]) + 0.35 * torch.randn(count, 3, generator=generator)
    return origin, torch.nn.functional.normalize(target - origin, dim=-1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.75, 1.25])
def test_intersections_and_normals_agree_with_sphere_tracing(shape: str, scale: float) -> None:
    origin, direction = (value.double() for value in rays())
    found, normal = raycaster._trace_object(scale, shape, origin.float(), direction.float())
    distance = torch.zeros(len(origin), dtype=torch.float64)
    for _ in range(300):
        distance += signed_distance(shape, scale, origin + distance[:, None] * direction).clamp(0, 1)
    at = origin + distance[:, None] * direction
    hit = signed_distance(shape, scale, at).abs() < 1e-3
    hit &= at[:, 2] > 1e-3  # a camera above the floor does not see the object's underside
    sure = (found < 1e8) == hit
    assert 0.2 < hit.double().mean() < 0.95
    assert sure.double().mean() > 0.99  # grazing rays may differ
    both = hit & (found < 1e8)
    assert ((found.double() - distance)[both].abs() < 2e-2).double().mean() > 0.995
    assert (found.double() - distance)[both].abs().median() < 1e-3

    # The normal is the gradient of the distance where that is smooth.
    at = (origin + found.double()[:, None] * direction)[both]
    step = 1e-4 * torch.eye(3, dtype=torch.float64)
    gradient = torch.stack(
        [signed_distance(shape, scale, at + h) - signed_distance(shape, scale, at - h) for h in step], -1
    )
    aligned = (torch.nn.functional.normalize(gradient, dim=-1) * normal.double()[both]).sum(-1)
    assert (aligned > 0.99).double().mean() > 0.97


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_are_mixtures_of_floor_wall_object_and_sky(shape: str) -> None:
    """No pixel is empty, and only the room depends on the orientation."""
    maps = raycaster.trace(1.0, shape, (-30.0, 0.0, 30.0))
    assert maps.shape == (3, 64 * 64, 5)
    assert bool(torch.isfinite(maps).all())
    assert bool((maps >= 0).all())
    floor, wall, thing, sky, _ = maps.reshape(3, 64, 64, 5).unbind(-1)
    assert bool((floor[:, -1] > 0).all())
    assert bool((sky[:, 0] > 0).any())
    assert bool((floor + wall + thing + sky > 0.2).all())
    assert float(thing[:, 32:40, 28:36].mean()) > 0.3  # the object is in the middle
    assert torch.equal(thing[0], thing[2])  # and does not move when the room rotates
    assert not torch.allclose(wall[0], wall[2], atol=0.1)


def test_the_object_casts_a_soft_shadow() -> None:
    """Next to the object, on the side away from the light, the floor is darker, without sharp edges."""
    maps = raycaster.trace(1.0, "sphere", (0.0,))[0].reshape(64, 64, 5)
    row = maps[46, :, 0]
    lit, shaded = row[4:12].mean(), row[36:46].amin()
    assert shaded < 0.75 * lit
    steps = (row[40:] - row[39:-1])[row[40:] < lit]
    assert float(steps.abs().max()) < 0.5 * float(lit - shaded)


def test_an_unknown_shape_is_rejected() -> None:
    with pytest.raises(ValueError, match="shape: expected one of cube, cylinder, sphere, capsule, got 'cone'"):
        raycaster.trace(1.0, "cone", (0.0,))
