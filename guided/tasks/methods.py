"""What edits by inversion have in common: a photo, what it shows, what is asked of it, and a path down to 0."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from guided import solvers
from guided.cond import Cond
from guided.denoiser import Denoise
from guided.model import conditioning, drawing
from guided.model.request import Plan, Wanted, images
from guided.noise import Noise
from guided.solvers import Solver

if TYPE_CHECKING:
    from guided.model.model import Model

Told = str | int | None
"""What a photo shows: a prompt or for a model of classes a class; None: nothing is told."""


class Method(Protocol):
    """An edit by inversion; `strength` and `solver` are what it takes where the caller does not say."""

    @property
    def strength(self) -> float: ...

    @property
    def solver(self) -> str | None: ...

    def __call__(self, scene: Scene, /) -> Iterator[Tensor]:
        """x (B, C, h, w) after every move, at most as often as the path has moves; the last is the picture."""
        ...

    def check(self, model: Model, plan: Plan, /) -> None:
        """Raise ValueError for what this model, or the solver, path, guide or words of a plan cannot do."""
        ...

    def nfe(self, path: Tensor, solver: Solver, /) -> int:
        """How often it evaluates the denoiser, guided or not."""
        ...


def step_of(plan: Plan) -> Solver:
    """The solver of a plan."""
    return solvers.by_name(plan.solver) if isinstance(plan.solver, str) else plan.solver


def check_levels(plan: Plan) -> None:
    """Raise ValueError where the path is too short to go up: it has to have two levels above 0."""
    if len(plan.path) < 3:
        raise ValueError(f"steps: an inversion takes at least 2, got {len(plan.path) - 1}")


def check_single(plan: Plan, what: str) -> None:
    """Raise ValueError for a solver that evaluates between the levels, where the photo's own way is not known."""
    if step_of(plan).evaluations != 1:
        raise ValueError(f"{what} takes a solver of one evaluation a step, got {plan.solver!r}")


@dataclass(frozen=True, eq=False)
class Scene:
    """What a method works with, for some images of a plan.

    x0 (B, C, h, w): the photos; denoise with cond: what is asked, guided; plain: what it guides.
    """

    model: Model
    plan: Plan
    rows: slice
    x0: Tensor
    denoise: Denoise
    plain: Denoise
    cond: Cond
    noise: Noise

    @property
    def path(self) -> Tensor:
        """The falling levels from the strength's own to 0."""
        return self.plan.path

    def told(self, source: Told, model: Model | None = None) -> Cond:
        """The condition of what the photos show, for this model or another."""
        model = model or self.model
        if source is None:
            return conditioning.trimmed(self.cond.null()) if model is self.model else Cond()
        found = conditioning.condition(model, shown(model, source, len(self.x0)))
        return conditioning.trimmed(found).to(model.device)


def shown(model: Model, source: Told, count: int = 1) -> tuple[Wanted, ...]:
    """What so many photos show, as a model hears it; raises ValueError, TypeError where it cannot be told."""
    if source is None and not model.conditional:
        return images(model, None, None, count, 0)
    prompts, labels = (source, None) if "text" in model.encoders else (None, source)
    try:
        return images(model, prompts, labels, count, 0)  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise type(error)(f"source: {error}") from None


@dataclass(frozen=True, eq=False)
class By:
    """A method as a plan's `Walk`. amount: (1, 1, h, w), how much of the change each place takes; None: all."""

    method: Method
    amount: Tensor | None = None

    def __call__(self, model: Model, plan: Plan, rows: slice, cond: Cond) -> Iterator[Tensor]:
        assert plan.x0 is not None
        noise = Noise([image.seed for image in plan.images[rows]])
        whole = plan.x0.expand(len(plan.images), -1, -1, -1)
        x0 = whole[rows].to(model.device)
        plain = drawing.base(model, plan)
        denoise = drawing.guided_by(model, plan, rows)(plain)
        scene = Scene(model, plan, rows, x0, denoise, plain, cond, noise)
        for x in self.method(scene):
            yield x if self.amount is None else x0 + self.amount.to(x) * (x - x0)

    def moves(self, path: Tensor) -> int:
        return len(path) - 1

    def nfe(self, path: Tensor, solver: Solver) -> int:
        return self.method.nfe(path, solver)
