"""Every mode of picture against a reference worked out by hand."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from guided.data import BadPicture, Refused, decode

RAMP = np.arange(0, 256, 8, dtype=np.uint8)
RGB = np.stack([*np.meshgrid(RAMP, RAMP[::-1], indexing="ij"), np.full((32, 32), 77, np.uint8)], -1)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png16(array: np.ndarray, colour_type: int, extra: bytes = b"") -> bytes:
    """A 16-bit PNG written by hand, filter 0."""
    height, width = array.shape[:2]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def test_plain_modes() -> None:
    assert np.array_equal(decode(saved(Image.fromarray(RGB))).array, RGB)
    grey = RGB[..., 0]
    assert np.array_equal(decode(saved(Image.fromarray(grey))).array, np.repeat(grey[..., None], 3, -1))
    assert np.array_equal(decode(saved(Image.fromarray(grey)), channels=1).array, grey[..., None])
    bits = np.indices((32, 32)).sum(0) % 2 == 0
    assert np.array_equal(decode(saved(Image.fromarray(bits)), channels=1).array[..., 0], bits * 255)
    palette = Image.fromarray(RGB).quantize(16)
    assert np.array_equal(decode(saved(palette)).array, np.asarray(palette.convert("RGB")))


def test_luma_is_rec_601() -> None:
    seen = decode(saved(Image.fromarray(RGB)), channels=1).array[..., 0]
    assert np.abs(seen - RGB @ np.array([0.299, 0.587, 0.114])).max() <= 0.51


@pytest.mark.parametrize("background", ["white", "black", "#20c040"])
def test_alpha_is_composited_on_the_background(background: str) -> None:
    alpha = np.tile(RAMP[None], (32, 1))
    colour = {"white": (255, 255, 255), "black": (0, 0, 0), "#20c040": (0x20, 0xC0, 0x40)}[background]
    rgba = np.concatenate([RGB, alpha[..., None]], -1)
    a = alpha[..., None] / 255
    seen = decode(saved(Image.fromarray(rgba)), background=background).array
    assert np.abs(seen - (RGB * a + np.array(colour) * (1 - a))).max() <= 0.51
    assert np.array_equal(decode(saved(Image.fromarray(rgba)), channels=4).array, rgba)
    la = np.stack([RGB[..., 0], alpha], -1)
    seen = decode(saved(Image.fromarray(la, "LA")), background=background).array
    assert np.abs(seen - (RGB[..., :1] * a + np.array(colour) * (1 - a))).max() <= 0.51


def test_sixteen_bits_keep_their_depth() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 65536, (9, 7, 3)).astype(np.uint16)
    assert np.array_equal(decode(png16(rgb, 2)).array, rgb)
    grey = rgb[..., :1]
    assert np.array_equal(decode(png16(grey, 0), channels=1).array, grey)
    rgba = np.concatenate([rgb, rng.integers(0, 65536, (9, 7, 1)).astype(np.uint16)], -1)
    assert np.array_equal(decode(png16(rgba, 6), channels=4).array, rgba)
    a = rgba[..., 3:] / 65535
    assert np.abs(decode(png16(rgba, 6)).array - (rgb * a + 65535 * (1 - a))).max() <= 0.51


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(turn: int, kind: str) -> None:
    """Stored as EXIF says (table 6 of the standard): row 0 and column 0 of the file are these sides."""
    stored = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, 1),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, -1),
    }[turn](RGB[:20])
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"lossless": True} if kind == "WEBP" else {}
    seen = decode(saved(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)).array
    assert np.array_equal(seen, RGB[:20])


def test_profiles() -> None:
    """A profile whose red and blue are exchanged must exchange them back; a damaged one is ignored with a note."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(decode(saved(Image.fromarray(RGB), icc_profile=lab)).array, RGB)
    swapped = swap_tags(lab)
    seen = decode(saved(Image.fromarray(RGB), icc_profile=swapped))
    # Lower tolerance than 8 is beyond the 8-bit tables of the colour engine.
    assert np.abs(seen.array.astype(int) - RGB[..., ::-1]).max() <= 8 and "profile" in seen.notes[0]
    seen = decode(saved(Image.fromarray(RGB), icc_profile=b"\0" * 200))
    assert np.array_equal(seen.array, RGB) and "ignored" in seen.notes[0]


def swap_tags(profile: bytes) -> bytes:
    """The profile with rXYZ and bXYZ exchanged, under another description."""
    data = bytearray(profile.replace(b"rXYZ", b"?XYZ").replace(b"bXYZ", b"rXYZ").replace(b"?XYZ", b"bXYZ"))
    return bytes(data).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


def test_cmyk_is_no_negative() -> None:
    """Adobe JPEGs store ink inverted; (0, 255, 255, 0) ink is red."""
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    seen = decode(saved(red, "JPEG", quality=95)).array.reshape(-1, 3).mean(0)
    assert np.abs(seen - [255, 0, 0]).max() < 4
    seen = decode(saved(red, "TIFF")).array.reshape(-1, 3).mean(0)
    assert np.abs(seen - [255, 0, 0]).max() < 1


def test_floats_and_integers() -> None:
    grey = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    seen = decode(saved(Image.fromarray(grey), "TIFF"))
    assert seen.array.dtype == np.uint16 and np.abs(seen.array[..., 0] - grey * 65535).max() <= 0.51 and seen.notes
    for wrong in (grey * 255, grey - 0.5, np.where(grey > 0.5, np.nan, grey)):
        with pytest.raises(BadPicture, match=r"expected 0\.\.1|not finite"):
            decode(saved(Image.fromarray(wrong.astype(np.float32)), "TIFF"))


def test_arrays_of_any_channels() -> None:
    array = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)
    out = io.BytesIO()
    np.save(out, array)
    assert np.array_equal(decode(out.getvalue(), channels=6).array, array)
    with pytest.raises(BadPicture, match=r"expected a \(H, W, 3\) array"):
        decode(out.getvalue())
    huge = out.getvalue().replace(b"(4, 5, 6)", b"(4, 9, 6)")
    with pytest.raises(Refused):
        decode(huge, channels=6)
    out = io.BytesIO()
    np.save(out, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(BadPicture):
        decode(out.getvalue())


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_pixel_cap_reads_the_header_only() -> None:
    bomb = bytearray(saved(Image.new("1", (13_000, 13_000))))
    with pytest.raises(Refused, match="169 million"):
        decode(bytes(bomb))
    with pytest.raises(Refused):
        decode(saved(Image.new("L", (20, 20))), max_pixels=399)
    assert decode(saved(Image.new("L", (20, 20))), max_pixels=400).array.shape == (20, 20, 3)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="channels"):
        decode(saved(Image.new("L", (4, 4))), channels=5)
    with pytest.raises(FileNotFoundError):
        decode("no/such.png")


SEEDS = [saved(Image.fromarray(RGB), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 5), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=8), st.floats(0.1, 1))
def test_mutated_files_decode_or_raise_badpicture(which: int, edits: list[tuple[float, int]], keep: float) -> None:
    data = bytearray(SEEDS[which])
    for place, value in edits:
        data[int(place * len(data))] = value
    data = data[: int(keep * len(data))]
    try:
        decoded = decode(bytes(data))
    except BadPicture as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert decoded.array.shape[2] == 3 and decoded.array.dtype in (np.uint8, np.uint16)
