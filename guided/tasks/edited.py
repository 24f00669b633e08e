"""What an edit returns: a `Result` in the photo's own size, mode and depth."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from torch import Tensor

from guided.model.result import KEY, Result
from guided.tasks.photo import Photo

Array = NDArray[Any]
COMMENT = 65533
"""Bytes in the comment of a JPEG at most (ITU T.81, B.2.4.5)."""


class Edited(Result):
    """A `Result` whose pictures have the size, mode, depth and colour profile of the photos they were made of.

    `arrays`: a list of (H, W, C), uint8 or uint16, C as stored, alpha last. `colours`: the same as (H, W, 3) in sRGB on
    white; `tensor`: those as (B, 3, H, W), and where a photo has the model's own size, unrounded. A picture of 16 bits
    shows 8, and is saved with all; CMYK is saved as TIFF. Nothing but the record and the profile is kept in a file:
    neither places nor cameras.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        arrays: Sequence[Array],
        colours: Sequence[Array],
        records: Sequence[Mapping[str, Any]],
        exact: Tensor | None = None,
    ) -> None:
        self.photos, self.colours = list(photos), list(colours)
        self._arrays, self._exact = list(arrays), exact
        self.records = [dict(record) for record in records]
        self.bits = photos[0].bits
        list.__init__(self, (_shown(photo, array) for photo, array in zip(photos, arrays, strict=True)))

    @functools.cached_property
    def _seen(self) -> Tensor:
        if self._exact is not None:
            return self._exact
        found = torch.empty(len(self), 3, *self.colours[0].shape[:2])
        for row, array in zip(found, self.colours, strict=True):
            top = float(np.iinfo(array.dtype).max)
            for channel in range(3):
                row[channel] = torch.from_numpy(array[..., channel].astype(np.float32)) * (2 / top) - 1
        return found

    @property
    def tensor(self) -> Tensor:
        return self._seen

    @property
    def arrays(self) -> Any:
        return self._arrays

    @property
    def as_photos(self) -> list[Photo]:
        """The pictures as photos, for a call that goes on from them: in their mode, depth and colours."""
        pairs = zip(self.photos, self._arrays, self.colours, strict=True)
        return [dataclasses.replace(photo, stored=stored, rgb=rgb) for photo, stored, rgb in pairs]

    def jpeg(self, index: int) -> bytes:
        """One picture as a JPEG, which changes all pixels a little; raises ValueError for alpha or 16 bits."""
        photo = self.photos[index]
        if photo.alpha or photo.bits == 16:
            raise ValueError(f"JPEG keeps no {'alpha' if photo.alpha else '16 bits'}: save as .png")
        out = io.BytesIO()
        record = self.records[index]
        text = json.dumps(record).encode()
        if len(text) > COMMENT:  # the levels follow from what else is there, and only they can be so many
            text = json.dumps({name: value for name, value in record.items() if name != "path"}).encode()
        if len(text) > COMMENT:
            raise ValueError(
                f"a JPEG holds a record of at most {COMMENT} bytes, this one has {len(text)}: save as .png"
            )
        self[index].save(out, "JPEG", quality=95, subsampling=0, comment=text, icc_profile=photo.profile)
        return out.getvalue()

    def encoded(self, index: int) -> tuple[str, bytes]:
        photo, array, text = self.photos[index], self._arrays[index], json.dumps(self.records[index])
        if photo.bits == 16 and photo.mode != "CMYK":
            from guided.tasks import png

            return ".png", png.encode(array, {KEY: text}, photo.profile)
        out = io.BytesIO()
        if photo.mode == "CMYK":
            self[index].save(out, "TIFF", compression="tiff_deflate", description=text, icc_profile=photo.profile)
            return ".tiff", out.getvalue()
        chunks = PngImagePlugin.PngInfo()
        chunks.add_text(KEY, text)
        self[index].save(out, "PNG", pnginfo=chunks, icc_profile=photo.profile)
        return ".png", out.getvalue()


def _shown(photo: Photo, array: Array) -> Image.Image:
    """A picture of 8 bits, in the photo's mode and with its profile."""
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    mode = photo.mode.replace("1", "L") + ("A" if photo.alpha else "")
    picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array, mode)
    picture = picture.convert("1", dither=Image.Dither.NONE) if photo.mode == "1" and not photo.alpha else picture
    if photo.profile is not None:
        picture.info["icc_profile"] = photo.profile
    return picture
