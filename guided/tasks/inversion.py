"""Edits that go up to the photo's own noise as what it shows, and down from it as what is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from guided import ode, reuse
from guided import path as paths
from guided.cond import Cond
from guided.denoiser import Denoise
from guided.model import drawing
from guided.sampling import Stateful, trajectory
from guided.solvers import Solver
from guided.tasks.methods import Scene, Told, check_levels, check_single, shown

if TYPE_CHECKING:
    from guided.model.model import Model
    from guided.model.request import Plan


def ways(refinements: int) -> int:
    """How many times `ode.invert` goes up or down the path."""
    return 2 + 2 * refinements if refinements else 1


@dataclass(frozen=True, eq=False)
class Inversion:
    """By the ODE, with any deterministic solver: DDIM inversion and its kin of higher order.

    source: what the photo shows. model: another model to go up with; with it, or with a class as the source, this is
    DDIB (Su et al. 2023, arXiv 2203.08382), translation through a shared space of noise. refinements: see
    `ode.invert`.
    """

    source: Told = None
    model: Model | None = None
    refinements: int = 1
    strength: float = 1.0
    solver: ClassVar[str | None] = None

    def check(self, model: Model, plan: Plan) -> None:
        """Raise ValueError for one step, models that do not share a space, and a source that cannot be told."""
        check_levels(plan)
        other = self.model or model
        spaces = [(type(m.codec), getattr(m.codec, "factor", 1), m.channels) for m in (other, model)]
        if spaces[0] != spaces[1]:
            raise ValueError(f"{other.name} and {model.name} share no space of noise: their codecs or channels differ")
        shown(other, self.source)

    def __call__(self, scene: Scene) -> Iterator[Tensor]:
        """x after every move down."""
        other = self.model or scene.model
        solver, told = scene.plan.solver, scene.told(self.source, other)
        up = drawing.base(other, scene.plan)
        top = ode.invert(up, scene.x0, scene.path, told, solver, refinements=self.refinements)
        for _, x, _ in trajectory(scene.denoise, top, scene.path, scene.cond, solver=solver):
            yield x

    def nfe(self, path: Tensor, solver: Solver) -> int:
        """The inversion and the way down."""
        return (len(path) - 2) * solver.evaluations * ways(self.refinements) + paths.nfe(path, solver)


@dataclass(frozen=True, eq=False)
class Exact:
    """As `Inversion`, but free of what a round trip loses: the edit goes down beside the photo's own way.

    The photo goes up by O-BELM (Wang et al. 2024), of second order at one evaluation a move and exact when undone, see
    `ode.belm`; so the way up, kept, is its way down. Beside it goes E, the edit less the photo, which obeys
    dE / d sigma = (E - (D_asked(x + E) - D_shown(x))) / sigma: sampling of E from 0, as in `FlowEdit`, by any solver
    and guide. Where what is asked is what the photo shows, without guidance, the photo itself comes back. O-BELM is not
    taken down under guidance: of its two solutions the second, of alternating sign, grows where the asked way
    contracts, from 0.04 at w = 1 to 5 at w = 3 between Gaussians in 12 steps, where E is right to 0.01.
    """

    source: Told = None
    strength: float = 1.0
    solver: ClassVar[str | None] = None

    def check(self, model: Model, plan: Plan) -> None:
        """Raise ValueError for one step, a solver of several evaluations a step, and a source that cannot be told."""
        check_levels(plan)
        check_single(plan, "an exact inversion")
        shown(model, self.source)

    @torch.no_grad()
    def __call__(self, scene: Scene) -> Iterator[Tensor]:
        """x0 + E after every move, as the photo is taken to lie at the last level above 0."""
        levels, told = scene.path[:-1], scene.told(self.source)
        way: dict[float, tuple[Tensor, Tensor]] = {}

        def kept(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            D = scene.plain(x, sigma, cond)
            way[float(sigma)] = x, D
            return D

        with reuse.running():
            top, _ = ode.belm(kept, scene.x0, levels.flip(0), told)
            kept(top, levels[0], told)
        pair = _Beside(scene.denoise, way)
        for _, E, _ in trajectory(pair, torch.zeros_like(top), levels, scene.cond, solver=scene.plan.solver):
            yield (scene.x0 + E).to(scene.x0)

    def nfe(self, path: Tensor, solver: Solver) -> int:
        """One a level of the way up, and one a move down."""
        return (len(path) - 1) + paths.nfe(path[:-1], solver)


@dataclass(frozen=True, eq=False)
class _Beside:
    """D_asked - D_shown as a function of E, beside the way (x, D_shown at each level) of a photo."""

    asked: Denoise
    way: Mapping[float, tuple[Tensor, Tensor]]

    def __call__(self, E: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return self.evaluate(E, sigma, cond, None, None)[0]

    def evaluate(
        self, E: Tensor, sigma: Tensor, cond: Cond, next_sigma: Tensor | None, state: Any
    ) -> tuple[Tensor, Any]:
        """With the guide's state."""
        x, D = self.way[float(sigma)]
        if isinstance(self.asked, Stateful):
            asked, state = self.asked.evaluate(x + E, sigma, cond, next_sigma, state)
        else:
            asked = self.asked(x + E, sigma, cond)
        return asked - D, state
