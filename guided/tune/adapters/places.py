"""Where the layers that an adapter's file names are in a network or a text tower, and what a file calls ours.

Names are compared flattened (dots as underscores), for a kohya file knows no other; so one table reads diffusers'
names, the original layout's, and our own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from guided.model import adapted
from guided.nn import UNet, UNetConfig
from guided.tune.adapters.lowrank import LowRank, joined, row_norms, split
from guided.zoo import diffusers_names, original
from guided.zoo.counterpart import from_config
from guided.zoo.names import Joined, Kernel, Pair

UNET = "unet"
TOWERS = ("text_encoder", "text_encoder_2")
PARTS = (UNET, *TOWERS)
ABSURD = 3
"""Times the full rank of a layer: three parts of full rank joined in one layer have so much, more is no low rank."""
USUAL = 512
"""Ranks that are published, whatever the layer: some trainers give every layer the same."""


@dataclass(frozen=True)
class Place:
    """A layer of ours, and which of so many parts of its outputs."""

    layer: str
    part: int = 0
    parts: int = 1


def flat(name: str) -> str:
    """A name without dots."""
    return name.replace(".", "_")


def places(module: nn.Module) -> dict[str, Place]:
    """Where each name that a file may use is, by the name flattened: of our U-Net, or of a tower of transformers."""
    own = {flat(name): Place(name) for name in layers(module)}
    if isinstance(module, UNet):
        found = {flat(theirs): place for theirs, place in _published(module)}
        return {**found, **own}
    # Versions of transformers differ in whether a tower lies within `text_model`.
    prefix = "text_model."
    other = {flat(n.removeprefix(prefix) if n.startswith(prefix) else prefix + n): Place(n) for n in layers(module)}
    return {**other, **own}


def layers(module: nn.Module) -> list[str]:
    """The names of the linear maps and convolutions of a module as it is without adapters."""
    kinds = (nn.Linear, nn.Conv2d)
    return [name for name, found in plain_modules(module) if isinstance(found, kinds)]


def plain_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a network by name, those under an adapter by their own name and without the adapter's."""
    covered: list[str] = []
    for name, found in module.named_modules():
        if any(name.startswith(place) for place in covered):
            continue
        if hasattr(found, adapted.BASE):
            covered.append(f"{name}.")
            found = adapted.original(module, name)
        yield name, found


def _published(network: UNet) -> Iterator[tuple[str, Place]]:
    """The layers of a network by the names of the layouts that have a counterpart to it."""
    tables: list[Iterable[Pair]] = []
    try:
        counterpart(network.config)
    except ValueError:
        return
    tables.append(diffusers_names.layout(network.config))
    if network.config.attention == "transformer" and not original.without_counterpart(network.config):
        tables.append(original.layout(network.config))
    there = set(layers(network))
    for table in tables:
        for pair in table:
            layer, _, end = pair.ours.rpartition(".")
            if end == "weight" and layer in there and isinstance(pair.form, Joined | Kernel):
                for i, theirs in enumerate(pair.theirs):
                    yield theirs.removesuffix(".weight"), Place(layer, i, len(pair.theirs))


def counterpart(config: UNetConfig) -> dict[str, Any]:
    """The config.json of a UNet2DConditionModel that is this network; ValueError naming the block it has none of."""
    # How wide the six sizes beside pooled text are embedded makes no layer another: any width that fits will do.
    return from_config(config, max(1, min(256, (config.vector_width - 1) // 6)))


def resolved(changes: Mapping[str, LowRank], module: nn.Module, part: str, base: str) -> dict[str, LowRank]:
    """The changes of a file's layers as those of our own.

    Raises ValueError naming the keys that the module has no layer for, or whose shapes are of another.
    """
    table = places(module)
    unknown = [name for name in changes if flat(name) not in table]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of {len(changes)} layers of the adapter are not in {base}'s {part}, the first is "
            f"{unknown[0]!r}: made for another base{guess(changes)}"
        )
    grouped: dict[str, dict[int, tuple[str, LowRank]]] = {}
    sizes: dict[str, int] = {}
    for name, change in changes.items():
        place = table[flat(name)]
        parts = grouped.setdefault(place.layer, {})
        if place.part in parts or sizes.setdefault(place.layer, place.parts) != place.parts:
            raise ValueError(f"the adapter changes {place.layer} of {base}'s {part} twice: {name!r}")
        parts[place.part] = (name, change)
    found = {}
    for layer, given in grouped.items():
        own = adapted.original(module, layer)
        rows = own.weight.shape[0] // sizes[layer]
        fitted = [_fitted(given[i], own, rows, (part, base, changes)) if i in given else None
                  for i in range(sizes[layer])]  # fmt: skip
        if sizes[layer] == 1:
            assert fitted[0] is not None
            found[layer] = fitted[0]
            continue
        try:
            partly = any(part is None for part in fitted) and any(
                part and part.magnitude is not None for part in fitted
            )
            norms = row_norms(own.weight.detach().cpu().float()).chunk(sizes[layer]) if partly else None
            found[layer] = joined(fitted, rows, norms)
        except ValueError as error:
            raise ValueError(f"{next(iter(given.values()))[0]}: {error}, which one layer of ours cannot be") from None
    return found


def _fitted(given: tuple[str, LowRank], layer: Any, rows: int, about: tuple[str, str, Mapping[str, Any]]) -> LowRank:
    """A change in the shapes of our layer: a convolution of size 1 and a matrix are one thing."""
    name, change = given
    part, base, changes = about
    expected = (change.rank, *layer.weight.shape[1:])
    shape = tuple(change.down.shape)
    trimmed = shape[:2] if all(side == 1 for side in shape[2:]) else shape
    wanted = expected[:2] if all(side == 1 for side in expected[2:]) else expected
    if trimmed != wanted or change.up.shape[0] != rows:
        raise ValueError(
            f"{name!r}: the adapter maps {list(shape[1:])} to {change.up.shape[0]}, the layer of {base}'s {part} "
            f"{list(expected[1:])} to {rows}: made for another base{guess(changes)}"
        )
    full = min(rows, layer.weight[0].numel())
    if change.rank > max(ABSURD * full, USUAL):
        raise ValueError(f"{name!r}: its rank is {change.rank}, the layer's own is at most {full}")
    return replace(change, down=change.down.reshape(expected))


def written(changes: Mapping[str, LowRank], network: UNet, linear: bool) -> dict[str, LowRank]:
    """The changes of our layers as those of a UNet2DConditionModel's, by its names, in its shapes.

    linear: whether the maps around its transformers are matrices. Raises ValueError where it has no counterpart.
    """
    counterpart(network.config)
    found = {}
    for pair in diffusers_names.layout(network.config, linear):
        layer, _, end = pair.ours.rpartition(".")
        if end != "weight" or layer not in changes:
            continue
        change = changes[layer]
        if isinstance(pair.form, Kernel):
            change = replace(change, down=change.down.reshape(*change.down.shape[:2], *[1] * pair.form.axes))
        elif not isinstance(pair.form, Joined):
            raise ValueError(f"{layer}: an adapter of it has no counterpart in diffusers")
        pieces = split(change, len(pair.theirs)) if len(pair.theirs) > 1 else [change]
        for theirs, piece in zip(pair.theirs, pieces, strict=True):
            if piece is not None:
                found[theirs.removesuffix(".weight")] = piece
    left = sorted(set(changes) - {pair.ours.removesuffix(".weight") for pair in diffusers_names.layout(network.config)})
    if left:
        raise ValueError(f"{left[0]}: UNet2DConditionModel has no layer of it")
    return found


def tower_name(name: str) -> str:
    """What files call a layer of CLIP's: within `text_model`, whatever the version of transformers."""
    return f"text_model.{name}" if name.startswith("encoder.layers.") else name


def guess(changes: Mapping[str, LowRank]) -> str:
    """What base an adapter looks made for, as the end of a sentence; by the width of the text that it reads."""
    widths = {change.down.shape[1] for name, change in changes.items()
              if flat(name).endswith(("attn2_to_k", "attn2_to_v"))}  # fmt: skip
    bases = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
    if len(widths) == 1:
        width = widths.pop()
        return f" (it reads text {width} wide, as {bases.get(width, 'none that was published')} does)"
    if any(flat(name).startswith(("single_transformer_blocks", "transformer_blocks", "double_blocks", "joint_blocks"))
           for name in changes):  # fmt: skip
        return " (it looks made for a transformer, not for a U-Net)"
    return ""
