"""Photos as people have them: what comes out has the size, mode, depth and profile of what went in, and no metadata."""

from __future__ import annotations

import io
import json
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from guided.data import decode
from guided.model.result import record_of
from guided.tasks import masks, png, read
from tests.model import build

LEFT = [0, 0, 32, 48]


def test_every_picture_row_of_the_bad_inputs_behaves(shared_data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = build.plain_model()
    rows = [json.loads(line) for line in (shared_data / "bad" / "manifest.jsonl").read_text().splitlines()]
    for row in (row for row in rows if row["kind"] == "image"):
        file = shared_data / "bad" / row["path"]
        if not row["expect"].startswith("load"):
            with pytest.raises(ValueError, match=r"\S"):
                model.edit(file, steps=1)
            continue
        before = read(file)
        found = model.edit(file, steps=1, strength=0.5)
        assert found.arrays[0].shape == before.stored.shape and found.arrays[0].dtype == before.stored.dtype
        suffix, content = found.encoded(0)
        assert suffix == (".tiff" if before.mode == "CMYK" else ".png")
        again = read(content)
        assert np.array_equal(again.stored, found.arrays[0]), row["path"]
        assert (again.size, again.bits, again.alpha) == (before.size, before.bits, before.alpha)
        if before.size == (48, 64):
            kept = model.edit(file, steps=1, mask=LEFT).arrays[0]
            assert np.array_equal(kept[:, 32:], before.stored[:, 32:]), row["path"]


def test_upright_whatever_exif_says(shared_data: pathlib.Path) -> None:
    upright = read(shared_data / "bad" / "images" / "exif_1.jpg").stored.astype(int)
    for turn in range(2, 9):
        found = read(shared_data / "bad" / "images" / f"exif_{turn}.jpg").stored.astype(int)
        assert found.shape == upright.shape and np.abs(found - upright).mean() < 4


def test_the_profile_stays_and_metadata_does_not(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif.get_ifd(0x8825)[2] = (48.0, 8.0, 11.0)
    file = tmp_path / "a.png"
    picture.save(file, exif=exif, icc_profile=profile, comment="secret")
    found = build.plain_model().edit(file, steps=1, strength=0.5)
    (path,) = found.save(tmp_path / "out")
    with Image.open(path) as out:
        assert out.info["icc_profile"] == profile and set(out.info) == {"icc_profile", "guided"}
        assert not dict(out.getexif())
    record = record_of(path)
    assert record is not None and record["strength"] == 0.5 and record["nfe"] == 1


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_is_read_back_by_others(channels: int) -> None:
    array = np.random.default_rng(channels).integers(0, 65536, (7, 9, channels), np.uint16)
    data = png.encode(array, {"key": "text"})
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (9, 7) and picture.info["key"] == "text"
    if channels != 2:  # Pillow reads grey with alpha at 8 bits
        found = decode(data, channels=4 if channels == 4 else 3).array
        assert found.dtype == np.uint16 and np.array_equal(found[..., :channels], array)


def test_what_is_transparent_can_be_filled() -> None:
    given = np.random.default_rng(3).integers(0, 256, (16, 16, 4), np.uint8)
    given[..., 3] = 255
    given[4:9, 4:9, 3] = 0
    found = build.plain_model().inpaint(given, mask="alpha", steps=2).arrays[0]
    assert (found[..., 3] == 255).all()
    kept = given[..., 3] == 255
    assert np.array_equal(found[kept], given[kept]) and (found[~kept][:, :3] != given[~kept][:, :3]).any()
    still = build.plain_model().edit(given, steps=2).arrays[0]
    assert np.array_equal(still[..., 3], given[..., 3])


def test_masks_of_every_kind_agree(tmp_path: pathlib.Path) -> None:
    photo = read(np.zeros((10, 12, 3), np.uint8))
    want = np.zeros((10, 12), np.float32)
    want[2:6, 3:9] = 1
    Image.fromarray((want * 255).astype(np.uint8)).save(tmp_path / "m.png")
    corners = [(3, 2), (8, 2), (8, 5), (3, 5)]
    files = (tmp_path / "m.png", str(tmp_path / "m.png"))
    tensors = (torch.from_numpy(want).bfloat16(), torch.from_numpy(want)[None, None] > 0, want[..., None])
    boxes = ((3, 2, 9, 6), np.array([3, 2, 9, 6]), tuple(np.array([3, 2, 9, 6])))
    for mask in (*files, want > 0, want, want.astype(int), *tensors, *boxes, corners):
        assert np.array_equal(masks.of(mask, photo), want)
    assert masks.parse(" 3, 2,9 ,6 ") == [3, 2, 9, 6]


def test_a_picture_as_a_mask_is_what_its_file_is() -> None:
    """White that is transparent is not there; a float is a share, and 16 bits are not cut off at 8."""
    photo = read(np.zeros((10, 12, 3), np.uint8))
    want = np.zeros((10, 12), np.float32)
    want[2:6, 3:9] = 1
    levels = (want * 255).astype(np.uint8)
    white = np.full((10, 12), 255, np.uint8)
    pictures = [Image.fromarray(np.stack([white, levels], -1)), Image.fromarray(np.stack([white] * 3 + [levels], -1))]
    pictures += [Image.fromarray(levels).convert(mode) for mode in ("1", "L", "P", "RGB", "CMYK", "YCbCr")]
    for picture in pictures:
        assert np.array_equal(masks.of(picture, photo), want), picture.mode
    for half in (Image.fromarray(want / 2), Image.fromarray((want * 32768).astype(np.uint16))):
        assert np.abs(masks.of(half, photo) - want / 2).max() < 1e-4


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1)])
def test_masks_of_a_single_row_or_column(size: tuple[int, int]) -> None:
    photo, mask = read(np.zeros((*size, 3), np.uint8)), np.zeros(size, bool)
    mask[-1, -1] = True
    for given in (mask, mask[None], mask[..., None], torch.from_numpy(mask)):
        assert np.array_equal(masks.of(given, photo), mask)


def test_masks_that_are_none_are_refused() -> None:
    photo = read(np.zeros((10, 12, 3), np.uint8))
    with pytest.raises(TypeError, match="mask: expected a picture"):
        masks.of(5, photo)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="finite"):
        masks.of([(1, 1), (float("nan"), 4), (3, 3)], photo)


@pytest.mark.parametrize("mode", ["La", "RGBa", "RGBX", "YCbCr", "HSV"])
def test_pictures_in_memory_of_modes_that_no_file_has(mode: str) -> None:
    base = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8))
    kept = {"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    picture = base.convert(kept).convert(mode)
    assert np.array_equal(read(picture).stored, np.asarray(picture.convert(kept)))


def test_a_long_record_fits_a_jpeg_without_its_levels() -> None:
    result = build.plain_model().edit(np.zeros((9, 11, 3), np.uint8), steps=1)
    result.records[0]["path"] = [0.1234567] * 20_000
    with Image.open(io.BytesIO(result.jpeg(0))) as picture:
        assert json.loads(picture.info["comment"]) == {k: v for k, v in result.records[0].items() if k != "path"}
    result.records[0]["prompt"] = "a" * 70_000
    with pytest.raises(ValueError, match=r"save as \.png"):
        result.jpeg(0)
