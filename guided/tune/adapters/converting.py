"""An adapter's file in another form, with its base at hand or not."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import torch

from guided import _files
from guided.nn import UNet
from guided.tune.adapters import keeping, onto, reading, writing
from guided.tune.adapters.adapter import Adapter
from guided.tune.adapters.lowrank import LowRank
from guided.tune.adapters.places import UNET, flat, places, resolved, tower_name, written
from guided.zoo.families import FAMILIES

FORMS = ("diffusers-lora", "kohya", "peft", "adapter")


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    to: str,
    base: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[pathlib.Path]:
    """Write an adapter in another form; returns what was written.

    to: "diffusers-lora" (a folder), "kohya" (a .safetensors file), "peft" (a folder; the layers have diffusers' names,
    or, where the base has no counterpart there, ours), or "adapter", the folder of ours, which names its base. base: a
    model, for what the names of the layers alone do not say; by default the one that the adapter names, else a
    published network that has such layers. Raises ValueError where there is no such form of it, FileExistsError where
    something is in the way.
    """
    place = pathlib.Path(target)
    if place.exists():
        raise FileExistsError(f"{place}: is there already; choose another name")
    adapter = reading.read(source)
    if to == "adapter":
        return [_ours(adapter, place, base, dtype)]
    if adapter.words:
        raise ValueError(f"{source}: new words ({', '.join(adapter.words)}) have no such form; --to adapter keeps them")
    if to == "kohya":
        if place.suffix != ".safetensors":
            raise ValueError(f"{place}: expected the name of a .safetensors file")
        return writing.to_kohya(theirs(adapter, base), place, dtype)
    if to == "diffusers-lora":
        found = theirs(adapter, base)
        with _files.folder(place) as aside:
            names = writing.to_diffusers(found, aside, dtype)
        return [place / name.name for name in names]
    try:
        found = theirs(adapter, base)
    except ValueError:
        if not own_names(adapter):
            raise
        found = adapter
    with _files.folder(place) as aside:
        names = writing.to_peft(found, aside, dtype, (adapter.base or {}).get("source"))
    return [place / name.relative_to(aside) for name in names]


def _ours(adapter: Adapter, place: pathlib.Path, base: str | None, dtype: torch.dtype) -> pathlib.Path:
    from guided import zoo

    given = base or (adapter.base or {}).get("source")
    if given is None:
        raise ValueError("--to adapter: which model is it for? --base MODEL says so")
    model = zoo.load_model(given)
    onto.inject(model, dataclasses.replace(adapter, base=None), name=adapter.name)
    return keeping.save(model, place, str(given), adapter.name, dtype, adapter.card)


def own_names(adapter: Adapter) -> bool:
    """Whether the layers of the network have our own names, as those of a base without a counterpart elsewhere."""
    starts = ("down.", "up.", "middle.", "vector.", "sequence.", "conv_in", "conv_out")
    return all(name.startswith(starts) for name in adapter.layers.get(UNET, {}))


def theirs(adapter: Adapter, base: str | None = None) -> Adapter:
    """The adapter with diffusers' names for its layers; ValueError where they cannot be told."""
    layers: dict[str, Mapping[str, LowRank]] = {}
    for part, changes in adapter.layers.items():
        if part != UNET:
            layers[part] = {tower_name(unflattened(name)): change for name, change in changes.items()}
        elif all(diffusers_name(name) for name in changes) and base is None:
            layers[part] = changes
        else:
            layers[part] = _through(changes, base or (adapter.base or {}).get("source"))
    return dataclasses.replace(adapter, layers=layers)


def diffusers_name(name: str) -> bool:
    """Whether a name is a diffusers layer's, dots and all."""
    starts = ("down_blocks.", "up_blocks.", "mid_block.", "time_embedding.", "add_embedding.", "class_embedding.")
    return name.startswith(starts) or name in ("conv_in", "conv_out", "encoder_hid_proj")


def unflattened(name: str) -> str:
    """The name of a layer of CLIP's tower, with its dots."""
    found = re.fullmatch(r"(?:text_model_)?encoder_layers_(\d+)_(self_attn|mlp)_(\w+)", name)
    if found:
        return f"text_model.encoder.layers.{found[1]}.{found[2]}.{found[3]}"
    if "." not in name and name != "text_projection":
        raise ValueError(f"{name!r}: no layer of a text tower of CLIP")
    return name


def _through(changes: Mapping[str, LowRank], base: str | None) -> Mapping[str, LowRank]:
    """Diffusers' names and shapes by way of our own network: that of the base, or of a published one that fits."""
    if base is not None:
        from guided import zoo

        model = zoo.load_model(base)
        network: Any = model.denoiser.network
        own = resolved(changes, network, UNET, model.name)
        found = keeping.to_theirs(model, Adapter({UNET: own}))
        if found is None:
            raise ValueError(f"{base}: diffusers has no counterpart to this network")
        return found.layers[UNET]
    for family in FAMILIES:
        if not family.latent or family.config.attention != "transformer":
            continue
        with torch.device("meta"):
            network = UNet(family.config)
        try:
            known = places(network)
            if all(flat(name) in known for name in changes):
                own = resolved(changes, network, UNET, family.name)
                return written(own, network, _linear(changes, family.options.linear))
        except ValueError:
            continue
    raise ValueError(
        f"{next(iter(changes))!r}: no published network has these layers; --base MODEL says which base it is for"
    )


def _linear(changes: Mapping[str, LowRank], usual: bool) -> bool:
    """Whether the maps around transformers are matrices, as the file has them."""
    around = [change for name, change in changes.items() if flat(name).endswith(("proj_in", "proj_out"))]
    return around[0].down.ndim == 2 if around else usual
