"""Draw a scene at any resolution, anti-aliased, with jitter that depends on the seed alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guided.data.order import MASK, mix
from guided.data.shapes.scene import COLOURS, MEDIUM, NEW_COLOURS, PLACES, RELATIONS, SIZES, Object, Scene

Array = NDArray[Any]
Distance = Callable[[Array, Array, float], Array]
JITTER = 0.025
"""Largest shift of a centre, as a share of the side; radii change by up to twice this share of themselves."""


def numbers(*keys: int) -> Iterator[float]:
    """Endless uniform numbers in [0, 1), a function of the keys."""
    state = 0
    for key in keys:
        state = mix(state ^ (key & MASK))
    while True:
        state = mix(state)
        yield (state >> 11) / 2**53


def render(scene: Scene, size: int | tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """The picture (H, W, 3) of a scene on near-white; position, radius and colours jittered by `seed`."""
    height, width = (size, size) if isinstance(size, int) else size
    draw = numbers(seed, 1)
    picture = np.full((height, width, 3), 255.0) - np.array([10 * next(draw) for _ in range(3)])
    for thing, (x, y, r) in zip(scene.objects, layout(scene, seed), strict=True):
        colour = np.array((COLOURS | NEW_COLOURS)[thing.colour]) + np.array([16 * next(draw) - 8 for _ in range(3)])
        side = min(height, width)
        alpha = cover(thing.shape, height, width, x * width, y * height, r * side)[..., None]
        picture = picture * (1 - alpha) + colour.clip(0, 255) * alpha
    drawn: NDArray[np.uint8] = np.floor(picture + 0.5).clip(0, 255).astype(np.uint8)
    return drawn


def layout(scene: Scene, seed: int) -> list[tuple[float, float, float]]:
    """Centre and radius (x, y, r) of each object as shares of the side."""
    draw = numbers(seed, 2)
    placed = []
    for at, thing in enumerate(scene.objects):
        x, y = _centre(scene, at, thing, next(draw))
        x, y = (value + JITTER * (2 * next(draw) - 1) for value in (x, y))
        r = SIZES[thing.size] if thing.size else MEDIUM
        placed.append((x, y, r * (1 + 2 * JITTER * (2 * next(draw) - 1))))
    return placed


def _centre(scene: Scene, at: int, thing: Object, u: float) -> tuple[float, float]:
    if scene.relation is None:
        return PLACES[thing.place or "center"]
    dx, dy = RELATIONS[scene.relation]
    sign, across = (1 if at == 0 else -1), 0.5 + 0.24 * (u - 0.5)
    if dx:
        return 0.5 + 0.24 * sign * dx, across
    return across, 0.5 + 0.24 * sign * dy


def cover(shape: str, height: int, width: int, x: float, y: float, r: float) -> Array:
    """(H, W) coverage in [0, 1] of a shape with centre (x, y) and radius r in pixels: its signed distance, clipped."""
    u = np.arange(width)[None] + (0.5 - x)
    v = np.arange(height)[:, None] + (0.5 - y)
    alpha: Array = (0.5 - DISTANCE[shape](u, v, max(r, 1e-3))).clip(0, 1)
    return alpha


def _circle(u: Array, v: Array, r: float) -> Array:
    return np.hypot(u, v) - 0.95 * r


def _square(u: Array, v: Array, r: float) -> Array:
    return np.asarray(np.maximum(abs(u), abs(v)) - 0.85 * r)


def _triangle(u: Array, v: Array, r: float) -> Array:
    """Upright, base and height 1.9 r: two sides through the apex (0, -0.95 r) and the base below."""
    side = (2 * abs(u) - (v + 0.95 * r)) / 5**0.5
    return np.asarray(np.maximum(side, v - 0.95 * r))


def _diamond(u: Array, v: Array, r: float) -> Array:
    return (abs(u) + abs(v) - r) / 2**0.5


def _cross(u: Array, v: Array, r: float) -> Array:
    a, b = abs(u), abs(v)
    return np.asarray(np.minimum(np.maximum(a - r, b - r / 3), np.maximum(a - r / 3, b - r)))


def _ring(u: Array, v: Array, r: float) -> Array:
    return abs(np.hypot(u, v) - 0.74 * r) - 0.26 * r


DISTANCE: dict[str, Distance] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "cross": _cross,
    "ring": _ring,
}
