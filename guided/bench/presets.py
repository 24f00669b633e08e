"""The guides that the bench measures, by name: its own, and the user's beside them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from guided.bench.solvers import named
from guided.bench.steered import Classes, Inverse, Problem
from guided.cond import Cond
from guided.guide import (
    Guide,
    Term,
    apg,
    between,
    cfg,
    cfgpp,
    class_log_prob,
    clip,
    compose,
    dps,
    expression,
    frequency,
    gradient,
    independent,
    mmps,
    perp_neg,
    perturbed,
    pigdm,
    project,
    rescale,
    tfg,
    threshold,
)

Make = Callable[[Problem], Guide | Term | None]
"""A guide for a problem; None where it has none for it."""


class Entry(NamedTuple):
    """A guide of the bench, and the route it is made for: "ode", "ancestral" or "repaint"."""

    make: Make
    route: str = "ode"


def _of_classes(make: Callable[[Classes], Guide | Term]) -> Entry:
    return Entry(lambda problem: make(problem) if isinstance(problem, Classes) else None)


def _of_measurements(make: Callable[[Inverse], Guide | Term], route: str = "ode") -> Entry:
    return Entry(lambda problem: make(problem) if isinstance(problem, Inverse) else None, route)


def variance(problem: Problem, sigma: Tensor) -> Tensor:
    """The variance of x0 given x, per number, if the data were one Gaussian."""
    var = problem.data.moments().cov[0].diagonal().mean()
    return sigma**2 * var / (sigma**2 + var)


def _clean(problem: Classes) -> Callable[..., Tensor]:
    return class_log_prob(problem.classifier)


def _noisy(problem: Classes, scale: float) -> Guide:
    return cfg(0) + gradient(class_log_prob(problem.classifier), "x", scale)


def _likelihood(problem: Inverse, D: Tensor, cond: Cond) -> Tensor:
    """ln p(y | x0 = D), but for a constant."""
    return -0.5 * problem.operator.residual(D, problem.y).flatten(1).square().sum(1) / problem.sigma_y**2


def _gain(problem: Inverse, sigma: Tensor, next_sigma: Tensor | None) -> Tensor:
    """What makes a gradient of the likelihood at D one of ln p(y | x), were the measured numbers A A^T = I."""
    return problem.sigma_y**2 / (problem.sigma_y**2 + variance(problem, sigma))


def _towards(problem: Inverse, sigma: Tensor, next_sigma: Tensor | None) -> Tensor:
    return variance(problem, sigma) * _gain(problem, sigma, None)


UNGUIDED = "conditional, unguided"
PRESETS: Mapping[str, Entry] = {
    UNGUIDED: Entry(lambda problem: cfg(1)),
    "cfg(0), unconditional": _of_classes(lambda p: cfg(0)),
    "cfg(1.5)": _of_classes(lambda p: cfg(1.5)),
    "cfg(3)": _of_classes(lambda p: cfg(3)),
    "cfg(7)": _of_classes(lambda p: cfg(7)),
    "cfg(3).during(0.2, 2)": _of_classes(lambda p: cfg(3).during(0.2, 2)),
    "cfgpp(0.6)": _of_classes(lambda p: cfgpp(0.6)),
    "cfg(7) >> apg()": _of_classes(lambda p: cfg(7) >> apg()),
    "cfg(7) >> apg(0, 0, 0.2)": _of_classes(lambda p: cfg(7) >> apg(0, 0, 0.2)),
    "cfg(7) >> rescale(0.7)": _of_classes(lambda p: cfg(7) >> rescale(0.7)),
    "cfg(7) >> frequency()": _of_classes(lambda p: cfg(7) >> frequency()),
    "cfg(7) >> threshold()": _of_classes(lambda p: cfg(7) >> threshold()),
    "cfg(7) >> clip()": _of_classes(lambda p: cfg(7) >> clip()),
    "between(blurred, 2)": _of_classes(lambda p: between(p.weak, 2)),
    "cfg(3, negative=next class)": _of_classes(lambda p: cfg(3, negative=p.following)),
    "perp_neg(3, (next class, 1))": _of_classes(lambda p: perp_neg(3, (p.following, 1.0))),
    "compose(3 class, -1 next)": _of_classes(lambda p: compose(((p.cond, 3.0), (p.following, -1.0)))),
    "independent(3, all classes)": _of_classes(lambda p: independent(3, Cond(label=torch.arange(p.count)))),
    "perturbed('identity')": _of_classes(lambda p: perturbed("identity")),
    "cfg(0) + exact classifier of x": _of_classes(lambda p: _noisy(p, 1.0)),
    "cfg(0) + 3 exact classifier of x": _of_classes(lambda p: _noisy(p, 3.0)),
    "cfg(0) + classifier of D": _of_classes(lambda p: cfg(0) + gradient(_clean(p))),
    "cfg(0) + tfg, variance": _of_classes(lambda p: cfg(0) + tfg(_clean(p), gamma=0.2)),
    "cfg(0) + tfg, mean": _of_classes(lambda p: cfg(0) + tfg(_clean(p), 0.0, lambda s, t: variance(p, s))),
    "pigdm": _of_measurements(lambda p: pigdm(p.operator, p.y, p.sigma_y, p.var)),
    "mmps, 3 iterations": _of_measurements(lambda p: mmps(p.operator, p.y, p.sigma_y)),
    "mmps, 16 iterations": _of_measurements(lambda p: mmps(p.operator, p.y, p.sigma_y, 16)),
    "tfg, variance": _of_measurements(lambda p: tfg(functools.partial(_likelihood, p), functools.partial(_gain, p))),
    "tfg, mean": _of_measurements(lambda p: tfg(functools.partial(_likelihood, p), 0.0, functools.partial(_towards, p))),
    "project": _of_measurements(lambda p: project(p.operator, p.y)),
    "dps(0.3), ancestral": _of_measurements(lambda p: dps(p.operator, p.y, 0.3), "ancestral"),
    "dps(1), ancestral": _of_measurements(lambda p: dps(p.operator, p.y, 1.0), "ancestral"),
    "project, repaint": _of_measurements(lambda p: project(p.operator, p.y), "repaint"),
}  # fmt: skip


def contestants(text: str) -> dict[str, Entry]:
    """The guides of an expression, or of the user's own module:name, by name.

    What is named is a guide, a function of the problem that returns one (None where it has none for it), or a mapping
    of names to these, as `PRESETS` is. Raises ValueError for anything else.
    """
    if "(" in text:
        return {text: Entry(functools.partial(_parsed, text))}
    if ":" not in text:
        raise ValueError(f'--guide: expected an expression such as "cfg(3) >> rescale(0.7)", or module:name; got {text!r}')
    found = named(text)
    listed = found if isinstance(found, Mapping) else {"": found}
    return {f"{text} {name}".strip(): _entry(f"{text} {name}".strip(), guide) for name, guide in listed.items()}


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


def _parsed(text: str, problem: Problem) -> Guide | Term | None:
    """An expression on a problem with classes: "2" is a class, `early` the weaker denoiser."""
    if not isinstance(problem, Classes):
        return None

    def condition(word: str) -> Cond:
        if word not in map(str, range(problem.count)):
            raise ValueError(f"expected a class from 0 to {problem.count - 1} as a text, got {word!r}")
        return Cond(label=torch.tensor([int(word)]))

    return expression.parse(text, {"early": lambda: problem.weak}, condition)
