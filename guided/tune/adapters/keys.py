"""The keys of an adapter's file: which part, which layer and which of its tensors each one is."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from guided.tune.adapters.lowrank import LowRank
from guided.tune.adapters.places import TOWERS, UNET

MOST = 1 << 14
"""The largest rank that is believed of a file."""
DOWN, UP, ALPHA, MAGNITUDE = "down", "up", "alpha", "magnitude"
_ENDS = (
    (DOWN, r"\.lora_A(\.\w+)?\.weight|[._]lora\.down\.weight|\.lora_linear_layer\.down\.weight|\.lora_down\.weight"),
    (UP, r"\.lora_B(\.\w+)?\.weight|[._]lora\.up\.weight|\.lora_linear_layer\.up\.weight|\.lora_up\.weight"),
    (ALPHA, r"\.alpha"),
    (MAGNITUDE, r"\.lora_magnitude_vector(\.\w+)?(\.weight)?|\.dora_scale"),
)
_KINDS = tuple((kind, re.compile(f"({pattern})$")) for kind, pattern in _ENDS)
_STARTS = {
    "base_model.model.": UNET,
    "unet.": UNET,
    "text_encoder.": TOWERS[0],
    "text_encoder_2.": TOWERS[1],
    "lora_unet_": UNET,
    "lora_te_": TOWERS[0],
    "lora_te1_": TOWERS[0],
    "lora_te2_": TOWERS[1],
}
_OTHERS = {
    "hada_w": "LoHa of LyCORIS, not LoRA",
    "lokr_w": "LoKr of LyCORIS, not LoRA",
    "lora_mid": "a LoCon in Tucker's form, with a third matrix in the middle",
    "oft_": "OFT, not LoRA",
    ".diff": "whole differences of weights, not LoRA",
    "lora_B.bias": "a LoRA with biases",
    "modules_to_save": "whole layers trained beside the LoRA",
    "lora_embedding": "a LoRA of an embedding",
}


Alphas = Callable[[str, str, int], float | None]


class Key(NamedTuple):
    """A tensor of a layer of a part."""

    part: str
    layer: str
    kind: str


def parse(name: str, part: str | None = None) -> Key:
    """What a key is; part: of a file whose keys name none. ValueError where it is no key of a LoRA."""
    for mark, what in _OTHERS.items():
        if mark in name:
            raise ValueError(f"{name!r}: {what}; guided reads LoRA and DoRA of matrices and convolutions")
    for kind, pattern in _KINDS:
        found = pattern.search(name)
        if found:
            where, layer = _part(name[: found.start()], part)
            return Key(where, layer, kind)
    raise ValueError(f"{name!r}: no key of a LoRA that is known (lora_A, lora_down, alpha, dora_scale, ...)")


def _part(name: str, part: str | None) -> tuple[str, str]:
    for start, found in _STARTS.items():
        if name.startswith(start):
            inner = name.removeprefix(start)
            # A folder of peft says by its own name which part its keys are of.
            return (part or found) if start == "base_model.model." else found, _layer(inner)
    return part or UNET, _layer(name)


def _layer(name: str) -> str:
    """The layer by its name today: diffusers once kept LoRA beside it, under names of its own."""
    name = re.sub(r"\.processor(?=\.|$)", "", name)
    if name.startswith(("text_model.", "encoder.")):
        return re.sub(r"\.self_attn\.to_(q|k|v|out)$", r".self_attn.\1_proj", name)
    return re.sub(r"\.(attn\d|attentions\.\d+)\.to_out$", r".\1.to_out.0", name)


def grouped(
    tensors: Mapping[str, Tensor], part: str | None = None, alphas: Alphas = lambda part, layer, rank: None
) -> dict[str, dict[str, LowRank]]:
    """The changes that the tensors of a file make, by part and layer, in float32.

    alphas: of a part's layer and its rank, where the file says it beside its tensors. Raises ValueError naming the key
    that is alone, misshapen, not finite or unknown.
    """
    found: dict[tuple[str, str], dict[str, tuple[str, Tensor]]] = {}
    for name, value in tensors.items():
        key = parse(name, part)
        held = found.setdefault((key.part, key.layer), {})
        if key.kind in held:
            raise ValueError(f"{name!r}: the same as {held[key.kind][0]!r}")
        held[key.kind] = (name, value)
    changes: dict[str, dict[str, LowRank]] = {}
    for (where, layer), held in found.items():
        rank = held[DOWN][1].shape[0] if DOWN in held and held[DOWN][1].ndim else 1
        changes.setdefault(where, {})[layer] = _change(layer, held, alphas(where, layer, rank))
    return changes


def _change(layer: str, held: Mapping[str, tuple[str, Tensor]], alpha: float | None) -> LowRank:
    for kind in (DOWN, UP):
        if kind not in held:
            raise ValueError(f"{next(iter(held.values()))[0]!r}: the {kind} half of {layer} is missing")
    for kind, (name, value) in held.items():
        if kind != ALPHA and not value.is_floating_point():
            raise ValueError(f"{name!r}: {value.dtype}, expected floating-point numbers")
        if not bool(value.float().isfinite().all()):
            raise ValueError(f"{name!r}: holds NaN or infinity")
    (down_name, down), (up_name, up) = held[DOWN], held[UP]
    if down.ndim not in (2, 4) or not down.numel():
        raise ValueError(
            f"{down_name!r}: the shape {list(down.shape)}, expected (rank, inputs) or that of a convolution"
        )
    rank = down.shape[0]
    if up.ndim not in (2, 4) or up.shape[1] != rank or any(side != 1 for side in up.shape[2:]) or not up.numel():
        raise ValueError(
            f"{up_name!r}: the shape {list(up.shape)}, expected (outputs, {rank}) for that of {down_name!r}"
        )
    if rank > MOST:
        raise ValueError(f"{down_name!r}: its rank is {rank}, at most {MOST} is believed")
    if ALPHA in held:
        name, value = held[ALPHA]
        if value.numel() != 1:
            raise ValueError(f"{name!r}: the shape {list(value.shape)}, expected one number")
        alpha = float(value)
    scale = 1.0 if alpha is None else alpha / rank
    if not math.isfinite(scale):
        raise ValueError(f"{down_name!r}: alpha {alpha!r}, expected a number")
    magnitude = _magnitude(held[MAGNITUDE], up.shape[0]) if MAGNITUDE in held else None
    return LowRank(down.float(), up.float().flatten(1), scale, magnitude)


def _magnitude(given: tuple[str, Tensor], outputs: int) -> Tensor:
    name, value = given
    shape = tuple(value.shape)
    # peft's magnitude of a convolution is (1, outputs, 1, 1); LyCORIS has one number an input so.
    known = ((outputs,), (outputs, 1), (outputs, 1, 1, 1), *([] if "dora_scale" in name else [(1, outputs, 1, 1)]))
    if shape not in known:
        across = " (one number an input, which neither peft nor diffusers knows)" if shape[:1] == (1,) else ""
        raise ValueError(
            f"{name!r}: the shape {list(shape)}, expected one number for each of {outputs} outputs{across}"
        )
    return value.float().flatten()


def spelt(changes: Mapping[str, LowRank], prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Changes of layers under peft's keys, PREFIX.LAYER.lora_A.weight; convolutions have their four axes."""
    found = {}
    for layer, change in changes.items():
        axes = [1] * (change.down.ndim - 2)
        found[f"{prefix}.{layer}.lora_A.weight"] = change.down.to(dtype)
        found[f"{prefix}.{layer}.lora_B.weight"] = change.up.reshape(*change.up.shape, *axes).to(dtype)
        if change.magnitude is not None:
            shape = (1, -1, 1, 1) if axes else (-1,)
            # transformers, which reads the towers' part of diffusers' form, asks for the name of the parameter.
            end = ".weight" if prefix in TOWERS else ""
            found[f"{prefix}.{layer}.lora_magnitude_vector{end}"] = change.magnitude.reshape(shape).to(dtype)
    return {name: value.contiguous() for name, value in found.items()}


def kohya(layers: Mapping[str, Mapping[str, LowRank]], dtype: torch.dtype) -> dict[str, Tensor]:
    """Changes under kohya's keys, each with its alpha."""
    starts = {UNET: "lora_unet_", TOWERS[0]: "lora_te1_" if TOWERS[1] in layers else "lora_te_", TOWERS[1]: "lora_te2_"}
    found = {}
    for part, layer, change in each(layers):
        name = f"{starts[part]}{layer.replace('.', '_')}"
        axes = [1] * (change.down.ndim - 2)
        found[f"{name}.lora_down.weight"] = change.down.to(dtype)
        found[f"{name}.lora_up.weight"] = change.up.reshape(*change.up.shape, *axes).to(dtype)
        found[f"{name}.alpha"] = torch.tensor(change.alpha, dtype=torch.float32)
        if change.magnitude is not None:
            found[f"{name}.dora_scale"] = change.magnitude.reshape(-1, 1, *axes).to(dtype)
    return {name: value.contiguous() for name, value in found.items()}


def each(layers: Mapping[str, Mapping[str, LowRank]]) -> Iterable[tuple[str, str, LowRank]]:
    """Every change with its part and layer."""
    return ((part, layer, change) for part, changes in layers.items() for layer, change in changes.items())
