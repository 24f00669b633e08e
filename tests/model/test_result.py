"""Pictures as numbers and as files: levels, records, numbering, sheets."""

from __future__ import annotations

import json
import pathlib
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from guided.model import Result, record_of
from guided.model.result import levels, png
from guided.model.sheet import sheet, wrapped


def result(n: int = 3, channels: int = 3, **extra: object) -> Result:
    pictures = torch.linspace(-1.2, 1.2, n * channels * 8 * 6).reshape(n, channels, 8, 6)
    return Result(pictures, [{"seed": i, "prompt": f"picture {i}", **extra} for i in range(n)])


@pytest.mark.parametrize("bits", [8, 16])
def test_levels_are_the_nearest_ones_and_span_the_range(bits: int) -> None:
    top = 2**bits - 1
    exact = np.arange(top + 1)
    values = torch.from_numpy(exact / top * 2 - 1).reshape(1, 1, 1, -1)
    assert np.array_equal(levels(values, bits)[0, 0, :, 0], exact)
    assert np.array_equal(levels(values.float() + 0.4 / top, bits)[0, 0, :, 0], exact)
    assert levels(torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2), bits).ravel().tolist() == [0, top]


def test_a_result_is_a_list_of_pictures_with_everything_beside_them() -> None:
    found = result()
    assert isinstance(found, list) and len(found) == 3
    assert float(found.tensor.min()) == -1 and float(found.tensor.max()) == 1
    assert found.arrays.shape == (3, 8, 6, 3) and found.arrays.dtype == np.uint8
    for picture, array in zip(found, found.arrays, strict=True):
        assert np.array_equal(np.asarray(picture), array)
    deep = Result(found.tensor, found.records, bits=16)
    assert deep.arrays.dtype == np.uint16 and deep.arrays.max() == 65535
    with pytest.raises(ValueError, match="with B records"):
        Result(found.tensor, [])


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA"), (5, "L")])
def test_any_number_of_channels(channels: int, mode: str, tmp_path: pathlib.Path) -> None:
    found = result(channels=channels)
    assert {picture.mode for picture in found} == {mode}
    assert found.arrays.shape[-1] == channels
    with Image.open(found.save(tmp_path)[1]) as read:
        assert np.array_equal(np.asarray(read), np.asarray(found[1]))
    found.sheet(tmp_path / "sheet.png")


def test_files_carry_their_records(tmp_path: pathlib.Path) -> None:
    found = result(2, negative="ünïcödé 😀 \x1b[2J", w=2.0)
    paths = found.save(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["000000.png", "000001.png"]
    lines = [json.loads(line) for line in (paths[0].parent / "images.jsonl").read_text().splitlines()]
    for path, record, line in zip(paths, found.records, lines, strict=True):
        assert record_of(path) == record
        assert line == {"file": path.name, **record}
        assert path.read_bytes() == png(found[found.records.index(record)], record)


def test_nothing_is_ever_overwritten(tmp_path: pathlib.Path) -> None:
    (tmp_path / "000007.png").write_bytes(b"mine")
    (tmp_path / "000003.txt").write_bytes(b"mine too")
    first = result().save(tmp_path)
    assert [path.name for path in first] == ["000008.png", "000009.png", "000010.png"]
    assert (tmp_path / "000007.png").read_bytes() == b"mine"
    assert result().save(tmp_path, "cat-")[0].name == "cat-000000.png"
    assert not list(tmp_path.glob(".tmp*"))


def test_several_writers_share_a_folder(tmp_path: pathlib.Path) -> None:
    found: list[pathlib.Path] = []
    threads = [threading.Thread(target=lambda: found.extend(result(10).save(tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 40
    assert len([json.loads(line) for line in (tmp_path / "images.jsonl").read_text().splitlines()]) == 40
    assert all(record_of(path) is not None for path in found)


def test_a_failed_write_gives_its_number_back(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("guided._files.write", full)
    with pytest.raises(OSError, match="No space"):
        result().save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_pictures_without_a_sound_record(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 3)).save(path)
    assert record_of(path) is None
    path.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png: not a PNG"):
        record_of(path)
    with pytest.raises(FileNotFoundError):
        record_of(tmp_path / "b.png")
    from PIL import PngImagePlugin

    for text in ("{", "[" * 100_000, '["a list"]'):
        chunk = PngImagePlugin.PngInfo()
        chunk.add_text("guided", text)
        Image.new("RGB", (3, 3)).save(path, pnginfo=chunk)
        if text.startswith('["'):
            assert record_of(path) is None
        else:
            with pytest.raises(ValueError, match="its record is not JSON"):
                record_of(path)


def test_a_sheet_shows_every_picture_enlarged_by_whole_pixels() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9), (99, 0, 99)]
    page = np.asarray(sheet([Image.new("RGB", (32, 32), colour) for colour in colours], columns=2))
    for colour in colours:
        assert (page == colour).all(-1).sum() == 96 * 96
    assert (page == 255).all(-1).any()


def test_a_sheet_has_captions_heads_and_rows() -> None:
    pictures = [Image.new("RGB", (32, 32), (255, 0, 0))] * 4
    bare = np.asarray(sheet(pictures, columns=2))
    full = np.asarray(sheet(pictures, ["one", "two", "three " * 40, ""], heads=["w = 1", "w = 2"], rows=["cat", "dog"]))
    assert full.shape[0] > bare.shape[0] and full.shape[1] > bare.shape[1]
    assert (full == (255, 0, 0)).all(-1).sum() == 4 * 96 * 96
    dark = (full.astype(int).sum(-1) < 200).sum()
    assert dark > 300
    assert not (bare.astype(int).sum(-1) < 200).any()
    with pytest.raises(ValueError, match="as many captions"):
        sheet(pictures, ["one"])
    with pytest.raises(ValueError, match="takes pictures"):
        sheet([])


def test_captions_are_wrapped_and_cut() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(11)
    lines = wrapped("a very long caption " * 20, 96, font)
    assert len(lines) == 3 and lines[-1].endswith("...")
    assert all(font.getlength(line) <= 96 for line in (*lines, *wrapped("w" * 99, 96, font)))
    assert wrapped("short", 96, font) == ["short"]
    assert wrapped("", 96, font) == [""]


def test_large_pictures_stay_as_they_are() -> None:
    assert sheet([Image.new("RGB", (300, 200))]).size == (312, 212)
    assert sheet([Image.new("RGB", (4000, 1))]).size[0] == 4012
