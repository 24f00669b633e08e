"""Pipeline folders saved by diffusers: what they draw is what its pipelines draw; what does not fit is refused."""

from __future__ import annotations

import copy
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import guided
from guided.cli import main
from guided.cond import Cond
from guided.guide import cfg
from guided.model import Model
from guided.model.autoencoder import AutoencoderKL
from guided.model.conditioning import encode
from guided.noise import Noise
from tests.zoo import pipelines
from tests.zoo.published import SMALL

diffusers = pytest.importorskip("diffusers")
PROMPT, OTHER = "a red circle left of a blue square", "two astronauts"
DRAWN = ("sd-1.5", "sd-2.1-v", "sdxl-base", "if-i-m")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {name: pipelines.saved(name, root / name) for name in SMALL}


@pytest.fixture(scope="module")
def opened(folders: dict[str, Path]) -> dict[str, Model]:
    return {name: guided.load(folder) for name, folder in folders.items()}  # type: ignore[misc]


@functools.cache
def pipeline(name: str, folder: Path) -> Any:
    where = {"if-i-m": "IFPipeline", "sdxl-base": "StableDiffusionXLPipeline"}
    pipe = getattr(diffusers, where.get(name, "StableDiffusionPipeline")).from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def scheduler(kind: str, values: Any) -> Any:
    common = {
        key: values[key]
        for key in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type")
    }
    common["timestep_spacing"] = "trailing"
    if kind == "euler":
        made = diffusers.EulerDiscreteScheduler(**common)
    elif kind == "ddim":
        made = diffusers.DDIMScheduler(**common, clip_sample=False, set_alpha_to_one=True)
    else:
        made = diffusers.DPMSolverMultistepScheduler(**common, algorithm_type="dpmsolver++", final_sigmas_type="zero")
    # DeepFloyd's pipeline asks every scheduler for it.
    made.register_to_config(variance_type=None)
    return made


def path_of(made: Any, steps: int) -> Tensor:
    """Their list of noise levels."""
    made.set_timesteps(steps)
    if hasattr(made, "sigmas"):
        return torch.as_tensor(made.sigmas, dtype=torch.float64)
    abar = made.alphas_cumprod.double()[made.timesteps]
    return torch.cat(((1 / abar - 1).sqrt(), torch.zeros(1, dtype=torch.float64)))


def theirs(name: str, folder: Path, kind: str, steps: int, n: Tensor) -> tuple[Tensor, Tensor]:
    """Their result before it is decoded, from the unit noise n, and their path."""
    pipe = pipeline(name, folder)
    made = scheduler(kind, pipe.scheduler.config)
    path = path_of(made, steps)
    pipe.scheduler = made
    first = n if kind == "euler" else n * (path[0] / (1 + path[0] ** 2).sqrt()).float()
    common = {"num_inference_steps": steps, "guidance_scale": 3.0}
    if name == "if-i-m":
        pipe.prepare_intermediate_images = lambda *_: first * made.init_noise_sigma
        return pipe(PROMPT, output_type="pt", clean_caption=False, **common).images, path
    return pipe(PROMPT, latents=first, output_type="latent", **common).images, path


@pytest.mark.parametrize("kind", ["ddim", "euler", "dpmpp"])
@pytest.mark.parametrize("name", DRAWN)
def test_the_same_noise_gives_the_same_picture(
    name: str, kind: str, folders: dict[str, Path], opened: dict[str, Model]
) -> None:
    model = opened[name]
    side = model.size[0] // getattr(model.codec, "factor", 1)
    n = Noise([5])(0, (model.channels, side, side))
    want, path = theirs(name, folders[name], kind, 5, n)
    cond = encode(model.encoders["text"], [PROMPT])
    solver = "dpmpp_2m" if kind == "dpmpp" else "euler"
    got = guided.sample(cfg(3)(model.denoiser), float(path[0]) * n, path, cond, solver=solver)
    assert (got - want).norm() < 1e-4 * want.norm()
    assert (got - want).abs().max() < 1e-4 * want.abs().max()
    drawn = model.generate(PROMPT, w=3, path=path, solver=solver, seed=5)
    picture = model.codec.decode(got).clamp(-1, 1)
    assert (drawn.tensor - picture).abs().max() < 1e-4
    assert (model.generate(OTHER, w=3, path=path, solver=solver, seed=5).tensor - picture).abs().max() > 1e-3


def test_an_ancestral_step_has_the_learned_variance(folders: dict[str, Path], opened: dict[str, Model]) -> None:
    """One step of DDPM as their scheduler takes it with `learned_range`, at the same draw."""
    model = opened["if-i-m"]
    pipe = pipeline("if-i-m", folders["if-i-m"])
    made = diffusers.DDPMScheduler.from_pretrained(folders["if-i-m"], subfolder="scheduler")
    made.register_to_config(clip_sample=False, thresholding=False)
    made.set_timesteps(5)
    t, after = 600, 400
    abar = made.alphas_cumprod.double()
    sigma, level = ((1 / abar[i] - 1).sqrt() for i in (t, after))
    cond = encode(model.encoders["text"], [PROMPT])
    x = float(sigma) * Noise([1])(0, (3, 16, 16)) + 0.3
    with torch.no_grad():
        seen = x * abar[t].sqrt().float()
        said = pipe.unet(seen, t, encoder_hidden_states=cond.tokens).sample
        gen = torch.Generator().manual_seed(7)
        draw = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
        want = made.step(said, t, seen, generator=gen).prev_sample / abar[after].sqrt().float()
    down = guided.path.ancestral(torch.stack((sigma, level)))
    got = guided.sample(model.denoiser, x, down, cond, solver="euler", noise=lambda *_: draw)
    assert (got - want).norm() < 1e-4 * want.norm()
    plain = guided.sample(lambda *a: model.denoiser(*a), x, down, cond, solver="euler", noise=lambda *_: draw)
    assert (plain - want).norm() > 1e-3 * want.norm()


@pytest.mark.parametrize("name", ["sd-1.5", "sdxl-base", "if-i-m"])
def test_the_command_line_draws(name: str, folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert main(["generate", PROMPT, "--model", str(folders[name]), "--steps", "2", "--out", str(out)]) == 0
    assert (out / "000000.png").is_file()
    model = guided.load(folders[name])
    assert isinstance(model, Model) and f"{model.name} on" in capsys.readouterr().err
    assert model.generate(PROMPT, steps=2)[0].size == model.size[::-1]


@pytest.mark.parametrize("name", SMALL)
def test_a_model_folder_of_ours_gives_the_same_back(name: str, opened: dict[str, Model], tmp_path: Path) -> None:
    model = opened[name]
    model.save(tmp_path / "ours")
    moved = (tmp_path / "ours").rename(tmp_path / "moved")
    again = Model.open(moved)
    for key, value in model.denoiser.network.state_dict().items():
        assert torch.equal(value, again.denoiser.network.state_dict()[key])
    if "enlarging" in model.card["provenance"]["family"] or "upscaler" in model.card["provenance"]["family"]:
        image = torch.randn(1, 3, 16, 16)
        x, sigma = torch.randn(1, model.channels, 16, 16), torch.tensor(0.7)
        cond = Cond(image=image, aug=torch.tensor([0.3]))
        assert torch.equal(model.denoiser(x, sigma, cond), again.denoiser(x, sigma, cond))
    else:
        first, second = (m.generate(PROMPT, steps=2, seed=3).tensor for m in (model, again))
        assert torch.equal(first, second)
    shutil.rmtree(moved / "text_encoder")
    with pytest.raises((ValueError, FileNotFoundError), match="text_encoder"):
        _ = Model.open(moved).encoders["text"].width


@torch.no_grad()
def test_an_upscaler_is_shown_its_picture_with_the_level_of_its_noise(
    folders: dict[str, Path], opened: dict[str, Model]
) -> None:
    """Their way: sqrt(abar) image + sqrt(1 - abar) n, and the index of the level beside it."""
    for name, key in (("x4-upscaler", "low_res_scheduler"), ("if-ii-m", "image_noising_scheduler")):
        model = opened[name]
        network = diffusers.UNet2DConditionModel.from_pretrained(folders[name], subfolder="unet").eval()
        noising = diffusers.DDPMScheduler.from_pretrained(folders[name], subfolder=key)
        index = torch.tensor([20, 7])
        abar = noising.alphas_cumprod.double()[index]
        level = (1 / abar - 1).sqrt()
        picture, n = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 3, 16, 16)
        seen = noising.add_noise(picture, n, index)
        image = picture + level.float()[:, None, None, None] * n
        cond = encode(model.encoders["text"], [PROMPT, OTHER])
        x, t = torch.randn(2, model.channels, 16, 16), 300
        sigma = model.denoiser.parametrization.frame.log_sigmas()[t].exp()  # type: ignore[attr-defined]
        scaled = torch.cat((x / float((1 + sigma**2).sqrt()), seen), 1)
        want = network(scaled, t, encoder_hidden_states=cond.tokens, class_labels=index).sample[:, : model.channels]
        full = Cond(tokens=cond.tokens, mask=cond.mask, image=image, aug=level)
        D = model.denoiser(x, sigma, full)
        skip, out, _, _ = model.denoiser.parametrization.coefficients(sigma)
        assert ((D - float(skip) * x) / float(out) - want).norm() < 1e-4 * want.norm()


def test_a_mask_that_is_not_given_asks_for_the_whole_picture(opened: dict[str, Model]) -> None:
    model = opened["sd-inpainting"]
    grey = model.codec.encode(torch.zeros(1, 3, *model.size))
    cond = encode(model.encoders["text"], [PROMPT])
    image = torch.cat((torch.ones_like(grey[:, :1]), grey), 1)
    given = Cond(tokens=cond.tokens, mask=cond.mask, image=image)
    x, sigma = torch.randn(1, 4, 8, 8), torch.tensor(2.0)
    with torch.no_grad():
        assert torch.equal(model.denoiser(x, sigma, given), model.denoiser(x, sigma, cond))


def test_the_null_is_the_empty_prompt_or_zeros(opened: dict[str, Model]) -> None:
    for name, zeros in (("sd-1.5", False), ("sdxl-base", True), ("if-i-m", False)):
        model = opened[name]
        assert model.denoiser.edge is not None
        blank = encode(model.encoders["text"], ["", PROMPT, "  "])
        assert blank.mask is not None and blank.mask.any(1).tolist() == [False, True, False]
        seen = model.denoiser.edge(torch.zeros(3, model.channels, 8, 8), blank)
        assert (
            seen.tokens is not None and seen.mask is not None and bool(seen.mask.all()) and seen.tokens.shape[1] == 77
        )
        assert bool(seen.tokens[0].any()) != zeros and bool(seen.tokens[1].any())
        assert torch.equal(seen.tokens[0], seen.tokens[2])
        if not zeros:
            assert torch.equal(seen.tokens[0], model.encoders["text"]([""]).tokens[0])


def test_the_names_of_the_first_published_folders(
    folders: dict[str, Path], opened: dict[str, Model], tmp_path: Path
) -> None:
    """The text tower within a `text_model` with its positions, the autoencoder's attention by its old names."""
    folder = pipelines.copied(folders["sd-1.5"], tmp_path / "it")
    text, vae = folder / "text_encoder" / "model.safetensors", folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = {f"text_model.{name}": value for name, value in load_file(text).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, text, {"format": "pt"})
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(vae)
    for new, name in old.items():
        for key in [key for key in state if f"attentions.0.{new}." in key]:
            state[key.replace(new, name)] = state.pop(key)
    assert any("proj_attn" in name for name in state)
    save_file(state, vae)
    pipelines.edit(folder / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    model = guided.load(folder)
    assert isinstance(model, Model)
    drawn = (m.generate(PROMPT, steps=2, seed=1).tensor for m in (model, opened["sd-1.5"]))
    assert torch.equal(*drawn)
    out = guided.zoo.to_diffusers(model, tmp_path / "out")
    assert json.loads((out / "model_index.json").read_text())["safety_checker"] == [None, None]
    again = load_file(out / "vae" / vae.name)
    assert again.keys() == state.keys() and all(torch.equal(value, again[name]) for name, value in state.items())
    assert diffusers.StableDiffusionPipeline.from_pretrained(out).vae is not None


@torch.no_grad()
def test_the_decoder_is_theirs(folders: dict[str, Path], opened: dict[str, Model]) -> None:
    codec = opened["x4-upscaler"].codec
    theirs = diffusers.AutoencoderKL.from_pretrained(folders["x4-upscaler"], subfolder="vae").eval()
    assert codec.factor == 4 and codec.limit is None  # type: ignore[attr-defined]
    x, picture = torch.randn(2, 4, 6, 5), torch.rand(2, 3, 24, 20) * 2 - 1
    scale = theirs.config.scaling_factor
    assert scale == 0.08333 and torch.allclose(codec.decode(x), theirs.decode(x / scale).sample, atol=1e-6)
    assert torch.allclose(codec.encode(picture), theirs.encode(picture).latent_dist.mean * scale, atol=1e-6)


def test_half_precision_that_overflows_is_decoded_again(opened: dict[str, Model]) -> None:
    codec = opened["sd-1.5"].codec
    assert isinstance(codec, AutoencoderKL)
    x = torch.randn(1, 4, 8, 8)
    plain = codec.decode(x)
    codec.config["force_upcast"], codec.autocast = False, torch.bfloat16
    half = codec.decode(x)
    assert 0 < float((half - plain).norm() / plain.norm()) < 0.1
    codec.config["force_upcast"] = True
    assert torch.equal(codec.decode(x), plain)
    # Of weights a thousand times as large float16 holds no picture.
    network = copy.deepcopy(codec.network)
    with torch.no_grad():
        network.decoder.conv_in.weight.mul_(1e6)
    wild = AutoencoderKL(network, {**codec.config, "force_upcast": False}, codec.names)
    exact = wild.decode(x)
    wild.autocast = torch.float16
    with pytest.warns(UserWarning, match="overflows in torch.float16: once more in float32"):
        assert torch.equal(wild.decode(x), exact)
    codec.autocast = None


def test_what_a_picture_of_another_size_is_told(opened: dict[str, Model]) -> None:
    """SDXL hears the size of the picture that is drawn, in pixels."""
    model = opened["sdxl-base"]
    assert model.denoiser.edge is not None
    cond = encode(model.encoders["text"], [PROMPT])
    seen = model.denoiser.edge(torch.zeros(1, 4, 6, 10), cond)
    network = pipelines.unet("sdxl-base")
    six = torch.tensor([12.0, 20, 0, 0, 12, 20])
    assert cond.vector is not None and seen.vector is not None
    assert torch.allclose(seen.vector[0, 10:], network.add_time_proj(six).flatten(), atol=1e-6)
    assert torch.equal(seen.vector[0, :10], cond.vector[0])
    assert model.generate(PROMPT, steps=1, size=(12, 20)).tensor.shape == (1, 3, 12, 20)
