"""What a task is: from a picture to what is left of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Task:
    """One image-to-image task: `task(x0, rng)` spoils a picture, a network learns the way back.

    x0: (C, H, W) float in [-1, 1]. rng: a generator on the CPU; the same one gives the same bits. Returns the condition
    (C, H, W), NaN where it says nothing, and `known` (1, H, W) bool, where the picture itself is given; None: nowhere.
    `repr` is the word that a recipe, a card and `--task` know it by.
    """

    holes: ClassVar[bool] = False
    """Whether the condition leaves places open, which the user marks with a mask or beyond the border."""
    local: ClassVar[bool] = True
    """Whether a window of a large picture can be restored by itself, at the picture's own scale."""
    keeps_detail: ClassVar[bool] = True
    """Whether what is given shows the answer's finest detail too, which a photo larger than the network then keeps."""

    def __call__(self, x0: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError

    def check(self, channels: int, size: tuple[int, int]) -> None:
        """Raise ValueError where pictures of so many channels, (H, W) large, cannot be spoilt so."""

    def seen(self, given: Tensor, known: Tensor | None = None) -> Tensor:
        """The condition of what a user gives, (C, H, W), spoilt already; known: (1, H, W) bool, False in its holes."""
        return given if known is None else torch.where(known, given, torch.nan)

    def baseline(self, condition: Tensor) -> Tensor:
        """The trivial answer to a condition (C, H, W): what any network has to beat."""
        return condition


@dataclass(frozen=True)
class Pairs(Task):
    """A user's own pairs: the condition is the picture of the same name in `source`, which this is called on."""

    keeps_detail: ClassVar[bool] = False

    def __call__(self, x0: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        return x0, None

    def __repr__(self) -> str:
        return "pairs"


def uniform(rng: Generator, low: float, high: float) -> float:
    """A number drawn evenly from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def whole(rng: Generator, low: int, high: int) -> int:
    """A whole number drawn evenly from low to high, both possible."""
    return low if high <= low else int(torch.randint(low, high + 1, (), generator=rng))


def span(name: str, low: float, high: float, least: float, most: float) -> None:
    """Raise ValueError unless they are numbers and least <= low <= high <= most."""
    if not (is_number(low) and is_number(high) and least <= low <= high <= most):
        raise ValueError(f"{name}: expected {least:g} <= low <= high <= {most:g}, got {low!r:.40} and {high!r:.40}")


def is_number(value: Any) -> bool:
    """Whether a value, of a word that somebody wrote, is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
