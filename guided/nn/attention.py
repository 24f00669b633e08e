"""Attention blocks: ADM's self-attention, self and cross, IF's added text keys, SD's transformer.

Every block maps (B, C, H, W) and a `Context` to (B, C, H, W). Projections are stored fused, in the order query, key,
value, each split into heads next; a checkpoint in another order (ADM's older one has the heads first) is permuted
when it is loaded.

A block with self-attention may be called under a `Perturbation` that names it; see `attend_changed`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided.nn.attend import Size, attend, attend_changed, attend_copied, of_first_half
from guided.nn.config import UNetConfig
from guided.nn.layers import Linear, added, gated
from guided.nn.norms import norm_act
from guided.perturbation import Change, Copied, Perturbation

Layer = TypeVar("Layer", bound=nn.Module)


Project = Callable[[Tensor], tuple[Tensor, ...]]
"""Tokens (B, T, C) -> keys and values, (B, heads, T, d) each."""


class Context(NamedTuple):
    """Text as attention reads it: tokens (B, T, C) and bias (B, 1, 1, T), 0 or -inf; no row is all -inf.

    projected: the keys and values that layers have made of it, by layer; a context that lives for a run holds them.
    """

    tokens: Tensor
    bias: Tensor
    projected: dict[nn.Module, tuple[Tensor, Tensor]]

    def keys_and_values(
        self, layer: nn.Module, project: Callable[[Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, Tensor]:
        """project(tokens), made once for a layer, but anew under gradients and in a compiler."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            k, v = project(self.tokens)
            return k, v
        if layer not in self.projected:
            k, v = project(self.tokens)
            self.projected[layer] = k.contiguous(), v.contiguous()
        return self.projected[layer]


def widened(x: Tensor, rows: int) -> Tensor:
    """x (B, ...) under k conditions, (k B, ...) one below the other, where it is not yet."""
    # Joined, not repeated: `repeat` forgets the layout, and every layer after it would turn it round again.
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


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
    """(B, H * W, C) -> (B, C, H, W), with H and W and in the layout of `like`."""
    h = x.transpose(1, 2).view(x.shape[0], x.shape[2], *like.shape[-2:])
    # As it stands it has channels last; one such map among others makes every layer after it copy its weights.
    return h.contiguous() if like.is_contiguous() else h


class SelfAttention(nn.Module):
    """Multi-head self-attention on (B, N, C), N = H * W, plus another (B, N, C)."""

    def __init__(self, width: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=bias)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, size: Size, plus: Tensor, change: Change | None = None) -> Tensor:
        q, k, v = split(self.qkv(x), 3, self.heads)
        if isinstance(change, Copied):
            return added(self.out, merge(attend(of_first_half(q), of_first_half(k), v)), plus)
        return added(self.out, merge(attend_changed(q, k, v, size, change)), plus)


class CrossAttention(nn.Module):
    """Multi-head attention of (B, N, C) to the text, plus another (B, N, C)."""

    def __init__(self, width: int, context: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q = Linear(width, width, bias=bias)
        self.kv = Linear(context, 2 * width, bias=bias)
        self.out = Linear(width, width)

    def forward(self, x: Tensor, context: Context, plus: Tensor, change: Change | None = None) -> Tensor:
        (q,) = split(self.q(x), 1, self.heads)
        k, v = context.keys_and_values(self, lambda tokens: split(self.kv(tokens), 2, self.heads))
        if isinstance(change, Copied):
            return added(self.out, merge(attend_copied(q, k, v, context.bias, change)), plus)
        return added(self.out, merge(attend(q, k, v, context.bias)), plus)


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
        y = to_sequence(norm_act(self.norm, h))
        return to_picture(self.self_attention(y, size_of(h), to_sequence(h), change), h)


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
        y = to_sequence(norm_act(self.norm, h))
        x = self.self_attention(y, size_of(h), x, change or self.copied(perturbation))
        x = widened(x, len(context.tokens))
        return to_picture(self.cross_attention(self.cross_norm(x), context, x, perturbation), h)


class AddedBlock(Perturbable):
    """Self-attention whose keys and values are joined by the text's (GLIDE, DeepFloyd IF)."""

    def __init__(self, config: UNetConfig, width: int, heads: int, text_only: bool) -> None:
        super().__init__()
        self.heads, self.parts = heads, 1 if text_only else 3
        self.has_self_attention = not text_only
        self.norm = group_norm(config, width)
        self.qkv = Linear(width, self.parts * width)
        norm = nn.GroupNorm(math.gcd(32, config.context), config.context)
        self.context_norm = norm if config.context_norm else None
        self.text_kv = Linear(config.context, 2 * width)
        self.out = zero(Linear(width, width))

    def forward(self, h: Tensor, context: Context, perturbation: Change | None = None) -> Tensor:
        change = self.mine(perturbation)
        if change is not None and change.kind == "skip":
            return h
        h, bias = widened(h, len(context.tokens)), context.bias
        k, v = context.keys_and_values(self, self._text)
        q, *own = split(self.qkv(to_sequence(norm_act(self.norm, h))), self.parts, self.heads)
        if own:
            k, v = torch.cat((k, own[0]), 2), torch.cat((v, own[1]), 2)
            bias = F.pad(bias, (0, q.shape[2]))
        y = added(self.out, merge(attend_changed(q, k, v, size_of(h), change, bias)), to_sequence(h))
        return to_picture(y, h)

    def _text(self, tokens: Tensor) -> tuple[Tensor, ...]:
        if self.context_norm is not None:
            tokens = self.context_norm(tokens.transpose(1, 2)).transpose(1, 2)
        return split(self.text_kv(tokens), 2, self.heads)


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
        self.mlp_in = Linear(width, 8 * width)
        self.mlp_out = Linear(4 * width, width)

    def forward(self, x: Tensor, size: Size, context: Context | None, perturbation: Change | None) -> Tensor:
        change = self.mine(perturbation)
        if change is not None and change.kind == "skip":
            return x
        if self.self_attention is not None:
            x = self.self_attention(self.norm1(x), size, x, change or self.copied(perturbation))
        if self.first_cross_attention is not None and context is not None:
            x = widened(x, len(context.tokens))
            x = self.first_cross_attention(self.norm1(x), context, x, perturbation)
        if self.cross_attention is not None and self.norm2 is not None and context is not None:
            x = widened(x, len(context.tokens))
            x = self.cross_attention(self.norm2(x), context, x, perturbation)
        return added(self.mlp_out, gated(self.mlp_in, self.norm3(x)), x)


class Transformer(nn.Module):
    """Stable Diffusion's spatial transformer of `depth` layers (arXiv 2112.10752)."""

    def __init__(self, config: UNetConfig, width: int, heads: int, depth: int, text_only: bool) -> None:
        super().__init__()
        self.norm = group_norm(config, width, 1e-6)
        # A 1x1 convolution is a linear map of the channels: both published layouts are this one matrix.
        self.proj_in = Linear(width, width)
        layers = (TransformerLayer(width, config.context, heads, text_only) for _ in range(depth))
        self.layers = nn.ModuleList(layers)
        self.proj_out = zero(Linear(width, width))

    def forward(self, h: Tensor, context: Context | None, perturbation: Change | None = None) -> Tensor:
        x = self.proj_in(to_sequence(norm_act(self.norm, h)))
        for layer in self.layers:
            x = layer(x, size_of(h), context, perturbation)
        return to_picture(added(self.proj_out, x, to_sequence(widened(h, len(x)))), h)


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
