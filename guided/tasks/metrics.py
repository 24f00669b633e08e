"""What an edit did to a photo: how much it changed, how near it stayed, and whether the edge of the mask shows.

All on sRGB pictures (H, W, 3), of 8 or 16 bits, in units of 1/255; strip by strip, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guided.tasks.scaling import strips

Array = NDArray[Any]
VISIBLE = 8.0
"""A pixel has changed where one of its channels moved by more than this many levels of 255."""
_WINDOW = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
_WINDOW /= _WINDOW.sum()
_LUMA = np.array([0.299, 0.587, 0.114])


def _levels(array: Array, part: slice) -> NDArray[np.float64]:
    return array[part].astype(np.float64) * (255 / np.iinfo(array.dtype).max)


def changed(before: Array, after: Array, where: Array | None = None) -> float:
    """The share of pixels (of those in the mask `where`, bool (H, W)) that changed by more than 8 of 255."""
    count = total = 0
    for part in strips(*before.shape[:2]):
        inside = np.ones(before[part].shape[:2], bool) if where is None else where[part]
        moved = np.abs(_levels(after, part) - _levels(before, part)).max(-1) > VISIBLE
        count, total = count + int((moved & inside).sum()), total + int(inside.sum())
    return count / total if total else 0.0


def psnr(before: Array, after: Array, where: Array | None = None) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE) over the pixels in `where`; inf where they are equal."""
    square = total = 0.0
    for part in strips(*before.shape[:2]):
        inside = np.ones(before[part].shape[:2], bool) if where is None else where[part]
        difference = (_levels(after, part) - _levels(before, part))[inside]
        square, total = square + float((difference**2).sum()), total + difference.size
    return 10 * math.log10(255**2 * total / square) if square else math.inf


def ssim(before: Array, after: Array, where: Array | None = None) -> float:
    """Structural similarity of luma (Wang et al. 2004, eq. 13), its map averaged over `where`; 1 where equal, or none.

    A Gaussian window of 11 pixels and std 1.5, K = (0.01, 0.03), a range of 255; at the border the picture is mirrored.
    """
    height, width = before.shape[:2]
    total, count = 0.0, 0
    for part in strips(height, width):
        inside = np.ones((part.stop - part.start, width), bool) if where is None else where[part]
        if not inside.any():
            continue
        found = _ssim_map(*(_luma(array, part) for array in (before, after)))
        total, count = total + float(found[inside].sum()), count + int(inside.sum())
    return total / count if count else 1.0


def _luma(array: Array, part: slice) -> NDArray[np.float64]:
    """The luma of some rows and five on each side, mirrored at the picture's border."""
    height, width = array.shape[:2]
    rows, columns = (
        _mirrored(np.arange(a - 5, b + 5), n) for a, b, n in ((part.start, part.stop, height), (0, width, width))
    )
    first, last = int(rows.min()), int(rows.max()) + 1
    found: NDArray[np.float64] = (_levels(array, slice(first, last)) @ _LUMA)[rows - first][:, columns]
    return found


def _mirrored(index: Array, n: int) -> Array:
    index = np.abs(index) % max(1, 2 * n - 2)
    return np.where(index < n, index, 2 * n - 2 - index)


def _ssim_map(a: Array, b: Array) -> NDArray[np.float64]:
    mean_a, mean_b, aa, bb, ab = (_blurred(array) for array in (a, b, a * a, b * b, a * b))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    shape = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
    found: NDArray[np.float64] = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * shape
    return found


def _blurred(array: Array) -> NDArray[np.float64]:
    """Five pixels smaller on each side."""
    tall = sum(w * array[k : len(array) - 10 + k] for k, w in enumerate(_WINDOW))
    return np.asarray(sum(w * tall[:, k : array.shape[1] - 10 + k] for k, w in enumerate(_WINDOW)))


def seam(before: Array, after: Array, where: Array) -> float | None:
    """The mean step between neighbours on two sides of the mask's edge, over that of the source at the same places.

    1 where the edge shows as much as the photo itself does there. A step below half a level counts as half a level.
    None where the mask has no edge.
    """
    steps = [0.0, 0.0]
    count = 0
    for axis in (0, 1):
        for part in strips(*before.shape[:2]):
            # A row more, for the pairs that two strips share.
            part = slice(part.start, part.stop + 1 - axis)
            across = np.diff(where[part].astype(np.int8), axis=axis) != 0
            count += int(across.sum())
            for i, array in enumerate((before, after)):
                steps[i] += float(np.abs(np.diff(_levels(array, part), axis=axis)).mean(-1)[across].sum())
    return max(steps[1] / count, 0.5) / max(steps[0] / count, 0.5) if count else None


def report(before: Array, after: Array, mask: Array | None) -> Mapping[str, Any]:
    """What an edit did, as JSON: an infinite PSNR, of equal pixels, is None. mask: (H, W), > 0 where it may change."""
    inside = None if mask is None else mask > 0
    found: dict[str, Any] = {"changed": changed(before, after)}
    found |= {"psnr": _finite(psnr(before, after)), "ssim": ssim(before, after)}
    if inside is not None:
        found |= {f"{name}_inside": value for name, value in _near(before, after, inside).items()}
        found |= {f"{name}_outside": value for name, value in _near(before, after, ~inside).items()}
        found["seam"] = seam(before, after, inside)
    return found


def _near(before: Array, after: Array, where: Array) -> dict[str, float | None]:
    values = {"changed": changed(before, after, where), "psnr": _finite(psnr(before, after, where))}
    return {**values, "ssim": ssim(before, after, where)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
