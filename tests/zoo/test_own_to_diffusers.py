"""A model trained here, opened by diffusers: the network and the noise levels of recipes/shapes32.yaml."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import guided
from guided import zoo
from guided.cli import main
from guided.codec import Pixels
from guided.denoiser import Around, Denoiser, V
from guided.frames import DDPM, Framed
from guided.model import Model
from guided.model.conditioning import encode
from guided.nn import UNetConfig, preset
from guided.noise import Noise
from guided.text import open as open_text
from guided.train.recipe import Recipe, load_recipe
from guided.train.setup import make_denoiser
from guided.zoo.counterpart import from_config
from guided.zoo.diffusers_config import to_config
from tests.nn.tools import wake
from tests.text.tiny import bert_folder

diffusers = pytest.importorskip("diffusers")
ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = "recipes/shapes32.yaml"
PROMPTS = ["a small red circle in the top left", "a large blue square in the center"]


def recipe(**changes: Any) -> Recipe:
    return load_recipe(ROOT / RECIPE, changes)


def drawn_by_diffusers(
    folder: pathlib.Path, tokens: Tensor, mask: Tensor, n: Tensor, mean: Tensor, w: float, steps: int
) -> tuple[Tensor, Tensor]:
    """What their network and their scheduler draw, as they open the folder, under classifier-free guidance; their path.

    tokens (B, T, C), mask (B, T), unit noise n (B, 3, H, W) and the pictures' mean, around which a model of ours
    begins (3, 1, 1): what is not said is one state of zeros. steps divides
    1,000: their DDIM steps down by a whole number of levels.
    """
    network = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet").eval()
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", set_alpha_to_one=True)
    scheduler.set_timesteps(steps)
    abar = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    path = torch.cat(((1 / abar - 1).sqrt(), torch.zeros(1, dtype=torch.float64)))
    nothing = torch.arange(tokens.shape[1]).expand(len(n), -1) == 0
    states = torch.cat((torch.zeros_like(tokens), torch.where(mask[..., None], tokens, 0.0)))
    seen = torch.cat((nothing, mask)).long()
    # Their frame has unit variance: what is drawn from is shrunk by 1 / sqrt(1 + sigma^2).
    x = (mean + n * float(path[0])) / float((1 + path[0] ** 2).sqrt())
    for t in scheduler.timesteps:
        both = network(torch.cat((x, x)), t, encoder_hidden_states=states, encoder_attention_mask=seen).sample
        null, said = both.chunk(2)
        x = scheduler.step(null + w * (said - null), t, x, eta=0.0).prev_sample
    return x, path


@torch.no_grad()
def agree(model: Model, folder: pathlib.Path, steps: int = 5, w: float = 3.0) -> float:
    """The largest difference of pictures, drawn by each on the same noise, in [-1, 1]."""
    text = encode(model.encoders["text"], PROMPTS)
    n = torch.cat([Noise([seed])(0, (3, *model.size)) for seed in (7, 8)])
    assert text.tokens is not None and text.mask is not None
    mean = torch.tensor(model.card["mean"])[:, None, None]
    want, path = drawn_by_diffusers(folder, text.tokens, text.mask, n, mean, w, steps)
    got = torch.cat([
        model.generate(prompt, path=path, solver="euler", w=w, seed=7 + i).tensor for i, prompt in enumerate(PROMPTS)
    ])  # fmt: skip
    # The two prompts must give different pictures, or agreement says nothing about the text.
    assert (got[0] - got[1]).abs().max() > 0.05
    return float((got - want.clamp(-1, 1)).abs().max())


def test_the_recipes_network_is_one_of_theirs_and_its_frame_one_of_their_schedulers() -> None:
    said = recipe()
    config = preset(said.model.preset, **said.changes())  # type: ignore[attr-defined]
    values = from_config(config)
    assert to_config(values) == dataclasses.replace(config, **_spelt(config, to_config(values)))
    found = make_denoiser(said, config).parametrization
    assert found == Framed(DDPM("linear"), V())
    # All of the schedule's levels were trained.
    assert said.denoiser.lo <= 1.001 * DDPM("linear").lo and said.denoiser.hi >= 0.999 * DDPM("linear").hi


def _spelt(config: UNetConfig, again: UNetConfig) -> dict[str, Any]:
    """What a config may spell in two ways, which are one network."""
    same = ("embed_width", "head_width", "heads", "text_only", "aug_scale")
    return {name: getattr(again, name) for name in same}


def test_a_model_of_the_recipe_draws_the_same_in_diffusers(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = open_text(str(bert_folder(tmp_path / "bert")))
    config = preset("unet32-diffusers", token_width=encoder.width)
    torch.manual_seed(0)
    made = make_denoiser(recipe(), config)
    made.autocast = None  # type: ignore[union-attr]  (training's)
    wake(made.network)
    card = {"name": "own", "size": [32, 32], "mean": [0.3, 0.1, -0.2], "defaults": {"steps": 6, "w": 3.0}}
    model = Model(made.eval(), Pixels(), {"text": encoder}, card)  # type: ignore[arg-type]
    model.save(tmp_path / "own")
    out = tmp_path / "out"
    assert main(["convert", str(tmp_path / "own"), str(out), "--to", "diffusers"]) == 0
    assert "its text encoder is none of a pipeline's parts" in "".join(capsys.readouterr())
    assert agree(model, out) < 1e-4
    values = json.loads((out / "unet" / "config.json").read_text())
    assert values["sample_size"] == [32, 32]
    again = zoo.network(load_file(out / "unet" / "diffusion_pytorch_model.safetensors"), values)
    state = model.denoiser.network.state_dict()
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())


@pytest.mark.skipif("GUIDED_SHAPES_MODEL" not in os.environ, reason="needs a run of recipes/shapes32.yaml")
def test_the_trained_model_draws_the_same_in_diffusers(tmp_path: pathlib.Path) -> None:
    model = guided.load(os.environ["GUIDED_SHAPES_MODEL"])
    assert isinstance(model, Model)
    assert agree(model, zoo.to_diffusers(model, tmp_path / "out"), steps=20) < 1e-4


def test_what_estimates_a_difference_has_no_counterpart(tmp_path: pathlib.Path) -> None:
    config = preset("unet32-diffusers", image_channels=3)
    torch.manual_seed(0)
    network = make_denoiser(recipe(), config).network
    around = Model(Around(network, Framed(DDPM(), V()), 0.02, 100.0), Pixels(), {}, {"size": [32, 32]})
    with pytest.raises(ValueError, match="denoiser: it estimates the difference"):
        zoo.to_diffusers(around, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    model = Model(Denoiser(network, Framed(DDPM(), V()), 0.02, 100.0), Pixels(), {}, {"size": [32, 32]})
    model.card["layout"] = {"name": "diffusers", "unet": from_config(config), "dtype": "F7"}
    with pytest.raises(ValueError, match="layout: dtype, dtypes: expected F32, F16, BF16, got 'F7'"):
        zoo.to_diffusers(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())
