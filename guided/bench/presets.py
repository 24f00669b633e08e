"""The guides that the bench measures, by name: its own, and the user's beside them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from guided import path as paths
from guided.bench.solvers import named
from guided.bench.steered import HI, LO, Classes, Inverse, Problem
from guided.cond import Cond
from guided.guide import (
    Guide,
    Term,
    cfg,
    class_log_prob,
    compose,
    dps,
    expression,
    gradient,
    independent,
    mmps,
    perp_neg,
    pigdm,
    project,
    tfg,
)
from guided.solvers import Solver, euler

Make = Callable[[Problem], Guide | Term | None]
"""A guide for a problem; None where it has none for it."""


Route = Callable[[Solver, int], tuple[Tensor, Solver]]
"""(the solver asked for, steps) -> the path, and the solver that goes along it."""


def falling(solver: Solver, steps: int) -> tuple[Tensor, Solver]:
    """Karras' grid."""
    return paths.karras(steps, LO, HI), solver


def ancestral(solver: Solver, steps: int) -> tuple[Tensor, Solver]:
    """Four times as many steps with fresh noise, by Euler: DDPM, as DPS has it."""
    return paths.ancestral(paths.karras(4 * steps, LO, HI)), euler


def repaint(solver: Solver, steps: int) -> tuple[Tensor, Solver]:
    """Every 5 steps back up, 9 times, with fresh noise, by Euler."""
    return paths.ancestral(paths.resample(paths.karras(steps, LO, HI), 5, 10)), euler


class Entry(NamedTuple):
    """A guide of the bench, the route it is made for, and whether the model is blind: told no class."""

    make: Make
    route: Route = falling
    blind: bool = False


def _of_classes(make: Callable[[Classes], Guide | Term], blind: bool = False) -> Entry:
    return Entry(lambda problem: make(problem) if isinstance(problem, Classes) else None, blind=blind)


def _of_measurements(make: Callable[[Inverse], Guide | Term], route: Route = falling) -> Entry:
    return Entry(lambda problem: make(problem) if isinstance(problem, Inverse) else None, route)


def _left(problem: Problem, sigma: Tensor) -> Tensor:
    """The variance of x0 given x, per number, if the data were one Gaussian."""
    return sigma**2 * problem.var / (sigma**2 + problem.var)


def _class(problem: Classes) -> Callable[..., Tensor]:
    """ln p(class), exact, of clean pictures, or of x at a noise level: for a model that is told no class."""
    return class_log_prob(problem.classifier, problem.cond.label)


def _likelihood(problem: Inverse, D: Tensor, cond: Cond) -> Tensor:
    """ln p(y | x0 = D), but for a constant."""
    return -0.5 * problem.operator.residual(D, problem.y).flatten(1).square().sum(1) / problem.sigma_y**2


def _tfg(problem: Inverse, mean: bool) -> Term:
    """A corner of TFG whose weights are Bayes' rule on independent Gaussian numbers measured by A A^T = I."""

    def gain(sigma: Tensor, next_sigma: Tensor | None) -> Tensor:
        return problem.sigma_y**2 / (problem.sigma_y**2 + _left(problem, sigma))

    f = functools.partial(_likelihood, problem)
    return tfg(f, 0.0, lambda s, t: _left(problem, s) * gain(s, t)) if mean else tfg(f, gain)


def _parsed(text: str, problem: Problem) -> Guide | Term | None:
    """An expression on a problem with classes: "2" is a class, `early` the weaker denoiser."""
    if not isinstance(problem, Classes):
        return None

    def condition(word: str) -> Cond:
        if word not in map(str, range(problem.count)):
            raise ValueError(f"expected a class from 0 to {problem.count - 1} as a text, got {word!r}")
        return Cond(label=torch.tensor([int(word)]))

    return expression.parse(text, {"early": lambda: problem.weak}, condition)


UNGUIDED = "conditional, unguided"
EXPRESSIONS = (
    "cfg(0)",
    "cfg(1.5)",
    "cfg(3)",
    "cfg(7)",
    "cfg(3).during(0.2, 2)",
    "cfgpp(0.6)",
    "cfg(7) >> apg()",
    "cfg(7) >> apg(0, 0, 0.2)",
    "cfg(7) >> rescale(0.7)",
    "cfg(7) >> frequency()",
    "cfg(7) >> threshold()",
    "cfg(7) >> clip()",
    "between(early, 2)",
    "perturbed('identity')",
)
PRESETS: Mapping[str, Entry] = {
    UNGUIDED: Entry(lambda problem: cfg(1)),
    **{text: Entry(functools.partial(_parsed, text)) for text in EXPRESSIONS},
    "cfg(3, negative=next class)": _of_classes(lambda p: cfg(3, negative=p.following)),
    "perp_neg(3, (next class, 1))": _of_classes(lambda p: perp_neg(3, (p.following, 1.0))),
    "compose(3 class, -1 next)": _of_classes(lambda p: compose(((p.cond, 3.0), (p.following, -1.0)))),
    "independent(3, all classes)": _of_classes(lambda p: independent(3, Cond(label=torch.arange(p.count)))),
    "blind + exact classifier of x": _of_classes(lambda p: gradient(_class(p), "x"), blind=True),
    "blind + 3 exact classifier of x": _of_classes(lambda p: 3 * gradient(_class(p), "x"), blind=True),
    "blind + classifier of D": _of_classes(lambda p: gradient(_class(p)), blind=True),
    "blind + tfg, variance, smoothed": _of_classes(lambda p: tfg(_class(p), gamma=0.2), blind=True),
    "blind + tfg, mean": _of_classes(lambda p: tfg(_class(p), 0.0, lambda s, t: _left(p, s)), blind=True),
    "pigdm": _of_measurements(lambda p: pigdm(p.operator, p.y, p.sigma_y, p.var)),
    "mmps, 3 iterations": _of_measurements(lambda p: mmps(p.operator, p.y, p.sigma_y)),
    "mmps, 16 iterations": _of_measurements(lambda p: mmps(p.operator, p.y, p.sigma_y, 16)),
    "tfg, variance": _of_measurements(lambda p: _tfg(p, mean=False)),
    "tfg, mean": _of_measurements(lambda p: _tfg(p, mean=True)),
    "project": _of_measurements(lambda p: project(p.operator, p.y)),
    "dps(0.3), ancestral": _of_measurements(lambda p: dps(p.operator, p.y, 0.3), ancestral),
    "dps(1), ancestral": _of_measurements(lambda p: dps(p.operator, p.y, 1.0), ancestral),
    "project, repaint": _of_measurements(lambda p: project(p.operator, p.y), repaint),
}  # fmt: skip


def contestants(text: str) -> dict[str, Entry]:
    """The guides of an expression, or of the user's own module:name, by name.

    What is named is a guide, a function of the problem that returns one (None where it has none for it), or a mapping
    of names to these, as `PRESETS` is. Raises ValueError for anything else.
    """
    if "(" in text:
        return {text: Entry(functools.partial(_parsed, text))}
    if ":" not in text:
        raise ValueError(
            f'--guide: expected an expression such as "cfg(3) >> rescale(0.7)", or module:name; got {text!r}'
        )
    found = named(text)
    titled = (
        {f"{name} ({text})": guide for name, guide in found.items()} if isinstance(found, Mapping) else {text: found}
    )
    return {title: _entry(title, guide) for title, guide in titled.items()}


def _entry(name: str, found: Any) -> Entry:
    if isinstance(found, Entry):
        return found
    if isinstance(found, Guide | Term):
        return Entry(lambda problem: found if isinstance(problem, Classes) else None)
    if not callable(found):
        raise ValueError(f"{name}: {_EXPECTED}; got {found!r:.80}")
    return Entry(functools.partial(_called, name, found))


_EXPECTED = "expected a Guide or Term of guided.guide, or a function of the problem that returns one (or None)"


def _called(name: str, make: Callable[[Problem], Any], problem: Problem) -> Guide | Term | None:
    """What the user's function makes of a problem."""
    try:
        found = make(problem)
    except Exception as error:
        raise ValueError(
            f"{name}: failed on the problem {problem.name!r}, a guided.bench.steered.{type(problem).__name__}: "
            f"{type(error).__name__}: {error}; let it return None where it has no guide"
        ) from error
    if found is not None and not isinstance(found, Guide | Term):
        raise ValueError(f"{name}: {_EXPECTED}; it returned {found!r:.80}")
    return found
