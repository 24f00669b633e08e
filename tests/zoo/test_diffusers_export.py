"""What goes out to diffusers is what came in, bit for bit, and what it has no counterpart to is refused by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import guided
from guided import zoo
from guided.codec import Pixels
from guided.denoiser import Denoiser, Eps, V
from guided.frames import DDPM, Framed
from guided.model import Model
from guided.nn import UNet, UNetConfig, preset
from guided.zoo.counterpart import from_config
from guided.zoo.diffusers_config import to_config
from tests.nn.tools import awake, inputs
from tests.zoo import pipelines
from tests.zoo.published import PUBLISHED, SMALL

diffusers = pytest.importorskip("diffusers")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", SMALL)
def test_a_pipeline_comes_out_as_it_went_in(name: str, tmp_path: Path) -> None:
    source = pipelines.saved(name, tmp_path / "source")
    model = guided.load(source)
    assert isinstance(model, Model)
    # By way of a folder of our own, too.
    model.save(tmp_path / "ours")
    for number, opened in enumerate((model, Model.open(tmp_path / "ours"))):
        out = zoo.to_diffusers(opened, tmp_path / f"out{number}")
        parts = ["unet"] + (["vae"] if (source / "vae").is_dir() else [])
        for part in parts:
            before, after = load_file(source / part / WEIGHTS), load_file(out / part / WEIGHTS)
            assert before.keys() == after.keys()
            for key, value in before.items():
                assert value.dtype == after[key].dtype and torch.equal(value, after[key]), key
        for file in source.rglob("*.json"):
            assert json.loads(file.read_text()) == json.loads((out / file.relative_to(source)).read_text()), file
        for file in source.glob("text_encoder*/*.safetensors"):
            assert file.read_bytes() == (out / file.relative_to(source)).read_bytes()
    pipe = getattr(diffusers, json.loads((out / "model_index.json").read_text())["_class_name"]).from_pretrained(out)
    again = guided.load(out)
    assert isinstance(again, Model)
    state, first = again.denoiser.network.state_dict(), model.denoiser.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.items())
    assert pipe.unet.config["sample_size"] == SMALL[name]["sample_size"]


def test_weights_of_16_bits_come_out_as_they_went_in(tmp_path: Path) -> None:
    pipe = pipelines.build("sd-1.5", tmp_path / "scratch").to(torch.float16)
    pipe.save_pretrained(tmp_path / "source", variant="fp16", max_shard_size="20KB")
    assert list((tmp_path / "source" / "unet").glob("*.fp16-0000?-of-*.safetensors")) or list(
        (tmp_path / "source" / "unet").glob("*-0000?-of-*.fp16.safetensors")
    )
    model = guided.load(tmp_path / "source")
    assert isinstance(model, Model)
    assert all(value.dtype == torch.float32 for value in model.denoiser.network.state_dict().values())
    out = zoo.to_diffusers(model, tmp_path / "out")
    for part, theirs in (("unet", pipe.unet), ("vae", pipe.vae)):
        written = load_file(out / part / WEIGHTS)
        assert written.keys() == theirs.state_dict().keys()
        for key, value in theirs.state_dict().items():
            assert written[key].dtype == torch.float16 and torch.equal(value, written[key])
    assert model.generate("a cat", steps=1).tensor.isfinite().all()
    with torch.no_grad():
        model.denoiser.network.conv_in.bias += 1e-6  # type: ignore[union-attr]
    trained = load_file(zoo.to_diffusers(model, tmp_path / "trained") / "unet" / WEIGHTS)
    assert torch.equal(trained["conv_in.bias"], model.denoiser.network.conv_in.bias)  # type: ignore[union-attr]
    assert trained["conv_in.weight"].dtype == torch.float16
    wide = load_file(zoo.to_diffusers(model, tmp_path / "wide", torch.float32) / "unet" / WEIGHTS)
    assert all(value.dtype == torch.float32 for value in wide.values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_config_of_a_network_alone_gives_the_network_again(name: str) -> None:
    config = to_config(PUBLISHED[name])
    values = from_config(config)
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel.from_config(values)
        published = diffusers.UNet2DConditionModel.from_config(PUBLISHED[name])
    if PUBLISHED[name].get("use_linear_projection") == values["use_linear_projection"]:
        assert {k: v.shape for k, v in theirs.state_dict().items()} == {
            k: v.shape for k, v in published.state_dict().items()
        }


OWN = UNetConfig(
    in_channels=3,
    out_channels=3,
    widths=(8, 16, 24),
    blocks=(1, 2, 1),
    scale_shift=False,
    attention="transformer",
    depth=(0, 2, 1),
    middle_depth=1,
    head_width=8,
    groups=4,
    token_width=12,
    null_token=False,
    embed_width=20,
    norm_eps=1e-6,
)
ADDED = replace(
    OWN,
    attention="added",
    depth=(0, 1, 1),
    resample="resblock",
    scale_shift=True,
    act="gelu",
    image_channels=3,
    aug=True,
    aug_scale=1.0,
    residual_scale=1.5,
    pool_heads=2,
    cross_width=32,
    context_norm=True,
    text_only=(False, True, False),
)


@torch.no_grad()
@pytest.mark.parametrize("config", [OWN, ADDED, replace(OWN, classes=5)], ids=["transformer", "added", "classes"])
def test_a_network_of_our_own_goes_out_and_comes_back(config: UNetConfig, tmp_path: Path) -> None:
    network = awake(config).eval()
    for name in ("null_vector", "null_aug"):
        if hasattr(network.vector, name):
            getattr(network.vector, name).zero_()
    if config.classes:
        network.vector.label.weight[-1] = 0  # type: ignore[union-attr, index]
    out = zoo.to_diffusers(network, tmp_path / "unet")
    theirs = diffusers.UNet2DConditionModel.from_pretrained(out).eval()
    x, t, cond = inputs(config, (16, 16))
    mask = None if config.attention == "added" else cond.mask
    cond = replace(cond, mask=torch.ones_like(cond.mask)) if mask is None else cond  # type: ignore[type-var, arg-type]
    want = theirs(
        x if cond.image is None else torch.cat((x, cond.image), 1),
        t,
        encoder_hidden_states=cond.tokens,
        encoder_attention_mask=mask,
        class_labels=cond.label if config.classes else cond.aug,
    ).sample
    assert (network(x, t, cond) - want).norm() < 1e-5 * want.norm()
    values = json.loads((out / "config.json").read_text())
    again = zoo.network(load_file(out / WEIGHTS), values)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())


REFUSED: list[tuple[UNetConfig, str]] = [
    (preset("unet32-shapes"), "down, up: skips: UNet2DConditionModel has no counterpart to one skip a level"),
    (preset("unet64-text"), "attention: UNet2DConditionModel has no counterpart to self- and cross-attention"),
    (preset("unet64-class"), "attention: UNet2DConditionModel has no counterpart to self-attention alone"),
    (replace(OWN, null_token=True), "sequence.null"),
    (replace(OWN, token_norm=True), "sequence.norm"),
    (replace(OWN, coordinates=True), "space: coordinates"),
    (replace(OWN, image_channels=2, presence=True), "space: presence"),
    (replace(OWN, time="fourier"), "vector.features"),
    (replace(OWN, resample="plain"), "resample"),
    (replace(OWN, groups=16), "groups"),
    (replace(OWN, middle_depth=3), "middle"),
    (replace(OWN, middle_blocks=1), "middle"),
    (replace(OWN, residual_scale=2.0), "mid_block_scale_factor, resnet_out_scale_factor"),
    (replace(ADDED, aug_scale=1000.0), "vector.aug"),
]


@pytest.mark.parametrize("config, message", REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_a_network_without_counterpart_is_refused_by_its_block(
    config: UNetConfig, message: str, tmp_path: Path
) -> None:
    with torch.device("meta"):
        network = UNet(config)
    with pytest.raises(ValueError, match=message):
        zoo.to_diffusers(network, tmp_path / "unet")
    assert not list(tmp_path.iterdir())


def model_of(parametrization: Any, config: UNetConfig = OWN) -> Model:
    return Model(Denoiser(awake(config), parametrization, 0.03, 14.0), Pixels(), {}, {"size": [16, 16]})


def test_a_model_of_our_own_needs_noise_levels_that_diffusers_knows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"parametrization: Eps.*no scheduler of diffusers"):
        zoo.to_diffusers(model_of(Eps()), tmp_path / "out")
    out = zoo.to_diffusers(model_of(Framed(DDPM("cosine"), V())), tmp_path / "out")
    scheduler = diffusers.DDIMScheduler.from_pretrained(out / "scheduler")
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert torch.allclose(scheduler.alphas_cumprod.double(), DDPM("cosine").alphas_bar(), rtol=1e-5)
    diffusers.UNet2DConditionModel.from_pretrained(out / "unet")


def test_what_has_been_learnt_of_absence_is_not_lost(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"vector\.label\.weight: UNet2DConditionModel has no place"):
        zoo.to_diffusers(awake(replace(OWN, classes=5)), tmp_path / "unet")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is there already"):
        zoo.to_diffusers(awake(OWN), tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
