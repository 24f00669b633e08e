"""`guided distill`: it only shows what `guided.tune.distill` yields."""

from __future__ import annotations

import json
import pathlib

import pytest

from guided.cli import main
from tests.tune.distilling import tools

Capture = pytest.CaptureFixture[str]
QUICK = ["--steps", "2", "--teacher-steps", "4", "--images", "32", "--batch", "8", "--device", "cpu"]


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    tools.teacher().save("teacher")
    tools.data(pathlib.Path("pictures"))
    return tmp_path


def test_a_student_from_one_command_and_the_same_again(here: pathlib.Path, capsys: Capture) -> None:
    command = ["distill", "teacher", "--guide", "cfg(3)", "--data", "pictures", "--out", "fast", *QUICK]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out == "fast/model\n" and "a student of 2 steps in fast" in shown.err
    assert main([*command, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["distilled"]["w"] == [1.0, 3.0] and "finished at 32 images" in shown.err
    assert main(["generate", "--label", "round", "--model", "fast", "--w", "2", "--out", "o"]) == 0
    assert main(["inspect", "o/000000.png"]) == 0
    assert "--w 2" in capsys.readouterr().out
    assert main(["inspect", "fast"]) == 0
    shown = capsys.readouterr()
    assert "distillation of cfg(3)" in shown.out and "32 of 32" in shown.out and "trajectory" in shown.out
    assert not list((here / "fast").rglob(".tmp*"))


def test_what_a_student_cannot_draw_is_exit_2(here: pathlib.Path, capsys: Capture) -> None:
    assert main(["distill", "teacher", "--method", "guidance", "--data", "pictures", "--out", "fast", *QUICK]) == 0
    draw = ["generate", "--label", "round", "--model", "fast", "--out", "o"]
    capsys.readouterr()
    for words, message in (
        (["--w", "9"], "learnt guidance weights from 1 to 2, got 9; ask for one of these, or distil again with"),
        (["--negative", "square", "--w", "2"], "here leave out negative= (--negative)"),
    ):
        assert main([*draw, *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["generate", "--label", "round", "--model", "teacher", "--guide", "dial(2)", "--out", "o"]) == 2
    assert "it has no dial; write cfg(2)" in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(here: pathlib.Path, capsys: Capture) -> None:
    before = sorted(here.rglob("*"))
    command = [
        "distill",
        "teacher",
        "--guide",
        "cfg(3)",
        "--method",
        "progressive",
        "--out",
        "fast",
        "--dry-run",
        *QUICK,
    ]
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(stage["stage"], stage["images"]) for stage in facts["stages"]] == [
        ("guidance, 4 steps", 16), ("4 steps to 2", 16),
    ]  # fmt: skip
    assert facts["dial"] == "w from 1 to 3" and facts["started"] is False and facts["minutes"] >= 0
    assert main([*command, "--data", "pictures"]) == 0
    assert "4 steps to 2: 16 images, 2 updates" in capsys.readouterr().out
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--guide", "cfg(3)", "--method", "magic"],
            "method: expected one of trajectory, progressive, guidance, consistency",
        ),
        (["--guide", "cfg(", "--method", "guidance"], "guide 'cfg('"),
        (["--w-range", "4"], "--w-range: expected two numbers such as 1,6"),
        (["--w-range", "4,2"], "w_range: expected a lower and a higher weight"),
        (["--guide", "cfg(9)", "--w-range", "1,4"], "leaves out 9"),
        (["--data", "nowhere"], "nowhere"),
        (["--dtype", "fp16"], "float32 or bf16"),
        (["--teacher-steps", "12"], "times a power of two"),
        (["--prompts", "none.txt"], "none.txt"),
        (["--device", "tpu"], "--device"),
    ],
)
def test_bad_input_is_exit_2_before_anything_is_written(
    words: list[str], message: str, here: pathlib.Path, capsys: Capture
) -> None:
    assert main(["distill", "teacher", "--out", "fast", "--steps", "5", "--device", "cpu", *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and not shown.out
    assert not (here / "fast").exists()
