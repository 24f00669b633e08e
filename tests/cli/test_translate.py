"""`guided translate`, `upscale` and `cascade`, as a newcomer types them: a photo, a folder, a wrong word."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from guided import Cascade
from guided.cli import main
from guided.model import Model, record_of
from tests.cascade.test_cascade import base, up
from tests.cli.test_edit import pixels, saved
from tests.tasks.build_translating import larger, quartet

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    found = {"quartet": quartet().save(root / "quartet"), "larger": larger().save(root / "larger")}
    found["both"] = Cascade([base(), up()], name="both").save(root / "both")
    return {name: str(place) for name, place in found.items()}


def test_a_photo_is_what_the_model_makes_of_it(models: dict[str, str], tmp_path: pathlib.Path, capsys: Capture) -> None:
    saved(tmp_path / "a.png", 1)
    words = ["--model", models["quartet"], "--steps", "2", "--seed", "3", "--out", str(tmp_path / "b.png")]
    assert main(["translate", str(tmp_path / "a.png"), "--task", "jpeg", *words]) == 0
    shown = capsys.readouterr()
    assert "b.png" in shown.out and "b-sheet.png" in shown.err
    wanted = Model.open(models["quartet"]).translate(tmp_path / "a.png", task="jpeg", steps=2, seed=3)
    assert np.array_equal(pixels(tmp_path / "b.png"), wanted.arrays[0])
    assert main(["inspect", str(tmp_path / "b.png")]) == 0
    assert "guided translate" in capsys.readouterr().out


def test_the_printed_command_makes_it_again(models: dict[str, str], tmp_path: pathlib.Path, capsys: Capture) -> None:
    import shlex

    from guided.cli import again

    saved(tmp_path / "a.png", 1)
    words = ["--model", models["larger"], "--steps", "2", "--exact", "--out", str(tmp_path / "b.png")]
    assert main(["upscale", str(tmp_path / "a.png"), *words]) == 0
    line = again.command(record_of(tmp_path / "b.png") or {})
    assert line is not None
    parts = [str(tmp_path / "c.png") if part == "again.png" else part for part in shlex.split(line)[1:]]
    assert main(parts) == 0
    assert np.array_equal(pixels(tmp_path / "b.png"), pixels(tmp_path / "c.png"))


def test_a_folder_gives_a_folder_and_goes_on(models: dict[str, str], tmp_path: pathlib.Path, capsys: Capture) -> None:
    for seed, mode in enumerate(("RGB", "L", "RGBA", "CMYK")):
        saved(tmp_path / "in" / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}", seed, mode, (9, 7))
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    words = ["--model", models["larger"], "--steps", "2", "--out", str(tmp_path / "out")]
    assert main(["upscale", str(tmp_path / "in"), *words]) == 2
    assert "1 of 5 photos could not be done" in capsys.readouterr().err
    (tmp_path / "in" / "broken.png").unlink()
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert set(made) == {"RGB.png", "L.png", "RGBA.png", "CMYK.tiff", "images.jsonl"}
    assert Image.open(tmp_path / "out" / "RGBA.png").size == (28, 36)
    assert [Image.open(tmp_path / "out" / name).mode for name in ("L.png", "RGBA.png", "CMYK.tiff")] == [
        "L",
        "RGBA",
        "CMYK",
    ]
    saved(tmp_path / "in" / "new.png", 9, size=(9, 7))
    assert main(["upscale", str(tmp_path / "in"), *words]) == 0
    assert "4 of 5 are done already" in capsys.readouterr().err
    assert all(
        (tmp_path / "out" / name).stat().st_mtime_ns == at for name, at in made.items() if name != "images.jsonl"
    )
    assert main(["upscale", str(tmp_path / "in"), *words, "--scale", "2"]) == 2
    assert "scale: None there, 2 now" in capsys.readouterr().err


def test_holes_by_mask_and_beyond_the_border(models: dict[str, str], tmp_path: pathlib.Path) -> None:
    array = saved(tmp_path / "a.png", 1, size=(30, 30))
    words = ["--model", models["quartet"], "--steps", "2"]
    out = tmp_path / "b.png"
    assert (
        main(
            [
                "translate",
                str(tmp_path / "a.png"),
                "--task",
                "inpaint",
                "--mask",
                "5,6,20,21",
                *words,
                "--out",
                str(out),
            ]
        )
        == 0
    )
    kept = np.ones((30, 30), bool)
    kept[6:21, 5:20] = False
    assert np.array_equal(pixels(out)[kept], array[kept]) and not np.array_equal(pixels(out), array)
    out = tmp_path / "c.png"
    assert (
        main(
            ["translate", str(tmp_path / "a.png"), "--task", "uncrop", "--expand", "0,0,9,0", *words, "--out", str(out)]
        )
        == 0
    )
    assert pixels(out).shape == (30, 39, 3) and np.array_equal(pixels(out)[:, :30], array)


def test_a_cascade_is_joined_draws_edits_and_enlarges(
    models: dict[str, str], tmp_path: pathlib.Path, capsys: Capture
) -> None:
    both = models["both"]
    joined = str(tmp_path / "joined")
    parts = [f"{both}/stage1", f"{both}/stage2"]
    assert main(["cascade", "join", *parts, "--out", joined, "--level", "0.2"]) == 0
    assert "16 x 16, 64 x 64 pixels" in capsys.readouterr().err
    assert Cascade.load(joined).levels == (0.2,)
    assert (
        main(["generate", "--label", "cat", "--model", joined, "--steps", "2", "--out", str(tmp_path / "drawn")]) == 0
    )
    assert pixels(tmp_path / "drawn" / "000000.png").shape == (64, 64, 3)
    wanted = Cascade.load(joined).generate(labels="cat", steps=2)
    assert np.array_equal(pixels(tmp_path / "drawn" / "000000.png"), wanted.arrays[0])
    array = saved(tmp_path / "a.png", 1, size=(50, 40))
    words = [
        "--model",
        joined,
        "--label",
        "cat",
        "--steps",
        "2",
        "--mask",
        "9,9,30,30",
        "--out",
        str(tmp_path / "e.png"),
    ]
    assert main(["edit", str(tmp_path / "a.png"), *words]) == 0
    kept = np.ones((50, 40), bool)
    kept[9:30, 9:30] = False
    assert np.array_equal(pixels(tmp_path / "e.png")[kept], array[kept])
    assert main(["upscale", str(tmp_path / "a.png"), "--model", joined, "--out", str(tmp_path / "u.png")]) == 0
    assert pixels(tmp_path / "u.png").shape == (200, 160, 3)
    assert main(["cascade", "join", *parts, "--out", joined]) == 2


def test_with_another_adapter_a_picture_is_not_done_already(
    models: dict[str, str], tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guided.cli import common

    monkeypatch.setattr(common, "open_drawing", lambda path, device, dtype, lora: Model.open(path))
    saved(tmp_path / "a.png", 1)
    words = ["upscale", str(tmp_path / "a.png"), "--model", models["larger"], "--steps", "1", "--out"]
    assert main([*words, str(tmp_path / "b.png"), "--lora", "one"]) == 0
    assert main([*words, str(tmp_path / "b.png"), "--lora", "two"]) == 2
    assert "lora: ['one'] there, ['two'] now" in capsys.readouterr().err


WRONG = {
    "translate a.png --model larger --out b.png": "use model.upscale (guided upscale)",
    "translate a.png --model quartet --out b.png": "several tasks: give task= (--task)",
    "translate a.png --model quartet --task inpaint --out b.png": "give mask= (--mask)",
    "upscale a.png --model quartet --out b.png": "makes no pictures larger",
    "upscale a.png --model larger --scale 3 --out b.png": "a divisor of 4, got 3",
    "upscale none.png --model larger --out b.png": "no such picture or folder",
    "upscale a.png --model both --scale 2 --out b.png": "it enlarges without --scale",
    "upscale a.png --model both --w 0 --out b.png": "it enlarges without --w",
    "translate a.png --model quartet --task colorize --out b.png": "did you mean colourise?",
    "cascade join larger larger --out a.png": "--out: a.png is there already",
    "edit a.png --model both --label cat --faithful 10% --out b.png": "it edits without --faithful",
    "generate --model larger": "use model.upscale",
    "cascade join larger larger --out c": "the first stage draws them",
    "cascade doctor larger --against x": "one model, no cascade",
    "demo --model larger": "use model.upscale",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_is_told_what_to_change(
    line: str, models: dict[str, str], tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "a.png", 1)
    assert main([models.get(word, word) for word in line.split()]) == 2
    assert WRONG[line] in capsys.readouterr().err
    assert not (tmp_path / "b.png").exists() and not (tmp_path / "c").exists()


def test_the_record_of_a_cascades_picture_prints_its_command(models: dict[str, str], tmp_path: pathlib.Path) -> None:
    import shlex

    from guided.cli import again

    main(
        [
            "generate",
            "--label",
            "dog",
            "--model",
            models["both"],
            "--steps",
            "2",
            "--seed",
            "4",
            "--out",
            str(tmp_path / "o"),
        ]
    )
    record = record_of(tmp_path / "o" / "000000.png") or {}
    line = again.command(record)
    assert line is not None and json.dumps(record["stages"])
    assert main([*shlex.split(line)[1:], "--out", str(tmp_path / "p")]) == 0
    assert np.array_equal(pixels(tmp_path / "o" / "000000.png"), pixels(tmp_path / "p" / "000000.png"))
