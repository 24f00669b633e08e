"""The one function that turns encoded bytes into pixels; every picture of the library goes through it."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from guided.data.colour import to_srgb
from guided.data.records import BadPicture, Refused
from guided.data.sniff import png_damage, why_unreadable

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 64_000_000
EXTREME = 20
"""An aspect ratio beyond this is reported: a square crop of it shows next to nothing."""

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Decoded:
    """Pixels (H, W, C), uint8 in 0..255 or uint16 in 0..65535 (full scale), and notes on what was done."""

    array: Pixels
    notes: tuple[str, ...] = ()


def decode(
    source: bytes | str | os.PathLike[str],
    *,
    background: str | tuple[int, int, int] = "white",
    channels: int = 3,
    max_pixels: int = MAX_PIXELS,
    managed: bool = True,
) -> Decoded:
    """Decode a picture by its content, upright, in sRGB, with alpha composited on `background`.

    `channels`: 1 (luma), 3 (RGB) or 4 (RGBA, alpha kept); any other number is that of the array in a `.npy`
    file. 16-bit pictures come as uint16, full scale 65535. managed: False leaves the numbers
    as they are stored where the picture has a colour profile. Only the first frame of an animation is read.
    Raises BadPicture with one line that says why, Refused (a BadPicture) where the header claims more than
    `max_pixels` or the bytes are hostile; FileNotFoundError where a path does not exist.
    """
    name, data = _read(source)
    if data.startswith(b"\x93NUMPY"):
        return Decoded(_numpy(data, name, channels, max_pixels), ())
    if channels not in (1, 3, 4):
        raise ValueError(f"channels: expected 1, 3 or 4 for a picture file, got {channels}")
    image = _open(data, name, max_pixels)
    if not managed:
        image.info.pop("icc_profile", None)
    notes: list[str] = []
    try:
        if getattr(image, "is_animated", False) and image.format != "MPO":
            notes.append(f"{image.format} with several frames: the first one is used")
            image.seek(0)
        pixels, alpha = _pixels(image, data, notes)
        turn = orientation(image)
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, MemoryError ...
        raise BadPicture(f"{name}: {_why_broken(error, image.format, data)}") from None
    pixels = upright(_merge(pixels, alpha, background, channels), turn)
    height, width = pixels.shape[:2]
    if max(height, width) > EXTREME * min(height, width):
        notes.append(f"extreme aspect ratio: {width}x{height}")
    elif height * width < 64:
        notes.append(f"a tiny picture: {width}x{height}")
    return Decoded(np.ascontiguousarray(pixels), tuple(notes))


def _read(source: bytes | str | os.PathLike[str]) -> tuple[str, bytes]:
    if isinstance(source, bytes):
        return "picture", source
    return str(source), Path(source).read_bytes()


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """The opened, not yet decoded picture, its size checked."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Refused(f"{name}: refused, too large: {str(error).splitlines()[0]}") from None
    except Exception:
        raise BadPicture(f"{name}: {why_unreadable(data)}") from None
    width, height = image.size
    if width * height > max_pixels:
        raise Refused(
            f"{name}: refused: its header claims {width}x{height} = {width * height / 1e6:.0f} million "
            f"pixels, at most {max_pixels / 1e6:.0f} are decoded"
        )
    if min(width, height) < 1:
        raise BadPicture(f"{name}: its header claims {width}x{height} pixels")
    return image


def _why_broken(error: Exception, kind: str | None, data: bytes) -> str:
    if isinstance(error, BadPicture):
        return str(error)
    damage = png_damage(data) if kind == "PNG" else None
    text = damage or (str(error).splitlines() or [type(error).__name__])[0]
    return f"damaged {kind}: {text}"


def _pixels(image: Image.Image, data: bytes, notes: list[str]) -> tuple[Pixels, Pixels | None]:
    """Colour (H, W, 1 or 3) and alpha (H, W, 1) or None, both uint8 or both uint16."""
    if image.format == "PNG" and data[24] == 16 and data[25] in (2, 6):
        return _deep_png(image, data, notes)
    image.load()
    if image.mode in ("I;16", "I;16B", "I;16L", "I;16N"):
        return np.asarray(image).astype(np.uint16)[..., None], None
    if image.mode in ("I", "F"):
        return _numbers(image, notes), None
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = _with_info(image.convert("RGBA"), image)
    alpha = None
    if image.mode in ("RGBA", "LA", "RGBa", "La"):
        image = _with_info(image.convert(image.mode.upper()), image)
        alpha = np.asarray(image.getchannel("A"))[..., None]
        image = _with_info(image.convert("RGB" if image.mode == "RGBA" else "L"), image)
    image = to_srgb(image, notes)
    array = np.asarray(image)
    return (array[..., None] if array.ndim == 2 else array), alpha


def _with_info(image: Image.Image, source: Image.Image) -> Image.Image:
    image.info = dict(source.info)
    return image


def _deep_png(image: Image.Image, data: bytes, notes: list[str]) -> tuple[Pixels, Pixels | None]:
    """16-bit RGB(A): Pillow keeps the high bytes; a second pass in the other order reads the low ones."""
    rgba = data[25] == 6
    low = Image.open(io.BytesIO(data), formats=("PNG",))
    low.tile = [tile._replace(args=("RGBA;16L" if rgba else "RGB;16L")) for tile in low.tile]
    image.load()
    if image.info.get("icc_profile"):
        alpha = np.asarray(image.getchannel("A"))[..., None] if rgba else None
        notes.append("16-bit picture with a colour profile: converted at 8 bits")
        return np.asarray(to_srgb(_with_info(image.convert("RGB"), image), notes)), alpha
    array = np.asarray(image).astype(np.uint16) * 256 + np.asarray(low)
    clear = image.info.get("transparency")
    if clear is not None and not rgba:
        return array, np.where((array == np.array(clear)).all(-1, keepdims=True), 0, 65535).astype(np.uint16)
    return array[..., :3], array[..., 3:] if rgba else None


def _numbers(image: Image.Image, notes: list[str]) -> Pixels:
    """32-bit integers and floats, whose scale no header states: taken where the values leave no doubt."""
    array = np.asarray(image)
    if not np.isfinite(array).all():
        raise BadPicture("a float picture with values that are not finite")
    low, high = float(array.min()), float(array.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        notes.append(f"a float picture: values {low:.3g}..{high:.3g} are read as 0..1")
        return np.rint(array.astype(np.float64) * 65535).astype(np.uint16)[..., None]
    if image.mode == "I" and low >= 0 and high <= 65535:
        notes.append(f"a 32-bit picture: values {low:.0f}..{high:.0f} are read as 0..65535")
        return array.astype(np.uint16)[..., None]
    wanted = "0..1" if image.mode == "F" else "0..65535"
    raise BadPicture(f"a picture of 32-bit numbers from {low:.3g} to {high:.3g}: expected {wanted}")


def _merge(pixels: Pixels, alpha: Pixels | None, background: str | tuple[int, int, int], channels: int) -> Pixels:
    """Composite on the background and give the channels asked for; exact in integers, rounded to nearest."""
    full = 65535 if pixels.dtype == np.uint16 else 255
    if channels == 4:
        opaque = np.full_like(pixels[..., :1], full)
        return np.concatenate([_rgb(pixels), opaque if alpha is None else alpha], -1)
    if alpha is not None:
        colour = ImageColor.getrgb(background)[:3] if isinstance(background, str) else background
        behind = np.array(colour, np.int64) * (full // 255)
        a = alpha.astype(np.int64)
        pixels = ((_rgb(pixels) * a + behind * (full - a) + full // 2) // full).astype(pixels.dtype)
    if channels == 3:
        return _rgb(pixels)
    if pixels.shape[-1] == 1:
        return pixels
    luma: Pixels = pixels.astype(np.int64) @ np.array([19595, 38470, 7471])  # Rec. 601 in 16 bits, sum 65536
    grey: Pixels = ((luma + 32768) >> 16).astype(pixels.dtype)[..., None]
    return grey


def _rgb(pixels: Pixels) -> Pixels:
    return np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; a damaged EXIF block says nothing and harms nothing."""
    try:
        turn = image.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def upright(pixels: Pixels, turn: int) -> Pixels:
    """Pixels (H, W, C) turned and mirrored as an EXIF orientation says."""
    if turn >= 5:
        pixels = pixels.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}
    return np.flip(pixels, flips[turn]) if turn in flips else pixels


def _numpy(data: bytes, name: str, channels: int, max_pixels: int) -> Pixels:
    """An array file: (H, W) or (H, W, channels) of uint8 or uint16; the way to more than four channels."""
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    except Exception as error:
        raise BadPicture(f"{name}: damaged .npy: {str(error).splitlines()[0]}") from None
    shape = shape if len(shape) == 3 else (*shape, 1)
    if dtype not in (np.uint8, np.uint16) or len(shape) != 3 or shape[2] != channels or min(shape) < 1:
        raise BadPicture(f"{name}: expected a (H, W, {channels}) array of uint8 or uint16, got {shape} {dtype}")
    if shape[0] * shape[1] > max_pixels or math.prod(shape) * dtype.itemsize > len(data) - stream.tell():
        raise Refused(f"{name}: refused: its header claims {shape}, the file has {len(data)} bytes")
    stream.seek(0)
    return np.load(stream, allow_pickle=False).reshape(shape)  # type: ignore[no-any-return]
