"""The three ports through which a condition enters: vector, sequence and space.

Each maps what is absent (label -1, mask all False, NaN, or the field None) to its null, sample by sample and
without looking at any value from Python.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from guided import reuse
from guided.nn.attention import Context, zero
from guided.nn.config import UNetConfig
from guided.nn.embeddings import MLP, AttentionPool, number_embedding
from guided.nn.layers import Linear

if TYPE_CHECKING:
    from guided.cond import Cond


WEIGHT_SCALE = 100.0
"""Multiplies a guidance weight before its waves: weights of 1 to 10 then span what noise levels do."""


def need_shape(name: str, value: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless a field of the condition has this shape."""
    if value.shape != tuple(shape):
        raise ValueError(f"cond.{name}: expected the shape {tuple(shape)}, got {tuple(value.shape)}")


class VectorPort(nn.Module):
    """Noise level, class, vector, augmentation level and guidance weight, summed into one embedding (B, embed)."""

    def __init__(self, config: UNetConfig, act: nn.Module) -> None:
        super().__init__()
        self.config = config
        width, embed = config.time_width or config.widths[0], config.embedding
        self.features = number_embedding(config)
        self.time = MLP(width, embed, act)
        # The last row of the table stands for "no class".
        self.label = nn.Embedding(config.classes + 1, embed) if config.classes else None
        self.vector = MLP(config.vector_width, embed, act) if config.vector_width else None
        if self.vector is not None:
            self.null_vector = nn.Parameter(torch.zeros(config.vector_width))
        self.aug = MLP(width, embed, act) if config.aug else None
        if self.aug is not None:
            self.null_aug = nn.Parameter(torch.zeros(embed))
        # Zero at first, so that a student begins bit for bit as its teacher (Meng et al. 2023, section 3).
        self.guidance = MLP(width, embed, act) if config.guidance else None
        if self.guidance is not None:
            zero(self.guidance.outer)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        batch = x.shape[0]
        embedding: Tensor = self.time(self._features(c_noise.expand(batch), x))
        if self.label is not None:
            embedding = embedding + self.label(self._label(x, cond.label))
        if self.vector is not None:
            embedding = embedding + self.vector(self._vector(x, cond.vector))
        if self.aug is not None:
            embedding = embedding + self._aug(x, cond.aug, self.aug)
        if self.guidance is not None:
            embedding = embedding + self.guidance(self._features(self._weight(x, cond.guidance), x))
        return embedding

    def _features(self, level: Tensor, x: Tensor) -> Tensor:
        # The phase of the fastest wave needs float32 at least, whatever the network computes in.
        exact = level.to(torch.promote_types(x.dtype, torch.float32))
        return self.features(exact).to(x.dtype)  # type: ignore[no-any-return]

    def _label(self, x: Tensor, label: Tensor | None) -> Tensor:
        null = x.new_full((x.shape[0],), self.config.classes, dtype=torch.long)
        if label is None:
            return null
        need_shape("label", label, null.shape)
        return torch.where(label < 0, null, label)

    def _vector(self, x: Tensor, vector: Tensor | None) -> Tensor:
        null = self.null_vector.to(x.dtype).expand(x.shape[0], -1)
        if vector is None:
            return null
        need_shape("vector", vector, null.shape)
        absent = vector.isnan().any(1, keepdim=True)
        return torch.where(absent, null, vector.to(x.dtype))

    def _aug(self, x: Tensor, aug: Tensor | None, module: nn.Module) -> Tensor:
        if aug is None:
            aug = x.new_full(x.shape[:1], math.nan)
        need_shape("aug", aug, x.shape[:1])
        absent = aug.isnan()
        level = torch.where(absent, 0.0, aug * self.config.aug_scale)
        return torch.where(absent[:, None], self.null_aug, module(self._features(level, x)))

    def _weight(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """The guidance weight as the waves take it; an absent one is 1, the conditional model itself."""
        weight = x.new_full(x.shape[:1], math.nan) if guidance is None else guidance
        need_shape("guidance", weight, x.shape[:1])
        return WEIGHT_SCALE * torch.where(weight.isnan(), 1.0, weight)


class SequencePort(nn.Module):
    """Text tokens, a learned null token before them, ready for attention; and their pooled vector."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.width = config.token_width
        # Encoders differ a hundredfold in the size of their states; attention learns well from unit variance.
        self.norm = nn.LayerNorm(self.width) if config.token_norm else None
        self.null = nn.Parameter(torch.randn(self.width) * 0.02) if config.null_token else None
        self.project = Linear(self.width, config.cross_width) if config.cross_width else None
        heads = config.pool_heads
        self.pool = AttentionPool(self.width, config.embedding, heads) if heads else None

    def forward(self, x: Tensor, cond: Cond) -> tuple[Context, Tensor | None]:
        """x (B, ...) says how many, in which dtype and where; found once in a run for the same text."""
        kind = ("context", len(x), x.dtype, torch.is_autocast_enabled(x.device.type))
        return reuse.once(kind, (self, cond.tokens, cond.mask), lambda: self._read(x, cond))

    def _read(self, x: Tensor, cond: Cond) -> tuple[Context, Tensor | None]:
        tokens, mask = self._sequence(x, cond)
        pooled = None if self.pool is None else self.pool(tokens, mask)
        if self.project is not None:
            tokens = self.project(tokens)
        bias = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask, -math.inf)
        return Context(tokens, bias[:, None, None], {}), pooled

    def _sequence(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        batch = x.shape[0]
        if cond.tokens is None:
            tokens = x.new_zeros(batch, 0 if self.null is not None else 1, self.width)
            mask = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=x.device)
        else:
            tokens = cond.tokens.to(x.dtype)
            if tokens.shape[0] != batch or tokens.shape[2] != self.width:
                raise ValueError(
                    f"cond.tokens: expected ({batch}, T, {self.width}) from the text encoder this network was made "
                    f"for, got {tuple(tokens.shape)}"
                )
            mask = torch.ones_like(tokens[..., 0], dtype=torch.bool) if cond.mask is None else cond.mask
            # Padding may hold anything, even NaN, and 0 * NaN is NaN: it is cleared before the keys are made.
            tokens = torch.where(mask[..., None], tokens, 0.0)
        if self.norm is not None:
            tokens = self.norm(tokens).to(x.dtype)
        if self.null is not None:
            null = self.null.to(x.dtype).expand(batch, 1, -1)
            return torch.cat((null, tokens), 1), torch.cat((mask.new_ones(batch, 1), mask), 1)
        # No row may be empty: a softmax over nothing is NaN. A row without text reads its first, zeroed token.
        first = mask[:, :1] | ~mask.any(1, keepdim=True)
        return tokens, torch.cat((first, mask[:, 1:]), 1)


class SpacePort(nn.Module):
    """Joins to the channels of x an image condition, where it is given, and each pixel's place, as the config asks."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.channels, self.presence, self.coordinates = config.image_channels, config.presence, config.coordinates

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        parts = [x, *self._image(x, cond.image)] if self.channels else [x]
        if self.coordinates:
            parts.append(places(x).expand(x.shape[0], -1, -1, -1))
        return torch.cat(parts, 1) if len(parts) > 1 else x

    def _image(self, x: Tensor, image: Tensor | None) -> list[Tensor]:
        shape = (x.shape[0], self.channels, *x.shape[2:])
        if image is None:
            given, there = x.new_zeros(shape), x.new_zeros(x.shape[0], 1, *x.shape[2:])
        else:
            need_shape("image", image, shape)
            given = torch.where(image.isnan(), 0.0, image.to(x.dtype))
            there = (~image.isnan().any(1, keepdim=True)).to(x.dtype)
        return [given, there] if self.presence else [given]


def places(x: Tensor) -> Tensor:
    """The place of every pixel centre, (1, 2, H, W): x rightwards and y downwards, the picture's edges at -1 and 1."""
    ramps = [(2 * torch.arange(n, device=x.device, dtype=x.dtype) + 1) / n - 1 for n in x.shape[2:]]
    rows, columns = torch.meshgrid(*ramps, indexing="ij")
    return torch.stack([columns, rows])[None]
