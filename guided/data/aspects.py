"""Pictures that keep their shape: each at one of several sizes of about the same area, a batch of one size."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from PIL import Image
from torch import Tensor

from guided.data.order import Order, permutation
from guided.data.pictures import Pictures
from guided.data.records import BadPicture, Source

Size = tuple[int, int]
MOST = 2.0
"""The longest side over the shortest, of all sizes."""


def sizes(size: Size, step: int, most: float = MOST) -> tuple[Size, ...]:
    """(H, W), multiples of `step`, none of more area than `size`, each as large as its shape allows; `size` is first.

    Raises ValueError where `size` is no multiple of step.
    """
    if size[0] % step or size[1] % step:
        raise ValueError(f"size: {size[0]} x {size[1]} is no multiple of {step}, which sizes of other shapes need too")
    area, found = size[0] * size[1], [size]
    for short in range(step, math.isqrt(area) + 1, step):
        long = area // short // step * step
        if long <= most * short:
            found += [(short, long), (long, short)]
    return tuple(dict.fromkeys(found))


def nearest(shape: Size, among: Sequence[Size]) -> Size:
    """The size of the nearest aspect ratio; of equals the first, which loses least in a tie with the given one."""
    ratio = math.log(shape[0] / shape[1])
    return min(among, key=lambda size: abs(math.log(size[0] / size[1]) - ratio))


class ManySizes:
    """Map-style like `Pictures`, each picture at the size of `sizes` that is nearest to its shape.

    size_of[i] is that of picture i; one that cannot be read has the first, and raises BadPicture when it is asked for.
    """

    def __init__(self, source: Source, sizes: Sequence[Size], channels: int, background: str, resize: str) -> None:
        self.source, self.channels = source, channels
        self.notes: dict[str, int] = {}
        self.size_of = [self._size(i, sizes) for i in range(len(source.records))]
        used = dict.fromkeys(self.size_of)
        self._of = {size: Pictures(source, size, channels, background, resize, cache=False) for size in used}

    def __len__(self) -> int:
        return len(self.size_of)

    @property
    def broken(self) -> dict[int, str]:
        """Why pictures cannot be used, of those that were asked for."""
        return {i: reason for pictures in self._of.values() for i, reason in pictures.broken.items()}

    def __getitem__(self, i: int) -> Tensor:
        """Picture i, uint8 (C, H, W); raises IndexError, BadPicture."""
        return self._of[self.size_of[i]][i]

    def piece(self, i: int, share: float, down: float, right: float) -> Tensor:
        """A window of picture i, see `Pictures.piece`."""
        return self._of[self.size_of[i]].piece(i, share, down, right)

    def replacement(self, i: int, among: Sequence[int] | None = None) -> int:
        """The next sound picture of the same size, see `Pictures.replacement`."""
        rows = range(len(self)) if among is None else among
        same = [row for row in rows if self.size_of[row] == self.size_of[i]]
        return self._of[self.size_of[i]].replacement(i, same)

    def _size(self, i: int, sizes: Sequence[Size]) -> Size:
        try:
            with Image.open(io.BytesIO(self.source.bytes(i))) as picture:
                width, height = picture.size
                turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        except (OSError, ValueError, BadPicture, Image.DecompressionBombError):
            return sizes[0]
        return nearest((width, height) if turned else (height, width), sizes)


class BatchOrder:
    """`order[counter]`: batches of `batch` counters are of one size each; every picture is drawn about equally often.

    In a round each size has as many batches as its pictures fill, in a fresh permutation; within a size the records are
    drawn in rounds, as `Order` does. A function of (seed, counter) alone.
    """

    def __init__(self, size_of: Sequence[Size], rows: Sequence[int], batch: int, seed: int = 0) -> None:
        groups: dict[Size, list[int]] = {}
        for row in rows:
            groups.setdefault(size_of[row], []).append(row)
        self.batch, self.seed = batch, seed
        self.orders = [Order.uniform(group, seed) for group in groups.values()]
        counts = [-(-len(group) // batch) for group in groups.values()]
        # Of batch k of a round: which size it is of, and the how manieth of that size.
        self._slots = [(at, k) for at, count in enumerate(counts) for k in range(count)]
        self._counts = counts

    def __getitem__(self, counter: int) -> int:
        number, place = divmod(counter, self.batch)
        turn, slot = divmod(number, len(self._slots))
        at, k = self._slots[int(permutation(len(self._slots), self.seed, turn, -2)[slot])]
        return self.orders[at][(turn * self._counts[at] + k) * self.batch + place]
