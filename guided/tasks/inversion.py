"""Edits that go up to the photo's own noise as what it shows, and down from it as what is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from guided import ode
from guided import path as paths
from guided.model import drawing
from guided.sampling import trajectory
from guided.solvers import Solver
from guided.tasks.methods import Scene, Told, shown

if TYPE_CHECKING:
    from guided.model.model import Model


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

    def check(self, model: Model, solver: Solver) -> None:
        """Raise ValueError for models that do not share a space, and for a source that cannot be told."""
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
    """As `Inversion`, by a scheme that can be undone to the last bit, O-BELM (Wang et al. 2024): see `ode.belm`.

    Where what is asked is what the photo shows, without guidance, the photo itself comes back.
    """

    source: Told = None
    strength: float = 1.0
    solver: ClassVar[str | None] = None

    def check(self, model: Model, solver: Solver) -> None:
        """Raise ValueError for a source that cannot be told."""
        shown(model, self.source)

    def __call__(self, scene: Scene) -> Iterator[Tensor]:
        """The picture: as the photo was on the way up, it is taken to lie at the last level above 0."""
        levels = scene.path[:-1]
        if len(levels) < 2:
            raise ValueError("an exactly invertible edit needs at least 2 steps")
        x, momentum = ode.belm(scene.plain, scene.x0, levels.flip(0), scene.told(self.source))
        x, _ = ode.belm(scene.denoise, x, levels, scene.cond, -momentum)
        yield x.to(scene.x0)

    def nfe(self, path: Tensor, solver: Solver) -> int:
        """One a move up, and one a move down; of the way down the first needs none."""
        return 2 * (len(path) - 2) - 1
