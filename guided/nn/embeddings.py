"""Embeddings of numbers, and the pooling of text into a vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from guided.nn.attend import attend
from guided.nn.attention import merge, split
from guided.nn.config import UNetConfig
from guided.nn.layers import Linear


class Sinusoid(nn.Module):
    """Sines and cosines of numbers (B,) -> (B, width), frequencies falling from 1 to about 1 / max_period."""

    def __init__(self, width: int, max_period: float = 1e4, flip: bool = True, shift: float = 0.0) -> None:
        super().__init__()
        self.width, self.max_period, self.flip, self.shift = width, max_period, flip, shift

    def forward(self, t: Tensor) -> Tensor:
        half = self.width // 2
        steps = torch.arange(half, device=t.device, dtype=t.dtype) / (half - self.shift)
        angles = t[:, None] * torch.exp(-math.log(self.max_period) * steps)
        first, second = angles.sin(), angles.cos()
        waves = torch.cat((second, first) if self.flip else (first, second), -1)
        return nn.functional.pad(waves, (0, self.width % 2))


class Fourier(nn.Module):
    """Sines and cosines at random fixed frequencies, (B,) -> (B, width) (arXiv 2006.10739)."""

    frequencies: Tensor

    def __init__(self, width: int, std: float) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("frequencies", torch.randn(width // 2) * std)

    def forward(self, t: Tensor) -> Tensor:
        angles = 2 * math.pi * t[:, None] * self.frequencies.to(t.dtype)
        return nn.functional.pad(torch.cat((angles.cos(), angles.sin()), -1), (0, self.width % 2))


class MLP(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, width: int, embed: int, act: nn.Module) -> None:
        super().__init__()
        self.inner = Linear(width, embed)
        self.act = act
        self.outer = Linear(embed, embed)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.act(self.inner(x)))  # type: ignore[no-any-return]


def number_embedding(config: UNetConfig) -> Sinusoid | Fourier:
    """The features of a noise or augmentation level that the config asks for."""
    width = config.time_width or config.widths[0]
    if config.time == "fourier":
        return Fourier(width, config.fourier_std)
    return Sinusoid(width, config.max_period, config.flip, config.shift)


class AttentionPool(nn.Module):
    """Text pooled by one attention query, its mean, into the embedding (DeepFloyd IF): (B, T, C) -> (B, embed)."""

    def __init__(self, width: int, embed: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_in = nn.LayerNorm(width)
        self.position = nn.Parameter(torch.randn(1, width) / width**0.5)
        self.q = Linear(width, width)
        self.kv = Linear(width, 2 * width)
        self.proj = Linear(width, embed)
        self.norm_out = nn.LayerNorm(embed)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.norm_in(tokens)
        real = mask[..., None].to(x.dtype)
        mean = (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        mean = mean + self.position
        (q,) = split(self.q(mean), 1, self.heads)
        k, v = split(self.kv(torch.cat((mean, x), 1)), 2, self.heads)
        seen = torch.cat((torch.ones_like(mask[:, :1]), mask), 1)[:, None, None]
        bias = torch.zeros_like(seen, dtype=q.dtype).masked_fill(~seen, -math.inf)
        return self.norm_out(self.proj(merge(attend(q, k, v, bias))[:, 0]))  # type: ignore[no-any-return]
