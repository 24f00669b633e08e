"""`guided generate` and `guided inspect`: what is drawn, and that the printed command draws it again."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from guided.cli import main
from guided.cli.common import printable, quoted
from guided.guide import cfg
from guided.model import Model
from tests.model import build
from tests.text import tiny

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build.class_model().save(tmp_path_factory.mktemp("models") / "classes"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models")
    return str(build.real_text_model(tiny.bert_folder(folder / "bert")).save(folder / "a model 😀"))


def pixels(path: str | pathlib.Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def inspected(path: str | pathlib.Path, capsys: Capture) -> dict:
    capsys.readouterr()
    assert main(["inspect", "--json", "--", str(path)]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_it_draws_what_the_model_draws(classes: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert (
        main(["generate", "--label", "cat", "dog", "--model", classes, "--n", "2", "--seed", "5", "--out", str(out)])
        == 0
    )
    shown = capsys.readouterr()
    paths = shown.out.splitlines()
    assert [pathlib.Path(path).name for path in paths] == [f"00000{i}.png" for i in range(4)]
    wanted = Model.open(classes).generate(labels=["cat", "dog"], n=2, seed=5)
    for path, array in zip(paths, wanted.arrays, strict=True):
        assert np.array_equal(pixels(path), array)
    assert "cpu, float32" in shown.err


def test_more_pictures_than_are_drawn_between_two_writes(classes: str, tmp_path: pathlib.Path) -> None:
    options = ["--model", classes, "--steps", "1", "--seed", "3", "--out", str(tmp_path)]
    assert main(["generate", "--label", "0", "--label", "dog", "--n", "9", *options]) == 0
    wanted = Model.open(classes).generate(labels=["cat", "dog"], n=9, seed=3, steps=1)
    files = sorted(tmp_path.glob("*.png"))
    assert len(files) == 18
    assert all(np.array_equal(pixels(f), a) for f, a in zip(files, wanted.arrays, strict=True))


def test_a_model_without_a_condition(tmp_path: pathlib.Path, capsys: Capture) -> None:
    model = str(build.plain_model().save(tmp_path / "m"))
    assert main(["generate", "--n", "17", "--steps", "1", "--model", model, "--out", str(tmp_path / "o")]) == 0
    wanted = Model.open(model).generate(n=17, steps=1)
    files = sorted((tmp_path / "o").glob("*.png"))
    assert all(np.array_equal(pixels(f), a) for f, a in zip(files, wanted.arrays, strict=True))
    line = shlex.split(inspected(files[16], capsys)["command"])
    assert main([*line[1:], "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "000000.png").read_bytes() == files[16].read_bytes()


PROMPTS = ["red circle", "-rf --n 3", 'it\'s a "cat"', "$(touch PWNED) `ls`", "two\nlines \x1b[2J", "ünïcödé 😀", " "]


def test_the_command_of_a_picture_makes_it_again(words: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    options = [
        "--w",
        "3.5",
        "--negative",
        "-blue",
        "--size",
        "12x10",
        "--solver",
        "heun",
        "--steps",
        "2",
        "--seed",
        "7",
    ]
    first = tmp_path / "first"
    assert main(["generate", "--model", words, *options, "--out", str(first), "--", *PROMPTS]) == 0
    for i, (path, prompt) in enumerate(zip(sorted(first.glob("*.png")), PROMPTS, strict=True)):
        facts = inspected(path, capsys)
        assert facts["prompt"] == prompt and facts["seed"] == 7 + i and facts["size"] == [10, 12]
        # A shell reads the line, as a person would paste it.
        line = f"printf '%s\\0' {facts['command']}"
        read = subprocess.run(["bash", "-c", line], capture_output=True, check=True, cwd=tmp_path)
        arguments = read.stdout.decode().split("\0")[:-1]
        assert arguments[0] == "guided"
        again = tmp_path / f"again{i}"
        assert main([arguments[1], "--out", str(again), *arguments[2:]]) == 0
        (made,) = again.glob("*.png")
        assert made.read_bytes() == path.read_bytes(), facts["command"]
    assert not (tmp_path / "PWNED").exists()


def test_the_command_of_a_class_and_what_none_can_make(classes: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    model = Model.open(classes)
    (path,) = model.generate(labels="red bird", seed=3).save(tmp_path / "a")
    line = shlex.split(inspected(path, capsys)["command"])
    assert main([*line[1:], "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / path.name).read_bytes() == path.read_bytes()
    (path,) = model.generate(labels="cat", guide=cfg(2).during(0.1, 5)).save(tmp_path / "c")
    facts = inspected(path, capsys)
    assert "command" not in facts and "no command" in facts["remark"] and facts["guide"] == "cfg(2).during(0.1, 5)"
    (path,) = build.class_model().generate(labels="cat").save(tmp_path / "d")
    assert "not opened from a folder" in inspected(path, capsys)["remark"]
    path = model.generate(labels=["cat", "dog"], batch=2).save(tmp_path / "e")[0]
    assert "batch of 2" in inspected(path, capsys)["remark"]


def test_prompts_from_a_file(words: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    (tmp_path / "p.txt").write_text("\ufeffred cat\n\n  blue square \r\n", encoding="utf-8")
    options = ["--model", words, "--steps", "1", "--json", "--out", str(tmp_path / "o")]
    assert main(["generate", "--prompts", str(tmp_path / "p.txt"), *options]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["prompt"] for row in rows] == ["red cat", "blue square"]
    assert all(pathlib.Path(row["file"]).is_file() for row in rows)


def test_dtype_is_recorded(classes: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    assert main(["generate", "--label", "cat", "--model", classes, "--dtype", "bf16", "--out", str(tmp_path)]) == 0
    facts = inspected(tmp_path / "000000.png", capsys)
    assert facts["dtype"] == "bfloat16" and "--dtype bfloat16" in facts["command"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cat"], "draws classes, not prompts"),
        (["--label", "bat"], "unknown class 'bat'"),
        ([], "needs labels="),
        (["--label", "cat", "--steps", "0"], "steps: expected"),
        (["--label", "cat", "--steps", "many"], "'--steps'"),
        (["--label", "cat", "--size", "big"], "--size: expected WIDTHxHEIGHT"),
        (["--label", "cat", "--device", "tpu"], "--device: expected auto"),
        (["--label", "cat", "--device", "cuda:99"], "this machine has"),
        (["--label", "cat", "--dtype", "int8"], "--dtype: expected one of"),
        (["--label", "cat", "--solver", "magic"], "unknown solver"),
        (["--label", "cat", "--model", "nowhere"], "no such model folder"),
        (["--label", "cat", "--prompts", "nowhere.txt"], "only one of them"),
        (["--prompts", "nowhere.txt"], "nowhere.txt: No such file"),
        (["--colour", "red"], "No such option"),
    ],
)
def test_bad_usage_is_exit_2_and_one_message(
    arguments: list[str], message: str, classes: str, tmp_path: pathlib.Path, capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    model = [] if "--model" in arguments else ["--model", classes]
    assert main(["generate", *model, *arguments]) == 2
    shown = capsys.readouterr()
    assert "error: " in shown.err and message in shown.err
    assert "Traceback" not in shown.err and not shown.out
    assert not list(tmp_path.iterdir())


def test_names_that_look_like_options_survive(
    classes: str, tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real process, with a dash, a blank and an emoji in the name of the folder."""
    command = [sys.executable, "-m", "guided", "generate", "--label", "cat", "--steps", "1", "--model", classes]
    paths = {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    made = subprocess.run(
        [*command, "--out=-o 😀"], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **paths}
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == "-o 😀/000000.png"
    monkeypatch.chdir(tmp_path)
    assert inspected("-o 😀/000000.png", capsys)["class"] == "cat"


def test_words_for_a_terminal_and_for_a_shell() -> None:
    assert printable("a\x1b[2J\x07\u202eb\nc") == "a\\x1b[2J\\x07\\u202eb\nc"
    for word in ("plain", "two words", "it's", "-", "", "$HOME", "a\x1b'\\b\n", "😀", "\u202ex"):
        read = subprocess.run(["bash", "-c", f"printf %s {quoted(word)}"], capture_output=True, check=True)
        assert read.stdout.decode() == word


def test_a_failure_is_exit_1(classes: str, tmp_path: pathlib.Path, capsys: Capture) -> None:
    model = Model.open(classes)
    with torch.no_grad():
        model.denoiser.network.conv_out.bias[0] = float("nan")
    model.save(tmp_path / "m")
    command = ["generate", "--label", "cat", "--model", str(tmp_path / "m"), "--out", str(tmp_path / "o")]
    assert main(command) == 1
    shown = capsys.readouterr().err
    assert "warning: " in shown and "conv_out.bias" in shown
    assert "error: the picture of seed 0 holds NaN" in shown and "Traceback" not in shown
    assert not (tmp_path / "o").exists()
    assert main([*command, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_exit_130(classes: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Model, "drawing", interrupted)
    assert main(["generate", "--label", "cat", "--model", classes]) == 130
    assert "interrupted" in capsys.readouterr().err
