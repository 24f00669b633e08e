"""Multistep solvers in data form: one evaluation a step, and the order from the values of D remembered.

With s = sigma and s' = next_sigma the exact step is  x' = (s'/s) x + s' * integral of D / sigma^2 d sigma over [s', s].
D is replaced by the polynomial in ln sigma through its last values, the older ones as differences from the newest, so
that a constant D is solved exactly.

On a path that rises after the step, to `level`, D's polynomial is read up to `level` and spread over the whole step:
fresh noise leaves the history of D valid. With H = ln(s / s') and h = ln(s / level) this is the exponential integral of
the reverse SDE with 1 + tau^2 = H / h (Xue et al. 2023, data prediction): tau is how far the path overshoots and rises.

A corrector makes the step once more with one value of D more: the one at `level`, which the next step needs in any
case. What it changes adds to x, so neither the old x nor the noise drawn in between is kept.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.solvers import weights
from guided.solvers.base import Seen, at_zero, behind, check_order, towards


class Predicted(NamedTuple):
    """A step that awaits its corrector: the evaluations it used, its H and h, and the constant D that makes it."""

    used: tuple[Seen, ...]
    move: float
    reach: float
    D: Tensor


class History(NamedTuple):
    """Evaluations, newest first; whether fresh noise came after the newest; the step to correct, if any."""

    seen: tuple[Seen, ...]
    noisy: bool
    predicted: Predicted | None


@dataclass(frozen=True)
class DataForm(abc.ABC):
    """A multistep method in D, through `order` evaluations; a subclass says how it integrates them.

    extrapolate: whether a step to 0 returns D extrapolated there, or D itself.
    """

    order: int
    extrapolate: bool
    evaluations: ClassVar[int] = 1

    @abc.abstractmethod
    def averages(self, move: float, count: int) -> tuple[float, ...]:
        """What 1, u, ..., u^(count - 1) average to over a step of the length `move` = ln(sigma / next_sigma)."""

    @property
    def correct(self) -> int:
        """The number of evaluations the corrector uses, the new one among them; 0 without a corrector."""
        return 0

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigma: Tensor,
        next_sigma: Tensor,
        cond: Cond,
        memory: History | None,
        level: Tensor,
    ) -> tuple[Tensor, History | None]:
        D = denoise(x, sigma, cond)
        here, there, after = float(sigma), float(next_sigma), float(level)
        if memory and memory.predicted:
            x = x + self._correction(memory.predicted, D)
        seen = behind(memory.seen, here, there) if memory else []
        # A move that comes back to sigma or above starts afresh: its history lies on the wrong side.
        forget = after >= here and after != there
        used = (Seen(here, D), *seen)[: self.order]
        kept = used[: max(self.order - 1, int(self.extrapolate))]
        if there == 0:
            # Fresh noise moves D as a whole: no trend to follow.
            smooth = self.extrapolate and after == 0 and memory is not None and not memory.noisy
            out, predicted = at_zero(D, here, seen) if smooth else D, None
        else:
            move, reach = math.log(here / there), math.log(here / (there if forget else after))
            nodes = [math.log(here / past.sigma) / reach for past in used[1:]]
            guess = _blend(used, nodes, self.averages(move, len(used)))
            out = towards(guess, x, here, there)
            predicted = Predicted(used, move, reach, guess) if self.correct else None
        return out, None if forget else History(kept, after != there, predicted)

    def _correction(self, step: Predicted, D: Tensor) -> Tensor:
        """What the step becomes with D, evaluated where it led, less what it was."""
        first, *older = step.used[: self.correct - 1]
        nodes = [1.0, *(math.log(first.sigma / past.sigma) / step.reach for past in older)]
        better = _blend((first, Seen(0.0, D), *older), nodes, self.averages(step.move, len(nodes) + 1))
        return -math.expm1(-step.move) * (better - step.D)


def _blend(used: Sequence[Seen], nodes: Sequence[float], averages: tuple[float, ...]) -> Tensor:
    """The average over a step of the polynomial through the first D at u = 0 and the others at their nodes."""
    D = out = used[0].D
    for place, (weight, other) in enumerate(zip(weights.lagrange(tuple(nodes), averages), used[1:], strict=True)):
        out = torch.add(out, other.D - D, alpha=weight) if place else D.lerp(other.D, weight)
    return out


@dataclass(frozen=True)
class DataEAB(DataForm):
    """Exponential Adams-Bashforth in D, order 1 to 4: the polynomial integrated exactly (Lu et al. 2022, eq. 8)."""

    order: int = 3
    extrapolate: bool = True

    def __post_init__(self) -> None:
        check_order("eab", self.order, 4)

    def averages(self, move: float, count: int) -> tuple[float, ...]:
        return weights.exponential(move, count)


@dataclass(frozen=True)
class DPMpp(DataForm):
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2) and 3M (the authors' code), by their order in name.

    2M takes D at the middle of the step in ln sigma. The weight of 3M's second difference, in their code and in all
    that follow it, is half of the Taylor coefficient: 3M converges at second order, with a smaller constant, and
    `eab(3, "data")` is what reaches the third.
    """

    order: int = 2
    extrapolate: bool = False

    def __post_init__(self) -> None:
        if self.order not in (2, 3):
            raise ValueError(f"DPM-Solver++ is 2M or 3M: order 2 or 3, got {self.order}")

    def averages(self, move: float, count: int) -> tuple[float, ...]:
        if count < 3:
            return (1.0, 0.5)[:count]
        one, first, second = weights.exponential(move, 3)
        return one, first, second / 2


@dataclass(frozen=True)
class UniPC(DataForm):
    """UniPC of order 1 to 3 with B(h) = e^h - 1 (Zhao et al. 2023, algorithms 1 and 2, multistep in data form).

    The predictor has the order, the corrector one more: so has the whole. Where one difference alone enters, its weight
    is 1/2, as in the paper.
    """

    order: int = 3
    extrapolate: bool = False

    def __post_init__(self) -> None:
        check_order("UniPC", self.order, 3)

    @property
    def correct(self) -> int:
        return self.order + 1

    def averages(self, move: float, count: int) -> tuple[float, ...]:
        return (1.0, 0.5) if count == 2 else weights.exponential(move, count)


@dataclass(frozen=True)
class SA(DataForm):
    """SA-Solver (Xue et al. 2023, algorithm 1): Adams predictor and corrector of order 2 or 3, noise by the path.

    On a falling path tau is 0; on `path.ancestral(path, eta)` it is the tau of every step that draws the same noise,
    which for eta = 1 is tau = 1. Where one difference alone enters, its weight is h / 2, as in the authors' code.
    """

    order: int = 3
    extrapolate: bool = False

    def __post_init__(self) -> None:
        if self.order not in (2, 3):
            raise ValueError(f"SA has the orders 2 and 3, got {self.order}")

    @property
    def correct(self) -> int:
        return self.order

    def averages(self, move: float, count: int) -> tuple[float, ...]:
        return (1.0, move / -math.expm1(-move) / 2) if count == 2 else weights.exponential(move, count)
