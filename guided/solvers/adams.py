"""A limited Adams method in noise form: predictor and corrector of one evaluation a step, down to sigma = 0.

With n = (x - D) / sigma the exact step is x' = x + the integral of n d sigma. n is taken for a polynomial in
y = ln(sigma + shift): far above the shift that is ln sigma, below it sigma itself, so that y is finite at 0 and the
step to 0 can follow n's trend as well. d sigma = e^y dy makes the integral the exponential one of `eab`, between
levels raised by the shift.

The corrector makes a step once more with the value found where it led, as UniPC does (Zhao et al. 2023, algorithm 1),
at no cost: that evaluation is the next step's own.

Each difference of n adds a term to the step of order 1. On long steps, and under strong guidance, the series of these
terms need not converge, and then it is what throws an image into a wrong mode. So the first term is held to a share of
the step that unit noise would make, every further one to a share of the one before it, image by image: the order that
the step is short enough for is found by itself. On short steps hardly anything is held, and the order is the full one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.solvers import weights
from guided.solvers.base import Seen, behind, check_order, sizes, towards


class Predicted(NamedTuple):
    """A step that awaits its corrector: the evaluations it used, and what they added to the step of order 1."""

    used: tuple[Seen, ...]
    bend: Tensor


class Past(NamedTuple):
    """Evaluations, newest first, and the step to correct, if any."""

    seen: tuple[Seen, ...]
    predicted: Predicted | None


@dataclass(frozen=True)
class Adams:
    """Corrected through at most `order` evaluations (2 to 4), predicted through one less; the step to 0 uses two.

    shift: in units of sigma. predict, correct: what the first term may be as a share of the step that noise of unit
    variance would make; share: what a further term may be of the one before. Where D stands still, the step to 0
    returns D bit for bit. Where the path rises, fresh noise has replaced what was remembered: it begins anew.
    """

    order: int = 4
    shift: float = 0.3
    predict: float = 0.08
    correct: float = 0.5
    share: float = 0.7
    evaluations: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_order("Adams", self.order, 4)
        if self.order < 2 or not 0 < self.shift < math.inf:
            raise ValueError(f"Adams needs an order of at least 2 and a shift > 0, got {self.order} and {self.shift}")

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigma: Tensor,
        next_sigma: Tensor,
        cond: Cond,
        memory: Past | None,
        level: Tensor,
    ) -> tuple[Tensor, Past | None]:
        D = denoise(x, sigma, cond)
        here, there, after = float(sigma), float(next_sigma), float(level)
        if memory and memory.predicted:
            first, *older = memory.predicted.used
            found = (first, Seen(here, D, (x - D) / here), *older)
            x = x + self._bend(found, first.sigma, here, self.correct) - memory.predicted.bend
        seen = (Seen(here, D, (x - D) / here), *behind(memory.seen if memory else (), here, there))
        out = towards(D, x, here, there)
        if there == 0:
            if after != 0 or len(seen) == 1:
                return out, None
            bend = self._bend((seen[0], self._base(seen)), here, there, math.inf)
            return torch.where(D == seen[1].D, D, out + bend), None
        used = seen[: self.order - 1]
        bend = self._bend(used, here, there, self.predict)
        return out + bend, Past(used, Predicted(used, bend)) if after == there else None

    def _base(self, seen: Sequence[Seen]) -> Seen:
        """The nearest evaluation from which the first one's trend leads to 0 with a weight of at most 1, else the last.

        On a fine grid neighbours hardly differ, and what differs is the network's rounding: it would be magnified.
        """
        move = math.log1p(seen[0].sigma / self.shift)
        _, mean = weights.exponential(-move, 2)
        reach = [math.log((past.sigma + self.shift) / (seen[0].sigma + self.shift)) / move for past in seen[1:]]
        return next((past for past, far in zip(seen[1:], reach, strict=True) if far >= mean), seen[-1])

    def _bend(self, seen: Sequence[Seen], here: float, there: float, reach: float) -> Tensor:
        """What the noises beside the first, which stands at `here`, add to a step of order 1."""
        first, *others = seen
        assert first.n is not None
        move = math.log((here + self.shift) / (there + self.shift))
        nodes = [math.log((here + self.shift) / (other.sigma + self.shift)) / move for other in others]
        away = [other.n - first.n for other in others if other.n is not None]
        most: float | Tensor = reach * abs(there - here)
        total = None
        for factors in weights.newton(tuple(nodes), weights.exponential(-move, len(nodes) + 1)):
            term = away[0] * ((there - here) * factors[0])
            for factor, other in zip(factors[1:], away[1:], strict=False):
                term.add_(other, alpha=(there - here) * factor)
            size = sizes(term).clamp_(min=1e-30)
            held = size.clamp(max=most)
            total = term.mul_(held / size) if total is None else total.addcmul_(term, held / size)
            most = self.share * held
        return torch.zeros_like(first.n) if total is None else total
