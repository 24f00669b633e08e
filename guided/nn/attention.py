"""Attention blocks: ADM's self-attention, self and cross, IF's added text keys, SD's transformer.

Every block maps (B, C, H, W) and a `Context` to (B, C, H, W). Projections are stored fused, in the order query, key,
value, each split into heads next; a checkpoint in another order (ADM's older one has the heads first) is permuted
when it is loaded.

A block with self-attention may be called under a `Perturbation` that names it; see `attend_changed`.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided.nn.attend import Size, attend, attend_changed, attend_copied, of_first_half
from guided.nn.config import UNetConfig
from guided.perturbation import Change, Copied, Perturbation

Layer = TypeVar("Layer", bound=nn.Module)


class Context(NamedTuple):
    """Text as attention reads it: tokens (B, T, C) and bias (B, 1, 1, T), 0 or -inf; no row is all -inf."""

    tokens: Tensor
    bias: Tensor


def zero(module: Layer) -> Layer:
    """Set a layer to zero, so that the residual branch it ends starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(config: UNetConfig, width: int, eps: float | None = None) -> nn.GroupNorm:
    """GroupNorm with the config's groups, or the largest number of them that divides the width."""
    return nn.GroupNorm(math.gcd(config.groups, width), width, eps=eps or config.norm_eps)


def split(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """(B, N, parts * C) -> `parts` tensors (B, heads, N, C / heads)."""
    b, n, c = x.shape
    return x.view(b, n, parts, heads, c // (parts * heads)).permute(2, 0, 3, 1, 4).unbind(0)


def merge(x: Tensor) -> Tensor:
    """(B, heads, N, d) -> (B, N, heads * d)."""
    return x.transpose(1, 2).flatten(2)


def to_sequence(h: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W, C)."""
    return h.flatten(2).transpose(1, 2)


def size_of(h: Tensor) -> Size:
    """(H, W) of (B, C, H, W)."""
    return h.shape[2], h.shape[3]


def to_picture(x: Tensor, like: Tensor) -> Tensor:
    """(B, H * W, C) -> (B, C, H, W), H and W as in `like`."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *like.shape[-2:])


class SelfAttention(nn.Module):
    """Multi-head self-attention on (B, N, C), N = H * W."""

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, size: Size, change: Change | None = None) -> Tensor:
        q, k, v = split(self.qkv(x), 3, self.heads)
        if isinstance(change, Copied):
            return self.out(merge(attend(of_first_half(q), of_first_half(k), v)))  # type: ignore[no-any-return]
        return self.out(merge(attend_changed(q, k, v, size, change)))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Multi-head attention of (B, N, C) to the text."""

    def __init__(self, width: int, context: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(context, 2 * width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Context, change: Change | None = None) -> Tensor:
        (q,) = split(self.q(x), 1, self.heads)
        k, v = split(self.kv(context.tokens), 2, self.heads)
        if isinstance(change, Copied):
            return self.out(merge(attend_copied(q, k, v, context.bias, change)))  # type: ignore[no-any-return]
        return self.out(merge(attend(q, k, v, context.bias)))  # type: ignore[no-any-return]


class Perturbable(nn.Module):
    """A block whose self-attention a perturbation may pick, by its `name`: its place in the network."""

    name = ""
    has_self_attention = True

    def mine(self, change: Change | None) -> Perturbation | None:
        """The perturbation if it picks this block, else None."""
        picked = isinstance(change, Perturbation) and self.name in (change.layers or ())
        return change if picked else None  # type: ignore[return-value]

    def copied(self, change: Change | None) -> Copied | None:
        """The change if it copies the attention of pictures to themselves, else None."""
        return change if isinstance(change, Copied) and change.own else None


class SelfBlock(Perturbable):
    """ADM's attention block (Dhariwal and Nichol 2021, arXiv 2105.05233)."""

    def __init__(self, config: UNetConfig, width: int, heads: int) -> None:
        super().__init__()
        self.norm = group_norm(config, width)
        self.self_attention = SelfAttention(width, heads)
        zero(self.self_attention.out)

    def forward(self, h: Tensor, context: Context | None, perturbation: Change | None = None) -> Tensor:
        change = self.mine(perturbation)
        if change is not None and change.kind == "skip":
            return h
        return h + to_picture(self.self_attention(to_sequence(self.norm(h)), size_of(h), change), h)


class SelfCrossBlock(Perturbable):
    """Self-attention, then cross-attention to the text, each a residual."""

    def __init__(self, config: UNetConfig, width: int, heads: int) -> None:
        super().__init__()
        self.norm = group_norm(config, width)
        self.self_attention = SelfAttention(width, heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, config.context, heads)
        zero(self.self_attention.out)
        zero(self.cross_attention.out)

    def forward(self, h: Tensor, context: Context, perturbation: Change | None = None) -> Tensor:
        change = self.mine(perturbation)
        if change is not None and change.kind == "skip":
            return h
        x = to_sequence(h)
        y = self.self_attention(to_sequence(self.norm(h)), size_of(h), change or self.copied(perturbation))
        y = y + self.cross_attention(self.cross_norm(x + y), context, perturbation)
        return h + to_picture(y, h)


class AddedBlock(Perturbable):
    """Self-attention whose keys and values are joined by the text's (GLIDE, DeepFloyd IF)."""

    def __init__(self, config: UNetConfig, width: int, heads: int, text_only: bool) -> None:
        super().__init__()
        self.heads, self.parts = heads, 1 if text_only else 3
        self.has_self_attention = not text_only
        self.norm = group_norm(config, width)
        self.qkv = nn.Linear(width, self.parts * width)
        norm = nn.GroupNorm(math.gcd(32, config.context), config.context)
        self.context_norm = norm if config.context_norm else None
        self.text_kv = nn.Linear(config.context, 2 * width)
        self.out = zero(nn.Linear(width, width))

    def forward(self, h: Tensor, context: Context, perturbation: Change | None = None) -> Tensor:
        change = self.mine(perturbation)
        if change is not None and change.kind == "skip":
            return h
        tokens, bias = context
        if self.context_norm is not None:
            tokens = self.context_norm(tokens.transpose(1, 2)).transpose(1, 2)
        k, v = split(self.text_kv(tokens), 2, self.heads)
        q, *own = split(self.qkv(to_sequence(self.norm(h))), self.parts, self.heads)
        if own:
            k, v = torch.cat((k, own[0]), 2), torch.cat((v, own[1]), 2)
            bias = F.pad(bias, (0, q.shape[2]))
        return h + to_picture(self.out(merge(attend_changed(q, k, v, size_of(h), change, bias))), h)


class TransformerLayer(Perturbable):
    """Self-attention, cross-attention and a gated MLP (GEGLU, arXiv 2002.05202) on (B, N, C).

    `text_only` puts a second cross-attention in the place of self-attention (Stable Diffusion's x4 upscaler).
    """

    def __init__(self, width: int, context: int, heads: int, text_only: bool) -> None:
        super().__init__()
        self.has_self_attention = not text_only
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = None if text_only else SelfAttention(width, heads, bias=False)
        self.first_cross_attention = CrossAttention(width, context, heads, bias=False) if text_only else None
        self.norm2 = nn.LayerNorm(width) if context else None
        self.cross_attention = CrossAttention(width, context, heads, bias=False) if context else None
        self.norm3 = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 8 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, size: Size, context: Context | None, perturbation: Change | None) -> Tensor:
        change = self.mine(perturbation)
        if change is not None and change.kind == "skip":
            return x
        if self.self_attention is not None:
            x = x + self.self_attention(self.norm1(x), size, change or self.copied(perturbation))
        if self.first_cross_attention is not None:
            x = x + self.first_cross_attention(self.norm1(x), context, perturbation)
        if self.cross_attention is not None and self.norm2 is not None:
            x = x + self.cross_attention(self.norm2(x), context, perturbation)
        value, gate = self.mlp_in(self.norm3(x)).chunk(2, -1)
        return x + self.mlp_out(value * F.gelu(gate))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Stable Diffusion's spatial transformer of `depth` layers (arXiv 2112.10752)."""

    def __init__(self, config: UNetConfig, width: int, heads: int, depth: int, text_only: bool) -> None:
        super().__init__()
        self.norm = group_norm(config, width, 1e-6)
        # A 1x1 convolution is a linear map of the channels: both published layouts are this one matrix.
        self.proj_in = nn.Linear(width, width)
        layers = (TransformerLayer(width, config.context, heads, text_only) for _ in range(depth))
        self.layers = nn.ModuleList(layers)
        self.proj_out = zero(nn.Linear(width, width))

    def forward(self, h: Tensor, context: Context | None, perturbation: Change | None = None) -> Tensor:
        x = self.proj_in(to_sequence(self.norm(h)))
        for layer in self.layers:
            x = layer(x, size_of(h), context, perturbation)
        return h + to_picture(self.proj_out(x), h)


def attention_blocks(config: UNetConfig, width: int, depth: int, text_only: bool) -> list[nn.Module]:
    """The attention that follows a residual block; an empty list for depth 0."""
    heads = config.heads or width // config.head_width
    if depth == 0:
        return []
    if config.attention == "transformer":
        return [Transformer(config, width, heads, depth, text_only)]
    if config.attention == "added":
        return [AddedBlock(config, width, heads, text_only) for _ in range(depth)]
    if config.attention == "cross":
        return [SelfCrossBlock(config, width, heads) for _ in range(depth)]
    return [SelfBlock(config, width, heads) for _ in range(depth)]
