"""`guided eval`: a thin face over `guided.evaluate`."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from guided.cli import main
from guided.evaluate.figures import Figure
from guided.evaluate.material import Watch
from guided.evaluate.report import Options, Report, is_model
from tests.model import build
from tests.tasks.build_translating import QUARTET

Capture = pytest.CaptureFixture[str]


def folder(path: pathlib.Path, seed: int, n: int = 460) -> pathlib.Path:
    rng = np.random.default_rng(seed)
    path.mkdir()
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(path / f"{i}.png")
    return path


def test_options_reach_the_judge_and_the_report_comes_back(
    tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def judge(
        subject: object, against: str, options: Options, *, sheet: object, memory: object, watch: Watch
    ) -> Report:
        asked.update(subject=subject, against=against, options=options, sheet=sheet, memory=memory)
        watch("drawing", 1, 2)
        figure = Figure("class accuracy", 0.5, 0.4, 0.6, 10)
        return Report("tiny-class", against, {"drawn": "steps 3"}, (figure,))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("guided.evaluate.report.evaluate", judge)
    model = build.class_model().save(tmp_path / "m")
    words = ["--w", "1, 2.5", "--n", "10", "--steps", "3", "--seed", "9", "--dtype", "bf16", "--sheet", "s.png"]
    words += [
        "--memory",
        "m.png",
        "--cas",
        "--clip",
        "a/clip",
        "--features",
        "timm:vit",
        "--lpips",
        "alex.pth",
        "--pickle",
    ]
    assert main(["eval", str(model), "--against", "DATA", *words]) == 0
    shown = capsys.readouterr()
    assert (
        "class accuracy" in shown.out
        and "written to m-eval.json and m-eval.png; pictures in s.png and m.png" in shown.err
    )
    assert json.loads((tmp_path / "m-eval.json").read_text())["figures"][0]["value"] == 0.5
    judges = {"cas": True, "clip": "a/clip", "features": "timm:vit", "lpips": "alex.pth", "pickle": True}
    assert asked["options"] == Options(n=10, w=(1.0, 2.5), steps=3, seed=9, **judges)
    with Image.open(tmp_path / "m-eval.png") as picture:
        assert picture.width > 1000
    assert str(asked["memory"]) == "m.png"
    assert asked["against"] == "DATA" and asked["subject"].denoiser.autocast == torch.bfloat16


@pytest.mark.slow
def test_a_folder_against_a_folder(tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = folder(tmp_path / "a", 0), folder(tmp_path / "b", 1)
    assert main(["eval", str(first), "--against", str(second)]) == 0
    shown = capsys.readouterr()
    written = json.loads((tmp_path / "a-eval.json").read_text())
    assert written["figures"] and all(figure["name"] in shown.out for figure in written["figures"][:1])
    assert main(["eval", str(first), "--against", str(second), "--json", "--out", "x.json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "x.json").read_text())
    assert {path.name for path in tmp_path.glob("*.png")} == {"a-eval.png", "x.png"}


def test_out_names_both_and_no_sheet_is_written_over(
    tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report("tiny-class", "DATA", {}, (Figure("FD", 0.5, 0.4, 0.6, 10),))
    called = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("guided.evaluate.report.evaluate", lambda *given, **named: called.append(given) or report)
    model = build.class_model().save(tmp_path / "m")
    for out, names in (("a.json", ["a.json", "a.png"]), ("b.png", ["b.json", "b.png"]), ("c", ["c", "c.png"])):
        assert main(["eval", str(model), "--against", "DATA", "--out", out]) == 0
        assert (
            all((tmp_path / name).is_file() for name in names)
            and f"{names[0]} and {names[1]}" in capsys.readouterr().err
        )
    called.clear()
    for words in (
        ["--sheet", "a.png", "--out", "a.json"],
        ["--memory", "./m-eval.png"],
        ["--sheet", "x", "--out", "x"],
    ):
        assert main(["eval", str(model), "--against", "DATA", *words]) == 2
        assert f"{words[0]}: {pathlib.Path(words[1])} is where the report goes" in capsys.readouterr().err
    assert not called, "before any work"


def test_a_missing_library_is_told_without_a_traceback(
    tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build.model("tiny-local", card={"translate": QUARTET.card()}, presence=True, classes=4).save(tmp_path / "m")
    (tmp_path / "alex.safetensors").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    pictures = folder(tmp_path / "a", 0, n=3)
    assert main(["eval", str(model), "--against", str(pictures), "--lpips", str(tmp_path / "alex.safetensors")]) in (
        1,
        2,
    )
    shown = capsys.readouterr().err
    assert "pip install --no-deps lpips" in shown and "Traceback" not in shown


def test_a_shipped_model_goes_before_a_folder_of_its_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "emoji").mkdir()
    assert is_model("emoji") and not is_model("./emoji") and is_model("nowhere")


def test_what_does_not_go_together_is_exit_2(tmp_path: pathlib.Path, capsys: Capture) -> None:
    model = build.class_model().save(tmp_path / "m")
    pictures = folder(tmp_path / "a", 0, n=3)
    for words, message in (
        ([str(model), "--against", str(pictures)], "draws classes"),
        ([str(tmp_path / "nowhere"), "--against", str(pictures)], "no such model folder"),
        ([str(model), "--against", str(tmp_path / "nowhere")], "nowhere"),
        ([str(model), "--against", str(pictures), "--w", "big"], "--w: expected numbers"),
        ([str(model)], "'--against'"),
    ):
        assert main(["eval", *words]) == 2
        assert message in capsys.readouterr().err
