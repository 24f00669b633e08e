"""Networks of every family we know, adapters of random values, and models to put them on."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import torch
from torch import Tensor, nn

import guided
from guided.cond import Cond
from guided.model import Model
from guided.nn import UNet, UNetConfig, preset
from guided.tune import adapters
from guided.tune.adapters import Adapter, LowRank
from guided.tune.adapters.fresh import targeted
from tests.nn.tools import awake, inputs
from tests.zoo import pipelines
from tests.zoo.published import SMALL

ADM = UNetConfig(
    out_channels=6,
    widths=(16, 32),
    blocks=1,
    resample="resblock",
    depth=(0, 1),
    head_width=8,
    classes=3,
    groups=8,
)
TARGETS = ["attention", "*conv1", "*skip", "*embed", "*.move.conv", "*proj_in", "*mlp_in", "conv_in"]


def configs() -> dict[str, UNetConfig]:
    """A network of ADM, of ours, and of each published pipeline."""
    from guided.zoo.diffusers_config import to_config

    own = {"adm": ADM, "ours": preset("tiny-text"), "classes": dataclasses.replace(preset("tiny"), classes=3)}
    return own | {name: to_config(SMALL[name]) for name in ("sd-1.5", "sd-2.1-v", "sdxl-base", "x4-upscaler", "if-i-m")}


FAMILIES = ("adm", "ours", "classes", "sd-1.5", "sd-2.1-v", "sdxl-base", "x4-upscaler", "if-i-m")


def network(name: str, seed: int = 0) -> UNet:
    """A network of a family, every weight of it awake, and frozen as an opened one is."""
    return awake(configs()[name], seed=seed).eval().requires_grad_(False)


@torch.no_grad()
def said(net: nn.Module) -> Tensor:
    """What a network says to fixed inputs."""
    config: Any = net.config
    x, c_noise, cond = inputs(config)
    return net(x, c_noise, cond)


def there(net: UNet) -> list[str]:
    """Those of `TARGETS` that a network has layers for."""
    found = []
    for target in TARGETS:
        try:
            targeted(net, target)
        except ValueError:
            continue
        found.append(target)
    return found


def shaken(parameters: dict[str, nn.Parameter], seed: int = 0, size: float = 0.1) -> None:
    """Random values in place of those a new adapter begins with."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in parameters.values():
            value.add_(size * torch.randn(value.shape, generator=g))


def random(net: UNet, dora: bool = False, seed: int = 0, rank: int = 2) -> Adapter:
    """An adapter of random values for a network, which has none afterwards."""
    shaken(adapters.fresh(net, rank, 3.0, there(net), dora, seed), seed)
    made = adapters.adapter_of(net)
    adapters.eject(net)
    return dataclasses.replace(made, name=f"random-{seed}")


def delta(change: LowRank, weight: Tensor) -> Tensor:
    """What a change adds to a weight, written out in float64."""
    W = weight.double().reshape(len(weight), -1)
    B, A = change.up.double(), change.down.double().reshape(change.rank, -1)
    V = W + change.alpha / change.rank * torch.einsum("or,ri->oi", B, A)
    if change.magnitude is not None:
        V = torch.einsum("o,oi,o->oi", change.magnitude.double(), V, (V * V).sum(1) ** -0.5)
    return (V - W).reshape(weight.shape)


def pipeline(name: str, place: pathlib.Path) -> tuple[Any, Model]:
    """A tiny pipeline as diffusers opens it, and as guided does."""
    folder = place if (place / "model_index.json").is_file() else pipelines.saved(name, place)
    return theirs(name, folder), guided.load(folder)


def theirs(name: str, folder: pathlib.Path) -> Any:
    """A pipeline's folder as diffusers opens it."""
    import diffusers

    kind = diffusers.StableDiffusionXLPipeline if name == "sdxl-base" else diffusers.StableDiffusionPipeline
    return kind.from_pretrained(folder)


@torch.no_grad()
def their_words(pipe: Any, text: str) -> list[Tensor]:
    """What a pipeline of theirs makes of a prompt: encodings, and for SDXL the pooled vector and all it is told."""

    def ids(tokenizer: Any) -> Tensor:
        found = pipe.maybe_convert_prompt(text, tokenizer)
        return tokenizer(found, padding="max_length", max_length=77, return_tensors="pt").input_ids

    if not hasattr(pipe, "text_encoder_2"):
        return [pipe.text_encoder(ids(pipe.tokenizer))[0]]
    first = pipe.text_encoder(ids(pipe.tokenizer), output_hidden_states=True).hidden_states[-2]
    second = pipe.text_encoder_2(ids(pipe.tokenizer_2), output_hidden_states=True)
    return [torch.cat([first, second.hidden_states[-2]], -1), second.text_embeds]


X = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
TIME = torch.tensor([500.0])
SIZES = torch.tensor([[16.0, 16, 0, 0, 16, 16]])


@torch.no_grad()
def their_answer(pipe: Any, text: str) -> list[Tensor]:
    """The encodings of a prompt, and what the whole U-Net says to it."""
    words = their_words(pipe, text)
    added = {"text_embeds": words[1], "time_ids": SIZES} if len(words) == 2 else None
    return [*words, pipe.unet(X, TIME, words[0], added_cond_kwargs=added).sample]


@torch.no_grad()
def our_answer(model: Model, text: str) -> list[Tensor]:
    """The same of ours."""
    from diffusers.models.embeddings import get_timestep_embedding

    found = model.encoders["text"]([text])
    vector = found.vector
    if vector is not None:
        waves = (model.denoiser.network.config.vector_width - vector.shape[-1]) // 6
        vector = torch.cat([vector, get_timestep_embedding(SIZES.flatten(), waves, True, 0).reshape(1, -1)], -1)
    cond = Cond(tokens=found.tokens, mask=found.mask, vector=vector)
    words = [found.tokens] if found.vector is None else [found.tokens, found.vector]
    return [*words, model.denoiser.network(X, TIME, cond)]


def apart(a: list[Tensor], b: list[Tensor]) -> float:
    """The largest difference of two answers."""
    return max((x - y).abs().max().item() for x, y in zip(a, b, strict=True))
