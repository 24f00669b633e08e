"""Where on a photo an edit takes place, and at which size the model works on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guided.tasks.photo import Photo
from guided.tasks.scaling import Up, down, strips

if TYPE_CHECKING:
    from guided.model.model import Model

Array = NDArray[Any]
CONTEXT = 0.5
"""How much of the photo the model sees around a mask, as a share of the mask's longer side."""
ASPECT = 4
"""No side that a model works on is longer than this many times its own: far longer ones are squeezed."""
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, eq=False)
class Stage:
    """A window (top, left, bottom, right) of photos of one size, seen by the model at `size` = (h, w).

    mask: (H, W) of the whole photo, how much of each pixel may change; None: all. filled: what was transparent is
    opaque where it may change. anew: without a mask, nothing of the photo stays, however fine.
    """

    photos: tuple[Photo, ...]
    mask: NDArray[np.float32] | None
    window: tuple[int, int, int, int]
    size: tuple[int, int]
    filled: bool = False
    anew: bool = False

    @property
    def whole(self) -> bool:
        """Whether the model works on all pixels of the photos, at their own size."""
        return self.window == (0, 0, *self.photos[0].size) and self.size == self.photos[0].size

    def part(self, array: Array) -> Array:
        """The window of (H, W, ...)."""
        top, left, bottom, right = self.window
        return array[top:bottom, left:right]

    def seen(self, channels: int) -> Tensor:
        """The photos as the model's pictures, (B, channels, h, w) float32 in [-1, 1]."""
        rows = []
        for photo in self.photos:
            small = down(self.part(photo.rgb), self.size).astype(np.float64) * (2 / _top(photo)) - 1
            small = small @ np.array(LUMA)[:, None] if channels == 1 else small
            rows.append(torch.from_numpy(small.astype(np.float32)).permute(2, 0, 1))
        return torch.stack(rows)

    def amount(self) -> Tensor | None:
        """The mask as the model sees it, (1, 1, h, w) in [0, 1]: above 0 wherever a pixel below it is."""
        if self.mask is None:
            return None
        part = self.part(self.mask)
        small = down(part[..., None], self.size)[..., 0].clip(0, 1)
        hard = not bool(((part > 0) & (part < 1)).any())
        return torch.from_numpy(((small > 1e-6).astype(np.float32)) if hard else small)[None, None]

    def pasted(self, index: int, picture: Tensor, strength: float) -> tuple[Array, Array]:
        """Photo `index` with the model's picture (3 or 1, h, w) in its place: stored numbers, and sRGB colours.

        Where the mask is 0 both are the photo's own. A picture of another size brings its coarse part alone: without a
        mask the photo keeps all finer detail, out = photo + up(picture - down(photo)), unless it is drawn `anew`;
        within one the detail fades as strength times mask grows, since it belongs to what was there before.
        """
        photo = self.photos[index]
        top = _top(photo)
        window = self.part(photo.rgb)
        shape = window.shape[:2]
        drawn = _Stored(picture, top) if shape == self.size else Up(_Stored(picture, top)(slice(None)), shape)
        mask = None if self.mask is None else self.part(self.mask)
        alone = shape == self.size or (self.anew and mask is None)
        coarse = None if alone else Up(down(window, self.size), shape)
        stored, colours = photo.stored.copy(), photo.rgb.copy()
        for rows in strips(*shape):
            new: Array = drawn(rows)
            if coarse is not None:
                detail = window[rows] - coarse(rows)
                new = new + (detail if mask is None else (1 - strength * mask[rows, :, None]) * detail)
            rounded = new.clip(0, top).round().astype(photo.rgb.dtype)
            free = np.ones(rounded.shape[:2], bool) if mask is None else mask[rows] > 0
            self._put(photo, self.part(stored)[rows], self.part(colours)[rows], rounded, free)
        return stored, colours

    def _put(self, photo: Photo, stored: Array, colours: Array, new: Array, free: Array) -> None:
        """Write new colours, in place, where they may differ and do."""
        moved = free if self.filled else free & (new != colours).any(-1)
        alpha = None
        if photo.alpha and not self.filled:
            moved = moved & (stored[..., -1] > 0)
            alpha = stored[moved][:, -1:]
        back = photo.back(new[moved], alpha)
        count = back.shape[-1]
        stored[moved, :count] = back
        if self.filled:
            stored[moved, -1] = np.iinfo(stored.dtype).max
        if photo.converted or photo.mode == "CMYK":
            colours[moved] = new[moved]
            return
        shown = np.repeat(back, 3, -1) if count == 1 else back
        if alpha is not None:
            full, cover = int(np.iinfo(stored.dtype).max), alpha.astype(np.int64)
            shown = (shown * cover + full * (full - cover) + full // 2) // full
        colours[moved] = shown


@dataclass(frozen=True, eq=False)
class _Stored:
    """A picture (3 or 1, h, w) in [-1, 1] as numbers from 0 to `top`, some of its rows at a time: (rows, w, 3)."""

    picture: Tensor
    top: float

    def __call__(self, rows: slice) -> Array:
        found: Array = self.picture[:, rows].double().expand(3, -1, -1).permute(1, 2, 0).numpy()
        return (found + 1) * (self.top / 2)


def staged(
    model: Model,
    photos: tuple[Photo, ...],
    mask: NDArray[np.float32] | None,
    filled: bool = False,
    tiles: bool = False,
) -> Stage:
    """The stage of photos of one size: all of them, or with a mask the window around it; tiles: at their own size."""
    height, width = photos[0].size
    window = (0, 0, height, width) if mask is None else window_of(mask, model.size)
    shape = (window[2] - window[0], window[3] - window[1])
    return Stage(photos, mask, window, whole(model, shape) if tiles else working(model, shape), filled)


def whole(model: Model, shape: tuple[int, int]) -> tuple[int, int]:
    """The size (h, w) nearest to a picture's own that a model can work on, at least its own."""
    factor = int(getattr(model.codec, "factor", 1))
    height, width = (max(own, round(side / factor) * factor) for side, own in zip(shape, model.size, strict=True))
    return height, width


def window_of(mask: NDArray[np.float32], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) around what a mask frees, with context, of the model's aspect where the photo allows.

    Never smaller than the model's own size (unless the photo is). A mask that frees nothing gets the middle.
    """
    found = []
    spans = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    sides = [
        (int(s[0]), int(s[-1]) + 1) if len(s) else (n // 2, n // 2 + 1) for s, n in zip(spans, mask.shape, strict=True)
    ]
    scale = max(1.0, (1 + CONTEXT) * max((b - a) / n for (a, b), n in zip(sides, size, strict=True)))
    for (a, b), n, whole in zip(sides, size, mask.shape, strict=True):
        side = min(whole, max(math.ceil(scale * n), b - a))
        found.append((start := min(max(0, (a + b - side) // 2), whole - side), start + side))
    return found[0][0], found[1][0], found[0][1], found[1][1]


def working(model: Model, shape: tuple[int, int]) -> tuple[int, int]:
    """The size (h, w) at which a model works on a picture: its own area in the picture's aspect."""
    if shape == model.size:
        return shape
    step = 4 * int(getattr(model.codec, "factor", 1))
    area, ratio = model.size[0] * model.size[1], min(max(shape[0] / shape[1], 1 / ASPECT), ASPECT)
    height, width = math.sqrt(area * ratio), math.sqrt(area / ratio)
    return max(step, round(height / step) * step), max(step, round(width / step) * step)


def _top(photo: Photo) -> float:
    return float(np.iinfo(photo.rgb.dtype).max)
