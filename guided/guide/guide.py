"""A guide: a sum of terms and how it is shaped; and the denoiser that a guide makes of another."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from guided import reuse
from guided.cond import Cond
from guided.denoiser import Denoise, spread
from guided.guide import planner
from guided.guide.planner import BASE, Branch
from guided.guide.shaping import AFTER_PUSHES, Shaping
from guided.guide.term import (
    Contrast,
    Curve,
    Exact,
    Number,
    Point,
    Push,
    Term,
    factor,
    is_value,
    plus,
    times,
    value,
)

Kind = TypeVar("Kind", bound=Term)
State = tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Guide:
    """A sum of terms, then shaping in its canonical order; called on a denoiser it gives a denoiser.

    At each noise level: contrasts, curves; `frequency`, `apg`; pushes; `rescale`; `threshold`, `clip`; what is exact.
    """

    terms: tuple[Term, ...]
    shaping: tuple[Shaping, ...] = ()

    def __add__(self, other: Term | Guide) -> Guide:
        if not isinstance(other, Term | Guide):
            return NotImplemented
        if self.shaping or (isinstance(other, Guide) and other.shaping):
            raise TypeError("shaping belongs to a whole guide: add the terms first, (a + b) >> shaping")
        return Guide(self.terms + (other.terms if isinstance(other, Guide) else (other,)))

    def __rshift__(self, shaping: Shaping) -> Guide:
        if not isinstance(shaping, Shaping):
            return NotImplemented
        if any(type(shaping) is type(other) for other in self.shaping):
            raise ValueError(f"a guide is shaped once by each kind; {shaping!r} stands beside {self!r}")
        return Guide(self.terms, tuple(sorted((*self.shaping, shaping), key=lambda s: s.stage)))

    def __call__(self, denoise: Denoise) -> Guided:
        return Guided(self, denoise)

    def acting(self, kind: Callable[..., Kind], sigma: Tensor) -> list[tuple[Number, Kind]]:
        """The terms of a kind that act at this noise level, each with its gate."""
        of_kind = (term for term in self.terms if isinstance(term, kind))  # type: ignore[arg-type]
        gated = ((term.gate(sigma), cast(Kind, term)) for term in of_kind)
        return [(gate, term) for gate, term in gated if not is_value(gate, 0.0)]

    @property
    def linear(self) -> bool:
        """Whether the guide is a sum of branches and nothing else."""
        return not self.shaping and all(isinstance(term, Contrast) for term in self.terms)

    @property
    def steady(self) -> bool:
        """Whether it is a sum of branches whose weights change with the noise level by the gates alone."""
        return self.linear and all(isinstance(term, Contrast) and term.steady for term in self.terms)

    @property
    def stateful(self) -> bool:
        """Whether the guide carries something from one noise level to the next."""
        return any(shaping.stateful for shaping in self.shaping)

    def __repr__(self) -> str:
        return " >> ".join([" + ".join(map(repr, self.terms)), *map(repr, self.shaping)])


@dataclass(frozen=True, eq=False)
class Guided:
    """A denoiser under a guide: a `Denoise` like any other, which any number of threads may share.

    It may be differentiated, by its networks' parameters and by x; where a term pushes, x must require grad for that.
    Raises TypeError where a guide with a state would be wrapped by another: it stands outermost. A guide that pushes
    raises RuntimeError in `torch.inference_mode`, which takes no gradients: `torch.no_grad` is what it wants.
    """

    guide: Guide
    denoise: Denoise

    def __post_init__(self) -> None:
        if isinstance(self.denoise, Guide | Term):
            raise TypeError(f"{self.guide!r} guides a denoiser, not {self.denoise!r}: guides are added by +")
        if isinstance(self.denoise, Guided) and self.denoise.guide.stateful:
            raise TypeError(f"{self.denoise.guide!r} carries a state and must stand outermost, under {self.guide!r}")

    @property
    def accepts(self) -> frozenset[str] | None:
        """The fields of `Cond` that the guided denoiser can see."""
        return planner.accepted(self.denoise)

    @property
    def std(self) -> Callable[..., Tensor] | None:
        """The learned standard deviation of the denoiser, where it has one."""
        return getattr(self.denoise, "std", None)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return self.evaluate(x, sigma, cond, None, None)[0]

    def evaluate(
        self, x: Tensor, sigma: Tensor, cond: Cond, next_sigma: Tensor | None, state: State | None
    ) -> tuple[Tensor, State | None]:
        """D at (x, sigma), for a step to next_sigma where that is known, and the state that the next step wants."""
        if self._steady and sigma.ndim == 0:
            return self._sum_of_branches(x, sigma, cond), None
        guide = self.guide
        network, weights = _leaves(self, sigma, next_sigma)
        curves = [(g, c, c.branches(sigma, next_sigma)) for g, c in guide.acting(Curve, sigma)]
        curves = [curve for curve in curves if curve[2]]
        pushes = self._pushes(sigma, next_sigma)
        if pushes and torch.is_inference_mode_enabled():
            raise RuntimeError(f"{guide!r} takes gradients, which torch.inference_mode forbids: use torch.no_grad")
        contrasted = bool(curves) or set(weights) != {BASE} or not is_value(weights[BASE], 1.0)
        shaping = [(i, s) for i, s in enumerate(guide.shaping) if contrasted or not s.contrasts]

        branches = [*weights, *(self._seen(branch) for curve in curves for branch in curve[2])]
        if any(push.base for _, push in pushes) or any(s.contrasts for _, s in shaping):
            branches.append(BASE)
        # A caller who differentiates through the guide has a graph of his own, and gets gradients of gradients.
        recorded = torch.is_grad_enabled() and x.requires_grad
        leaf = x if recorded or not pushes else x.detach().requires_grad_()
        graph = {BASE: leaf} if any(push.graph for _, push in pushes) else {}
        found = planner.run(network, branches, x, sigma, cond, graph)
        plain = {branch: D.detach() if branch in graph and not recorded else D for branch, D in found.items()}

        # A momentum takes an image to which nothing at all is added for one that is not guided.
        total = _sum(list(weights.values()), [plain[branch] for branch in weights], x, rounded=guide.stateful)
        for gate, curve, needed in curves:
            parts = tuple(plain[self._seen(branch)] for branch in needed)
            total = total + factor(gate, x) * curve.change(parts, sigma, next_sigma)
        memory = list(state or [None] * len(guide.shaping))
        total = _shaped(total, plain, memory, [(i, s) for i, s in shaping if s.stage < AFTER_PUSHES])
        if pushes:
            at = Point(leaf, found.get(BASE, total), sigma, next_sigma, cond, recorded)
            total = _pushed(total, pushes, at)
        total = _shaped(total, plain, memory, [(i, s) for i, s in shaping if s.stage >= AFTER_PUSHES])
        for gate, exact in guide.acting(Exact, sigma):
            put = exact.put(total, sigma)
            total = torch.where(spread(gate, x) > 0, put, total) if isinstance(gate, Tensor) else put
        return total, tuple(memory) if guide.stateful else None

    @functools.cached_property
    def _steady(self) -> bool:
        return self.guide.steady and not isinstance(self.denoise, Guided)

    def _sum_of_branches(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        """`evaluate` of a steady guide, whose branches and weights are found once a run for the terms that act."""
        level = sigma.item()
        acting = tuple([term.lo < level <= term.hi for term in self.guide.terms])
        kind = "branches", acting, x.shape[0], x.dtype
        weights, conds = reuse.once(kind, (self, cond), lambda: self._branches(x, sigma, cond))
        if conds is None:
            found = planner.run(self.denoise, weights, x, sigma, cond)
            return _sum(list(weights.values()), [found[branch] for branch in weights], x)
        return _sum(list(weights.values()), planner.under(self.denoise, conds, x, sigma), x)

    def _branches(self, x: Tensor, sigma: Tensor, cond: Cond) -> tuple[dict[Branch, Number], tuple[Cond, ...] | None]:
        """Branches and weights; and their conditions, where one call of the denoiser answers all."""
        weights = _leaves(self, sigma, None)[1]
        if any(branch.denoise is not None or branch.perturbation is not None for branch in weights):
            return weights, None
        return weights, tuple(branch.of(cond, x) for branch in weights)

    def _seen(self, branch: Branch) -> Branch:
        return branch.seen_by(planner.accepted(branch.denoise or self.denoise))

    def _pushes(self, sigma: Tensor, next_sigma: Tensor | None) -> list[tuple[Number, Push]]:
        """The pushes whose scale is not zero here, each with its scale and gate in one factor."""
        acting = self.guide.acting(Push, sigma)
        scaled = ((times(gate, value(push.scale, sigma, next_sigma)), push) for gate, push in acting)
        return [(scale, push) for scale, push in scaled if not is_value(scale, 0.0)]


def _leaves(guided: Guided, sigma: Tensor, next_sigma: Tensor | None) -> tuple[Denoise, dict[Branch, Number]]:
    """The network, and the total weight of each of its branches; those of weight zero are left out.

    Linear guides inside one another are one sum over the innermost network's branches.
    """
    sums: dict[Branch, Number] = {BASE: 1.0}
    for gate, term in guided.guide.acting(Contrast, sigma):
        for weight, branch in term.linear(sigma, next_sigma):
            seen = guided._seen(branch)
            sums[seen] = plus(sums.get(seen, 0.0), times(weight, gate))
    network = guided.denoise
    if isinstance(network, Guided) and network.guide.linear and guided.guide.linear:
        network, inner = _leaves(network, sigma, None)
        outer, sums = sums, {}
        for branch, weight in outer.items():
            parts = inner.items() if branch.denoise is None else [(BASE, 1.0)]
            for leaf, share in parts:
                under = guided._seen(leaf.under(branch))
                sums[under] = plus(sums.get(under, 0.0), times(weight, share))
    return network, {branch: weight for branch, weight in sums.items() if not is_value(weight, 0.0)}


def _sum(weights: Sequence[Number], found: Sequence[Tensor], x: Tensor, rounded: bool = False) -> Tensor:
    """The weighted sum of estimates; `rounded`: two equal ones give their value up to rounding, not exactly."""
    if len(weights) == 2 and not rounded:
        first, second = weights
        if isinstance(first, float) and isinstance(second, float) and abs(first + second - 1) < 1e-12:
            return torch.lerp(found[0], found[1], second)
    total = None
    for weight, D in zip(weights, found, strict=True):
        # A weight of 1 is left out of the product, so that a neutral guide is its base bit for bit.
        part = D if is_value(weight, 1.0) else factor(weight, x) * D
        total = part if total is None else total + part
    return torch.zeros_like(x) if total is None else total


def _shaped(
    D: Tensor, found: Mapping[Branch, Tensor], memory: list[Any], shaping: Sequence[tuple[int, Shaping]]
) -> Tensor:
    """D after some of the shaping; what each carries on is put into `memory` at its place."""
    for i, shape in shaping:
        D, memory[i] = shape(D, found.get(BASE, D), memory[i])
    return D


def _pushed(D: Tensor, pushes: Sequence[tuple[Number, Push]], at: Point) -> Tensor:
    with torch.enable_grad():
        moved = [factor(scale, D) * push.change(at) for scale, push in pushes]
    return D + sum(move if at.differentiable else move.detach() for move in moved)
