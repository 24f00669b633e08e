"""Between a photo's size and the model's: two small matrices, applied to a photo strip by strip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guided.data.resize import weights

Array = NDArray[Any]
STRIP = 1 << 20
"""Pixels worked on at once, so that memory does not grow with the photo."""


def strips(height: int, width: int) -> Iterator[slice]:
    """The rows of a picture, some at a time."""
    step = max(1, STRIP // width)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def down(array: Array, size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W, C) of any numbers at another size (h, w), in the same units; the same numbers where that is its own."""
    height, width, channels = array.shape
    if (height, width) == size:
        return array.astype(np.float32)
    rows, columns = weights(height, size[0]), weights(width, size[1])
    found = np.zeros((*size, channels), np.float32)
    for part in strips(height, width):
        narrow = np.einsum("xw,hwc->hxc", columns, array[part].astype(np.float32), optimize=True)
        found += np.einsum("yh,hxc->yxc", rows[:, part], narrow, optimize=True)
    return found


class Up:
    """A small picture (h, w, C) seen at the size of a large one, some of its rows at a time."""

    def __init__(self, small: NDArray[Any], size: tuple[int, int]) -> None:
        self.same = small.shape[:2] == size
        self.rows = weights(small.shape[0], size[0])
        self.wide = small if self.same else np.einsum("xw,hwc->hxc", weights(small.shape[1], size[1]), small)

    def __call__(self, part: slice) -> NDArray[Any]:
        """(rows, W, C)."""
        return self.wide[part] if self.same else np.einsum("yh,hxc->yxc", self.rows[part], self.wide, optimize=True)
