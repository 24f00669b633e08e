"""The names of a UNet2DConditionModel's tensors, as pairs with ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch

from guided.nn import UNet, UNetConfig
from guided.zoo.names import Absent, Form, Joined, Kernel, NullRow, Pair, write

_ENDS = ("weight", "bias")
_SAME = Joined()


def layout(config: UNetConfig, linear: bool = False) -> Iterator[Pair]:
    """A pair for each tensor of ours. linear: whether transformers' outer maps are matrices (use_linear_projection)."""
    outer = Joined() if linear else Kernel(2)
    yield from _both("conv_in", "conv_in")
    yield from _vector_port(config)
    yield from _sequence_port(config)
    count = len(config.widths)
    for i in range(count):
        for j in range(config.blocks[i]):
            place = f"down_blocks.{i}"
            kind = config.depth[i], config.reads_text_only(i), outer
            yield from _stage(config, f"down.{i}.stages.{j}", place, j, kind)
        if i < count - 1:
            yield from _move(config, f"down.{i}.move", f"down_blocks.{i}.downsamplers.0")
    for j in range(config.middle_blocks):
        depth = config.middle_depth if j == 0 else 0
        yield from _stage(config, f"middle.{j}", "mid_block", j, (depth, config.middle_text_only, outer))
    for i in range(count):
        level = count - 1 - i
        kind = config.depth[level], config.reads_text_only(level), outer
        for j in range(config.blocks[level] + 1):
            yield from _stage(config, f"up.{i}.stages.{j}", f"up_blocks.{i}", j, kind)
        if level:
            yield from _move(config, f"up.{i}.move", f"up_blocks.{i}.upsamplers.0")
    yield from _both("norm_out", "conv_norm_out")
    yield from _both("conv_out", "conv_out")


def table(network: UNet, linear: bool = False) -> list[Pair]:
    """The pairs of the tensors that a network has: a block that keeps its width has no skip convolution."""
    names = network.state_dict().keys()
    return [pair for pair in layout(network.config, linear) if pair.ours in names]


def shapes(pairs: Iterable[Pair], network: UNet) -> dict[str, tuple[int, ...]]:
    """The tensors of the layout and their shapes, from those of a network (on any device, meta too)."""
    meta = {name: torch.empty(value.shape, device="meta") for name, value in network.state_dict().items()}
    return {name: tuple(value.shape) for name, value in write(pairs, meta).items()}


def block(name: str) -> str:
    """The block of the layout that a tensor lies in."""
    parts = name.split(".")
    if parts[0] in ("down_blocks", "up_blocks"):
        return ".".join(parts[:4])
    return ".".join(parts[:3]) if parts[0] == "mid_block" else parts[0]


def difference(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str | None:
    """How the tensors of a file differ from those expected, block by block; None where they do not."""
    lines: dict[str, list[str]] = {}
    for name in expected:
        if name not in found:
            lines.setdefault(block(name), []).append(f"{name} is missing")
        elif expected[name] != found[name]:
            shape = f"{name} is {list(found[name])}, expected {list(expected[name])}"
            lines.setdefault(block(name), []).append(shape)
    for name in found:
        if name not in expected:
            lines.setdefault(block(name), []).append(f"{name} is not expected")
    told = [f"{place}: {faults[0]}{_more(len(faults) - 1, 'more')}" for place, faults in lines.items()]
    return "; ".join(told[:5]) + _more(len(told) - 5, "more blocks") if told else None


def _more(count: int, what: str) -> str:
    return f" (and {count} {what})" if count > 0 else ""


def _both(ours: str, theirs: str, form: Form = _SAME) -> Iterator[Pair]:
    """Weight (in a form of its own) and bias of one layer."""
    yield Pair(f"{ours}.weight", (f"{theirs}.weight",), form)
    yield Pair(f"{ours}.bias", (f"{theirs}.bias",))


def _joined(ours: str, theirs: str, parts: tuple[str, ...], bias: bool = True) -> Iterator[Pair]:
    """A projection of ours that theirs has in parts."""
    for end in _ENDS if bias else _ENDS[:1]:
        yield Pair(f"{ours}.{end}", tuple(f"{theirs}.{part}.{end}" for part in parts), Joined(len(parts)))


def _vector_port(config: UNetConfig) -> Iterator[Pair]:
    yield from _mlp("vector.time", "time_embedding")
    if config.classes:
        yield Pair("vector.label.weight", ("class_embedding.weight",), NullRow())
    if config.vector_width:
        yield Pair("vector.null_vector", (), Absent((config.vector_width,)))
        yield from _mlp("vector.vector", "add_embedding")
    if config.aug:
        yield Pair("vector.null_aug", (), Absent((config.embedding,)))
        yield from _mlp("vector.aug", "class_embedding")


def _mlp(ours: str, theirs: str) -> Iterator[Pair]:
    yield from _both(f"{ours}.inner", f"{theirs}.linear_1")
    yield from _both(f"{ours}.outer", f"{theirs}.linear_2")


def _sequence_port(config: UNetConfig) -> Iterator[Pair]:
    if config.cross_width:
        yield from _both("sequence.project", "encoder_hid_proj")
    if config.pool_heads:
        ours, theirs = "sequence.pool", "add_embedding"
        yield from _both(f"{ours}.norm_in", f"{theirs}.norm1")
        yield Pair(f"{ours}.position", (f"{theirs}.pool.positional_embedding",))
        yield from _joined(f"{ours}.q", f"{theirs}.pool", ("q_proj",))
        yield from _joined(f"{ours}.kv", f"{theirs}.pool", ("k_proj", "v_proj"))
        yield from _both(f"{ours}.proj", f"{theirs}.proj")
        yield from _both(f"{ours}.norm_out", f"{theirs}.norm2")


def _stage(config: UNetConfig, ours: str, place: str, j: int, kind: tuple[int, bool, Form]) -> Iterator[Pair]:
    """A residual block and the attention after it: its depth, whether it reads text alone, its outer maps."""
    depth, text_only, outer = kind
    yield from _resnet(f"{ours}.block", f"{place}.resnets.{j}")
    text = bool(config.context)
    if depth and config.attention == "transformer":
        yield from _transformer(f"{ours}.attention.0", f"{place}.attentions.{j}", (depth, text_only, outer), text)
    elif depth:
        yield from _added(config, f"{ours}.attention.0", f"{place}.attentions.{j}", text_only)


def _resnet(ours: str, theirs: str) -> Iterator[Pair]:
    for mine, name in (
        ("norm1", "norm1"),
        ("conv1", "conv1"),
        ("embed", "time_emb_proj"),
        ("norm2", "norm2"),
        ("conv2", "conv2"),
        ("skip", "conv_shortcut"),
    ):
        yield from _both(f"{ours}.{mine}", f"{theirs}.{name}")


def _move(config: UNetConfig, ours: str, theirs: str) -> Iterator[Pair]:
    if config.resample == "resblock":
        yield from _resnet(ours, theirs)
    else:
        yield from _both(f"{ours}.conv", f"{theirs}.conv")


def _transformer(ours: str, theirs: str, kind: tuple[int, bool, Form], text: bool) -> Iterator[Pair]:
    depth, text_only, outer = kind
    yield from _both(f"{ours}.norm", f"{theirs}.norm")
    yield from _both(f"{ours}.proj_in", f"{theirs}.proj_in", outer)
    for k in range(depth):
        yield from _layer(f"{ours}.layers.{k}", f"{theirs}.transformer_blocks.{k}", text_only, text)
    yield from _both(f"{ours}.proj_out", f"{theirs}.proj_out", outer)


def _layer(ours: str, theirs: str, text_only: bool, text: bool) -> Iterator[Pair]:
    for k in (1, 2, 3) if text else (1, 3):
        yield from _both(f"{ours}.norm{k}", f"{theirs}.norm{k}")
    if text_only:
        yield from _cross(f"{ours}.first_cross_attention", f"{theirs}.attn1")
    else:
        yield from _joined(f"{ours}.self_attention.qkv", f"{theirs}.attn1", ("to_q", "to_k", "to_v"), bias=False)
        yield from _both(f"{ours}.self_attention.out", f"{theirs}.attn1.to_out.0")
    if text:
        yield from _cross(f"{ours}.cross_attention", f"{theirs}.attn2")
    yield from _both(f"{ours}.mlp_in", f"{theirs}.ff.net.0.proj")
    yield from _both(f"{ours}.mlp_out", f"{theirs}.ff.net.2")


def _cross(ours: str, theirs: str) -> Iterator[Pair]:
    yield from _joined(f"{ours}.q", theirs, ("to_q",), bias=False)
    yield from _joined(f"{ours}.kv", theirs, ("to_k", "to_v"), bias=False)
    yield from _both(f"{ours}.out", f"{theirs}.to_out.0")


def _added(config: UNetConfig, ours: str, theirs: str, text_only: bool) -> Iterator[Pair]:
    yield from _both(f"{ours}.norm", f"{theirs}.group_norm")
    yield from _joined(f"{ours}.qkv", theirs, ("to_q",) if text_only else ("to_q", "to_k", "to_v"))
    if config.context_norm:
        yield from _both(f"{ours}.context_norm", f"{theirs}.norm_cross")
    yield from _joined(f"{ours}.text_kv", theirs, ("add_k_proj", "add_v_proj"))
    yield from _both(f"{ours}.out", f"{theirs}.to_out.0")
