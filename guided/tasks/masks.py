"""Masks as people have them: a picture, the alpha channel, a box or a polygon; white may change, black is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from guided.data import decode
from guided.tasks.photo import Photo, as_bytes

Mask = str | os.PathLike[str] | Image.Image | NDArray[Any] | Tensor | Sequence[int] | Sequence[Sequence[float]]
"""A file; "alpha"; a picture or (H, W) of bools, 0..255, 0..65535 or floats in [0, 1]; (left, top, right, bottom) in
pixels, right and bottom not included; the corners (x, y) of a polygon."""
ALPHA = "alpha"


def of(mask: Mask, photo: Photo) -> NDArray[np.float32]:
    """(H, W) float32 in [0, 1], how much of each pixel may change; raises ValueError where that does not fit."""
    if isinstance(mask, str) and mask == ALPHA:
        if not photo.alpha:
            raise ValueError('mask="alpha": the photo has no alpha channel')
        top = np.iinfo(photo.stored.dtype).max
        return (1 - photo.stored[..., -1].astype(np.float32) / top).astype(np.float32)
    if isinstance(mask, str | os.PathLike):
        values: NDArray[Any] = decode(mask, channels=1, background="black").array[..., 0]
    elif isinstance(mask, Image.Image):
        # By way of a file's bytes: Pillow's own grey drops alpha, and cuts floats and 16 bits off.
        values = decode(as_bytes(mask), channels=1, background="black").array[..., 0]
    elif isinstance(mask, Tensor):
        mask = mask.detach().cpu()
        values = _flat(np.asarray(mask.float() if mask.is_floating_point() else mask), photo.size)
    elif isinstance(mask, np.ndarray) and mask.shape != (4,):
        values = _flat(mask, photo.size)
    elif not isinstance(mask, Sequence | np.ndarray):
        raise TypeError(f"mask: expected a picture, a file, an array, a box or a polygon, got {mask!r:.80}")
    else:
        return _drawn(mask.tolist() if isinstance(mask, np.ndarray) else mask, photo.size)
    if values.shape != photo.size:
        raise ValueError(f"mask: {_named(values.shape)}, but the photo is {_named(photo.size)}: give one of its size")
    return _scaled(values)


def parse(text: str) -> Mask:
    """A mask as a command line gives it: "left,top,right,bottom", "x,y x,y x,y ...", "alpha", or a file."""
    if re.fullmatch(r"\s*-?\d+(\s*,\s*-?\d+){3}\s*", text):
        return [int(number) for number in text.split(",")]
    number = r"-?\d+(?:\.\d+)?"
    if re.fullmatch(rf"\s*{number},{number}(\s+{number},{number})+\s*", text):
        return [[float(value) for value in corner.split(",")] for corner in text.split()]
    return text


def _flat(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """(1, 1, H, W), (1, H, W) and (H, W, 1) as (H, W), where H or W may be 1."""
    if values.shape == (*size, 1):
        return values[..., 0]
    return values.reshape(values.shape[-2:]) if values.size == size[0] * size[1] else values


def _scaled(values: NDArray[Any]) -> NDArray[np.float32]:
    if values.dtype == bool:
        return values.astype(np.float32)
    top = np.iinfo(values.dtype).max if values.dtype in (np.uint8, np.uint16) else 1
    # A mask of 0 and 1 alone, in whole numbers, means its numbers: hardly anyone asks for one level of 255.
    top = 1 if values.dtype.kind in "ui" and values.max(initial=0) <= 1 else top
    found = (values / np.float32(top)).astype(np.float32)
    if not bool(((found >= 0) & (found <= 1)).all()):
        raise ValueError("mask: expected bools, 0..255 as uint8, 0..65535 as uint16, or floats in [0, 1]")
    return found


def _drawn(shape: Sequence[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """A box or a polygon."""
    height, width = size
    if len(shape) == 4 and all(isinstance(number, int | np.integer) for number in shape):
        left, top, right, bottom = (int(number) for number in shape)
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise ValueError(f"mask: the box {(left, top, right, bottom)} does not lie in the photo, {_named(size)}")
        found = np.zeros(size, np.float32)
        found[top:bottom, left:right] = 1
        return found
    if len(shape) < 3 or any(not isinstance(corner, Sequence) or len(corner) != 2 for corner in shape):
        raise ValueError(
            f"mask: expected (left, top, right, bottom) or three corners (x, y) or more, got {shape!r:.80}"
        )
    if not np.isfinite(np.asarray(shape, np.float64)).all():
        raise ValueError(f"mask: the corners of a polygon are finite numbers, got {shape!r:.80}")
    picture = Image.new("1", (width, height))
    ImageDraw.Draw(picture).polygon([(float(x), float(y)) for x, y in shape], fill=1)
    drawn = np.asarray(picture)
    if not drawn.any():
        raise ValueError(f"mask: the polygon {shape!r:.80} covers no pixel of the photo, {_named(size)}")
    return drawn.astype(np.float32)


def _named(size: Sequence[int]) -> str:
    return " x ".join(map(str, size[::-1])) + " pixels"
