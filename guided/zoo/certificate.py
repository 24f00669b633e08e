"""What a pipeline folder is, and a certificate that our network computes what diffusers' own class does."""

from __future__ import annotations

import math
import pathlib
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from guided import _safetensors
from guided.cond import Cond
from guided.model import parts
from guided.nn import UNet
from guided.nn.embeddings import Sinusoid
from guided.text import locate
from guided.zoo import diffusers_open
from guided.zoo.pipeline import Facts, facts

LEVELS = (0.001, 0.2, 0.5, 0.8, 0.999)
"""Where the two networks are compared, as shares of the trained levels."""
_SIDE = 32


def describe(folder: pathlib.Path, verify: bool = False) -> dict[str, Any]:
    """What a pipeline folder says and holds, from its JSON and the headers of its files; raises as `facts`.

    verify: read the weights too, and compare the outputs of our network with those of diffusers' own.
    """
    said = facts(folder)
    predicts = {"Eps": "the noise", "V": "v"}[type(said.predicts).__name__]
    schedule = said.schedule
    found: dict[str, Any] = {
        "folder": str(folder),
        "kind": f"diffusers pipeline ({said.index['_class_name']})",
        "family": said.kind.family,
        "draws": "prompts",
        "size": f"{said.size[1]} x {said.size[0]}",
        "parameters": _parameters(said),
        "conditioning": _conditioning(said),
        "predicts": f"{predicts}{_variance(said)}",
        "noise levels": f"{schedule.steps} of {schedule.schedule!r}, sigma {schedule.lo:.4g} to {schedule.hi:.4g}",
        "defaults": {"steps": said.kind.steps, "w": said.kind.w},
        "assumed": said.assumed or "nothing",
    }
    if verify:
        found["parity"] = certificate(said)
    return found


def _variance(said: Facts) -> str:
    return ", and its variance" if said.config.out_channels == 2 * said.config.in_channels else ""


def _parameters(said: Facts) -> dict[str, str]:
    """Of each part: the number of its weights, and the dtypes they are stored in."""
    found = {}
    places = {"unet": parts.weights(said.folder / "unet")}
    if said.vae is not None:
        places["vae"] = parts.weights(said.folder / "vae")
    for i in range(len(said.kind.text)):
        part = "text_encoder" if i == 0 else f"text_encoder_{i + 1}"
        place = locate(str(said.folder / part))
        places[part] = _safetensors.Files(place.weights)
    for part, files in places.items():
        entries = _safetensors.headers(files)
        kinds = Counter(entry.dtype for entry in entries.values())
        count = sum(math.prod(entry.shape) for entry in entries.values())
        found[part] = f"{count:,} ({', '.join(kinds)})"
    return found


def _conditioning(said: Facts) -> list[str]:
    config = said.config
    told = [f"text, {config.token_width} wide ({' + '.join(_encoders(said))})"]
    told += [f"pooled text and six sizes, {config.vector_width} wide"] if config.vector_width else []
    told += ["pooled text"] if config.pool_heads else []
    if said.kind.paint:
        told.append("a mask and masked latents")
    if said.kind.low:
        told += ["a picture to enlarge", "the level of its noise"]
    return told


def _encoders(said: Facts) -> list[str]:
    return [str(said.index[name][1]) for name in ("text_encoder", "text_encoder_2")[: len(said.kind.text)]]


def certificate(said: Facts) -> str:
    """The largest relative difference between our outputs and diffusers', at `LEVELS`, on the folder's weights.

    Both networks work in float32 on the same random inputs, of at most 32 x 32. ImportError without diffusers.
    """
    worst = max(parity(said).values())
    return f"relative difference at most {worst:.2g} to UNet2DConditionModel at {len(LEVELS)} noise levels"


@torch.no_grad()
def parity(said: Facts) -> dict[float, float]:
    """The relative difference at each of `LEVELS`."""
    diffusers = parts.diffusers("--verify compares with diffusers itself")
    ours, _ = diffusers_open.folder(said.folder / "unet", said.config, diffusers_open.linear_of(said.unet))
    with parts.quiet(diffusers), torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel.from_config(said.unet).eval()
    stored = parts.load(parts.weights(said.folder / "unet"))
    theirs.load_state_dict({name: value.float() for name, value in stored.items()}, assign=True)
    x, cond, given = _inputs(said, ours)
    whole = x if cond.image is None else torch.cat((x, cond.image), 1)
    found = {}
    for share in LEVELS:
        t = torch.full((len(x),), share * (said.schedule.steps - 1))
        want = theirs(whole, t, encoder_hidden_states=cond.tokens, **given).sample
        found[share] = float((ours(x, t, cond) - want).norm() / want.norm())
    return found


def _inputs(said: Facts, network: UNet) -> tuple[Tensor, Cond, dict[str, Any]]:
    """Random inputs, for our network and beside them what diffusers' class takes."""
    config, batch = network.config, 2
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    sides = [min(_SIDE, side // said.factor) for side in said.size]
    image = normal(batch, config.image_channels, *sides) if config.image_channels else None
    level = torch.tensor([20.0, 0.0])
    tokens = normal(batch, 77, config.token_width)
    given: dict[str, Any] = {"class_labels": level if config.aug else level.long() if config.classes else None}
    vector = None
    if config.vector_width:
        waves = int(said.unet["addition_time_embed_dim"])
        pooled, six = normal(batch, config.vector_width - 6 * waves), 1000 * torch.rand(batch, 6, generator=draw)
        given["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": six}
        embed = Sinusoid(waves, config.max_period, config.flip, config.shift)
        vector = torch.cat((pooled, embed(six.flatten()).reshape(batch, -1)), 1)
    cond = Cond(
        label=level.long() if config.classes else None,
        tokens=tokens,
        mask=torch.ones(batch, 77, dtype=torch.bool),
        vector=vector,
        image=image,
        aug=level if config.aug else None,
    )
    return normal(batch, config.in_channels, *sides), cond, given
