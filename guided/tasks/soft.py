"""Masks with values between: each pixel is edited at a strength of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guided.guide import Exact


@dataclass(frozen=True, eq=False, repr=False)
class Held(Exact):
    """The source is known at each pixel while the noise stands above that pixel's own level; below it is free.

    It is differential diffusion (Levin & Fried 2023) in sigma: a pixel of level s is edited as SDEdit does from s.
    y: (B or 1, C, H, W), the source in the codec's space. levels: (B or 1, 1, H, W), 0: always known, inf: never.
    """

    y: Tensor
    levels: Tensor

    def put(self, D: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.reshape(-1, 1, 1, 1) if sigma.ndim else sigma
        return torch.where(level.to(D.device) > self.levels.to(D.device), self.y.to(D), D)

    def describe(self) -> str:
        free = float((self.levels > 0).double().mean())
        return f"Held({'x'.join(map(str, self.levels.shape))}, {100 * free:.3g}% free)"


def levels(amount: Tensor, strength: float) -> Tensor:
    """The noise level of strength `strength` times an amount in [0, 1], read as flow time; inf where that is all."""
    t = amount.double() * strength
    return torch.where(amount >= 1, torch.inf, t / (1 - t).clamp_min(torch.finfo(torch.float64).tiny))
