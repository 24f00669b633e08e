"""Every row of the broken and odd inputs gets what it expects."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from guided import data

HERE = Path(__file__).resolve().parents[2].parent / "shared" / "data"
FOLDER = Path(os.environ.get("GUIDED_TEST_DATA", HERE)) / "bad"
KINDS = ("image", "metadata", "shard", "parquet")
ROWS = (
    [
        row
        for row in map(json.loads, (FOLDER / "manifest.jsonl").read_text("utf-8").splitlines())
        if row["kind"] in KINDS
    ]
    if (FOLDER / "manifest.jsonl").is_file()
    else []
)
# What the one line must say, where the row asks for more than a reason.
SAYS = {
    "images/truncated.jpg": "truncated",
    "images/truncated.png": "cut",
    "images/bad_crc.png": "IHDR",
    "images/zero_byte.png": "empty",
    "images/text_as.png": "plain text",
    "images/html_as.jpg": "HTML",
    "images/junk.heic": "not a picture",
    "images/animated.gif": "first",
    "images/animated.webp": "first",
    "images/animated_apng.png": "first",
    "images/1x1.png": "tiny",
    "images/1x4000.png": "aspect",
    "images/4000x1.png": "aspect",
    "images/bomb_60000x60000.png": "pixels",
    "images/float32.tiff": "0..1",
    "metadata/missing_keys/": "metadata.jsonl:2: the key file_name is missing",
    "metadata/duplicate_names/": "every row is kept",
    "metadata/path_traversal/": "x.png",
    "metadata/absolute_path/": "/etc/passwd",
    "metadata/missing_file/": "metadata.jsonl:3: there is no file 'c.png'",
    "metadata/empty_captions/": "2 of 2 captions empty",
    "metadata/long_caption/": "10000",
    "metadata/null_caption/": "1 of 2 captions empty",
    "metadata/wrong_types/": "metadata.jsonl:1: text: expected text, got int 7",
    "metadata/malformed_json/": "metadata.jsonl:2: malformed JSON",
    "shards/dotdot_members.tar": "../escape.png",
    "shards/symlink_member.tar": "link",
    "shards/truncated.tar": "cut",
    "shards/missing_pair.tar": "0002",
    "parquet/truncated.parquet": "truncated.parquet",
    "parquet/null_image.parquet": "row 3",
    "parquet/label_out_of_range.parquet": "rows 3, 4",
}
SAMPLES = {"metadata/duplicate_names/": 3, "shards/truncated.tar": 1, "parquet/null_image.parquet": 4}


def outcome(path: Path, kind: str) -> tuple[str, str]:
    """One of the manifest's words, and what was said."""
    try:
        if kind == "image":
            decoded = data.decode(path)
            assert data.fit(decoded.array, (32, 32)).shape == (32, 32, 3)
            return ("load+note" if decoded.notes else "load"), " ".join(decoded.notes)
        source = data.open(path)
        pictures, broken = data.Pictures(source, 16), []
        for i in range(len(pictures)):
            try:
                pictures[i]
            except data.BadPicture as error:
                broken.append(str(error))
        said = [*source.summary["notes"], *(f"{name}: {why}" for name, why in source.skipped), *broken]
        cut = any("is cut" in why for _, why in source.skipped)
        return ("skip" if broken or cut else "load+note" if said else "load"), " ".join(said)
    except data.Refused as error:
        return "refuse", str(error)
    except data.BadPicture as error:
        return "skip", str(error)
    except ValueError as error:
        return "error", str(error)


@pytest.mark.parametrize("row", ROWS, ids=[row["path"] for row in ROWS])
def test_expected(row: dict[str, str], shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    word, said = outcome(shared_data / "bad" / row["path"], row["kind"])
    assert word == row["expect"], said
    assert SAYS.get(row["path"], "") in said
    if word in ("skip", "error", "refuse"):
        assert said.count("\n") == 0 and Path(row["path"]).name.split(".")[0] in said
    assert not list(tmp_path.iterdir()), "a side effect"


@pytest.mark.parametrize(
    "row",
    [r for r in ROWS if r["kind"] != "image" and r["expect"] in ("load", "load+note", "skip")],
    ids=lambda row: row["path"],
)
def test_samples(row: dict[str, str], shared_data: Path) -> None:
    source = data.open(shared_data / "bad" / row["path"])
    assert len(source.records) == SAMPLES.get(row["path"], 2)
    assert not any("\r" in (record.caption or "") or record.caption in ("None", "") for record in source.records)


UPRIGHT = [f"exif_{k}.jpg" for k in range(1, 9)] + ["UPPER.JPG", "png_named.jpg", "rgb16.png", "cmyk.jpg"]


@pytest.mark.parametrize("name", [*UPRIGHT, "animated.gif", "animated.webp", "animated_apng.png"])
def test_same_picture(name: str, shared_data: Path) -> None:
    """What the table calls the same picture as ok.png is that picture, within what JPEG and GIF change."""
    true = data.decode(shared_data / "bad/images/ok.png").array.astype(float)
    seen = data.decode(shared_data / "bad/images" / name).array.astype(float)
    seen = seen / 257 if name == "rgb16.png" else seen
    assert seen.shape == true.shape
    exact = name in ("png_named.jpg", "rgb16.png", "animated_apng.png")
    assert np.abs(seen - true).mean() < (1e-9 if exact else 8)


def test_scan_ignores_hidden_files(shared_data: Path) -> None:
    source = data.open(shared_data / "bad/images")
    names = {record.name for record in source.records}
    assert {"UPPER.JPG", "-rf.png", "日本語 ünïcödé.png", "😀 emoji.png"} <= names
    assert dict(source.skipped)["._ok.png"] == "a hidden file"
