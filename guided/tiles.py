"""A denoiser for pictures larger than its network was made for: windows that overlap, blended (MultiDiffusion)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise


@dataclass(frozen=True, eq=False)
class Tiled:
    """D of x (B, C, H, W) from windows (h, w), `stride` (rows, columns) apart (Bar-Tal et al. 2023, arXiv 2302.08113).

    Of two windows that overlap by o, each counts fully up to o / 4 beyond its neighbour's edge and fades from there, so
    that what a network sees of a window's edge, up to o / 4 within it, is never used: with a receptive radius below
    that, the result is the whole picture's. One window is computed at a time. A guide wraps outside, tiles inside.
    Raises ValueError for a stride beyond the window.
    """

    denoise: Denoise
    window: tuple[int, int]
    stride: tuple[int, int]

    def __post_init__(self) -> None:
        if not all(0 < step <= side for step, side in zip(self.stride, self.window, strict=True)):
            raise ValueError(f"tiles: expected a stride of 1 to the window {self.window}, got {self.stride}")

    @property
    def accepts(self) -> frozenset[str] | None:
        """The fields of `Cond` that the denoiser can see."""
        return getattr(self.denoise, "accepts", None)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        rows, columns = (self._parts(axis, x.shape[2 + axis]) for axis in (0, 1))
        if len(rows) == len(columns) == 1:
            return self.denoise(x, sigma, cond)
        total, weight = torch.zeros_like(x), x.new_zeros(x.shape[2:])
        for top, tall in rows:
            for left, wide in columns:
                place = slice(top, top + len(tall)), slice(left, left + len(wide))
                D = self.denoise(x[..., place[0], place[1]], sigma, cond.crop(place))
                share = (tall[:, None] * wide).to(x)
                total[..., place[0], place[1]] += share * D
                weight[place] += share
        return total.div_(weight)

    def _parts(self, axis: int, size: int) -> list[tuple[int, Tensor]]:
        """Where windows begin along an axis, and how much each of their lines counts."""
        side, step = min(self.window[axis], size), self.stride[axis]
        starts = [*range(0, size - side, step), size - side]
        found = []
        for i, start in enumerate(starts):
            weight, line = torch.ones(side, dtype=torch.float64), torch.arange(side) + 0.5
            if i > 0:
                weight *= _rising(line, starts[i - 1] + side - start)
            if i + 1 < len(starts):
                weight *= _rising(side - line, start + side - starts[i + 1])
            found.append((start, weight))
        return found


def _rising(inside: Tensor, overlap: int) -> Tensor:
    """From 0 to 1 over the middle half of an overlap, by the distance from the window's edge."""
    if overlap == 0:
        return torch.ones_like(inside)
    return ((inside - overlap / 4) / (overlap / 2)).clamp(0, 1)
