"""A ray caster for one scene: a cube, cylinder, sphere or capsule in the centre of a room.

The walls of the room are at distance 3 from its centre, z points up, and the floor is at z = 0. Camera and light are
fixed, and the room rotates about the object. The computation is deterministic, in float32 on the CPU.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

MAPS = ("floor", "wall", "object", "sky", "highlight")
"""An image is the sum of these maps, each multiplied by the colour of its surface."""

_SIDE = 64
_SUPERSAMPLING = 4  # rays per pixel in each direction

_CAMERA = (0.0, -3.0, 1.2)
_TARGET = (0.0, 0.0, 0.6)
_HALF_WIDTH = 0.36  # half the width of the view at distance 1
_ROOM_HALF_SIDE = 3.0  # half the side of the room, which contains the camera at every orientation
_WALL_HEIGHT = 1.75
_OBJECT_TURN = math.radians(28)  # rotation of the cube relative to the camera, so that two sides are visible

_LIGHT = (-0.42, -0.5, 1.0)  # direction to the light
_LIGHT_SPREAD = 0.16  # half the side of the square light at distance 1, which softens the shadow
_AMBIENT = {"floor": 0.42, "wall": 0.5, "object": 0.38}
_DIFFUSE = {"floor": 0.6, "wall": 0.52, "object": 0.72}
_SHADOW_RADIUS = 1.8  # largest distance of a shadow from the centre at scale 1
_SHADOW = 0.75  # fraction of the direct light that a shadow removes
_CONTACT = 0.35  # fraction of the ambient light that the object blocks on the floor next to it
_HIGHLIGHT, _SHININESS = 0.35, 24

_INFINITE = 1e9
_SHAPES = ("cube", "cylinder", "sphere", "capsule")


def trace(scale: float, shape: str, orientations: tuple[float, ...]) -> Tensor:
    """The maps of an object in the room at several orientations.

    Args:
        scale: of the object, whose width is about 0.85 at scale 1.
        shape: "cube", "cylinder", "sphere" or "capsule".
        orientations: R angles of the room, in degrees.

    Returns:
        (R, 64 * 64, 5) float32: the :data:`MAPS` of every pixel, row by row.
    """
    if shape not in _SHAPES:
        raise ValueError(f"shape: expected one of {', '.join(_SHAPES)}, got {shape!r}")
    directions = _camera_rays()
    eye = torch.tensor(_CAMERA)
    light, jittered = _light_directions(len(directions))
    seen, normal = _trace_object(scale, shape, eye, directions)
    hit = seen < _INFINITE
    facing = (normal * light).sum(-1).clamp_min(0)
    half = torch.nn.functional.normalize(light - directions, dim=-1)
    gloss = (normal * half).sum(-1).clamp_min(0) ** _SHININESS * (facing > 0)
    shade = {
        "floor": _floor_light(scale, shape, eye, directions, light, jittered),
        "object": (_AMBIENT["object"] + _DIFFUSE["object"] * facing) * hit,
        "highlight": _HIGHLIGHT * gloss * hit,
    }
    result = []
    for orientation in orientations:
        wall, is_floor, is_sky = _trace_room(orientation)
        shade["sky"] = (is_sky & ~hit).float()
        shade["wall"] = wall * ~(is_floor | is_sky | hit)
        maps = torch.stack([shade[name] * (is_floor & ~hit) if name == "floor" else shade[name] for name in MAPS], -1)
        result.append(maps.reshape(_SIDE * _SIDE, -1, len(MAPS)).mean(1))
    return torch.stack(result)


def _floor_light(scale: float, shape: str, eye: Tensor, directions: Tensor, light: Tensor, jittered: Tensor) -> Tensor:
    """Light on the floor where each ray meets it, ignoring the walls, which cast no shadow on it."""
    vertical = directions[:, 2]
    point = eye - (eye[2] / vertical.clamp_max(-1e-4))[:, None] * directions
    distance = point[:, :2].norm(dim=-1) / scale
    near = ((vertical < 0) & (distance < _SHADOW_RADIUS)).nonzero()[:, 0]
    blocked, _ = _trace_object(scale, shape, point[near] + torch.tensor([0.0, 0.0, 1e-3]), jittered[near])
    direct = torch.ones_like(vertical)
    direct[near] -= _SHADOW * (blocked < _INFINITE).float()
    # Ambient occlusion: near the object, the floor receives less light from the room.
    contact = 1 - _CONTACT * torch.exp(-((distance / 0.55) ** 2))
    return _AMBIENT["floor"] * contact + _DIFFUSE["floor"] * light[2] * direct


def _camera_rays() -> Tensor:
    """Unit directions (64 * 64 * S, 3) of the rays, ordered by pixel."""
    eye, target = torch.tensor(_CAMERA), torch.tensor(_TARGET)
    forward = torch.nn.functional.normalize(target - eye, dim=0)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0])), dim=0)
    up = torch.linalg.cross(right, forward)
    fine = _SIDE * _SUPERSAMPLING
    ticks = ((torch.arange(fine) + 0.5) / fine * 2 - 1) * _HALF_WIDTH
    rays = forward + ticks[None, :, None] * right - ticks[:, None, None] * up
    rays = torch.nn.functional.normalize(rays, dim=-1)
    blocks = rays.reshape(_SIDE, _SUPERSAMPLING, _SIDE, _SUPERSAMPLING, 3)
    return blocks.transpose(1, 2).reshape(-1, 3)


def _light_directions(count: int) -> tuple[Tensor, Tensor]:
    """The direction to the light, and for each of ``count`` rays the direction to a point of its area, (count, 3)."""
    light = torch.tensor(_LIGHT)
    samples = _SUPERSAMPLING**2
    # A low-discrepancy set in the square, in another order for every other pixel.
    place = torch.arange(samples, dtype=torch.float64)
    steps = torch.stack([(place * 0.7548776662466927 + 0.5) % 1, (place * 0.5698402909980532 + 0.5) % 1], -1)
    offset = ((2 * steps - 1) * _LIGHT_SPREAD).float().repeat(count // samples, 1)
    jittered = light + torch.cat([offset, torch.zeros(count, 1)], -1)
    return torch.nn.functional.normalize(light, dim=0), torch.nn.functional.normalize(jittered, dim=-1)


@lru_cache(maxsize=15)  # the orientations of 3D Shapes, each used with 32 objects
def _trace_room(orientation: float) -> tuple[Tensor, Tensor, Tensor]:
    """Light on the wall that each ray meets, and whether the ray meets the floor first or passes above the wall."""
    angle, eye, directions = math.radians(orientation), torch.tensor(_CAMERA), _camera_rays()
    light, _ = _light_directions(len(directions))
    nearest = torch.full((len(directions),), _INFINITE)
    shade = torch.zeros(len(directions))
    for side in range(4):
        turn = angle + math.pi / 4 + side * math.pi / 2
        outward = torch.tensor([math.sin(turn), math.cos(turn), 0.0])
        speed = directions @ outward
        distance = torch.where(speed > 0, (_ROOM_HALF_SIDE - eye @ outward) / speed.clamp_min(1e-9), _INFINITE)
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        direct = float((-outward @ light).clamp_min(0))
        shade = torch.where(closer, _AMBIENT["wall"] + _DIFFUSE["wall"] * direct, shade)
    height = eye[2] + nearest * directions[:, 2]
    return shade, height < 0, height > _WALL_HEIGHT


def _trace_object(scale: float, shape: str, origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Distance from the origins (N, 3) or (3,) to the object, 1e9 if it is missed, and the normal at that point."""
    origin = origin.expand_as(directions)
    if shape == "cube":
        return _trace_cube(0.42 * scale, origin, directions)
    if shape == "cylinder":
        return _trace_cylinder(0.4 * scale, 0.0, 0.88 * scale, True, origin, directions)
    radius = 0.48 * scale if shape == "sphere" else 0.33 * scale
    if shape == "sphere":
        return _trace_sphere(radius, radius, origin, directions)
    top = 1.05 * scale - radius
    parts = (
        _trace_cylinder(radius, radius, top, False, origin, directions),
        _trace_sphere(radius, radius, origin, directions),
        _trace_sphere(radius, top, origin, directions),
    )
    distance, normal = parts[0]
    for other, other_normal in parts[1:]:
        closer = other < distance
        distance, normal = torch.where(closer, other, distance), torch.where(closer[:, None], other_normal, normal)
    return distance, normal


def _trace_cube(half: float, origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    cosine, sine = math.cos(_OBJECT_TURN), math.sin(_OBJECT_TURN)
    turn = torch.tensor([[cosine, sine, 0.0], [-sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    start = origin @ turn.T - torch.tensor([0.0, 0.0, half])
    ray = directions @ turn.T
    inverse = 1 / torch.where(ray.abs() < 1e-9, 1e-9, ray)
    first, second = (-half - start) * inverse, (half - start) * inverse
    enter, axis = torch.minimum(first, second).max(-1)
    leave = torch.maximum(first, second).amin(-1)
    hit = (enter < leave) & (enter > 0)
    normal = -torch.nn.functional.one_hot(axis, 3) * ray.gather(-1, axis[:, None]).sign()
    return torch.where(hit, enter, _INFINITE), normal @ turn


def _trace_sphere(radius: float, height: float, origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    start = origin - torch.tensor([0.0, 0.0, height])
    half = (start * directions).sum(-1)
    inside = half**2 - (start * start).sum(-1) + radius**2
    distance = -half - inside.clamp_min(0).sqrt()
    hit = (inside > 0) & (distance > 0)
    return torch.where(hit, distance, _INFINITE), (start + distance[:, None] * directions) / radius


def _trace_cylinder(
    radius: float, low: float, high: float, closed: bool, origin: Tensor, directions: Tensor
) -> tuple[Tensor, Tensor]:
    """An upright cylinder from ``low`` to ``high``, with an upper lid if ``closed`` (no ray comes from below)."""
    x, ray = origin[:, :2], directions[:, :2]
    square = (ray * ray).sum(-1).clamp_min(1e-12)
    half = (x * ray).sum(-1)
    inside = half**2 - square * ((x * x).sum(-1) - radius**2)
    distance = (-half - inside.clamp_min(0).sqrt()) / square
    z = origin[:, 2] + distance * directions[:, 2]
    hit = (inside > 0) & (distance > 0) & (z >= low) & (z <= high)
    best = torch.where(hit, distance, _INFINITE)
    normal = torch.cat([(x + distance[:, None] * ray) / radius, torch.zeros(len(x), 1)], -1)
    if closed:
        # Camera rays come from above and rays to the light from the floor; both cross the plane of the lid.
        speed = directions[:, 2]
        lid = (high - origin[:, 2]) / torch.where(speed.abs() < 1e-9, 1e-9, speed)
        across = (x + lid[:, None] * ray).norm(dim=-1)
        closer = (lid > 0) & (across <= radius) & (lid < best)
        best = torch.where(closer, lid, best)
        normal = torch.where(closer[:, None], torch.tensor([0.0, 0.0, 1.0]), normal)
    return best, normal
