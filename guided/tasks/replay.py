"""Edits that keep a photo's own noise: what a stochastic sampler would have had to draw to make it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from guided import path as paths
from guided import reuse
from guided.guide import cfg
from guided.sampling import sample, trajectory
from guided.solvers import Solver
from guided.tasks.methods import Scene, Told, shown

if TYPE_CHECKING:
    from guided.model.model import Model
    from guided.model.request import Plan


@dataclass(frozen=True, eq=False)
class DDPMInversion:
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024, arXiv 2304.06140).

    At every level the photo is noised anew, independently; what then has to be drawn for DDPM's steps, told what the
    photo shows, to lead from each of these to the next is drawn again while what is asked is told. With the source
    asked for, unguided, the photo comes back. source_w: guidance of the way that the draws are read from.
    """

    source: Told = None
    source_w: float = 1.0
    strength: float = 0.75
    solver: ClassVar[str | None] = "euler"

    def check(self, model: Model, plan: Plan) -> None:
        """Raise ValueError for a source that cannot be told, and for a solver: the draws belong to DDPM's own steps."""
        if plan.solver != self.solver:
            raise ValueError(f"solver: DDPM inversion takes DDPM's own steps, leave it out; got {plan.solver!r}")
        shown(model, self.source)

    @torch.no_grad()
    def __call__(self, scene: Scene) -> Iterator[Tensor]:
        """x at every level of the path."""
        path, told, x0 = scene.path, scene.told(self.source), scene.x0
        plain = scene.plain if self.source_w == 1 else cfg(self.source_w)(scene.plain)
        shape = x0.shape[1:]
        noisy = [x0 + float(level) * scene.noise(i, shape).to(x0) for i, level in enumerate(path[:-1])]
        noisy.append(x0)
        stochastic = paths.ancestral(path)
        draws = []
        with reuse.running():
            for i, x in enumerate(noisy[:-1]):
                down = sample(plain, x, stochastic[2 * i : 2 * i + 2], told, solver="euler")
                std = (path[i + 1] ** 2 - stochastic[2 * i + 1] ** 2).clamp_min(0).sqrt()
                # The last step draws nothing: what it lacks of the photo is added in the end.
                draws.append((noisy[i + 1] - down) / float(std) if std > 0 else noisy[i + 1] - down)

        def drawn(index: int, shape: Sequence[int]) -> Tensor:
            return draws[index // 2 - 1]

        way = trajectory(scene.denoise, noisy[0], stochastic, scene.cond, solver="euler", noise=drawn)
        for move, (_, x, _) in enumerate(way, 1):
            if move == len(stochastic) - 1:
                yield x + draws[-1]
            elif move % 2 == 0:
                yield x

    def nfe(self, path: Tensor, solver: Solver) -> int:
        """Two a step."""
        return 2 * (len(path) - 1)
