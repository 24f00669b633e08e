"""A run killed anywhere goes on to the same bytes: losses, weights, both averages, optimizer, model."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.train.conftest import Trainers
from tests.train.tools import digest, tiny

SAVES = 6
"""Five checkpoints (every 24 of 120 images), and the model."""
UPDATES = 30


class Reference:
    """The uninterrupted run: its bytes, how long it takes, and how long a save does."""

    def __init__(self, trainers: Trainers, data: Path, folder: Path) -> None:
        self.recipe = tiny(data, folder / "whole", data__workers=2)
        begin = time.monotonic()
        child = trainers.start(self.recipe, folder / "log")
        ends, begun, lengths = 0, 0.0, []
        while ends < SAVES:
            marks = trainers.marks()
            assert marks, (folder / "log").read_text()
            for mark in marks.decode():
                if mark == "s":
                    begun = time.monotonic()
                else:
                    lengths.append(time.monotonic() - begun)
                    ends += 1
        assert trainers.status(child) == 0
        self.seconds = time.monotonic() - begin
        self.save = max(sorted(lengths)[len(lengths) // 2], 1e-3)
        self.bytes = digest(folder / "whole")


@pytest.fixture(scope="module")
def reference(trainers: Trainers, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(trainers, data, tmp_path_factory.mktemp("reference"))


def killed(trainers: Trainers, reference: Reference, out: Path, draw: random.Random, inside: int | None) -> bool:
    """Start a run and kill it: inside its save number `inside`, or at a random moment; whether it was still alive."""
    recipe = {**reference.recipe, "out": str(out)}
    child = trainers.start(recipe, out.with_suffix(".log"))
    if inside is None:
        update, losses = draw.randrange(UPDATES), out / "losses.jsonl"
        while update and not (losses.exists() and losses.read_bytes().count(b"\n") >= update):
            time.sleep(1e-3)
        time.sleep(draw.uniform(0, 2 * reference.seconds / UPDATES))
    else:
        seen = 0
        while seen <= inside:
            marks = trainers.marks()
            assert marks, out.with_suffix(".log").read_text()
            seen += marks.count(b"s")
        time.sleep(draw.uniform(0, reference.save))
    os.kill(child, signal.SIGKILL)
    return trainers.status(child) == -signal.SIGKILL


def check(trainers: Trainers, reference: Reference, folder: Path, seed: int, inside: int | None) -> None:
    draw = random.Random(seed)
    out = folder / f"run{seed}"
    while not killed(trainers, reference, out, draw, inside):
        shutil.rmtree(out)  # the shot came too late
    status, words = trainers.run({**reference.recipe, "out": str(out)}, out.with_suffix(".log"))
    assert status == 0, words
    assert digest(out) == reference.bytes
    shutil.rmtree(out)


@pytest.mark.parametrize(("seed", "inside"), [(0, 0), (1, None), (2, SAVES - 2), (3, 2)])
def test_killed_run_goes_on_to_the_same_bytes(
    trainers: Trainers, reference: Reference, tmp_path: Path, seed: int, inside: int | None
) -> None:
    check(trainers, reference, tmp_path, seed, inside)


@pytest.mark.slow
def test_forty_kills_half_of_them_inside_a_save(trainers: Trainers, reference: Reference, tmp_path: Path) -> None:
    draw = random.Random(40)
    aimed = [0, SAVES - 2, SAVES - 1] + [draw.randrange(SAVES) for _ in range(17)]
    for at, inside in enumerate([*aimed, *[None] * 20]):
        check(trainers, reference, tmp_path, 100 + at, inside)


def test_number_of_workers_changes_no_bit(trainers: Trainers, reference: Reference, tmp_path: Path) -> None:
    recipe = {**reference.recipe, "out": str(tmp_path / "run")}
    recipe["data"] = {**reference.recipe["data"], "workers": 0}
    status, words = trainers.run(recipe, tmp_path / "log")
    assert status == 0, words
    found = digest(tmp_path / "run")
    assert {**found, "model/card.json": ""} == {**reference.bytes, "model/card.json": ""}  # the card names workers


def test_finished_run_holds_nothing_temporary(reference: Reference) -> None:
    names = set(reference.bytes)
    last = {f"checkpoints/000000120/{name}" for name in ("manifest.json", "state.json", "weights.safetensors")}
    assert last <= names
    assert {"losses.jsonl", "model/model.safetensors", "model/early.safetensors", "model/card.json"} <= names
    assert not [name for name in names if ".tmp" in name or "lock" in name or ".bad" in name]
