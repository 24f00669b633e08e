"""ADM (arXiv 2105.05233) written out as plain functions in float64, with its published key names, against `UNet`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from guided.cond import Cond
from guided.nn import UNet, UNetConfig

CONFIG = UNetConfig(
    out_channels=6,  # the second half is the learned variance
    widths=(8, 16, 16),
    blocks=(2, 2, 2),
    resample="resblock",
    depth=(0, 1, 1),
    head_width=4,
    groups=4,
    classes=5,
)


class Names:
    """Where each part of ADM stands: (its key, ours), in the order of the forward pass."""

    def __init__(self, config: UNetConfig) -> None:
        self.config = config
        self.down = list(self._down())
        self.middle = [("middle_block.0", "middle.0.block"), ("middle_block.1", "middle.0.attention.0")]
        self.middle.append(("middle_block.2", "middle.1.block"))
        self.up = list(self._up())

    def _down(self) -> Iterator[list[tuple[str, str]]]:
        k = 1
        for level, count in enumerate(self.config.blocks):
            for i in range(count):
                parts = [(f"input_blocks.{k}.0", f"down.{level}.stages.{i}.block")]
                if self.config.depth[level]:
                    parts.append((f"input_blocks.{k}.1", f"down.{level}.stages.{i}.attention.0"))
                yield parts
                k += 1
            if level < len(self.config.blocks) - 1:
                yield [(f"input_blocks.{k}.0", f"down.{level}.move")]
                k += 1

    def _up(self) -> Iterator[list[tuple[str, str]]]:
        k = 0
        for j, level in enumerate(reversed(range(len(self.config.blocks)))):
            for i in range(self.config.blocks[level] + 1):
                ours = [f"up.{j}.stages.{i}.block"]
                if self.config.depth[level]:
                    ours.append(f"up.{j}.stages.{i}.attention.0")
                if level and i == self.config.blocks[level]:
                    ours.append(f"up.{j}.move")
                yield [(f"output_blocks.{k}.{n}", name) for n, name in enumerate(ours)]
                k += 1


def theirs_from_ours(names: Names, state: dict[str, Tensor], heads_first: bool) -> dict[str, Tensor]:
    """Our weights under ADM's keys; in its older order each head has its own query, key and value rows."""
    block = {"norm1": "in_layers.0", "conv1": "in_layers.2", "embed": "emb_layers.1", "norm2": "out_layers.0"}
    block |= {"conv2": "out_layers.3", "skip": "skip_connection"}
    block |= {"norm": "norm", "self_attention.qkv": "qkv", "self_attention.out": "proj_out"}
    edges = {"time_embed.0": "vector.time.inner", "time_embed.2": "vector.time.outer", "out.0": "norm_out"}
    edges |= {"out.2": "conv_out", "input_blocks.0.0": "conv_in", "label_emb": "vector.label"}
    if names.config.resample == "conv":
        block["conv"] = "op"
    pairs = list(edges.items())
    for their, our in [p for parts in (*names.down, names.middle, *names.up) for p in parts]:
        pairs += [(f"{their}.{b}", f"{our}.{a}") for a, b in block.items()]
    result = {}
    for their, our in pairs:
        for end in ("weight", "bias"):
            if f"{our}.{end}" in state:
                value = state[f"{our}.{end}"]
                if their.endswith("qkv") and heads_first:
                    value = value.unflatten(0, (3, -1, names.config.head_width)).transpose(0, 1).flatten(0, 2)
                result[f"{their}.{end}"] = value
    assert len(result) == len(state)
    return result


class ADM:
    """The network as the paper and its appendix describe it."""

    def __init__(self, weights: dict[str, Tensor], names: Names, heads_first: bool) -> None:
        self.w, self.names, self.heads_first = weights, names, heads_first

    def conv(self, key: str, h: Tensor, **how: int) -> Tensor:
        return F.conv2d(h, self.w[key + ".weight"], self.w[key + ".bias"], **how)

    def linear(self, key: str, h: Tensor) -> Tensor:
        return h @ self.w[key + ".weight"].T + self.w[key + ".bias"]

    def norm(self, key: str, h: Tensor) -> Tensor:
        x = h.reshape(h.shape[0], self.names.config.groups, -1)
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5)
        shape = (1, -1) + (1,) * (h.ndim - 2)
        return x.view_as(h) * self.w[key + ".weight"].view(shape) + self.w[key + ".bias"].view(shape)

    def block(self, key: str, h: Tensor, emb: Tensor, move: str) -> Tensor:
        def moved(x: Tensor) -> Tensor:
            if move == "down":
                return x.unflatten(-1, (-1, 2)).mean(-1).unflatten(-2, (-1, 2)).mean(-2)
            return x.repeat_interleave(2, -1).repeat_interleave(2, -2) if move == "up" else x

        y = self.conv(key + ".in_layers.2", moved(F.silu(self.norm(key + ".in_layers.0", h))), padding=1)
        scale, shift = self.linear(key + ".emb_layers.1", F.silu(emb))[:, :, None, None].chunk(2, 1)
        y = self.norm(key + ".out_layers.0", y) * (1 + scale) + shift
        h = moved(h)
        if key + ".skip_connection.weight" in self.w:
            h = self.conv(key + ".skip_connection", h)
        return h + self.conv(key + ".out_layers.3", F.silu(y), padding=1)

    def attention(self, key: str, h: Tensor) -> Tensor:
        b, c, height, width = h.shape
        x = self.norm(key + ".norm", h.flatten(2)).transpose(1, 2)
        d = self.names.config.head_width
        qkv = self.linear(key + ".qkv", x)
        shape = (c // d, 3, d) if self.heads_first else (3, c // d, d)
        q, k, v = qkv.unflatten(-1, shape).unbind(-2 if self.heads_first else -3)
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).div(math.sqrt(d)).softmax(-1)
        x = torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)
        return h + self.linear(key + ".proj_out", x).transpose(1, 2).view(b, c, height, width)

    def part(self, pair: tuple[str, str], h: Tensor, emb: Tensor) -> Tensor:
        their, our = pair
        if "attention" in our:
            return self.attention(their, h)
        way = ("up" if our.startswith("up") else "down") if our.endswith("move") else "stay"
        if f"{their}.op.weight" not in self.w:
            return self.block(their, h, emb, way)
        if way == "down":
            return self.conv(f"{their}.op", h, stride=2, padding=1)
        return self.conv(f"{their}.op", h.repeat_interleave(2, -1).repeat_interleave(2, -2), padding=1)

    def __call__(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        half = self.names.config.widths[0] // 2
        angles = t.double()[:, None] * 10000 ** (-torch.arange(half).double() / half)
        emb = self.linear("time_embed.0", torch.cat((angles.cos(), angles.sin()), 1))
        emb = self.linear("time_embed.2", F.silu(emb)) + self.w["label_emb.weight"][y]
        h = self.conv("input_blocks.0.0", x, padding=1)
        skips = [h]
        for parts in self.names.down:
            for pair in parts:
                h = self.part(pair, h, emb)
            skips.append(h)
        for pair in self.names.middle:
            h = self.part(pair, h, emb)
        for parts in self.names.up:
            h = torch.cat((h, skips.pop()), 1)
            for pair in parts:
                h = self.part(pair, h, emb)
        return self.conv("out.2", F.silu(self.norm("out.0", h)), padding=1)


@torch.no_grad()
@pytest.mark.parametrize("heads_first", [True, False])
@pytest.mark.parametrize("resample", ["resblock", "conv"])
def test_the_published_arithmetic(resample: str, heads_first: bool) -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, resample=resample)
    ours = UNet(config).double()
    for p in ours.parameters():
        p.copy_(torch.randn_like(p) * 0.3)
    names = Names(config)
    theirs = ADM(theirs_from_ours(names, dict(ours.state_dict()), heads_first), names, heads_first)
    x, t, y = torch.randn(2, 3, 8, 12, dtype=torch.float64), torch.tensor([999.0, 4.0]), torch.tensor([0, 4])
    want = theirs(x, t, y)
    got = ours(x, t, Cond(label=y))
    assert got.shape == (2, 6, 8, 12)
    assert (got - want).norm() < 1e-12 * want.norm()
    assert (theirs(x, t, 4 - y) - want).norm() > 1e-3 * want.norm()
