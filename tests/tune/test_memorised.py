"""Copies are told from what was learnt, also among pictures that were given twice."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guided import zoo
from guided.train import setup
from guided.tune import Asked, memorised, recipe_for


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))


class Copies:
    """Draws the very pictures of a job."""

    def __init__(self, arrays: np.ndarray[Any, Any]) -> None:
        self.arrays = arrays

    def __iter__(self) -> Any:
        return (Image.fromarray(array) for array in self.arrays)


@pytest.mark.parametrize("copies", [1, 2])
def test_what_is_copied_is_near(
    copies: int, words_base: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for at in range(5):
        file = tmp_path / "data" / f"{at}.png"
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8)).save(file)
        for copy in range(1, copies):
            shutil.copy(file, tmp_path / "data" / f"{at} ({copy}).png")
    base = zoo.load_model(words_base)
    asked = Asked(replay=0.0)
    recipe = recipe_for(base, str(words_base), tmp_path / "data", "lora", tmp_path / "run", asked)
    job = setup.prepare(recipe, torch.device("cpu"))

    def drawn(model: Any, job: Any, rows: Any) -> Any:
        arrays = np.stack([job.pictures[row].permute(1, 2, 0).numpy() for row in rows])
        return Copies(arrays), [""] * len(rows)

    monkeypatch.setattr(memorised, "drawn", drawn)
    found = memorised.memorised(base, job)
    assert found is not None and found.apart > 0.1
    assert found.facts()["near"] == len(job.split.train)


def test_one_picture_given_often_says_nothing(words_base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "data").mkdir()
    for at in range(4):
        Image.new("RGB", (8, 8), (200, 30, 60)).save(tmp_path / "data" / f"{at}.png")
    base = zoo.load_model(words_base)
    recipe = recipe_for(base, str(words_base), tmp_path / "data", "lora", tmp_path / "run", Asked(replay=0.0))
    assert memorised.memorised(base, setup.prepare(recipe, torch.device("cpu"))) is None
