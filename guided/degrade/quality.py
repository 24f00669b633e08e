"""Pictures that have lost quality: compressed, blurred, noisy."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from guided.degrade.task import Task, span, uniform, whole


def gaussian(x: Tensor, std: float) -> Tensor:
    """(C, H, W) blurred by a Gaussian of `std` pixels; beyond the border lies the edge, repeated."""
    radius = max(1, math.ceil(3 * std))
    line = (-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / std) ** 2).exp()
    kernel = (line / line.sum()).to(x)
    wide = F.pad(x[:, None], (radius, radius, radius, radius), mode="replicate")
    return F.conv2d(F.conv2d(wide, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]


def compressed(x: Tensor, quality: int) -> Tensor:
    """(1 or 3, H, W) in [-1, 1] as it comes out of a JPEG file; raises ValueError for other numbers of channels."""
    _coloured(len(x))
    levels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels[..., 0] if len(x) == 1 else levels).save(file, "JPEG", quality=quality)
    found = np.array(Image.open(file)).reshape(levels.shape)
    return torch.from_numpy(found).permute(2, 0, 1).to(x) / 127.5 - 1


def _coloured(channels: int) -> None:
    if channels not in (1, 3):
        raise ValueError(f"jpeg: a JPEG holds pictures of 1 or 3 channels, got {channels}")


@dataclass(frozen=True)
class JPEG(Task):
    """Undo JPEG compression of a quality from low to high, in Pillow's numbers, 1 to 95."""

    low: int = 5
    high: int = 30

    def __post_init__(self) -> None:
        span("jpeg", self.low, self.high, 1, 95)
        if self.low != int(self.low) or self.high != int(self.high):
            raise ValueError(f"jpeg: expected whole qualities, got {self.low} and {self.high}")

    def check(self, channels: int, size: tuple[int, int]) -> None:
        _coloured(channels)

    def __call__(self, x0: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        return compressed(x0, whole(rng, int(self.low), int(self.high))), None

    def __repr__(self) -> str:
        return f"jpeg({self.low:g}, {self.high:g})"


@dataclass(frozen=True)
class Deblur(Task):
    """Undo a Gaussian blur of std from low to high, in pixels."""

    low: float = 0.5
    high: float = 3.0

    def __post_init__(self) -> None:
        span("deblur", self.low, self.high, 0.1, 64)

    def __call__(self, x0: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        return gaussian(x0, uniform(rng, self.low, self.high)), None

    def __repr__(self) -> str:
        return f"deblur({self.low:g}, {self.high:g})"


@dataclass(frozen=True)
class Denoise(Task):
    """Undo white Gaussian noise of std from low to high, the picture's range being 2, clipped as a file clips it."""

    low: float = 0.05
    high: float = 0.5

    def __post_init__(self) -> None:
        span("denoise", self.low, self.high, 0, 4)

    def __call__(self, x0: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        noise = torch.randn(x0.shape, generator=rng)
        return (x0 + uniform(rng, self.low, self.high) * noise.to(x0)).clamp(-1, 1), None

    def __repr__(self) -> str:
        return f"denoise({self.low:g}, {self.high:g})"
