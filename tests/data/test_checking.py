"""`guided data check`: its counts, its exit status and its sheet."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from guided import data
from tests.data.test_sources import png, put


def test_a_mixed_folder(tmp_path: Path) -> None:
    table = [
        {"file_name": f"{k}.png", "text": t} for k, t in enumerate(["a cat, dark skin tone", "a cat", "", "dog", "x"])
    ]
    files: dict[str, bytes | str] = {f"{k}.png": png(v) for k, v in enumerate([0, 50, 50, 100])}
    put(tmp_path, files | {"4.png": b"", "metadata.jsonl": "\n".join(map(json.dumps, table))})
    report = data.check(tmp_path, 8, sheet=tmp_path / "out.png")
    assert (report.found, report.usable, report.exit) == (5, 4, 0)
    assert report.skipped == [("4.png", "the file is empty")]
    assert report.duplicates == [["1.png", "2.png"]]
    assert report.captions["bases"] == 3 and report.captions["empty"] == 1
    assert [(c["min"], c["mean"], c["max"]) for c in report.channels] == [(0, 50, 100)] * 3
    assert abs(report.channels[0]["std"] - np.std([0, 50, 50, 100])) < 1e-9
    text = report.text()
    for said in ("5 records, 4 usable", "skipped: 4.png: the file is empty", "mean 50.0", "out.png", "1 of 5 captions"):
        assert said in text
    assert json.loads(json.dumps(report.to_dict()))["exit"] == 0


def test_the_sheet_is_what_the_network_sees(shared_data: Path, tmp_path: Path) -> None:
    source = data.open(shared_data / "bad/images")
    report = data.check(source, 16, sheet=tmp_path / "sheet.png", most=16)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    pictures = data.Pictures(source, 16)
    first = sheet[2 : 2 + 64, 2 : 2 + 64]  # each pixel four by four, after a gap of two
    assert np.array_equal(first[::4, ::4], pictures.array(0)) and np.array_equal(first[3::4, 3::4], pictures.array(0))
    # The bomb is refused and the exit says so; broken ones are skipped.
    assert report.exit == 2 and [name for name, _ in report.refused] == ["bomb_60000x60000.png"]
    assert len(report.skipped) == 9 and report.usable + len(report.skipped) - 1 + 1 == report.found


def test_nothing_raises(shared_data: Path, tmp_path: Path) -> None:
    bad = shared_data / "bad"
    exits = {
        "metadata/ok": 0, "metadata/missing_keys": 2, "metadata/path_traversal": 2, "shards/truncated.tar": 0,
        "shards/symlink_member.tar": 2, "parquet/null_image.parquet": 0, "parquet/truncated.parquet": 2,
        "images/ok.png": 0, "images/zero_byte.png": 2, "none": 2,
    }  # fmt: skip
    assert {name: data.check(bad / name, 8).exit for name in exits} == exits
    assert "no picture is usable" in data.check(bad / "images/zero_byte.png").text()


def test_class_counts(tmp_path: Path) -> None:
    report = data.check(put(tmp_path, {"x/a.png": png(1), "x/b.png": png(2), "y/c.png": png(3)}), 8)
    assert report.classes == {"x": 2, "y": 1} and "2 classes, 1 to 2 each" in report.text()
    assert Image.open(io.BytesIO(png())).size == (8, 8)
