"""Read a picture of shapes back: segment it, then fit every known shape to every part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guided.data.resize import fit as resize
from guided.data.shapes.render import cover
from guided.data.shapes.scene import COLOURS, NEW_COLOURS, PLACES, RELATIONS, SHAPES, SIZES, Object, Scene, read

Array = NDArray[Any]
Palette = Mapping[str, tuple[int, int, int]]
APART = 60.0
"""RGB distance from the background at which a pixel belongs to an object."""
NEAR = 90.0
"""Largest RGB distance between an object's colour and the palette's."""
MISFIT = 0.13
"""Largest squared error of a fitted shape, as a share of the shape's own squared coverage."""
MOST = 8
PARSED = 32
"""Larger pictures are averaged down to this side: more pixels tell nothing new about these shapes."""
PLAIN = 0.01
"""A misfit below this leaves no doubt: no other shape is tried."""


@dataclass(frozen=True)
class Seen:
    """One object of a picture: its attributes (None: none that we know), place and radius as shares of the side."""

    colour: str | None
    shape: str | None
    size: str | None
    place: str | None
    x: float
    y: float
    r: float
    misfit: float


def look(image: Any, new: Iterable[str] = ()) -> list[Seen] | None:
    """The objects of a picture, uint8 (3, H, W) or (H, W, 3); None where it is no picture of a few objects.

    new: names of `NEW_COLOURS` that are told apart too.
    """
    palette = COLOURS | {name: NEW_COLOURS[name] for name in new}
    picture = _picture(image)
    background = _background(picture)
    if background is None:
        return None
    away = np.linalg.norm(picture - background, axis=-1)
    parts = components(away > APART)
    least = 0.25 * min(SIZES.values()) ** 2 * away.size
    parts = [part for part in parts if part.sum() >= 3]
    if not parts or len(parts) > MOST:
        return None
    seen = [_recognise(picture, background, away, part, parts, palette) for part in parts if part.sum() >= least]
    specks = sum(int(part.sum()) for part in parts if part.sum() < least)
    return seen if seen and specks < least else None


def parse(image: Any) -> Scene | None:
    """The scene of a picture, None unless every object in it is sound: one object, or two apart."""
    seen = look(image)
    if seen is None or len(seen) > 2 or any(None in (thing.colour, thing.shape) for thing in seen):
        return None
    if len(seen) == 1:
        one = seen[0]
        sound = one.size is not None and one.place is not None
        return Scene((Object(str(one.colour), str(one.shape), one.size, one.place),)) if sound else None
    relation = _relation(seen[0], seen[1])
    if relation is None:
        return None
    first, second = (Object(str(thing.colour), str(thing.shape)) for thing in seen)
    return Scene((first, second), relation)


def score(image: Any, scene: Scene | str) -> dict[str, bool]:
    """Which of the attributes a scene (or its caption) states a picture shows: count, colour, shape, size, ...

    Colour, shape, size and place are right when they are so on every object; with two objects the assignment
    with most right attributes counts, and "relation" is that of the first to the second.
    """
    scene = read(scene) if isinstance(scene, str) else scene
    names = ["count", "colour", "shape"]
    names += [name for name in ("size", "place") if getattr(scene.objects[0], name) is not None]
    names += ["relation"] if scene.relation else []
    seen = look(image, {thing.colour for thing in scene.objects} & NEW_COLOURS.keys())
    if seen is None or len(seen) != len(scene.objects):
        return dict.fromkeys(names, False)
    marks = [_marks(order, scene, names) for order in permutations(seen)]
    return max(marks, key=lambda mark: sum(mark.values()))


def _marks(seen: tuple[Seen, ...], scene: Scene, names: list[str]) -> dict[str, bool]:
    pairs = list(zip(seen, scene.objects, strict=True))
    marks = {"count": True}
    for name in names[1:]:
        if name == "relation":
            marks[name] = _holds(seen[0], seen[1], str(scene.relation))
        else:
            marks[name] = all(getattr(a, name) == getattr(b, name) for a, b in pairs)
    return marks


def _relation(a: Seen, b: Seen) -> str | None:
    held = [relation for relation in RELATIONS if _holds(a, b, relation)]
    return held[0] if held else None


def _holds(a: Seen, b: Seen, relation: str) -> bool:
    """The first object lies in the relation's direction, further along it than across."""
    dx, dy = RELATIONS[relation]
    along, across = (a.x - b.x) * dx + (a.y - b.y) * dy, (a.x - b.x) * dy + (a.y - b.y) * dx
    return along > max(abs(across), 0.1)


def _picture(image: Any) -> Array:
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"expected a uint8 picture (3, H, W) or (H, W, 3), got {array.shape} {array.dtype}")
    if min(array.shape[:2]) > PARSED:
        scale = PARSED / min(array.shape[:2])
        array = resize(array, (round(array.shape[0] * scale), round(array.shape[1] * scale)))
    return array.astype(np.float64)


def _background(picture: Array) -> Array | None:
    """The median colour of the border; None unless it is nearly white and nearly even."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    colour = np.median(border, 0)
    even = (np.linalg.norm(border - colour, axis=-1) < APART).mean() > 0.85
    return colour if colour.min() > 225 and even else None


def components(mask: Array) -> list[Array]:
    """The 8-connected parts of a boolean (H, W) mask, each a mask."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    parts = []
    while left:
        stack, part = [left.pop()], np.zeros_like(mask)
        while stack:
            y, x = stack.pop()
            part[y, x] = True
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            stack += near
        parts.append(part)
    return parts


def _grown(mask: Array, by: int) -> Array:
    for _ in range(by):
        wide = np.pad(mask, 1)
        mask = wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]
    return mask


def _recognise(
    picture: Array, background: Array, away: Array, part: Array, parts: list[Array], palette: Palette
) -> Seen:
    core = part & (away >= 0.85 * np.quantile(away[part], 0.9))
    colour = np.median(picture[core], 0)
    toward = colour - background
    others = [other for other in parts if other is not part]
    region = _grown(part, 2) & ~np.any([_grown(other, 1) for other in others] or [np.zeros_like(part)], 0)
    alpha = ((picture - background) @ toward / (toward @ toward)).clip(0, 1) * region
    # What the two colours cannot explain (a second colour inside the part) counts as misfit as well.
    stray = picture - background - alpha[..., None] * toward
    strange = float((stray[region] ** 2).sum() / (toward @ toward) / max(1.0, (alpha**2).sum()))
    top, left, window = _window(alpha, region)
    misfit, x, y, r, name = fit_shapes(window)
    height, width = alpha.shape
    x, y, r = (x + left) / width, (y + top) / height, r / min(height, width)
    misfit += strange
    return Seen(_colour(colour, palette), name if misfit < MISFIT else None, _size(r), _place(x, y), x, y, r, misfit)


def _window(alpha: Array, region: Array) -> tuple[int, int, Array]:
    """Top, left and content of the window around a region, with a margin that is known to be empty."""
    rows, columns = np.nonzero(region.any(1))[0], np.nonzero(region.any(0))[0]
    margin = 2 + max(len(rows), len(columns)) // 3
    window = alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return int(rows[0]) - margin, int(columns[0]) - margin, np.pad(window, margin)


def fit_shapes(alpha: Array) -> tuple[float, float, float, float, str]:
    """The shape that explains a coverage map best: (misfit, x, y, r, name), in pixels of the map."""
    starts = sorted((_misfit(name, alpha, _start(name, alpha)), name) for name in SHAPES)
    best: tuple[float, float, float, float, str] = (np.inf, 0.0, 0.0, 1.0, "")
    for start, name in starts[:3]:
        if start < 4 * starts[0][0] + PLAIN:
            best = min(best, (*_refined(name, alpha), name))
        if best[0] < PLAIN:
            break
    return best


def _start(name: str, alpha: Array) -> Array:
    """Centre and radius (x, y, r) of a shape with the area and the centroid of the map."""
    height, width = alpha.shape
    total = max(float(alpha.sum()), 1e-6)
    area, below = _moments(name)
    r = (total / area) ** 0.5
    x = float((alpha.sum(0) * (np.arange(width) + 0.5)).sum()) / total
    y = float((alpha.sum(1) * (np.arange(height) + 0.5)).sum()) / total
    return np.array([x, y - below * r, r])


def _misfit(name: str, alpha: Array, at: Array) -> float:
    drawn = cover(name, *alpha.shape, *at)
    return float(((alpha - drawn) ** 2).sum() / max((drawn**2).sum(), 1e-6))


def _refined(name: str, alpha: Array) -> tuple[float, float, float, float]:
    """Gauss-Newton from the start until the misfit stands still: (misfit, x, y, r)."""
    at = _start(name, alpha)
    best, misfit = at, _misfit(name, alpha, at)
    for _ in range(5):
        slopes = np.stack([_slope(name, at, k, alpha.shape) for k in range(3)], 1)
        error = (alpha - cover(name, *alpha.shape, *at)).ravel()
        step = np.linalg.solve(slopes.T @ slopes + 1e-6 * np.eye(3), slopes.T @ error)
        at = at + step.clip(-1.5, 1.5)
        at[2] = max(at[2], 0.5)
        now = _misfit(name, alpha, at)
        if now > misfit - 1e-4:
            break
        best, misfit = at, now
    x, y, r = (float(value) for value in best)
    return misfit, x, y, r


def _slope(name: str, at: Array, k: int, shape: tuple[int, ...]) -> Array:
    step = np.zeros(3)
    step[k] = 0.25
    slope: Array = (cover(name, *shape, *(at + step)) - cover(name, *shape, *(at - step))) / 0.5
    return slope.ravel()


@lru_cache
def _moments(name: str) -> tuple[float, float]:
    """Area of a shape of radius 1, and how far its centroid lies below its centre."""
    drawn = cover(name, 200, 200, 100, 100, 80)
    centroid = float((drawn.sum(1) * (np.arange(200) + 0.5)).sum() / drawn.sum())
    return float(drawn.sum() / 80**2), (centroid - 100) / 80


def _colour(rgb: Array, palette: Palette) -> str | None:
    name = min(palette, key=lambda colour: float(np.linalg.norm(rgb - palette[colour])))
    return name if np.linalg.norm(rgb - palette[name]) < NEAR else None


def _size(r: float) -> str | None:
    name = min(SIZES, key=lambda size: abs(SIZES[size] - r))
    return name if abs(SIZES[name] - r) < 0.04 else None


def _place(x: float, y: float) -> str | None:
    name = min(PLACES, key=lambda place: (PLACES[place][0] - x) ** 2 + (PLACES[place][1] - y) ** 2)
    near = max(abs(PLACES[name][0] - x), abs(PLACES[name][1] - y)) < 0.12
    return name if near else None
