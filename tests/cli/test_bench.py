"""`guided bench unet | sample | train | overhead | scaling | report`: rows, JSON, files and refusals."""

from __future__ import annotations

import json
import pathlib

import pytest

from guided.bench import cases, memory, tuned
from guided.bench.cases import Group
from guided.cli import main

ROW = {"name", "ours", "peer", "ratio", "low", "high"}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch.compile, which takes a minute, and without processes of their own."""
    best = tuned.best
    monkeypatch.setattr(tuned, "best", lambda *a, **k: [s for s in best(*a, **k) if s.compiled is None])
    monkeypatch.setattr(memory, "asked", lambda words: 1000)


COMMANDS = {
    "unet": ["--size", "tiny", "--batches", "1", "--dtype", "float32"],
    "sample": ["--size", "tiny", "--batches", "1", "--steps", "3"],
    "train": ["--size", "tiny", "--batches", "1", "--dtype", "float32"],
    "overhead": ["--only", "ours, euler"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_json_is_a_list_of_rows_and_nothing_else(command: str, capsys: Capture) -> None:
    pytest.importorskip("diffusers")
    assert main(["bench", command, *COMMANDS[command], "--rounds", "2", "--device", "cpu", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert isinstance(rows, list) and len(rows) > 2
    for row in rows:
        assert set(row) == ROW and isinstance(row["name"], str)
        assert row["low"] <= row["ratio"] <= row["high"] and row["ours"] > 0 and row["peer"] > 0
    assert len({row["name"] for row in rows}) == len(rows)


def test_a_file_is_resumed_and_becomes_a_page(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    pytest.importorskip("diffusers")
    file, page = tmp_path / "rows.jsonl", tmp_path / "RESULTS.md"
    words = ["bench", "unet", *COMMANDS["unet"], "--rounds", "2", "--only", "forward, float32, batch 1: ours / "]
    assert main([*words, "--out", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "diffusers float32 default" in shown and "error" in shown and "of peak" in shown and "95 %" in shown
    count = len(file.read_text().splitlines())
    assert count == 3

    def measured(group: Group, *rest: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(cases, "_measured", measured)
    assert main([*words, "--out", str(file), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == count == len(file.read_text().splitlines())
    assert main(["bench", "report", str(file), "--out", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("# ") and "### unet" in text and "torch" in text and "diffusers float32 default" in text
    assert main(["bench", "report", str(file)]) == 0
    assert capsys.readouterr().out == text


def test_what_is_refused(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    pytest.importorskip("diffusers")
    for words, said in (
        (["unet", "--size", "huge"], "pixel64, sd15, tiny"),
        (["unet", "--batches", "0"], "--batches"),
        (["unet", "--dtype", "int8"], "--dtype"),
        (["unet", "--size", "tiny", "--only", "nothing like it"], "forward, float32, batch 1"),
        (["sample", "--device", "tpu"], "--device"),
        (["train", "--rounds", "0"], "--rounds"),
        (["report", str(tmp_path / "none.jsonl")], "none.jsonl"),
    ):
        assert main(["bench", *words]) == 2, words
        assert said in capsys.readouterr().err
    for module in ("networks", "overhead"):
        monkeypatch.setattr(f"guided.bench.{module}.installed", lambda: False)
    for command in (*COMMANDS, "scaling"):
        assert main(["bench", command]) == 2
        assert "pip install diffusers" in capsys.readouterr().err


def test_help_says_which_way_a_ratio_goes(capsys: Capture) -> None:
    for command in (*COMMANDS, "scaling"):
        assert main(["bench", command, "--help"]) == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert "above 1, ours" in shown and "For example" in shown
