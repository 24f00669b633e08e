"""Terms, the guides they add up to, and the denoiser that a guide makes of another."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise, spread
from guided.guide import planner
from guided.guide.planner import Branch

Weight = float | Tensor | Callable[[Tensor, Tensor | None], float | Tensor]
"""A number, one per image (B,), a map (B, 1, H, W), or a function of (sigma, next_sigma) that gives one of these."""

Linear = list[tuple[float | Tensor, Branch]]


@dataclass(frozen=True, eq=False)
class Term(abc.ABC):
    """One way of guiding; `lo < sigma <= hi` is where it acts."""

    lo: float = dataclasses.field(default=0.0, kw_only=True)
    hi: float = dataclasses.field(default=math.inf, kw_only=True)

    @abc.abstractmethod
    def linear(self, sigma: Tensor, next_sigma: Tensor | None) -> Linear:
        """What the term adds to D at this noise level, as (coefficient, branch) pairs before gating."""

    def during(self, lo: float, hi: float = math.inf) -> Self:
        """The same term, acting only where lo < sigma <= hi (Kynkaanniemi et al. 2024); ValueError unless lo < hi."""
        if not 0 <= lo < hi:
            raise ValueError(f"during needs 0 <= lo < hi, got lo={lo}, hi={hi}")
        return dataclasses.replace(self, lo=lo, hi=hi)

    def __add__(self, other: Term | Guide) -> Guide:
        return Guide((self,)) + other

    def __call__(self, denoise: Denoise) -> Guided:
        return Guide((self,))(denoise)

    def gate(self, sigma: Tensor) -> float | Tensor:
        """1 where the term acts and 0 elsewhere, in the precision of sigma; a number, or (B,) for a (B,) sigma."""
        acts = (sigma > self.lo) & (sigma <= self.hi)
        return float(acts) if acts.ndim == 0 else acts.double()

    def interval(self) -> str:
        """The interval as the experiment reads it."""
        return "" if (self.lo, self.hi) == (0.0, math.inf) else f".during({self.lo:g}, {self.hi:g})"


@dataclass(frozen=True, eq=False)
class Guide:
    """A sum of terms; called on a denoiser it gives a denoiser."""

    terms: tuple[Term, ...]

    def __add__(self, other: Term | Guide) -> Guide:
        if not isinstance(other, Term | Guide):
            return NotImplemented
        return Guide(self.terms + (other.terms if isinstance(other, Guide) else (other,)))

    def __call__(self, denoise: Denoise) -> Guided:
        return Guided(self, denoise)

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))


@dataclass(frozen=True, eq=False)
class Guided:
    """A denoiser under a guide: a `Denoise` like any other."""

    guide: Guide
    denoise: Denoise

    @property
    def accepts(self) -> frozenset[str] | None:
        """The fields of `Cond` that the guided denoiser can see."""
        return planner.accepted(self.denoise)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return self.evaluate(x, sigma, cond, None, None)[0]

    def evaluate(
        self, x: Tensor, sigma: Tensor, cond: Cond, next_sigma: Tensor | None, state: None
    ) -> tuple[Tensor, None]:
        """D at (x, sigma), for a step to next_sigma where that is known; linear guides carry no state."""
        weights = self._weights(sigma, next_sigma)
        found = planner.run(self.denoise, weights, x, sigma, cond)
        total = None
        for branch, weight in weights.items():
            # A weight of 1 is left out of the product, so that a neutral guide is its base bit for bit.
            part = found[branch] if _is(weight, 1.0) else _scale(weight, x) * found[branch]
            total = part if total is None else total + part
        return (torch.zeros_like(x) if total is None else total), None

    def _weights(self, sigma: Tensor, next_sigma: Tensor | None) -> dict[Branch, float | Tensor]:
        """The total weight of each branch; those of weight zero are left out and never evaluated."""
        sums: dict[Branch, float | Tensor] = {Branch(): 1.0}
        for term in self.guide.terms:
            gate = term.gate(sigma)
            if isinstance(gate, float) and gate == 0:
                continue
            for weight, branch in term.linear(sigma, next_sigma):
                accepts = planner.accepted(branch.denoise or self.denoise)
                seen = branch.seen_by(accepts)
                sums[seen] = _add(sums.get(seen, 0.0), _times(weight, gate))
        return {branch: weight for branch, weight in sums.items() if not _is(weight, 0.0)}


def _is(weight: float | Tensor, value: float) -> bool:
    return bool((weight == value).all()) if isinstance(weight, Tensor) else weight == value


def _scale(weight: float | Tensor, x: Tensor) -> float | Tensor:
    """The weight as a factor of x, in x's dtype and on its device: D never takes the weight's."""
    if not isinstance(weight, Tensor):
        return weight
    return spread(weight, x) if weight.ndim < 2 else weight.to(x)


def _lift(weight: float | Tensor, other: float | Tensor) -> float | Tensor:
    """A (B,) weight beside a (B, 1, H, W) one grows the missing axes: it counts images, never columns."""
    if isinstance(weight, Tensor) and isinstance(other, Tensor) and weight.ndim < other.ndim:
        return weight.reshape(*weight.shape, *[1] * (other.ndim - weight.ndim))
    return weight


def _add(a: float | Tensor, b: float | Tensor) -> float | Tensor:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        b = b.to(a.device)
    return _lift(a, b) + _lift(b, a)


def _times(a: float | Tensor, b: float | Tensor) -> float | Tensor:
    a, b = _lift(a, b), _lift(b, a)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a * b.to(a.device)
    return a * b
