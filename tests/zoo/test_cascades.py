"""DeepFloyd IF's stages as one cascade, against diffusers' own pipelines on the same noise and noise levels."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

import guided
from guided import Cascade, Noise
from guided.cli import main
from guided.model import Model, Request
from tests.zoo import pipelines
from tests.zoo.test_pipeline import PROMPT, scheduler

LEVELS = [400, 250, 120, 30]
WHERE = "diffusers.pipelines.deepfloyd_if.pipeline_if_superresolution"
NAMES = ("if-i-m", "if-ii-m", "if-ii-m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cascade") / "if"
    for number, name in enumerate(NAMES, 1):
        pipelines.saved(name, root / f"stage_{number}")
    return root


def theirs(folder: Path) -> tuple[list[Tensor], Tensor]:
    """The pictures of every stage, from our noise, and their path."""
    pictures: list[Tensor] = []
    for number in range(3):
        names = "IFPipeline", "IFSuperResolutionPipeline"
        pipe: Any = getattr(diffusers, names[number > 0]).from_pretrained(folder / f"stage_{number + 1}")
        pipe.set_progress_bar_config(disable=True)
        made = scheduler("dpmpp", pipe.scheduler.config)
        made.register_to_config(solver_order=1)  # DDIM; their Euler would scale the picture that is enlarged too
        made.set_timesteps(timesteps=LEVELS)
        path = torch.as_tensor(made.sigmas, dtype=torch.float64)
        pipe.scheduler = made
        side = 16 * 4**number
        noise = Noise([5], "x" if number == 0 else f"x/stage{number}")
        first = noise(0, (3, side, side)) * float(path[0] / (1 + path[0] ** 2).sqrt())
        pipe.prepare_intermediate_images = lambda *_, at=first: at
        common = {"timesteps": LEVELS, "output_type": "pt", "clean_caption": False}
        if number == 0:
            found = pipe(PROMPT, guidance_scale=3.0, **common).images
        else:
            put = noise.child("augment")(0, (3, side, side))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    "diffusers.pipelines.deepfloyd_if.pipeline_if_superresolution.randn_tensor",
                    lambda *_, at=put, **__: at,
                )
                found = pipe(
                    PROMPT, image=pictures[-1], height=side, width=side, guidance_scale=2.0, noise_level=250, **common
                ).images
        pictures.append(found.clamp(-1, 1))
    return pictures, path


def test_a_cascade_agrees_with_their_pipelines(folder: Path) -> None:
    """From a middle level: what random weights predict at the highest fits into no picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want, path = theirs(folder)
    cascade = guided.load(folder)
    assert isinstance(cascade, Cascade) and cascade.sizes == [(16, 16), (64, 64), (256, 256)]
    own = Request(path=path, solver="euler", w=2.0)
    for count in (2, 3):
        some = Cascade(cascade.stages[:count])
        drawn = some.generate(PROMPT, w=3.0, path=path, solver="euler", later=[own] * (count - 1), seed=5)
        assert (drawn.tensor - want[count - 1]).abs().max() < 1e-4
        assert float(drawn.tensor.std()) > 0.05


def test_an_enlarging_stage_alone_takes_any_photo(folder: Path) -> None:
    model = guided.load(folder / "stage_2")
    assert isinstance(model, Model)
    given = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    assert model.upscale(given, PROMPT, steps=2)[0].size == (24, 20)
    with pytest.raises(ValueError, match=r"use model\.upscale"):
        model.generate(PROMPT)


def test_an_upscaler_of_latents_enlarges_pictures(tmp_path: Path) -> None:
    model = guided.load(pipelines.saved("x4-upscaler", tmp_path / "x4"))
    assert isinstance(model, Model)
    given = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    one, other = (model.upscale(given, words, steps=2) for words in (PROMPT, "else"))
    assert one[0].size == (48, 32) and not np.array_equal(one.arrays[0], other.arrays[0])


def test_the_command_line_draws_with_a_cascade(folder: Path, tmp_path: Path) -> None:
    two = tmp_path / "two"
    assert main(["cascade", "join", str(folder / "stage_1"), str(folder / "stage_2"), "--out", str(two)]) == 0
    assert main(["generate", PROMPT, "--model", str(two), "--steps", "2", "--out", str(tmp_path / "out")]) == 0
    assert guided.load(two).generate(PROMPT, steps=2)[0].size == (64, 64)
