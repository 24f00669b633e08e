"""What a checkpoint is, in words, for `guided inspect`: no tensor is read."""

from __future__ import annotations

import math
import pathlib
from typing import Any

from guided.denoiser import V
from guided.zoo import opening
from guided.zoo.deduce import Shapes
from guided.zoo.recognise import Recognised, is_original, recognise


def described(path: pathlib.Path, shapes: Shapes) -> dict[str, Any]:
    """Facts of the network that a file's tensors make; empty where their names are of no layout that is known."""
    if not is_original(shapes):
        return {}
    try:
        found = recognise(shapes, opening.beside(path))
    except ValueError as error:
        return {"network": f"in the original layout, but: {error}"}
    return facts(found)


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
