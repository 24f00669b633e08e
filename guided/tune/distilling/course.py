"""Where a student is taught: levels of the teacher's path, and between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guided.noise import key
from guided.train.levels import even, uniform
from guided.tune.distilling.stages import Stage

BETWEEN = 0.25
"""The share of the images of a stage on a path that lies between its levels: edits begin there."""


@dataclass(frozen=True, eq=False)
class Course:
    """The teacher's path (T + 1,) float64 from hi to 0; `at` is its level at any share of the way."""

    path: Tensor

    def at(self, u: Tensor) -> Tensor:
        """The level at u in [0, 1], float64: geometric between two of the path, from the last straight down to 0."""
        place = u * (len(self.path) - 1)
        low = place.floor().clamp(max=len(self.path) - 2).long()
        high, below, share = self.path[low], self.path[low + 1], place - low
        # The last move has no ratio: it goes to 0.
        ratio = torch.where(below > 0, below / high, 1.0)
        return torch.where(below > 0, high * ratio**share, high * (1 - share))

    def levels(self, moves: int) -> Tensor:
        """The path of so many moves, which divide the teacher's: (moves + 1,)."""
        return self.path[:: (len(self.path) - 1) // moves]

    def drawn(self, stage: Stage, seed: int, counters: Sequence[int]) -> Tensor:
        """The levels of some images of a stage, (k + 1, B): where each is noised to, and the moves it is taught.

        On a path three images of four stand at its very levels, the others anywhere between. Evenly along the path.
        """
        u = even("distill/level", seed, counters)
        steps = len(self.path) - 1
        if not stage.moves:
            u = u * (steps - 1) / steps
            return self.at(u)[None]
        free = uniform([key("distill/between", seed, counter) << 1 for counter in counters]) < BETWEEN
        u = torch.where(free, u * (stage.moves - 1) / stage.moves, (u * stage.moves).floor() / stage.moves)
        parts = 2 if stage.kind == "halving" else 1
        ahead = torch.arange(parts + 1, dtype=torch.float64)[:, None] / (parts * stage.moves)
        return self.at((u + ahead).clamp(max=1.0))
