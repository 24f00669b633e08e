"""Pictures with parts missing: holes of any form, and what lies beyond the border."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from guided.degrade.task import Task, span, uniform, whole


@dataclass(frozen=True)
class Inpaint(Task):
    """Fill a hole: "free" brush strokes and boxes (Saharia et al. 2022, Palette, section 4.2), or the "centre" square.

    low, high: about how much of the picture is missing; the centre square has `high` of it. Baseline: the mean colour
    of what is there.
    """

    kind: str = "free"
    low: float = 0.1
    high: float = 0.4
    holes: ClassVar[bool] = True
    local: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.kind not in ("free", "centre"):
            raise ValueError(f"inpaint: expected free or centre, got {self.kind!r}")
        span("inpaint", self.low, self.high, 0.01, 0.9)

    def __call__(self, x0: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        hole = self._hole(x0.shape[1], x0.shape[2], rng)
        return torch.where(hole, torch.nan, x0), ~hole

    def _hole(self, height: int, width: int, rng: Generator) -> Tensor:
        hole = torch.zeros(1, height, width, dtype=torch.bool)
        if self.kind == "centre":
            tall, wide = (max(1, round(side * math.sqrt(self.high))) for side in (height, width))
            top, left = (height - tall) // 2, (width - wide) // 2
            hole[:, top : top + tall, left : left + wide] = True
            return hole
        wanted = uniform(rng, self.low, self.high)
        while float(hole.double().mean()) < wanted:
            if uniform(rng, 0, 1) < 0.3:
                _box(hole, wanted, rng)
            else:
                _stroke(hole, rng)
        return hole

    def baseline(self, condition: Tensor) -> Tensor:
        return torch.where(condition.isnan(), condition.nanmean((1, 2), keepdim=True).nan_to_num(), condition)

    def __repr__(self) -> str:
        return f"inpaint({self.kind!r}, {self.low:g}, {self.high:g})"


def _box(hole: Tensor, share: float, rng: Generator) -> None:
    height, width = hole.shape[1:]
    tall, wide = (max(1, round(side * math.sqrt(share) * uniform(rng, 0.4, 0.9))) for side in (height, width))
    top, left = whole(rng, 0, height - tall), whole(rng, 0, width - wide)
    hole[:, top : top + tall, left : left + wide] = True


def _stroke(hole: Tensor, rng: Generator) -> None:
    """A brush that turns a little at each of its steps."""
    height, width = hole.shape[1:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    least = min(height, width)
    radius = max(0.7, least * uniform(rng, 0.03, 0.09))
    y, x, angle = uniform(rng, 0, height), uniform(rng, 0, width), uniform(rng, 0, 2 * math.pi)
    for _ in range(whole(rng, 8, 24)):
        angle += uniform(rng, -0.6, 0.6)
        y, x = y + radius * math.sin(angle), x + radius * math.cos(angle)
        hole |= ((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)[None]


@dataclass(frozen=True)
class Uncrop(Task):
    """Paint beyond the border: one side, two opposite ones, or all four are missing; baseline: the edge repeated.

    low, high: the share of the height or the width that is missing in all.
    """

    low: float = 0.25
    high: float = 0.5
    holes: ClassVar[bool] = True
    local: ClassVar[bool] = False

    def __post_init__(self) -> None:
        span("uncrop", self.low, self.high, 0.01, 0.9)

    def __call__(self, x0: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        height, width = x0.shape[1:]
        missing = uniform(rng, self.low, self.high)
        form = whole(rng, 0, 6)  # left, right, top, bottom, both at the sides, above and below, all around
        shares = [
            ((form in (0, 4)), (form in (1, 4)), width),
            ((form in (2, 5)), (form in (3, 5)), height),
        ]
        if form == 6:
            shares, missing = [(True, True, width), (True, True, height)], 1 - math.sqrt(1 - missing)
        known = torch.ones(1, height, width, dtype=torch.bool)
        for axis, (before, after, side) in zip((2, 1), shares, strict=True):
            cut = max(1, round(side * missing / (before + after))) if before or after else 0
            if before:
                known.narrow(axis, 0, cut).fill_(False)
            if after:
                known.narrow(axis, side - cut, cut).fill_(False)
        return torch.where(known, x0, torch.nan), known

    def baseline(self, condition: Tensor) -> Tensor:
        there = ~condition.isnan().any(0)
        if not bool(there.any()):
            return torch.zeros_like(condition)
        rows, columns = there.any(1).nonzero().flatten(), there.any(0).nonzero().flatten()
        y = torch.arange(condition.shape[1]).clamp(int(rows[0]), int(rows[-1]))
        x = torch.arange(condition.shape[2]).clamp(int(columns[0]), int(columns[-1]))
        return condition[:, y][:, :, x]

    def __repr__(self) -> str:
        return f"uncrop({self.low:g}, {self.high:g})"
