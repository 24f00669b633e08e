"""FlowEdit: a way straight from the photo to the edit, without inversion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.guide import cfg
from guided.noise import Noise
from guided.sampling import Stateful, trajectory
from guided.solvers import Solver
from guided.tasks.methods import Scene, Told, shown

if TYPE_CHECKING:
    from guided.model.model import Model
    from guided.model.request import Plan


@dataclass(frozen=True, eq=False)
class FlowEdit:
    """FlowEdit (Kulikov et al. 2025, arXiv 2412.08629), for any model.

    The paper's z_edit - x_src at flow time t = sigma / (1 + sigma) is, times 1 + sigma, an E that obeys
    dE / d sigma = (E - (D_asked(x0 + sigma n + E) - D_shown(x0 + sigma n))) / sigma: sampling of E from 0 with the
    difference of two denoisers, so that every solver and every guide serves. The edit is x0 + E.
    n is drawn anew at every level, `draws` times over, whose differences are averaged. source_w: guidance of D_shown.
    """

    source: Told = None
    source_w: float = 1.0
    draws: int = 1
    strength: float = 0.8
    solver: ClassVar[str | None] = "euler"

    def check(self, model: Model, plan: Plan) -> None:
        """Raise ValueError for a source that cannot be told."""
        if self.draws < 1:
            raise ValueError(f"draws: expected at least 1, got {self.draws}")
        shown(model, self.source)

    def __call__(self, scene: Scene) -> Iterator[Tensor]:
        """x0 + E after every move."""
        shown = scene.plain if self.source_w == 1 else cfg(self.source_w)(scene.plain)
        pair = _Difference(scene.denoise, shown, scene.x0, scene.told(self.source), scene.noise, scene.path, self.draws)
        start = torch.zeros_like(scene.x0)
        for _, E, _ in trajectory(pair, start, scene.path, scene.cond, solver=scene.plan.solver):
            yield scene.x0 + E

    def nfe(self, path: Tensor, solver: Solver) -> int:
        """Two a draw."""
        from guided import path as paths

        return 2 * self.draws * paths.nfe(path, solver)


@dataclass(frozen=True, eq=False)
class _Difference:
    """D_asked - D_shown at the same noise, as a function of E."""

    asked: Denoise
    shown: Denoise
    x0: Tensor
    source: Cond
    noise: Noise
    path: Tensor
    draws: int

    def __call__(self, E: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return self.evaluate(E, sigma, cond, None, None)[0]

    def evaluate(
        self, E: Tensor, sigma: Tensor, cond: Cond, next_sigma: Tensor | None, state: Any
    ) -> tuple[Tensor, Any]:
        """With the guide's state, which sees the first draw."""
        place = int((self.path - sigma).abs().argmin())
        total, after = torch.zeros_like(E), state
        for draw in range(self.draws):
            x = self.x0 + float(sigma) * self.noise(place * self.draws + draw, E.shape[1:]).to(E)
            if isinstance(self.asked, Stateful):
                D, found = self.asked.evaluate(x + E, sigma, cond, next_sigma, state)
                after = found if draw == 0 else after
            else:
                D = self.asked(x + E, sigma, cond)
            total = total + (D - self.shown(x, sigma, self.source))
        return total / self.draws, after
