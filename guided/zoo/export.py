"""A network of ours as a checkpoint in the original layout."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from guided import _files, _safetensors
from guided.model import Model, NoisyClassifier
from guided.nn import EncoderUNet, UNet, UNetConfig
from guided.zoo import names, weights
from guided.zoo.opening import LAYOUT, TORCH, beside, dtypes_of, tensors
from guided.zoo.original import Options, layout, without_counterpart
from guided.zoo.recognise import recognise
from guided.zoo.whole import EMA


def export(model: Model | NoisyClassifier, target: pathlib.Path) -> list[pathlib.Path]:
    """Write a model's network as one safetensors file in the original layout; returns what was written.

    A latent pipeline is written whole (`whole_export.tensors`). A network that came from this layout gets the names,
    order of heads and dtypes it came with, so its tensors are what they were bit for bit, unless it was trained since.
    One of ours is written in float32, and what no tensor tells in a JSON beside it. Raises ValueError naming the block
    that has no counterpart, FileExistsError where a file is in the way.
    """
    _named(target)
    network = (model if isinstance(model, NoisyClassifier) else model.denoiser).network
    if not isinstance(network, UNet | EncoderUNet):
        raise ValueError(f"the original layout holds a UNet or an EncoderUNet, got {type(network).__name__}")
    from guided.zoo import whole_export

    came = model.card.get("layout") or {}
    if isinstance(model, Model):
        model.plain("export")
    if isinstance(model, Model) and whole_export.is_whole(model):
        state, said = whole_export.tensors(model), None
    elif came.get("name") == LAYOUT:
        state, said = _as_it_came(network, came), None
    else:
        state, said = ours(network), settings(network)
    files = [target, *([] if said is None else [target.with_suffix(".json")])]
    _free(files)
    _safetensors.save(state, target)
    if said is not None:
        _files.write(files[1], json.dumps(said, indent=1) + "\n")
    return files


def rewrite(
    source: pathlib.Path, target: pathlib.Path, *, pickle: bool = False, config: Mapping[str, Any] | None = None
) -> list[pathlib.Path]:
    """A checkpoint as one safetensors file of the same names and bits; returns what was written.

    It is recognised first, so no network is missing from the new file, and all it holds is kept but for the copy of
    moving averages. Raises as `guided.load`, FileExistsError where a file is in the way.
    """
    _named(target)
    _free([target])
    state = weights.read(source, pickle=pickle)
    try:
        found = recognise({name: tuple(value.shape) for name, value in state.items()}, config or beside(source))
        dtypes_of(tensors(found, state))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    _safetensors.save({name: value for name, value in state.items() if not name.startswith(EMA)}, target)
    return [target]


def _named(target: pathlib.Path) -> None:
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: expected the name of a .safetensors file")


def _free(files: list[pathlib.Path]) -> None:
    for file in files:
        if file.exists():
            raise FileExistsError(f"{file}: is there already; choose another name")


def _as_it_came(network: UNet | EncoderUNet, came: Mapping[str, Any]) -> dict[str, Tensor]:
    options, prefix, dtype = came.get("options"), came.get("prefix", ""), came.get("dtype", "F32")
    others = came.get("dtypes") or {}
    try:
        said = Options(**options)  # type: ignore[arg-type]
        table = layout(network.config, said, isinstance(network, EncoderUNet))
        found = names.write(table, network.state_dict())
        state = {f"{prefix}{name}": exactly(value, TORCH[others.get(name, dtype)]) for name, value in found.items()}
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"card: layout: not one that guided wrote: {came!r:.200} ({error})") from None
    vector = network.vector
    for block, null in (
        ("vector.label", None if vector.label is None or said.null_row else vector.label.weight[-1]),
        ("vector.null_vector", None if vector.vector is None else vector.null_vector),
    ):
        if null is not None and bool(null.any()):
            raise ValueError(
                f"the original layout has no counterpart of {block}: what stands for none has been trained"
            )
    return state


def exactly(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in the dtype it came in, or, once it was trained beyond what that holds, as it is."""
    cast = value.to(dtype)
    return cast if torch.equal(cast.to(value.dtype), value) else value


def ours(network: UNet | EncoderUNet) -> dict[str, Tensor]:
    """The tensors of a network that was trained here, by their original names.

    The class that stands for none, which ours learnt, becomes the last of theirs. Raises ValueError for blocks without
    a counterpart, and for constants that the original code has no name for.
    """
    config, classifier = network.config, isinstance(network, EncoderUNet)
    problems = without_counterpart(config) + _other_constants(config)
    if config.vector_width:
        problems.append("vector.null_vector: a learned absence of the vector")
    if problems:
        raise ValueError(f"the original layout has no counterpart of {'; of '.join(problems)}")
    state = names.write(layout(config, Options(null_row=True), classifier), network.state_dict())
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    found = recognise(shapes, settings(network))
    other_size = isinstance(network, EncoderUNet) and found.size != network.size
    if other_size or found.config.to_dict() != _explicit(config).to_dict():
        raise ValueError(f"the original layout does not tell this network from another: {found.config} != {config}")
    return state


def settings(network: UNet | EncoderUNet) -> dict[str, Any]:
    """What of a network stands in no tensor, in the originals' words; `zoo.network` reads it beside the file."""
    config = network.config
    heads = {"num_heads": config.heads} if config.heads else {"num_head_channels": config.head_width}
    size = {"image_size": network.size[0]} if isinstance(network, EncoderUNet) else {}
    null = {"null_class": True} if config.classes else {}
    return {**heads, "use_new_attention_order": True, "dropout": config.dropout, **null, **size}


def _explicit(config: UNetConfig) -> UNetConfig:
    """The config with its default widths written out, as they are deduced from tensors."""
    values = config.to_dict()
    values |= {"embed_width": config.embedding, "time_width": config.time_width or config.widths[0]}
    if config.heads:
        values["head_width"] = UNetConfig.head_width
    if not config.token_width:
        values["null_token"] = True
    return UNetConfig.from_dict(values)


def _other_constants(config: UNetConfig) -> list[str]:
    """What the original code cannot be told, for it has one value written in."""
    time = config.time_width or config.widths[0]
    wrong = {
        f"norm: {config.groups} groups, expected 32": config.groups != 32,
        "norm: widths that 32 groups do not divide": any(width % 32 for width in config.widths),
        f"norm: epsilon {config.norm_eps}, expected 1e-05": config.norm_eps != 1e-5,
        f"act: {config.act!r}, expected 'silu'": config.act != "silu",
        f"block: sums divided by {config.residual_scale}": config.residual_scale != 1,
        "vector.features: other waves (flip, shift, max_period)": (config.flip, config.shift, config.max_period)
        != (True, 0.0, 1e4),
        f"vector.time: {config.embedding} wide, expected 4 x {time}": config.embedding != 4 * time,
    }
    return [block for block, bad in wrong.items() if bad]
