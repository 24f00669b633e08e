"""A multistep method whose weights were fitted to one model's path, as `guided calibrate` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.solvers.base import sizes, towards

REMEMBERED = 3
"""So many earlier D's have a weight."""


@dataclass(frozen=True)
class Fitted:
    """x' = D + (s'/s) (x - D) + sum over j of a_ij (D_j - D), D_j the j-th D before (Shaul et al., arXiv 2403.01329).

    The paper fits all numbers of a linear method to a model; here those that keep it exact where D stands still: then a
    step to 0 returns D bit for bit. What the weights add is held, image by image, to the most that they added to any
    image they were fitted to: under strong guidance it is the rare image beyond that which would be thrown astray.

    levels: the path, falling to 0. weights: of each step, at most `REMEMBERED`, and no more than there were D's before.
    limits: of each step, the root mean square that its sum may have, as a share of s - s'. Begun in the middle of the
    path it lacks D's, and takes steps of first order until it has them. Raises ValueError on any other path.
    """

    levels: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    limits: tuple[float, ...]
    evaluations: ClassVar[int] = 1
    name: ClassVar[str] = "fitted"

    def __post_init__(self) -> None:
        steps = len(self.levels) - 1
        if len(self.weights) != steps or any(len(row) > min(i, REMEMBERED) for i, row in enumerate(self.weights)):
            raise ValueError(
                f"a fitted solver has for step i of its {steps} at most min(i, {REMEMBERED}) weights, "
                f"got {self.weights!r:.200}"
            )
        if len(self.limits) != steps or not all(limit >= 0 for limit in self.limits):
            raise ValueError(
                f"a fitted solver has a limit >= 0 for each of its {steps} steps, got {self.limits!r:.200}"
            )

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigma: Tensor,
        next_sigma: Tensor,
        cond: Cond,
        memory: tuple[Tensor, ...] | None,
        level: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        here, there = float(sigma), float(next_sigma)
        at = self.levels.index(here) if here in self.levels[:-1] else None
        if at is None or self.levels[at + 1] != there or float(level) != there:
            raise ValueError(f"this solver is fitted to {list(self.levels)}: it takes no step from {here} to {there}")
        D, before = denoise(x, sigma, cond), memory or ()
        out, row = towards(D, x, here, there), self.weights[at]
        if row and len(row) <= len(before):
            bend = bent(D, before, row)
            size, most = sizes(bend), self.limits[at] * (here - there)
            out = torch.addcmul(out, bend, size.clamp(max=most) / size.clamp(min=1e-30))
        return out, (D, *before)[:REMEMBERED]


def bent(D: Tensor, before: Sequence[Tensor], row: Sequence[float]) -> Tensor:
    """What the D's before, newest first, add by their weights."""
    bend = torch.zeros_like(D)
    for weight, past in zip(row, before, strict=False):
        bend.add_(past - D, alpha=weight)
    return bend
