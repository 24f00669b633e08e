"""A UNet2DConditionModel's tensors as our network."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from guided.model import parts
from guided.nn import UNet, UNetConfig
from guided.zoo import diffusers_names as names
from guided.zoo.diffusers_config import to_config
from guided.zoo.families import FAMILIES
from guided.zoo.opening import dtypes_of


def network(state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> UNet:
    """Our network with a UNet2DConditionModel's tensors; raises ValueError naming the blocks that differ.

    config: its config.json; without it, the published network that has these shapes.
    """
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    found = _published(shapes) if config is None else to_config(config)
    dtypes_of(state)
    # Copies in any case: who trains the network must not change the caller's tensors.
    return filled(found, dict(state), copy=True, linear=None if config is None else linear_of(config))


def linear_of(config: Mapping[str, Any]) -> bool:
    """`use_linear_projection` of a config.json: whether the maps around transformers are matrices there."""
    return bool(config.get("use_linear_projection", False))


def folder(place: pathlib.Path, config: UNetConfig, linear: bool) -> tuple[UNet, dict[str, str]]:
    """The network of a `unet` folder, in float32, and the dtypes its tensors are stored in; linear: `linear_of`."""
    found = parts.weights(place)
    entries = parts.entries(found, place)
    with torch.device("meta"):
        blank = UNet(config)
    try:
        fitting(blank, {name: entry.shape for name, entry in entries.items()}, linear)
        made = filled(config, parts.load(found), linear=linear)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    return made, {name: entry.dtype for name, entry in entries.items()}


def filled(config: UNetConfig, state: dict[str, Tensor], copy: bool = False, linear: bool | None = None) -> UNet:
    """A network with these tensors in float32; each is let go once it is read, so that no two copies of all exist.

    linear: whether maps around transformers must be matrices; None: as they are.
    """
    with torch.device("meta"):
        made = UNet(config)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    linear = _linear(shapes) if linear is None else linear
    fitting(made, shapes, linear)
    own = {}
    for pair in names.table(made, linear):
        whole = pair.form.read([state.pop(name) for name in pair.theirs])
        own[pair.ours] = whole.to(torch.float32, copy=copy)
    made.load_state_dict(own, assign=True)
    return made.eval().requires_grad_(False)


def fitting(network: UNet, found: Mapping[str, tuple[int, ...]], linear: bool) -> None:
    """Raise ValueError, block by block, where shapes are not exactly those of a network."""
    expected = names.shapes(names.table(network, linear), network)
    difference = names.difference(expected, found)
    if difference is not None:
        raise ValueError(f"does not fit its config: {difference}")


def _linear(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the maps around transformers are matrices, as SD 2 has them, and not convolutions of size 1."""
    return any(len(shape) == 2 for name, shape in shapes.items() if name.endswith(".proj_in.weight"))


def _published(shapes: Mapping[str, tuple[int, ...]]) -> UNetConfig:
    for family in FAMILIES:
        config = family.config
        first = (config.widths[0], config.in_channels + config.image_channels, 3, 3)
        if not family.latent or shapes.get("conv_in.weight") != first:
            continue
        with torch.device("meta"):
            blank = UNet(config)
        if names.shapes(names.table(blank, _linear(shapes)), blank) == shapes:
            return config
    raise ValueError(
        "diffusers' names, and no published network has these shapes: give config=, the config.json beside the weights"
    )
