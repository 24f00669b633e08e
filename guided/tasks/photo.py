"""Photos as people have them: what the model sees of one, and the way back into the file's own numbers."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from guided.data import decode
from guided.data.decoding import MAX_PIXELS, orientation, upright
from guided.data.records import BadPicture
from guided.tasks.scaling import Up, strips

Array = NDArray[Any]
Source = Union[str, os.PathLike[str], bytes, Image.Image, Array, "Photo"]
"""A file, its bytes, a PIL picture, or an array (H, W) or (H, W, 1 to 4) of uint8 or uint16; or one that was read."""
_ALPHA = {"LA", "La", "RGBA", "RGBa", "PA"}


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture upright, twice: as it is stored, and as a model sees it.

    stored: (H, W, C) uint8 or uint16, the file's own numbers, alpha last where it has one. mode: "L", "RGB", "CMYK" or
    "1" (kept as 0 and 255). rgb: (H, W, 3) in sRGB on white. profile: the file's ICC profile, converted says whether
    rgb went through it. sha256: of the file or the array.
    """

    stored: Array
    rgb: Array
    mode: str
    alpha: bool = False
    profile: bytes | None = None
    converted: bool = False
    notes: tuple[str, ...] = ()
    name: str | None = None
    sha256: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.stored.shape[:2]
        return height, width

    @property
    def bits(self) -> int:
        """8 or 16."""
        return 8 * int(self.stored.dtype.itemsize)

    @property
    def kind(self) -> str:
        """Size, mode and depth in words."""
        return f"{self.size[1]} x {self.size[0]} {self.mode}{'A' if self.alpha else ''} of {self.bits} bits"

    def back(self, rgb: Array, alpha: Array | None) -> Array:
        """Colours (K, 3), in sRGB on white at the depth of `rgb`, as (K, C) stored numbers without alpha.

        alpha (K, 1): the stored one, which the colour is freed of; where it is 0 no colour is left, and 0 is given.
        """
        value = rgb.astype(np.float64) / np.iinfo(rgb.dtype).max
        if alpha is not None:
            cover = alpha.astype(np.float64) / np.iinfo(alpha.dtype).max
            value = np.divide(value - 1 + cover, cover, out=np.zeros_like(value), where=cover > 0).clip(0, 1)
        if self.converted or self.mode == "CMYK":
            return self._through_profile(value)
        top = np.iinfo(self.stored.dtype).max
        if self.mode != "RGB":  # the luma of Rec. 601, as `decode` takes it; equal channels stay what they are
            value = value @ np.array([[19595], [38470], [7471]]) / 65536
            value = value.round() if self.mode == "1" else value
        return np.floor(value * top + 0.5).astype(self.stored.dtype)

    def _through_profile(self, value: NDArray[np.float64]) -> Array:
        """By the colour profile, at 8 bits: no library here does it deeper."""
        picture = Image.fromarray(np.floor(value * 255 + 0.5).astype(np.uint8)[None], "RGB")
        if self.converted and self.profile is not None:
            ends = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(self.profile))
            intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
            turned = ImageCms.profileToProfile(picture, *ends, renderingIntent=intent, outputMode=self.mode)
            assert turned is not None
            picture = turned
        else:
            picture = picture.convert("CMYK")
        found: Array = np.asarray(picture)[0].reshape(len(value), -1)
        return found.astype(np.uint16) * 257 if self.bits == 16 else found

    def padded(self, expand: tuple[int, int, int, int]) -> Photo:
        """With (left, top, right, bottom) more pixels, which repeat the edge and are opaque."""
        check_room(expand, self.size)
        left, top, right, bottom = expand
        room = ((top, bottom), (left, right), (0, 0))
        stored, rgb = (np.pad(array, room, mode="edge") for array in (self.stored, self.rgb))
        if self.alpha:
            height, width = self.size
            inside = np.zeros(stored.shape[:2], bool)
            inside[top : top + height, left : left + width] = True
            stored[~inside, -1] = np.iinfo(stored.dtype).max
        return dataclasses.replace(self, stored=stored, rgb=rgb)


def check_room(expand: Sequence[int], size: tuple[int, int]) -> None:
    """Raise ValueError for what cannot be added to a photo of this size (H, W): as large a one could not be read."""
    sides = list(expand) if isinstance(expand, Sequence | np.ndarray) and not isinstance(expand, str) else []
    whole = len(sides) == 4 and all(isinstance(side, int | np.integer) and side >= 0 for side in sides)
    if not whole or not any(sides):
        raise ValueError(f"expand: expected pixels to add at left, top, right and bottom, got {expand!r}")
    height, width = size[0] + int(sides[1]) + int(sides[3]), size[1] + int(sides[0]) + int(sides[2])
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"expand: {width} x {height} are {height * width / 1e6:,.0f} million pixels; photos have at most "
            f"{MAX_PIXELS / 1e6:.0f} million"
        )


def read(source: Source) -> Photo:
    """The photo of a file, its bytes, a PIL picture or an array.

    Raises BadPicture (a ValueError) where it cannot be read, FileNotFoundError where it is not there.
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, np.ndarray):
        return _of_array(source)
    name = None
    if isinstance(source, Image.Image):
        data = as_bytes(source)
    elif isinstance(source, bytes):
        data = source
    else:
        name = os.fspath(source)
        with open(source, "rb") as stream:
            data = stream.read()
    try:
        return _of_bytes(data, name)
    except BadPicture as error:
        raise type(error)(str(error).replace("picture:", f"{name}:", 1) if name else str(error)) from None


def of_one_kind(given: Source | Sequence[Source]) -> tuple[Photo, ...]:
    """The photos of a call, one or a list of them; raises what `read` does, ValueError for none or different ones."""
    photos = tuple(read(one) for one in (given if isinstance(given, list | tuple) else [cast(Source, given)]))
    if not photos:
        raise ValueError("the list of photos is empty: give at least one")
    kinds = list(dict.fromkeys(found.kind for found in photos))
    if len(kinds) > 1:
        raise ValueError(
            f"photos of one call are of one size, mode and depth, got {kinds[0]} and {kinds[1]}: give them one by one"
        )
    return photos


def in_colour(photo: Photo) -> Photo:
    """The photo as an RGB picture without a profile: one that may be given other colours than its mode holds."""
    if photo.mode == "RGB" and not photo.converted:
        return photo
    plain = dataclasses.replace(photo, mode="RGB", converted=False, profile=None)
    cover = photo.stored[..., -1:] if photo.alpha else None
    if photo.mode in ("L", "1") and not photo.converted:
        stored = np.repeat(photo.stored[..., :1], 3, -1)
    else:
        stored = plain.back(photo.rgb.reshape(-1, 3), None if cover is None else cover.reshape(-1, 1))
        stored = stored.reshape(photo.rgb.shape)
    return dataclasses.replace(plain, stored=stored if cover is None else np.concatenate([stored, cover], -1))


def enlarged(photo: Photo, size: tuple[int, int]) -> Photo:
    """The photo at a larger size (H, W), alpha and all, by Catmull and Rom's cubic."""
    return dataclasses.replace(photo, stored=_at(photo.stored, size), rgb=_at(photo.rgb, size))


def _at(array: Array, size: tuple[int, int]) -> Array:
    found = np.empty((*size, array.shape[2]), array.dtype)
    up = Up(array.astype(np.float32), size)
    for rows in strips(*size):
        found[rows] = up(rows).round().clip(0, np.iinfo(array.dtype).max)
    return found


def _of_bytes(data: bytes, name: str | None) -> Photo:
    seen = decode(data)
    if data.startswith(b"\x93NUMPY"):
        return dataclasses.replace(_of_array(seen.array), name=name)
    with Image.open(io.BytesIO(data)) as header:
        mode, info = header.mode, header.info
        alpha = mode in _ALPHA or "transparency" in info
        profile = info.get("icc_profile")
        kept = "1" if mode == "1" else "CMYK" if mode == "CMYK" else "L" if mode[0] in "LIF" else "RGB"
        stored = upright(np.asarray(header), orientation(header)) if kept == "CMYK" else None
    converted = any(note.startswith("converted from the colour profile") for note in seen.notes)
    if stored is None:
        again = alpha or converted
        stored = decode(data, channels=4 if alpha else 3, managed=False).array if again else seen.array
        if kept in ("1", "L"):
            stored = np.concatenate([stored[..., :1], stored[..., 3:]], -1) if alpha else stored[..., :1]
    notes = seen.notes + (("its palette holds no new colours: it comes back without",) if mode in ("P", "PA") else ())
    digest = hashlib.sha256(data).hexdigest()
    return Photo(np.ascontiguousarray(stored), seen.array, kept, alpha, profile, converted, notes, name, digest)


def _of_array(array: Array) -> Photo:
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3) or min(array.shape) < 1:
        raise ValueError(f"a photo is an array (H, W) or (H, W, C) of uint8 or uint16, got {array.dtype} {array.shape}")
    stored = array[..., None] if array.ndim == 2 else array
    channels = stored.shape[-1]
    if channels > 4:
        raise ValueError(f"a photo has 1 to 4 channels (grey or RGB, alpha last), got {channels}")
    alpha = channels in (2, 4)
    colour = stored[..., :-1] if alpha else stored
    rgb = np.repeat(colour, 3, -1) if colour.shape[-1] == 1 else colour
    if alpha:
        top = int(np.iinfo(array.dtype).max)
        cover = stored[..., -1:].astype(np.int64)
        rgb = ((rgb * cover + top * (top - cover) + top // 2) // top).astype(array.dtype)
    stored = np.ascontiguousarray(stored)
    return Photo(
        stored, rgb, "L" if channels < 3 else "RGB", alpha, sha256=hashlib.sha256(stored.tobytes()).hexdigest()
    )


def as_bytes(picture: Image.Image) -> bytes:
    """A PIL picture as a file without loss, so that all pictures come through one function."""
    # Modes that no file has are turned into those that hold the same: premultiplied alpha, and other axes of sRGB.
    turned = {"La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "HSV": "RGB"}.get(picture.mode)
    info, exif = picture.info, picture.getexif()
    picture = picture if turned is None else picture.convert(turned)
    out = io.BytesIO()
    kind = "PNG" if picture.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else "TIFF"
    picture.save(out, kind, icc_profile=info.get("icc_profile"), exif=exif)
    return out.getvalue()
