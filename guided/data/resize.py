"""Bring a picture to the network's size, the same bits on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[Any]
Shape = tuple[int, int]
COLUMNS = 1 << 16


def fit(
    array: Pixels,
    size: tuple[int, int],
    resize: str = "area",
    crop: str = "centre",
    fill: int | tuple[int, ...] = 255,
) -> NDArray[np.uint8]:
    """Resize (H, W, C) uint8 or uint16 to `size` = (height, width), uint8.

    `resize`: "area" averages over the exact area of each new pixel (enlarging falls back to bicubic) or
    "bicubic". `crop`: "centre" cuts what does not fit the new aspect ratio, "pad" adds borders of `fill`.
    Values are averaged as stored (in the sRGB encoding, as is the custom of the field). Raises ValueError.
    """
    if resize not in ("area", "bicubic"):
        raise ValueError(f'resize: expected "area" or "bicubic", got {resize!r}')
    if crop not in ("centre", "pad"):
        raise ValueError(f'crop: expected "centre" or "pad", got {crop!r}')
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size: expected (height, width) of at least 1, got {size!r}")
    if crop == "centre":
        return _scale(centre(array, size), size, resize)
    inner = _inside(array.shape[:2], size)
    small = _scale(array, inner, resize)
    out = np.full((*size, array.shape[2]), fill, np.uint8)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    out[top : top + inner[0], left : left + inner[1]] = small
    return out


def centre(array: Pixels, size: tuple[int, int]) -> Pixels:
    """The largest centred window of (H, W, C) with the aspect ratio of `size`, at least one pixel."""
    h, w = _largest(array.shape, size)
    top, left = (array.shape[0] - h) // 2, (array.shape[1] - w) // 2
    return array[top : top + h, left : left + w]


def corner(shape: Shape, size: Shape, share: float, down: float, right: float) -> tuple[int, int, int, int]:
    """A window (top, left, bottom, right) of (H, W) with the aspect ratio of `size`: see `Pictures.piece`."""
    sides = []
    for whole, wanted in zip(_largest(shape, size), size, strict=True):
        sides.append(min(whole, max(wanted, round(share * whole))))
    (h, w), (height, width) = sides, shape
    top, left = round(down * (height - h)), round(right * (width - w))
    return top, left, top + h, left + w


def alike(one: Shape, other: Shape) -> bool:
    """Whether two pictures (H, W) are of one shape, whatever their sizes, to a pixel of the smaller."""
    small, large = sorted((one, other), key=lambda shape: shape[0] * shape[1])
    return abs(small[0] * large[1] - small[1] * large[0]) <= max(large)


def _largest(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    height, width = shape[:2]
    return (
        min(height, max(1, round(width * size[0] / size[1]))),
        min(width, max(1, round(height * size[1] / size[0]))),
    )


def _inside(shape: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    scale = min(size[0] / shape[0], size[1] / shape[1])
    return (
        min(size[0], max(1, round(shape[0] * scale))),
        min(size[1], max(1, round(shape[1] * scale))),
    )


def _scale(array: Pixels, size: tuple[int, int], resize: str) -> NDArray[np.uint8]:
    full = 65535 if array.dtype == np.uint16 else 255
    if array.shape[:2] == size:
        values = array.astype(np.float64)
    elif resize == "area" and array.shape[0] >= size[0] and array.shape[1] >= size[1]:
        values = _area(array, size)
    else:
        values = _bicubic(array, size)
    return np.floor(values * 255 / full + 0.5).clip(0, 255).astype(np.uint8)


def _area(array: Pixels, size: tuple[int, int]) -> NDArray[np.float64]:
    """Area averages, their sums exact: whole-number weights in float64 stay below 2^53, in any order."""
    height, width, channels = array.shape
    rows, columns = overlaps(height, size[0]), overlaps(width, size[1])
    flat = array.reshape(height, width * channels)
    parts = [rows @ flat[:, at : at + COLUMNS].astype(np.float64) for at in range(0, flat.shape[1], COLUMNS)]
    half = np.concatenate(parts, 1).reshape(size[0], width, channels)
    total = np.einsum("xw,hwc->hxc", columns, half, optimize=True)
    return np.asarray(total / (height * width), np.float64)


def overlaps(old: int, new: int) -> NDArray[np.float64]:
    """(new, old): how much of new cell i is covered by old cell j, in units of 1 / new of an old cell."""
    i, j = np.arange(new)[:, None], np.arange(old)[None]
    shared = np.minimum((i + 1) * old, (j + 1) * new) - np.maximum(i * old, j * new)
    return np.asarray(np.maximum(shared, 0), np.float64)


def weights(old: int, new: int) -> NDArray[np.float32]:
    """(new, old), rows of sum 1: exact area means where it shrinks, Catmull and Rom's cubic where it grows."""
    if new == old:
        return np.eye(old, dtype=np.float32)
    if new < old:
        return (overlaps(old, new) / old).astype(np.float32)
    place = (np.arange(new) + 0.5) * old / new - 0.5
    base = np.floor(place)
    found = np.zeros((new, old))
    for tap in (-1, 0, 1, 2):
        d = np.abs(place - base - tap)
        near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        at = np.clip(base + tap, 0, old - 1).astype(int)
        np.add.at(found, (np.arange(new), at), np.where(d <= 1, near, far))
    return found.astype(np.float32)


def _bicubic(array: Pixels, size: tuple[int, int]) -> NDArray[np.float64]:
    """Pillow's antialiased bicubic, in float channel by channel."""
    planes = [
        np.asarray(Image.fromarray(array[..., c].astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC))
        for c in range(array.shape[2])
    ]
    return np.stack(planes, -1).astype(np.float64)
