"""The published U-Nets written out as functions of a state dict: their names and shapes, and their arithmetic.

Written from the papers (ADM, arXiv 2105.05233; LDM, 2112.10752; SDXL, 2307.01952) and the published names; nothing here
knows our networks or their tables. Odd sizes are halved upwards, the last row or column alone, and cropped going up.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Flags:
    """A network in the words of its authors; `attention` are the steps (1, 2, 4, ...) that have it."""

    model_channels: int = 32
    channel_mult: tuple[float, ...] = (1, 2, 2)
    num_res_blocks: int = 1
    attention: tuple[int, ...] = (2, 4)
    in_channels: int = 3
    out_channels: int = 6
    num_classes: int = 0
    scale_shift: bool = True
    updown: bool = True
    head_channels: int = 16
    num_heads: int = 0
    new_order: bool = False
    pool_side: int = 0  # of a classifier: what is left of the picture at the end
    context: int = 0
    depth: int = 1
    linear: bool = True
    text_only: tuple[int, ...] = ()  # steps
    vector: int = 0

    @property
    def config(self) -> dict[str, object]:
        """What no tensor says, as guided-diffusion's flags."""
        heads = {"num_heads": self.num_heads} if self.num_heads else {"num_head_channels": self.head_channels}
        return heads if self.context else {**heads, "use_new_attention_order": self.new_order}

    def heads(self, width: int) -> int:
        return self.num_heads or width // self.head_channels


ADM = Flags(num_classes=5)
UPSAMPLER = Flags(num_classes=5, in_channels=6)
CLASSIFIER = Flags(pool_side=2, out_channels=7)
SD = Flags(
    in_channels=4,
    out_channels=4,
    scale_shift=False,
    updown=False,
    context=24,
    num_heads=4,
    linear=False,
)
SDXL = dataclasses.replace(SD, num_heads=0, vector=10, depth=2, linear=True)
X4 = dataclasses.replace(SD, in_channels=7, num_classes=9, text_only=(2,), linear=True, context=40)


def pair(name: str, out: int, into: int, *kernel: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into, *kernel), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def shapes(f: Flags) -> dict[str, tuple[int, ...]]:
    """Every tensor of the network by its published name."""
    embed, widths = 4 * f.model_channels, [int(m * f.model_channels) for m in f.channel_mult]

    def res(name: str, into: int, out: int) -> dict[str, tuple[int, ...]]:
        made = norm(f"{name}.in_layers.0", into) | pair(f"{name}.in_layers.2", out, into, 3, 3)
        made |= pair(f"{name}.emb_layers.1", out * (1 + f.scale_shift), embed)
        made |= norm(f"{name}.out_layers.0", out) | pair(f"{name}.out_layers.3", out, out, 3, 3)
        return made | (pair(f"{name}.skip_connection", out, into, 1, 1) if into != out else {})

    def attention(name: str, width: int, text_only: bool) -> dict[str, tuple[int, ...]]:
        if not f.context:
            made = norm(f"{name}.norm", width) | pair(f"{name}.qkv", 3 * width, width, 1)
            return made | pair(f"{name}.proj_out", width, width, 1)
        kernel = () if f.linear else (1, 1)
        made = norm(f"{name}.norm", width) | pair(f"{name}.proj_in", width, width, *kernel)
        for i in range(f.depth):
            block = f"{name}.transformer_blocks.{i}"
            for attn, seen in (("attn1", f.context if text_only else width), ("attn2", f.context)):
                made |= {f"{block}.{attn}.to_q.weight": (width, width)}
                made |= {f"{block}.{attn}.to_{x}.weight": (width, seen) for x in "kv"}
                made |= pair(f"{block}.{attn}.to_out.0", width, width)
            for k in (1, 2, 3):
                made |= norm(f"{block}.norm{k}", width)
            made |= pair(f"{block}.ff.net.0.proj", 8 * width, width) | pair(f"{block}.ff.net.2", width, 4 * width)
        return made | pair(f"{name}.proj_out", width, width, *kernel)

    made = pair("time_embed.0", embed, f.model_channels) | pair("time_embed.2", embed, embed)
    made |= {"label_emb.weight": (f.num_classes, embed)} if f.num_classes else {}
    made |= pair("label_emb.0.0", embed, f.vector) | pair("label_emb.0.2", embed, embed) if f.vector else {}
    width, skips = widths[0], [widths[0]]
    made |= pair("input_blocks.0.0", width, f.in_channels, 3, 3)
    for level, out in enumerate(widths):
        for _ in range(f.num_res_blocks):
            made |= res(f"input_blocks.{len(skips)}.0", width, out)
            if 2**level in f.attention:
                made |= attention(f"input_blocks.{len(skips)}.1", out, 2**level in f.text_only)
            width = out
            skips.append(width)
        if level < len(widths) - 1:
            place = f"input_blocks.{len(skips)}.0"
            made |= res(place, width, width) if f.updown else pair(f"{place}.op", width, width, 3, 3)
            skips.append(width)
    made |= res("middle_block.0", width, width) | attention("middle_block.1", width, False)
    made |= res("middle_block.2", width, width)
    if f.pool_side:
        made |= norm("out.0", width) | {"out.2.positional_embedding": (width, f.pool_side**2 + 1)}
        return made | pair("out.2.qkv_proj", 3 * width, width, 1) | pair("out.2.c_proj", f.out_channels, width, 1)
    k = 0
    for level in reversed(range(len(widths))):
        for i in range(f.num_res_blocks + 1):
            made |= res(f"output_blocks.{k}.0", width + skips.pop(), widths[level])
            width, n = widths[level], 1
            if 2**level in f.attention:
                made |= attention(f"output_blocks.{k}.1", width, 2**level in f.text_only)
                n = 2
            if level and i == f.num_res_blocks:
                place = f"output_blocks.{k}.{n}"
                made |= res(place, width, width) if f.updown else pair(f"{place}.conv", width, width, 3, 3)
            k += 1
    return made | norm("out.0", width) | pair("out.2", f.out_channels, width, 3, 3)


def weights(f: Flags, seed: int = 0) -> State:
    """Random weights, none of them zero, of outputs of about unit size."""
    g = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes(f).items():
        drawn = torch.randn(shape, generator=g)
        one = len(shape) == 1 and name.endswith("weight")
        made[name] = 1 + 0.2 * drawn if one else drawn * (0.2 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5)
    return made


class Published:
    """The arithmetic of a state dict, in its dtype."""

    def __init__(self, state: State, flags: Flags) -> None:
        self.w, self.f = state, flags

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.w

    def linear(self, name: str, h: Tensor) -> Tensor:
        weight = self.w[f"{name}.weight"].flatten(1)
        return h @ weight.T + self.w.get(f"{name}.bias", torch.zeros(len(weight), dtype=weight.dtype))

    def conv(self, name: str, h: Tensor, stride: int = 1) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.conv2d(h, weight, self.w[f"{name}.bias"], stride=stride, padding=weight.shape[-1] // 2)

    def norm(self, name: str, h: Tensor, groups: int = 32, eps: float = 1e-5) -> Tensor:
        x = h.reshape(len(h), groups, -1)
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        shape = (1, -1, *[1] * (h.ndim - 2))
        return x.view_as(h) * self.w[f"{name}.weight"].view(shape) + self.w[f"{name}.bias"].view(shape)

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        return self.norm(name, x.flatten(0, 1), 1).view_as(x)

    def res(self, name: str, h: Tensor, emb: Tensor, move: str, size: tuple[int, int]) -> Tensor:
        def moved(x: Tensor) -> Tensor:
            return halved(x) if move == "down" else doubled(x, size) if move == "up" else x

        y = self.conv(f"{name}.in_layers.2", moved(F.silu(self.norm(f"{name}.in_layers.0", h))))
        e = self.linear(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        if self.f.scale_shift:
            scale, shift = e.chunk(2, 1)
            y = self.norm(f"{name}.out_layers.0", y) * (1 + scale) + shift
        else:
            y = self.norm(f"{name}.out_layers.0", y + e)
        h = moved(h)
        h = self.conv(f"{name}.skip_connection", h) if self.has(f"{name}.skip_connection") else h
        return h + self.conv(f"{name}.out_layers.3", F.silu(y))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, heads, d) and (B, M, heads, d) -> (B, N, heads * d)."""
        scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / math.sqrt(q.shape[-1])
        return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1), v).flatten(2)

    def three(self, x: Tensor, heads: int, new: bool) -> tuple[Tensor, ...]:
        x = x.unflatten(-1, (3, heads, -1) if new else (heads, 3, -1))
        return x.unbind(-3 if new else -2)

    def attention(self, name: str, h: Tensor, context: Tensor | None) -> Tensor:
        heads = self.f.heads(h.shape[1])
        if self.has(f"{name}.qkv"):
            x = self.linear(f"{name}.qkv", self.norm(f"{name}.norm", h.flatten(2)).transpose(1, 2))
            y = self.linear(f"{name}.proj_out", self.attend(*self.three(x, heads, self.f.new_order)))
            return h + y.transpose(1, 2).reshape(h.shape)
        x = self.linear(f"{name}.proj_in", self.norm(f"{name}.norm", h, eps=1e-6).flatten(2).transpose(1, 2))
        i = 0
        while self.has(block := f"{name}.transformer_blocks.{i}.norm1"):
            block = block.removesuffix(".norm1")
            for k in (1, 2):
                y = self.layer_norm(f"{block}.norm{k}", x)
                own = k == 1 and self.w[f"{block}.attn1.to_k.weight"].shape[1] == x.shape[-1]
                seen = y if own else context
                q, key, v = (
                    self.linear(f"{block}.attn{k}.to_{n}", s).unflatten(-1, (heads, -1))
                    for n, s in (("q", y), ("k", seen), ("v", seen))
                )
                x = x + self.linear(f"{block}.attn{k}.to_out.0", self.attend(q, key, v))
            value, gate = self.linear(f"{block}.ff.net.0.proj", self.layer_norm(f"{block}.norm3", x)).chunk(2, -1)
            x = x + self.linear(f"{block}.ff.net.2", value * F.gelu(gate))
            i += 1
        return h + self.linear(f"{name}.proj_out", x).transpose(1, 2).reshape(h.shape)

    def part(
        self, name: str, h: Tensor, emb: Tensor, context: Tensor | None, move: str, size: tuple[int, int] = (0, 0)
    ) -> Tensor:
        if self.has(f"{name}.in_layers.2"):
            return self.res(name, h, emb, move, size)
        if self.has(f"{name}.op"):
            return self.conv(f"{name}.op", h, 2)
        if self.has(f"{name}.conv"):
            return self.conv(f"{name}.conv", doubled(h, size))
        return self.attention(name, h, context)

    def numbered(self, way: str) -> Iterator[list[str]]:
        k = 0
        while names := sorted({".".join(n.split(".")[:3]) for n in self.w if n.startswith(f"{way}.{k}.")}):
            yield names
            k += 1

    def embedding(self, t: Tensor, y: Tensor | None, vector: Tensor | None) -> Tensor:
        half = self.f.model_channels // 2
        angles = t[:, None] * 10000 ** (-torch.arange(half, dtype=t.dtype) / half)
        emb = self.linear("time_embed.0", torch.cat((angles.cos(), angles.sin()), 1))
        emb = self.linear("time_embed.2", F.silu(emb))
        if y is not None:
            emb = emb + self.w["label_emb.weight"][y]
        if vector is not None:
            emb = emb + self.linear("label_emb.0.2", F.silu(self.linear("label_emb.0.0", vector)))
        return emb

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        y: Tensor | None = None,
        image: Tensor | None = None,
        context: Tensor | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        emb = self.embedding(t, y, vector)
        h = x if image is None else torch.cat((x, image), 1)
        skips: list[Tensor] = []
        steps_down = self.f.num_res_blocks + 1
        for k, names in enumerate(self.numbered("input_blocks")):
            move = "down" if k and k % steps_down == 0 else "stay"
            for name in names:
                h = self.conv(name, h) if k == 0 else self.part(name, h, emb, context, move)
            skips.append(h)
        for i in range(3):
            h = self.part(f"middle_block.{i}", h, emb, context, "stay")
        if self.f.pool_side:
            return self.pooled(h)
        for names in self.numbered("output_blocks"):
            h = torch.cat((h, skips.pop()), 1)
            for i, name in enumerate(names):
                size = skips[-1].shape[-2:] if skips else (0, 0)
                h = self.part(name, h, emb, context, "up" if i else "stay", (size[0], size[1]))
        return self.conv("out.2", F.silu(self.norm("out.0", h)))

    def pooled(self, h: Tensor) -> Tensor:
        x = F.silu(self.norm("out.0", h)).flatten(2)
        x = torch.cat((x.mean(2, keepdim=True), x), 2) + self.w["out.2.positional_embedding"]
        q, k, v = self.three(self.linear("out.2.qkv_proj", x.transpose(1, 2)), self.f.heads(x.shape[1]), True)
        return self.linear("out.2.c_proj", self.attend(q, k, v))[:, 0]


def halved(x: Tensor) -> Tensor:
    for axis in (-1, -2):
        if x.shape[axis] % 2:
            x = torch.cat((x, x.narrow(axis, x.shape[axis] - 1, 1)), axis)
        x = x.unflatten(axis, (-1, 2)).mean(axis if axis == -1 else -2)
    return x


def doubled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)[..., : size[0], : size[1]]
