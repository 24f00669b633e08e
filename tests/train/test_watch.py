"""Held-out loss and previews look at a run without touching it; its lines survive a full disk."""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from guided.denoiser import spread
from guided.noise import Noise
from guided.train import load_recipe, loss, setup
from guided.train.log import Lines, rows
from guided.train.watch import HeldOut, grid, preview
from tests.train.tools import tiny


@pytest.fixture(scope="module")
def job(data: Path, tmp_path_factory: pytest.TempPathFactory) -> setup.Job:
    recipe = tiny(data, tmp_path_factory.mktemp("run"), data__hold_out={"share": 0.4, "pairs": 0})
    return setup.prepare(load_recipe(recipe), torch.device("cpu"))


def test_held_out_loss_is_that_of_the_held_pictures(job: setup.Job) -> None:
    held = HeldOut(job)(job.denoiser.eval(), loss.objective(job.recipe, job.denoiser.parametrization))
    assert len(held) == 9 and held["mean"] == pytest.approx(sum(v for k, v in held.items() if k != "mean") / 8)
    x0 = torch.stack([job.pictures[row] for row in job.held]).double() / 127.5 - 1
    assert 2 < len(x0) < 16
    noise = Noise([3 + row for row in job.held], "held")(0, x0.shape[1:]).double()
    denoise = copy.deepcopy(job.denoiser).double()
    for u, (name, value) in zip((np.arange(8) + 0.5) / 8, held.items(), strict=False):
        sigma = job.law.quantile(torch.tensor([u])).expand(len(x0))
        assert float(name) == pytest.approx(float(sigma[0]), rel=1e-3)
        with torch.no_grad():
            D = denoise(x0 + spread(sigma, x0) * noise, sigma, job.conditions(job.held))
        w = (sigma[0] ** 2 + 0.25) / (0.5 * sigma[0]) ** 2
        assert value == pytest.approx(float(w * (D - x0).square().mean()), rel=1e-4)


def test_looking_draws_nothing_from_torchs_generator(job: setup.Job, tmp_path: Path) -> None:
    before = torch.get_rng_state(), random.getstate()
    weights = [p.clone() for p in job.denoiser.parameters()]
    HeldOut(job)(job.denoiser.eval(), loss.objective(job.recipe, job.denoiser.parametrization))
    preview(job, job.denoiser, tmp_path / "p.png")
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert all(torch.equal(a, b) for a, b in zip(weights, job.denoiser.parameters(), strict=True))
    assert Image.open(tmp_path / "p.png").size == (2 * 10 + 2, 12), "a picture for each class"


def test_grid_shows_the_pictures(tmp_path: Path) -> None:
    images = torch.linspace(-1.2, 1.2, 9)[:, None, None, None].expand(9, 1, 4, 6)
    grid(images, tmp_path / "g.png")
    sheet = np.asarray(Image.open(tmp_path / "g.png"))
    assert sheet.shape == (2 * 6 + 2, 8 * 8 + 2, 3)
    for at, value in enumerate(torch.linspace(-1.2, 1.2, 9).clamp(-1, 1).tolist()):
        tile = sheet[2 + at // 8 * 6 :, 2 + at % 8 * 8 :][:4, :6]
        assert np.abs(tile.astype(float) - (value + 1) * 127.5).max() <= 0.51
    assert (sheet[:2] == 255).all()


def test_lines_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "l.jsonl"
    lines = Lines(file, 0)
    values = [0.1 + 1e-16 * at for at in range(5)]
    for at, value in enumerate(values):
        lines.add({"images": at + 1, "loss": value})
    with file.open("a") as torn:
        torn.write('{"images": 6, "lo')
    assert [row["loss"].hex() for row in rows(file)] == [value.hex() for value in values]
    again = Lines(file, 3)
    assert [row["images"] for row in again.kept] == [1, 2, 3]
    assert [json.loads(line)["images"] for line in file.read_text().splitlines()] == [1, 2, 3]


def test_lines_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(tmp_path / "l.jsonl", 0)
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: write(handle, content[:5]))
    lines.add({"images": 1})
    assert (tmp_path / "l.jsonl").read_bytes() == b"", "half a line is taken back"
    monkeypatch.setattr(os, "write", write)
    lines.add({"images": 2})
    assert [row["images"] for row in rows(tmp_path / "l.jsonl")] == [1, 2]
