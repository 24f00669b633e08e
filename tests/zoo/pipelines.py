"""Tiny random pipelines, saved by diffusers itself in the hub's exact format."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from guided._compat import ensure_torchvision
from tests.nn.tools import wake
from tests.text import tiny
from tests.zoo.published import SMALL

LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
COSINE = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}


def unet(name: str, **changes: Any) -> Any:
    """A small U-Net of a kind, every weight of it awake."""
    ensure_torchvision()
    import diffusers

    torch.manual_seed(1)
    network = diffusers.UNet2DConditionModel.from_config(SMALL[name] | changes).eval()
    wake(network)
    return network


def vae(levels: int = 2, **changes: Any) -> Any:
    """A small autoencoder that shrinks by 2^(levels - 1)."""
    import diffusers

    torch.manual_seed(2)
    return diffusers.AutoencoderKL(
        block_out_channels=[8] * levels,
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=16,
        **changes,
    ).eval()


def clip(
    end: str, projected: bool, width: int, seed: int, projection: int = 10, act: str = "quick_gelu"
) -> dict[str, Any]:
    """A CLIP tower and its tokenizer, which knows letters alone, as the parts of a pipeline."""
    import transformers
    from open_clip.tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: i for i, name in enumerate(names)}
    # The second tower of SDXL pads with another letter than the end.
    pad = {"pad_token": "!"} if projected else {}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, **pad)
    config = transformers.CLIPTextConfig(
        vocab_size=len(names),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        projection_dim=projection,
        hidden_act=act,
        bos_token_id=len(names) - 2,
        eos_token_id=len(names) - 1,
    )
    torch.manual_seed(seed)
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return {f"text_encoder{end}": kind(config).eval(), f"tokenizer{end}": tokenizer}


def t5(folder: Path) -> dict[str, Any]:
    import transformers

    place = tiny.t5_folder(folder / "t5")
    return {
        "text_encoder": transformers.T5EncoderModel.from_pretrained(place).eval(),
        "tokenizer": transformers.T5Tokenizer.from_pretrained(place),
    }


def build(name: str, scratch: Path) -> Any:
    """A pipeline of a kind, of tiny random parts."""
    network = unet(name)
    import diffusers

    none = {"safety_checker": None, "feature_extractor": None}
    if name.startswith("if"):
        learned = {**COSINE, "variance_type": "learned_range", "prediction_type": "epsilon"}
        given = {**t5(scratch), "unet": network, "scheduler": diffusers.DDPMScheduler(**learned), **none}
        if name == "if-i-m":
            return diffusers.IFPipeline(**given, watermarker=None, requires_safety_checker=False)
        noising = diffusers.DDPMScheduler(**COSINE)
        return diffusers.IFSuperResolutionPipeline(
            **given, image_noising_scheduler=noising, watermarker=None, requires_safety_checker=False
        )
    if name == "sdxl-base":
        towers = clip("", False, 4, 3) | clip("_2", True, 8, 4)
        scheduler = diffusers.EulerDiscreteScheduler(**LATENT, prediction_type="epsilon")
        return diffusers.StableDiffusionXLPipeline(vae=vae(), unet=network, scheduler=scheduler, **towers)
    towers = clip("", False, 12, 3)
    given = {"unet": network, **towers}
    if name == "x4-upscaler":
        low = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02)
        scheduler = diffusers.DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.0001,
            beta_end=0.02,
            prediction_type="v_prediction",
            steps_offset=1,
        )
        return diffusers.StableDiffusionUpscalePipeline(
            **given, vae=vae(3, scaling_factor=0.08333), low_res_scheduler=low, scheduler=scheduler
        )
    predicts = "v_prediction" if name == "sd-2.1-v" else "epsilon"
    scheduler = diffusers.DDIMScheduler(**LATENT, prediction_type=predicts, clip_sample=False, steps_offset=1)
    kind = diffusers.StableDiffusionInpaintPipeline if name == "sd-inpainting" else diffusers.StableDiffusionPipeline
    return kind(**given, vae=vae(), scheduler=scheduler, **none, requires_safety_checker=False)


def saved(name: str, folder: Path, **how: Any) -> Path:
    """The folder of a tiny pipeline of a kind."""
    scratch = folder.parent / f"scratch-{folder.name}"
    build(name, scratch).save_pretrained(folder, **how)
    shutil.rmtree(scratch, ignore_errors=True)
    return folder


def copied(folder: Path, place: Path) -> Path:
    """A copy of a folder, to be changed."""
    shutil.copytree(folder, place)
    return place


def edit(file: Path, **changes: Any) -> None:
    """Change entries of a JSON file; None removes one."""
    values = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
