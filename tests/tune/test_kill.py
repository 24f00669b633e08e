"""A tuning run that is killed goes on to the same bytes, by every method."""

from __future__ import annotations

import os
import pathlib
import signal
import time

import pytest

from guided import zoo
from guided.tune import Asked, recipe_for
from tests.train.conftest import Trainers
from tests.train.tools import digest

METHODS = ("lora", "dora", "full", "dreambooth", "textual-inversion", "lora and text")


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_goes_on_bit_for_bit(
    method: str, trainers: Trainers, words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    env = {"GUIDED_CACHE": str(tmp_path / "cache")}
    asked = Asked(images=64, batch_size=8, word="zwx", text_rank=2 if "text" in method.split() else None)
    changes = {"tune.replayed": 8, "train.save_every": 16, "train.precision": "float32", "train.held_every": 16}
    base = zoo.load_model(words_base)

    def recipe(name: str) -> dict[str, object]:
        made = recipe_for(base, str(words_base), captioned, method.split()[0], tmp_path / name, asked, changes)
        return made.model_dump(mode="json", exclude_unset=True)

    status, words = trainers.run(recipe("whole"), tmp_path / "whole.log", env=env)
    assert status == 0, words
    wanted = digest(tmp_path / "whole")
    for number, updates in enumerate((1, 3, 6)):
        out = tmp_path / f"killed{number}"
        child = trainers.start(recipe(out.name), tmp_path / "log", env=env)
        losses, limit = out / "losses.jsonl", time.monotonic() + 60
        while not (losses.exists() and losses.read_bytes().count(b"\n") >= updates):
            assert time.monotonic() < limit, (tmp_path / "log").read_text()
            time.sleep(1e-3)
        os.kill(child, signal.SIGKILL)
        trainers.status(child)
        status, words = trainers.run(recipe(out.name), tmp_path / "log", env=env)
        assert status == 0, words
        found = digest(out)
        assert found == wanted, [name for name in wanted if found.get(name) != wanted[name]]
