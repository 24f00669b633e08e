"""Several processes make the run of one; fewer than asked for are refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from guided.train.processes import Team, unstarted
from tests.conftest import ROOT
from tests.train.conftest import Trainers, words
from tests.train.tools import tiny


def _free_port() -> str:
    with socket.socket() as here:
        here.bind(("127.0.0.1", 0))
        return str(here.getsockname()[1])


def _together(trainers: Trainers, recipe: dict[str, Any], folder: Path) -> None:
    """Run the recipe in two processes, as torchrun starts them."""
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "LOCAL_WORLD_SIZE": "2"}
    logs = [folder / f"log{rank}" for rank in (0, 1)]
    started = [
        trainers.start(recipe, log, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank, log in enumerate(logs)
    ]
    assert [trainers.status(child) for child in started] == [0, 0], [words(log) for log in logs]


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
def test_two_processes_equal_one(
    trainers: Trainers, data: Path, tmp_path: Path, precision: str, tolerance: float
) -> None:
    changes = {"model__dropout": 0.0, "train__precision": precision, "train__images": 200, "train__save_every": 200}
    one, two = (tiny(data, tmp_path / name, **changes) for name in ("one", "two"))
    assert trainers.run(one, tmp_path / "log")[0] == 0, words(tmp_path / "log")
    _together(trainers, two, tmp_path)
    rows = [
        [json.loads(line) for line in (tmp_path / name / "losses.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    assert len(rows[0]) == len(rows[1]) == 50
    for a, b in zip(*rows, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=tolerance)
    for name in ("weights", "ema-0.050", "ema-0.100", "uncertainty"):
        a, b = (load_file(tmp_path / n / "checkpoints" / "000000200" / f"{name}.safetensors") for n in ("one", "two"))
        scale = max(float(value.abs().max()) for value in a.values())
        assert max(float((a[key] - b[key]).abs().max()) for key in a) <= tolerance * scale


def test_torchrun_or_one_process_pass() -> None:
    assert unstarted({}, []) is None
    assert unstarted({"MASTER_ADDR": "a"}, []) is None
    assert unstarted({"WORLD_SIZE": "1"}, []) is None
    assert unstarted({"WORLD_SIZE": "2", "RANK": "0"}, []) is None
    assert unstarted({"ACCELERATE_MIXED_PRECISION": "no"}, ["accelerate", "launch", "--num_processes", "1"]) is None


def test_fewer_processes_than_asked_for_are_noticed() -> None:
    launched = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "True"}
    assert "2 processes" in str(unstarted(launched, ["accelerate", "launch", "--num_processes", "2", "x.py"]))
    assert "4 processes" in str(unstarted(launched, ["accelerate", "launch", "--num-processes=4"]))
    assert "several" in str(unstarted(launched, []))
    assert "3 processes" in str(unstarted({"WORLD_SIZE": "3"}, []))


def test_sums_over_one_process_are_what_they_were() -> None:
    value = torch.arange(3.0)
    Team(0, 1, torch.device("cpu")).add([value])
    assert value.tolist() == [0, 1, 2]


@pytest.mark.slow
def test_accelerate_launch_that_starts_one_of_two_is_refused(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"  # JSON is YAML
    recipe.write_text(json.dumps(tiny(data, tmp_path / "run")))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    script = tmp_path / "go.py"
    script.write_text(f"import guided\nfor step in guided.fit({str(recipe)!r}): pass\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, env=env, timeout=200)
    assert done.returncode != 0
    assert "asked for 2 processes but started only this one" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_torchrun_itself(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(tiny(data, tmp_path / "run")))
    script = tmp_path / "go.py"
    script.write_text(f"import guided\nfor step in guided.fit({str(recipe)!r}): pass\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", _free_port()]
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, env=env, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
