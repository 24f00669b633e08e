"""`guided train`: it only shows what `guided.fit` yields."""

from __future__ import annotations

import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

from guided.cli import main

Capture = pytest.CaptureFixture[str]
RECIPE = """
name: toy
data: {path: pictures, size: 8, condition: class, hold_out: null}
model: {preset: tiny-class}
train: {images: 96, batch_size: 16, warmup: 0, save_every: 48, preview_every: 0, held_every: 0, tensorboard: false}
sample: {steps: 2, w: 2.0}
"""


@pytest.fixture
def here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(tmp_path / "pictures" / label / f"{i}.png")
    (tmp_path / "toy.yaml").write_text(RECIPE)
    return tmp_path


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(here: pathlib.Path, capsys: Capture) -> None:
    before = sorted(here.rglob("*"))
    assert main(["train", "toy.yaml", "train.images=100", "--dry-run", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["pictures"] == {"all": 12, "training": 12}
    assert facts["updates"] == 7 and facts["parameters"] > 1000 and facts["out"] == "runs/toy"
    assert main(["train", "toy.yaml", "--dry-run"]) == 0
    assert "parameters" in capsys.readouterr().out
    assert main(["train", "toy.yaml", "task=classifier", "estimates=nowhere", "--dry-run"]) == 2
    assert "nowhere: no such model folder" in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_a_run_its_model_and_the_same_command_again(here: pathlib.Path, capsys: Capture) -> None:
    command = ["train", "toy.yaml", "out=my run", "--device", "cpu"]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert shown.out == "my run/model\n"
    assert "toy in my run on cpu, float32" in shown.err
    assert main([*command, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["images"] == 96
    assert "finished at 96 images" in shown.err
    assert main(["generate", "--label", "dog", "--model", "my run", "--out", "o"]) == 0
    assert main(["inspect", "my run"]) == 0
    shown = capsys.readouterr()
    assert "96 of 96" in shown.out and re.search(r"finished +true", shown.out)
    assert main([*command, "--dry-run", "train.lr=1"]) == 2
    assert "holds a run of another recipe" in capsys.readouterr().err
    assert not list((here / "my run").rglob(".tmp*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.yaml"], "nowhere.yaml"),
        (["toy.yaml", "train.imagse=5"], "imagse"),
        (["toy.yaml", "train.batch_size=big"], "train.batch_size"),
        (["toy.yaml", "data.path=nowhere"], "nowhere"),
        (["toy.yaml", "--dtype", "int4"], "--dtype"),
        (["toy.yaml", "--device", "tpu"], "--device"),
    ],
)
def test_bad_input_is_exit_2_before_anything_is_written(
    words: list[str], message: str, here: pathlib.Path, capsys: Capture
) -> None:
    assert main(["train", *words]) == 2
    shown = capsys.readouterr()
    assert message in shown.err and "Traceback" not in shown.err and not shown.out
    assert not list(here.glob("runs/*/checkpoints"))


def test_dtype_is_the_precision_of_the_recipe(here: pathlib.Path, capsys: Capture) -> None:
    assert main(["train", "toy.yaml", "--dtype", "bfloat16", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "bf16"
