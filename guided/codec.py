"""Codecs lie between pictures and the space a denoiser works in; pixels are the trivial one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Codec(Protocol):
    """`encode`: images (B, C, H, W) in [-1, 1] -> x0; `decode`: back. `limit`: the largest |x0|, None if unbounded."""

    @property
    def limit(self) -> float | None: ...

    def encode(self, images: Tensor, /) -> Tensor: ...

    def decode(self, x: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class Pixels:
    """The identity: the denoiser works on the pixels themselves."""

    limit: float | None = 1.0

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, x: Tensor) -> Tensor:
        return x
