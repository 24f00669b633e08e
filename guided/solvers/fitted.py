"""A multistep method whose weights were fitted to one model's path, as `guided calibrate` does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.solvers.base import towards

REMEMBERED = 3
"""So many earlier D's have a weight."""


@dataclass(frozen=True)
class Fitted:
    """x' = D + (s'/s) (x - D) + sum over j of a_ij (D_j - D), D_j the j-th D before (Shaul et al., arXiv 2403.01329).

    The paper fits all numbers of a linear method to a model; here those that keep it exact where D stands still: then a
    step to 0 returns D bit for bit. levels: the path, falling to 0. weights: of each step, at most `REMEMBERED`, and no
    more than there were D's. Begun in the middle of the path it lacks D's, and takes steps of first order until it has
    them. Raises ValueError on any other path.
    """

    levels: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]
    evaluations: ClassVar[int] = 1
    name: ClassVar[str] = "fitted"

    def __post_init__(self) -> None:
        fits = len(self.weights) == len(self.levels) - 1
        if not fits or any(len(row) > min(i, REMEMBERED) for i, row in enumerate(self.weights)):
            raise ValueError(
                f"a fitted solver has for step i of its {len(self.levels) - 1} at most min(i, {REMEMBERED}) weights, "
                f"got {self.weights!r:.200}"
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
        out, weights = towards(D, x, here, there), self.weights[at]
        if len(weights) <= len(before):
            for weight, past in zip(weights, before, strict=False):
                out = out.add(past - D, alpha=weight)
        return out, (D, *before)[:REMEMBERED]
