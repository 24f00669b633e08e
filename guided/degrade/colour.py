"""From grey to colours, and from lines to a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from guided.degrade.task import Task, is_number
from guided.operators.pixels import LUMA


def luma(x: Tensor) -> Tensor:
    """The luma of (C, H, W) in every channel: of ITU-R BT.601 for three channels, else their mean."""
    weights = LUMA if len(x) == 3 else (1 / len(x),) * len(x)
    return (x * x.new_tensor(weights)[:, None, None]).sum(0, keepdim=True).expand_as(x)


@dataclass(frozen=True)
class Colourise(Task):
    """Colours for a grey picture; a picture given in colours is made grey first."""

    local: ClassVar[bool] = False

    def check(self, channels: int, size: tuple[int, int]) -> None:
        if channels == 1:
            raise ValueError("colourise: pictures of 1 channel have no colours to learn; data.channels=3")

    def __call__(self, x0: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        return luma(x0).clone(), None

    def seen(self, given: Tensor, known: Tensor | None = None) -> Tensor:
        return super().seen(luma(given), known)

    def __repr__(self) -> str:
        return "colourise"


@dataclass(frozen=True)
class Edges(Task):
    """A picture for a line drawing: dark lines on white, where the blurred luma changes fast.

    blur: std of the blur before, in pixels. The lines have their full darkness where luma moves by `full` (of its range
    of 2) from a pixel to the next.
    """

    blur: float = 1.0
    full: float = 0.25
    local: ClassVar[bool] = False
    keeps_detail: ClassVar[bool] = False

    def __post_init__(self) -> None:
        fine = is_number(self.blur) and is_number(self.full)
        if not fine or not 0 <= self.blur <= 64 or not 0 < self.full <= 2:
            raise ValueError(f"edges: expected 0 <= blur <= 64 and 0 < full <= 2, got {self.blur!r} and {self.full!r}")

    def __call__(self, x0: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        from guided.degrade.quality import gaussian

        grey = gaussian(luma(x0)[:1], self.blur) if self.blur else luma(x0)[:1]
        wide = F.pad(grey[None], (1, 1, 1, 1), mode="replicate")[0]
        steep = torch.hypot(wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2], wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]) / 2
        return (1 - 2 * (steep / self.full).clamp(0, 1)).expand_as(x0).clone(), None

    def __repr__(self) -> str:
        return f"edges({self.blur:g}, {self.full:g})"
