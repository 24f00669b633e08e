"""A student's own few steps, each led back to the teacher's trajectory of the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.sampling import trajectory
from guided.solvers import Fitted
from guided.tune.distilling import targets

FINE = 4
"""So many steps the teacher takes where the student takes one."""
LEAST = 16
"""Steps of the teacher at least."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """From noise, the student draws by its solver; every step of it is to end where the teacher was at that level.

    It learns on the states that it comes to itself, so a step also makes good what those before it missed. teach: the
    guided teacher. solver: fitted to the student, which holds the levels. lo: the lowest level that the teacher knows.
    """

    teach: Denoise
    solver: Fitted
    lo: float

    def losses(self, student: Denoise, x: Tensor, cond: Cond) -> Iterator[Tensor]:
        """The loss (B,) of each step in turn, for x (B, *) at the highest level; a graph may go before the next."""
        path = torch.tensor(self.solver.levels, dtype=torch.float64)
        memory: tuple[Tensor, ...] | None = None
        for (here, there), goal in zip(pairwise(path), self.goals(x, cond), strict=True):
            after, memory = self.solver(student, x, here, there, cond, memory, there)
            # In units of D, of which a step moves x by this share.
            missed = (after - goal) / (1 - there / here).to(x)
            yield targets.squared(missed, torch.zeros_like(missed), here.expand(len(x)))
            x, memory = after.detach(), tuple(D.detach() for D in memory)

    def goals(self, x: Tensor, cond: Cond) -> list[Tensor]:
        """Where the teacher is after each step of the student: (B, *) each."""
        steps = len(self.solver.levels) - 1
        parts = max(FINE, -(-LEAST // steps))
        moves = trajectory(self.teach, x, finer(self.solver.levels, parts, self.lo), cond, solver="adams")
        return [state for at, (_, state, _) in enumerate(moves, 1) if at % parts == 0]


def finer(levels: tuple[float, ...], parts: int, lo: float) -> Tensor:
    """The path with each move cut in parts of equal ratios; the last, which goes to 0, is cut down to lo on its way."""
    found = []
    for high, low in pairwise(levels):
        last, cuts = (low, parts) if low > 0 else (min(lo, high / 2), max(parts - 1, 1))
        found += [high * (last / high) ** (at / cuts) for at in range(parts)]
    return torch.tensor([*found, 0.0], dtype=torch.float64)
