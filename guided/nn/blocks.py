"""Residual blocks and changes of resolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided.nn.attend import Size
from guided.nn.attention import Context, attention_blocks, group_norm, widened, zero
from guided.nn.config import UNetConfig
from guided.nn.layers import Conv2d, Linear, added
from guided.nn.norms import norm_act
from guided.perturbation import Change


def activation(name: str) -> nn.Module:
    """The activation of a config."""
    return nn.SiLU() if name == "silu" else nn.GELU()


def halve(h: Tensor) -> Tensor:
    """Mean of 2 x 2 pixels; an odd last row or column is averaged alone, so sizes are halved upwards."""
    return F.avg_pool2d(h, 2, ceil_mode=True)


def double(h: Tensor, size: Size) -> Tensor:
    """Repeat every pixel 2 x 2, then crop to `size`, which is odd where an odd size was halved."""
    return F.interpolate(h, scale_factor=2.0, mode="nearest")[..., : size[0], : size[1]]


class ResBlock(nn.Module):
    """Two convolutions with the embedding in between, and a residual; may halve ("down") or double ("up").

    The embedding (B, E), activated already, is added before the second norm, or scales and shifts it.
    """

    def __init__(self, config: UNetConfig, width_in: int, width: int, move: str = "stay") -> None:
        super().__init__()
        self.move, self.scale_shift, self.residual_scale = move, config.scale_shift, config.residual_scale
        self.act = activation(config.act)
        self.norm1 = group_norm(config, width_in)
        self.conv1 = Conv2d(width_in, width, 3, padding=1)
        self.embed = Linear(config.embedding, width * (2 if config.scale_shift else 1))
        self.norm2 = group_norm(config, width)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.conv2 = zero(Conv2d(width, width, 3, padding=1))
        self.skip = Conv2d(width_in, width, 1) if width != width_in else nn.Identity()

    def forward(self, h: Tensor, embedding: Tensor, size: Size | None = None) -> Tensor:
        y = norm_act(self.norm1, h, self.act)
        if self.move == "down":
            h, y = halve(h), halve(y)
        elif self.move == "up":
            assert size is not None
            h, y = double(h, size), double(y, size)
        y = self.conv1(y)
        e = widened(self.embed(embedding), len(h))
        y = norm_act(self.norm2, y, self.act, **({"affine": e} if self.scale_shift else {"add": e}))
        out = added(self.conv2, self.dropout(y), self.skip(h))
        return out if self.residual_scale == 1 else out / self.residual_scale


class Down(nn.Module):
    """Half the size: a strided convolution, or the mean of 2 x 2 pixels."""

    def __init__(self, config: UNetConfig, width: int) -> None:
        super().__init__()
        self.conv = Conv2d(width, width, 3, stride=2, padding=1) if config.resample == "conv" else None

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return halve(h) if self.conv is None else self.conv(h)  # type: ignore[no-any-return]


class Up(nn.Module):
    """Twice the size: repeated pixels, then a convolution if the config has it."""

    def __init__(self, config: UNetConfig, width: int) -> None:
        super().__init__()
        self.conv = Conv2d(width, width, 3, padding=1) if config.resample == "conv" else None

    def forward(self, h: Tensor, embedding: Tensor, size: Size) -> Tensor:
        h = double(h, size)
        return h if self.conv is None else self.conv(h)  # type: ignore[no-any-return]


def down(config: UNetConfig, width: int) -> nn.Module:
    """The step to the next coarser level."""
    return ResBlock(config, width, width, "down") if config.resample == "resblock" else Down(config, width)


def up(config: UNetConfig, width: int) -> nn.Module:
    """The step to the next finer level."""
    return ResBlock(config, width, width, "up") if config.resample == "resblock" else Up(config, width)


class Stage(nn.Module):
    """A residual block, which may be given a skip beside h, and the attention that follows it."""

    def __init__(self, config: UNetConfig, widths: tuple[int, int], depth: int, text_only: bool) -> None:
        super().__init__()
        self.block = ResBlock(config, *widths)
        self.attention = nn.ModuleList(attention_blocks(config, widths[1], depth, text_only))

    def forward(
        self,
        h: Tensor,
        embedding: Tensor,
        context: Context | None,
        perturbation: Change | None = None,
        skip: Tensor | None = None,
    ) -> Tensor:
        # Joined in here, so that checkpointing keeps the two and not what they are together.
        h = self.block(h if skip is None else torch.cat((h, widened(skip, len(h))), 1), embedding)
        for attention in self.attention:
            h = attention(h, context, perturbation)
        return h
