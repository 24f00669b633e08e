"""Photos as people have them: what comes out has the size, mode, depth and profile of what went in, and no metadata."""

from __future__ import annotations

import io
import json
import pathlib

import numpy as np
import pytest
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
    for mask in (tmp_path / "m.png", str(tmp_path / "m.png"), want > 0, want, want.astype(int), (3, 2, 9, 6), corners):
        assert np.array_equal(masks.of(mask, photo), want)
