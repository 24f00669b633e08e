"""What a checkpoint is, in words, for `guided inspect`: no tensor is read."""

from __future__ import annotations

import math
import pathlib
from typing import Any

from guided.denoiser import V
from guided.zoo import opening
from guided.zoo.deduce import Shapes
from guided.zoo.recognise import Recognised, is_original, recognise
from guided.zoo.whole import EMA, SD, VAE, XL
from guided.zoo.whole_open import describe


def described(path: pathlib.Path, shapes: Shapes) -> dict[str, Any]:
    """Facts of the network that a file's tensors make; empty where their names are of no layout that is known."""
    if not is_original(shapes):
        return {}
    said = opening.beside(path)
    try:
        found = recognise(shapes, said)
    except ValueError as error:
        return {"network": f"in the original layout, but: {error}"}
    return facts(found) | (parts(found, shapes) if found.latent else {})


def parts(found: Recognised, shapes: Shapes) -> dict[str, Any]:
    """Which parts of a latent diffusion are in a file, and what `guided.load` makes of them."""
    beside = {"U-Net": found.prefix, "autoencoder": VAE, "text encoder": SD, "text encoders": XL}
    beside |= {"moving averages": EMA}
    held = {
        part: [math.prod(shape) for name, shape in shapes.items() if name.startswith(prefix)]
        for part, prefix in beside.items()
    }
    told = {part: f"{len(sizes)} tensors, {sum(sizes):,} parameters" for part, sizes in held.items() if sizes}
    rest = len(shapes) - sum(map(len, held.values()))
    told |= {"others": f"{rest} tensors"} if rest > 0 else {}
    try:
        whole = describe(found, shapes)
    except ValueError as error:
        return {"parts": told, "opens": f"no: {error}"}
    text = " + ".join(
        f"{'CLIP' if tower.clip else 'open_clip'}, {tower.config['hidden_size']} wide, "
        f"{tower.config['num_hidden_layers']} layers read" for tower in whole.towers
    )  # fmt: skip
    side = whole.vae["sample_size"]
    return {"parts": told, "text": text, "pictures": f"{side} x {side}", "opens": "as a model"}


def facts(found: Recognised) -> dict[str, Any]:
    """Facts of a recognised network; what it assumes is a list of its own."""
    config, size = found.config, found.size
    space = "latents" if found.latent else "pictures"
    seen = {
        f"{config.classes} classes": config.classes,
        f"text, {config.token_width} wide": config.token_width,
        f"a vector of {config.vector_width}": config.vector_width,
        f"a picture of {config.image_channels} channels": config.image_channels,
    }
    told = f"tells {config.out_channels} classes" if found.classifier else ""
    values = {
        "network": f"{'classifier' if found.classifier else 'U-Net'} in the original layout",
        "family": found.family or "none that was published",
        "size": None if size is None else f"{space} of {size[1]} x {size[0]}",
        "parameters of the network": sum(math.prod(shape) for shape in found.expected().values()),
        "conditioning": told or ", ".join(name for name, there in seen.items() if there) or "none",
        "predicts": None if found.classifier or found.predicts is None else _prediction(found),
        "noise": None if found.schedule is None else repr(found.schedule),
        "assumed": found.assumptions() or None,
        "prefix": found.prefix or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _prediction(found: Recognised) -> str:
    kind = "v" if isinstance(found.predicts, V) else type(found.predicts).__name__.lower()
    return f"{kind} and its variance" if found.learned_variance else kind
