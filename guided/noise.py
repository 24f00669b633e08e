"""Randomness is counted, not drawn: every number is a function of (stream, seed, index)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def key(stream: str, seed: int, index: int) -> int:
    """A 63-bit hash of (stream, seed, index), the same on every machine and in every process."""
    text = f"{stream}\0{seed}\0{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(stream: str, seed: int, index: int) -> torch.Generator:
    """A CPU generator seeded by `key`."""
    return torch.Generator().manual_seed(key(stream, seed, index))


@dataclass(frozen=True)
class Noise:
    """Unit Gaussian noise of a batch, one seed an image.

    `noise(index, image_shape)` gives (B, *image_shape) float32 on the CPU. Each image is drawn by itself, so its bits
    are the same alone or in a batch, at any position, on any device. Index 0 is x_T; move i of a path uses i + 1.
    """

    seeds: tuple[int, ...]
    stream: str = "x"

    def __init__(self, seeds: Sequence[int], stream: str = "x") -> None:
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in seeds))
        object.__setattr__(self, "stream", stream)

    def __call__(self, index: int, image_shape: Sequence[int]) -> Tensor:
        out = torch.empty(len(self.seeds), *image_shape)
        for row, seed in zip(out, self.seeds, strict=True):
            torch.randn(tuple(image_shape), generator=generator(self.stream, seed, index), out=row)
        return out

    def child(self, name: str) -> Noise:
        """An independent stream for the same images: a cascade's stage, an augmentation, a degradation."""
        return Noise(self.seeds, f"{self.stream}/{name}")

    def rows(self, rows: slice | Sequence[int]) -> Noise:
        """The noise of some images of the batch."""
        picked = self.seeds[rows] if isinstance(rows, slice) else [self.seeds[row] for row in rows]
        return Noise(picked, self.stream)
