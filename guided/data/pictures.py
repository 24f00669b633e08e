"""The pictures of a source as the network sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guided.data.decoding import decode
from guided.data.records import BadPicture, Source
from guided.data.resize import corner, fit

CACHE = 2 << 30
"""Bytes of decoded pictures kept at most; larger sets are decoded each time."""


class Pictures:
    """Map-style: `pictures[i]` is uint8 (C, H, W), decoded, upright, composited and brought to `size`.

    `size` is (height, width) or one number; `background` a colour name or (r, g, b) for transparent pictures.
    A broken picture raises BadPicture naming the record; `replacement(i)` gives the index to use instead.
    """

    def __init__(
        self,
        source: Source,
        size: int | tuple[int, int],
        channels: int = 3,
        background: str | tuple[int, int, int] = "white",
        resize: str = "area",
        crop: str = "centre",
        cache: bool = True,
    ):
        self.source = source
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.channels, self.background, self.resize, self.crop = channels, background, resize, crop
        self.notes: dict[str, int] = {}
        self.broken: dict[int, str] = {}
        shape = (len(source.records), channels, *self.size)
        fits = cache and int(np.prod(shape, dtype=np.int64)) <= CACHE
        self._kept: Tensor | None = torch.empty(shape, dtype=torch.uint8) if fits else None
        self._done = bytearray(len(source.records))
        self._whole: dict[int, np.ndarray[Any, Any]] = {}
        self._shapes: dict[int, tuple[int, int]] = {}
        self._room = CACHE if cache else 0

    def __len__(self) -> int:
        return len(self.source.records)

    def __getitem__(self, i: int) -> Tensor:
        """Picture i; raises IndexError, BadPicture."""
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of {len(self)}")
        if i in self.broken:
            raise BadPicture(self.broken[i])
        if self._kept is not None and self._done[i]:
            return self._kept[i].clone()
        try:
            picture = torch.from_numpy(self.array(i).transpose(2, 0, 1).copy())
        except BadPicture as error:
            self.broken[i] = str(error)
            raise
        if self._kept is not None:
            self._kept[i] = picture
            self._done[i] = 1
        return picture

    def piece(self, i: int, share: float, down: float, right: float) -> Tensor:
        """A window of picture i brought to `size`: uint8 (C, H, W); raises IndexError, BadPicture.

        share: its sides, of the largest window with the aspect ratio of `size`, but never below `size` itself where
        the picture is that large; down, right: where it lies, from 0 (top, left) to 1.
        """
        shape = self.shape(i)
        return self.cut(i, corner(shape, self.size, share, down, right), shape)

    def cut(self, i: int, window: tuple[int, int, int, int], of: tuple[int, int]) -> Tensor:
        """The part of picture i that is the window (top, left, bottom, right) of one `of` = (H, W), as `piece`."""
        whole = self._at_own_size(i)
        height, width = whole.shape[:2]
        top, bottom = (round(side * height / of[0]) for side in window[::2])
        left, right = (round(side * width / of[1]) for side in window[1::2])
        top, left = min(top, height - 1), min(left, width - 1)
        part = whole[top : max(bottom, top + 1), left : max(right, left + 1)]
        return torch.from_numpy(fit(part, self.size, self.resize, self.crop).transpose(2, 0, 1).copy())

    def shape(self, i: int) -> tuple[int, int]:
        """(H, W) of picture i before it is brought to `size`; raises IndexError, BadPicture."""
        if i not in self._shapes:
            self._at_own_size(i)
        return self._shapes[i]

    def _at_own_size(self, i: int) -> np.ndarray[Any, Any]:
        """Picture i as (H, W, C), kept where there is room."""
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of {len(self)}")
        if i in self.broken:
            raise BadPicture(self.broken[i])
        whole = self._whole.get(i)
        if whole is None:
            try:
                whole = self._decoded(i)
            except BadPicture as error:
                self.broken[i] = str(error)
                raise
            if whole.nbytes <= self._room:
                self._room -= whole.nbytes
                self._whole[i] = whole
        return whole

    def array(self, i: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Picture i as (H, W, C), never from the cache; notes of its decoding are counted in `notes`."""
        return fit(self._decoded(i), self.size, self.resize, self.crop)

    def _decoded(self, i: int) -> np.ndarray[Any, Any]:
        """Picture i at its own size."""
        rendered = getattr(self.source, "image", None)
        if rendered is not None:
            array: np.ndarray[Any, Any] = rendered(i, self.size)
            self._shapes[i] = self.size
            return array
        data = self.source.bytes(i)
        try:
            decoded = decode(data, background=self.background, channels=self.channels)
        except BadPicture as error:
            reason = str(error).removeprefix("picture: ")
            raise type(error)(f"{self.source.records[i].name}: {reason}") from None
        for note in decoded.notes:
            self.notes[note] = self.notes.get(note, 0) + 1
        self._shapes[i] = decoded.array.shape[:2]
        return decoded.array

    def replacement(self, i: int, among: Sequence[int] | None = None) -> int:
        """The index used where picture i is broken: the next sound one after i, cyclically.

        `among`: the sorted indices allowed (those of the training part, so that nothing held out slips in).
        It depends on the data alone, not on what was read before. Raises BadPicture where none is sound.
        """
        order = range(len(self)) if among is None else among
        start = int(np.searchsorted(np.asarray(order), i, side="right"))
        for step in range(len(order)):
            index = int(order[(start + step) % len(order)])
            if index == i:
                continue
            try:
                self[index]
            except BadPicture:
                continue
            return index
        raise BadPicture(f"no sound picture is left to replace {self.source.records[i].name}")
