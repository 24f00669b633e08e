"""A latent pipeline as one file in the original layout, and what of such a file is kept on the way through others."""

from __future__ import annotations

import pathlib
from typing import Any

from torch import Tensor

from guided import _safetensors
from guided.model import Model, parts
from guided.model.autoencoder import AutoencoderKL
from guided.model.towers import REST
from guided.nn import UNet
from guided.text import locate
from guided.zoo import names
from guided.zoo.diffusers_export import tensors_of
from guided.zoo.pipeline import LAYOUT
from guided.zoo.whole import SD, XL, Tower, Whole


def is_whole(model: Model) -> bool:
    """Whether a model is a latent pipeline that came from diffusers or from a single file."""
    came = model.card.get("layout") or {}
    return came.get("name") == LAYOUT and isinstance(model.codec, AutoencoderKL)


def tensors(model: Model) -> dict[str, Tensor]:
    """All tensors of its file, by their original names and in the dtypes they came in.

    Kept is what a file held beside its parts (buffers of the noise, position_ids, the last layer of SD 2's text
    encoder, which nothing reads), but for the copies of moving averages. Raises ValueError naming the part that has no
    counterpart.
    """
    came, codec, network = model.card["layout"], model.codec, model.denoiser.network
    assert isinstance(codec, AutoencoderKL) and isinstance(network, UNet)
    folders = [locate(tower["from"]) for tower in model.encoders["text"].spec["towers"]]
    rest = folders[0].folder / REST
    kept = _safetensors.load(rest) if rest.is_file() else {}
    towers = tuple(_tower(found.folder, i, len(folders) == 2) for i, found in enumerate(folders))
    if len(towers) == 1 and not towers[0].clip:
        last = f"{towers[0].prefix}transformer.resblocks.{towers[0].config['num_hidden_layers']}."
        if not any(name.startswith(last) for name in kept):
            raise ValueError(
                f"{last}: a folder of diffusers holds Stable Diffusion 2's text encoder without its last layer, which "
                "the original layout wants; only what came from a single file goes back to one"
            )
    unet: dict[str, Any] = {"use_linear_projection": False, **came["unet"]}
    found = {f"unet/{name}": value for name, value in tensors_of(network, unet, came).items()}
    found |= {f"vae/{name}": value for name, value in codec.tensors().items()}
    for tower, folder in zip(towers, folders, strict=True):
        for file in folder.weights:
            found |= {f"{tower.part}/{_named(name)}": value for name, value in _safetensors.load(file).items()}
    try:
        state = names.read(Whole(unet, {"latent_channels": codec.channels, **codec.config}, towers).table(), found)
    except KeyError as error:
        raise ValueError(f"{error.args[0]}: not in the model, and the original layout wants it") from None
    return {**kept, **state}


def _tower(folder: pathlib.Path, i: int, xl: bool) -> Tower:
    config = parts.read(folder / "config.json")
    part = "text_encoder" if i == 0 else f"text_encoder_{i + 1}"
    # OpenAI's CLIP has an activation of its own; the other towers are open_clip's.
    clip = config.get("hidden_act", "quick_gelu") == "quick_gelu"
    if xl and clip != (i == 0):
        raise ValueError(f"{part}: hidden_act: not the text encoder of SDXL's original file")
    stem = f"{XL}{i}." if xl else SD
    return Tower(f"{stem}{'transformer' if clip else 'model'}.", clip, part, config)


def _named(name: str) -> str:
    """The name of a tensor within `text_model`, where some versions of transformers do not put it."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"
