"""`guided edit` and `guided inpaint`: one photo or a folder, as a newcomer types them."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from guided.cli import main
from guided.model import Model, record_of
from tests.model import build

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build.plain_model().save(tmp_path_factory.mktemp("models") / "plain"))


def saved(path: pathlib.Path, seed: int = 0, mode: str = "RGB", size: tuple[int, int] = (24, 20)) -> np.ndarray:
    bands = len(Image.new(mode, (1, 1)).getbands())
    array = np.random.default_rng(seed).integers(0, 256, (*size, bands), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array[..., 0] if bands == 1 else array, mode).save(path)
    return array


def pixels(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def run(words: list[str], model: str) -> int:
    return main([*words, "--model", model, "--steps", "3"])


def test_one_photo_is_what_the_model_makes_of_it(plain: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    saved(tmp_path / "a.png", 1)
    assert run(["edit", str(tmp_path / "a.png"), "--strength", "0.4", "--out", str(tmp_path / "b.png")], plain) == 0
    shown = capsys.readouterr()
    assert "b.png" in shown.out and "% changed" in shown.out and "b-sheet.png" in shown.err
    wanted = Model.open(plain).edit(tmp_path / "a.png", strength=0.4, steps=3)
    assert np.array_equal(pixels(tmp_path / "b.png"), wanted.arrays[0])
    with Image.open(tmp_path / "b-sheet.png") as sheet:
        assert sheet.width > 2 * 90
    line = json.loads((tmp_path / "images.jsonl").read_text())
    assert line["file"] == "b.png" and line["strength"] == 0.4


def test_the_printed_command_makes_it_again(
    plain: str, tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "-a b.png", 1)
    words = ["inpaint", "--mask", "2,3,9,12", "--out", "x/b.png", "--", "-a b.png"]
    assert main([*words[:1], "--model", plain, "--steps", "3", "--dtype", "bf16", *words[1:]]) == 0
    capsys.readouterr()
    assert main(["inspect", "--json", "x/b.png"]) == 0
    command = shlex.split(json.loads(capsys.readouterr().out)["command"])
    assert command[:2] == ["guided", "inpaint"] and main(command[1:]) == 0
    assert np.array_equal(pixels(pathlib.Path("again.png")), pixels(pathlib.Path("x/b.png")))


def test_a_folder_gives_a_folder(plain: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    arrays = {name: saved(photos / name, i) for i, name in enumerate(["a.png", "b.bmp", "in/c.png"])}
    saved(photos / "k.tiff", 9, "CMYK")
    (photos / "notes.txt").write_text("no picture")
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    assert run(["inpaint", str(photos), "--mask", "2,3,9,12", "--out", str(out)], plain) == 2
    shown = capsys.readouterr()
    assert "broken.png" in shown.err and "1 of 5 photos could not be done" in shown.err
    made = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*"))
    assert made == ["a.png", "b.png", "images.jsonl", "in/c.png", "k.tiff"]
    mask = np.zeros((24, 20), bool)
    mask[3:12, 2:9] = True
    for name, place in (("a.png", "a.png"), ("b.bmp", "b.png"), ("in/c.png", "in/c.png")):
        found = pixels(out / place)
        assert np.array_equal(found[~mask], arrays[name][~mask]) and not np.array_equal(found, arrays[name])
    lines = [json.loads(line) for line in (out / "images.jsonl").read_text().splitlines()]
    assert sorted(line["file"] for line in lines) == ["a.png", "b.png", "in/c.png", "k.tiff"]
    assert (tmp_path / "out-sheet.png").is_file()
    record = record_of(out / "k.tiff")
    assert record is not None and record["asked"]["mask"] == "2,3,9,12"
    # Each photo is what it is alone.
    assert (
        run(["inpaint", str(photos / "in" / "c.png"), "--mask", "2,3,9,12", "--out", str(tmp_path / "c.png")], plain)
        == 0
    )
    assert np.array_equal(pixels(tmp_path / "c.png"), pixels(out / "in" / "c.png"))


def test_a_killed_folder_goes_on(plain: str, tmp_path: pathlib.Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for i in range(6):
        saved(photos / f"{i}.png", i, size=(64, 64))
    words = ["edit", str(photos), "--model", plain, "--steps", "200", "--strength", "0.5", "--out", str(out)]
    command = [sys.executable, "-m", "guided", *words]
    begun = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not (out / "1.png").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert 2 <= len(kept) < 6
    assert main(words) == 0
    assert sorted(path.name for path in out.glob("*.png")) == [f"{i}.png" for i in range(6)]
    assert all((out / name).stat().st_mtime_ns == time_ for name, time_ in kept.items())
    lines = [json.loads(line)["file"] for line in (out / "images.jsonl").read_text().splitlines()]
    assert sorted(lines) == [f"{i}.png" for i in range(6)]
    assert not list(out.glob(".tmp*")) or all(".tmp" in path.name for path in out.glob(".tmp*"))


def test_a_picture_without_its_line_gets_it(plain: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    saved(tmp_path / "photos" / "a.png")
    words = ["edit", str(tmp_path / "photos"), "--strength", "0.3", "--out", str(tmp_path / "out")]
    assert run(words, plain) == 0
    (tmp_path / "out" / "images.jsonl").unlink()
    capsys.readouterr()
    for _ in range(2):
        assert run(words, plain) == 0
        assert "1 of 1 are done already" in capsys.readouterr().err
    assert len((tmp_path / "out" / "images.jsonl").read_text().splitlines()) == 1


def test_nothing_is_overwritten(plain: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    before = saved(tmp_path / "photos" / "a.png")
    saved(tmp_path / "mine.png", 5)
    words = ["edit", str(tmp_path / "photos" / "a.png"), "--out"]
    assert run([*words, str(tmp_path / "mine.png")], plain) == 2
    assert "was not made by this command" in capsys.readouterr().err
    assert run([*words, str(tmp_path / "b.png"), "--strength", "0.3"], plain) == 0
    assert run([*words, str(tmp_path / "b.png"), "--strength", "0.4"], plain) == 2
    assert "strength: 0.3 there, 0.4 now" in capsys.readouterr().err
    assert run(["edit", str(tmp_path / "photos"), "--out", str(tmp_path / "photos")], plain) == 2
    assert "holds the photos themselves" in capsys.readouterr().err
    assert np.array_equal(pixels(tmp_path / "photos" / "a.png"), before)


def test_masks_by_their_names_and_from_alpha(plain: str, tmp_path: pathlib.Path) -> None:
    photos, masks, out = tmp_path / "photos", tmp_path / "masks", tmp_path / "out"
    for i, name in enumerate("ab"):
        saved(photos / f"{name}.png", i)
        mask = np.zeros((24, 20), np.uint8)
        mask[4 + i : 9, 2:11] = 255
        masks.mkdir(exist_ok=True)
        Image.fromarray(mask).save(masks / f"{name}.png")
    assert run(["inpaint", str(photos), "--mask", str(masks), "--out", str(out)], plain) == 0
    for i, name in enumerate("ab"):
        moved = (pixels(out / f"{name}.png") != pixels(photos / f"{name}.png")).any(-1)
        assert not moved[: 4 + i].any() and not moved[9:].any() and moved[4 + i : 9, 2:11].mean() > 0.9
    array = saved(tmp_path / "alpha.png", 3, "RGBA")
    assert (
        run(["inpaint", str(tmp_path / "alpha.png"), "--mask", "alpha", "--out", str(tmp_path / "filled.png")], plain)
        == 0
    )
    found = pixels(tmp_path / "filled.png")
    opaque = array[..., 3] == 255
    assert np.array_equal(found[opaque], array[opaque])
    corners = "2,2 12,2 12,10"
    assert run(["inpaint", str(photos / "a.png"), "--mask", corners, "--out", str(tmp_path / "p.png")], plain) == 0


def test_a_mask_belongs_to_the_photo_of_its_very_name(plain: str, tmp_path: pathlib.Path) -> None:
    """Brackets and stars in a name are letters, and what lies beside a mask under its name is none."""
    photos, masks, out = tmp_path / "photos", tmp_path / "masks", tmp_path / "out"
    masks.mkdir()
    for i, name in enumerate(["a1", "a[1]", "a[2]", "a2"]):
        saved(photos / f"{name}.png", i)
        mask = np.zeros((24, 20), np.uint8)
        mask[5 * i : 5 * i + 4] = 255
        Image.fromarray(mask).save(masks / f"{name}.png")
        (masks / f"{name}.json").write_text("{}")
    assert run(["inpaint", str(photos), "--mask", str(masks), "--out", str(out)], plain) == 0
    for i, name in enumerate(["a1", "a[1]", "a[2]", "a2"]):
        moved = (pixels(out / f"{name}.png") != pixels(photos / f"{name}.png")).any((1, 2))
        assert moved.nonzero()[0].tolist() == list(range(5 * i, 5 * i + 4)), name


def test_beyond_the_borders_and_jpeg(plain: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    array = saved(tmp_path / "a.png")
    assert (
        run(["inpaint", str(tmp_path / "a.png"), "--expand", "3,0,4,5", "--out", str(tmp_path / "b.png")], plain) == 0
    )
    assert np.array_equal(pixels(tmp_path / "b.png")[:24, 3:23], array)
    assert pixels(tmp_path / "b.png").shape == (29, 27, 3)
    assert run(["edit", str(tmp_path / "a.png"), "--strength", "0.2", "--out", str(tmp_path / "b.jpg")], plain) == 0
    assert "JPEG is not exact" in capsys.readouterr().err
    with Image.open(tmp_path / "b.jpg") as picture:
        assert picture.format == "JPEG"
    record = record_of(tmp_path / "b.jpg")
    assert record is not None and record["asked"]["strength"] == 0.2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["edit", "none.png", "--out", "x"], "no such picture or folder"),
        (["edit", "a.png", "--strength", "1.5", "--out", "x"], "strength"),
        (["edit", "a.png", "--faithful", "much", "--out", "x"], "faithful"),
        (["edit", "a.png", "--faithful", "10%", "--strength", "0.5", "--out", "x"], "not both"),
        (["edit", "a.png", "--by", "magic", "--out", "x"], "--by"),
        (["edit", "a.png", "--source", "cat", "--out", "x"], "--source"),
        (["edit", "a.png", "--by", "p2p", "--out", "x"], "--source"),
        (["edit", "a.png", "--prompt", "cat", "--out", "x"], "unconditional"),
        (["edit", "a.png", "--mask", "none.png", "--out", "x"], "no such file"),
        (["edit", "a.png", "--mask", "3,3,99,9", "--out", "x"], "does not lie in the photo"),
        (["edit", "a.png", "--out", "x.tiff"], ".png"),
        (["edit", ".", "--out", "x.png"], "has to be one too"),
        (["inpaint", "a.png", "--out", "x"], "--expand"),
        (["inpaint", "a.png", "--expand", "1,2", "--out", "x"], "--expand"),
        (["inpaint", "a.png", "--mask", "1,1,5,5", "--resample", "0", "--out", "x"], "resample"),
    ],
)
def test_bad_words_are_told(
    words: list[str], message: str, plain: str, tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "a.png")
    assert run(words, plain) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists() and not list(tmp_path.glob("x.*"))


def test_two_photos_of_one_name_are_refused(plain: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    saved(tmp_path / "photos" / "a.png")
    saved(tmp_path / "photos" / "a.bmp")
    assert run(["edit", str(tmp_path / "photos"), "--out", str(tmp_path / "out")], plain) == 2
    assert "would both become" in capsys.readouterr().err


def test_a_name_within_a_name_chooses_no_format(plain: str, tmp_path: pathlib.Path) -> None:
    saved(tmp_path / "photos" / "a.jpg.png")
    assert run(["edit", str(tmp_path / "photos"), "--strength", "0.3", "--out", str(tmp_path / "out")], plain) == 0
    with Image.open(tmp_path / "out" / "a.jpg.png") as picture:
        assert picture.format == "PNG"


def test_a_format_that_loses_something_is_refused_before_any_work(
    plain: str, tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guided.cli.common.open_model", lambda *_: pytest.fail("work was begun"))
    saved(tmp_path / "alpha.png", 1, "RGBA")
    saved(tmp_path / "ink.tiff", 1, "CMYK")
    for photo, out, words in (("alpha.png", "b.jpg", "no alpha"), ("ink.tiff", "b.png", ".tiff")):
        assert run(["edit", str(tmp_path / photo), "--out", str(tmp_path / out)], plain) == 2
        assert words in capsys.readouterr().err
