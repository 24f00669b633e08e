"""`guided tune` as a person meets it: the plan, the run, the adapter it leaves, and its refusals."""

from __future__ import annotations

import json
import pathlib

import pytest

from guided.cli import main


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    out = capsys.readouterr()
    return code, out.out, out.err


SMALL = ("--images", "32", "--batch", "8", "--dtype", "float32", "--device", "cpu")


def test_a_plan_first_and_nothing_written(
    capsys: pytest.CaptureFixture[str],
    words_base: pathlib.Path,
    captioned: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    out = tmp_path / "run"
    code, said, _ = run(capsys, "tune", words_base, captioned, "--out", out, *SMALL, "--dry-run")
    assert code == 0 and not out.exists()
    for word in (
        "9 pictures (1 kept out",
        "lora, rank",
        "128 pictures that it draws itself, 50%",
        "minutes at most",
        "memory",
    ):
        assert word in said, said
    code, said, _ = run(capsys, "tune", words_base, captioned, "--out", out, *SMALL, "--dry-run", "--json")
    facts = json.loads(said)
    assert code == 0 and facts["seconds"] > 0 and facts["bytes"] > 1e6 and not out.exists()


def test_tuned_drawn_and_told_how(
    capsys: pytest.CaptureFixture[str],
    words_base: pathlib.Path,
    captioned: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    out = tmp_path / "run"
    code, said, told = run(capsys, "tune", words_base, captioned, "--out", out, *SMALL)
    assert code == 0 and said.strip().endswith(str(out / "model")) and "memorised.png" in told
    code, said, told = run(capsys, "tune", words_base, captioned, "--out", out, *SMALL)
    assert code == 0 and "finished at 32 images" in told and "goes on from where it stopped" in said
    drawn = tmp_path / "drawn"
    assert run(capsys, "generate", "a red circle", "--model", out, "--out", drawn, "--device", "cpu")[0] == 0
    code, said, _ = run(capsys, "inspect", next(drawn.glob("0*.png")))
    assert code == 0 and f"--model {out}" in said
    assert run(capsys, "inspect", out / "model")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "lorra"), "did you mean"),
        (("--size", "huge"), "--size"),
        (("--memory", "0.01"), "What would fit"),
        (("--rank", "0"), "tune.rank"),
        (("--method", "textual-inversion"), "tune.word"),
        (("--budget", "0.1", "--replay", "0"), "what is forgotten shows on replayed pictures"),
    ],
)
def test_refused_with_what_to_do(
    words: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    words_base: pathlib.Path,
    captioned: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    code, _, told = run(capsys, "tune", words_base, captioned, "--out", tmp_path / "run", *SMALL, *words)
    assert code == 2 and message in told, told


def test_folders_that_cannot_be_used_say_what_to_change(
    capsys: pytest.CaptureFixture[str],
    words_base: pathlib.Path,
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a cat")
    for folder in ("empty", "texts", "nowhere"):
        code, _, told = run(capsys, "tune", words_base, tmp_path / folder, "--out", tmp_path / "run")
        assert code == 2 and folder in told, told
