"""The emoji folder built from a checkout holds the same pictures and captions as the set made from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from guided import data
from guided.data.emoji import captions, read_names
from tests.data.test_sources import png, put

NAMES = """# emoji-test.txt
# group: Smileys & Emotion
1F600                                                  ; fully-qualified     # \U0001f600 E1.0 grinning face
263A FE0F                                              ; fully-qualified     # \u263a\ufe0f E0.6 smiling face
263A                                                   ; unqualified         # \u263a E0.6 smiling face
# group: People & Body
1F469 1F3FD 200D 1F52C                                 ; fully-qualified     # x E4.0 woman scientist: medium skin tone
0039 FE0F 20E3                                         ; fully-qualified     # x E0.6 keycap: 9
"""


def test_a_checkout_gives_the_same_set(shared_data: Path, tmp_path: Path) -> None:
    true = data.open(shared_data / "emoji")
    some = {i: r for i, r in enumerate(true.records) if i % 20 == 0}
    put(tmp_path / "noto", {f"png/128/{record.name}": true.bytes(i) for i, record in some.items()})
    put(tmp_path / "noto", {"png/128/emoji_u10ffff.png": png()})
    counts = data.noto(tmp_path / "noto", tmp_path / "out")
    assert counts["pictures"] == len(some) and counts["unnamed"] == 1 and counts["missing"] == 3217 - len(some)
    made = data.open(tmp_path / "out")
    assert made.summary["format"] == "imagefolder" and not made.skipped
    got = {
        r.name: (r.caption, r.extra["group"], r.extra["codepoints"], made.bytes(i)) for i, r in enumerate(made.records)
    }
    for i, r in some.items():
        assert got[f"images/{r.name}"] == (r.caption, r.extra["group"], r.extra["codepoints"], true.bytes(i))


def test_the_captions_are_those_of_the_set(shared_data: Path) -> None:
    records = data.open(shared_data / "emoji").records
    true = {r.name.removeprefix("emoji_u").removesuffix(".png"): (r.extra["group"], r.caption) for r in records}
    assert captions() == true


def test_names_of_unicode(tmp_path: Path) -> None:
    put(tmp_path, {"emoji-test.txt": NAMES, "bad.txt": "hello"})
    assert dict(read_names(tmp_path / "emoji-test.txt")) == {
        "1f600": ("Smileys & Emotion", "grinning face"),
        "263a": ("Smileys & Emotion", "smiling face"),
        "1f469_1f3fd_200d_1f52c": ("People & Body", "woman scientist, medium skin tone"),
        "0039_20e3": ("People & Body", "keycap, 9"),
    }
    with pytest.raises(ValueError, match="emoji-test"):
        dict(read_names(tmp_path / "bad.txt"))
    put(tmp_path, {"png/128/emoji_u263a.png": png()})
    assert data.noto(tmp_path, tmp_path / "out", names=tmp_path / "emoji-test.txt")["pictures"] == 1


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="checkout"):
        data.noto(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ValueError, match="png/128"):
        data.noto(tmp_path, tmp_path / "out")
    put(tmp_path, {"png/128/emoji_u1f600.png": png(), "full/x": "x"})
    with pytest.raises(ValueError, match="not empty"):
        data.noto(tmp_path, tmp_path / "full")
    assert not (tmp_path / "out").exists()
