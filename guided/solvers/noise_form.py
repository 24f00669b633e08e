"""Multistep solvers in noise form: one evaluation a step, and the order from the noises remembered.

With n = (x - D) / sigma the exact step is x' = x + the integral of n d sigma from sigma to next_sigma. n is replaced by
the polynomial through its last values, the older ones as differences from the newest, so that a constant D is solved
exactly. Where the path rises, fresh noise has replaced what was remembered, and the method begins anew.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.solvers import weights
from guided.solvers.base import Seen, at_zero, behind, check_order


@dataclass(frozen=True)
class NoiseForm(abc.ABC):
    """A multistep method in n, through `order` evaluations; a subclass says in which variable n is a polynomial.

    extrapolate: whether a step to 0 returns D extrapolated there, or D itself.
    """

    order: int
    extrapolate: bool
    evaluations: ClassVar[int] = 1

    @abc.abstractmethod
    def weights(self, here: float, there: float, past: Sequence[float]) -> tuple[float, ...]:
        """The weights of n at the `past` levels, as differences from the newest."""

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigma: Tensor,
        next_sigma: Tensor,
        cond: Cond,
        memory: tuple[Seen, ...] | None,
        level: Tensor,
    ) -> tuple[Tensor, tuple[Seen, ...] | None]:
        D = denoise(x, sigma, cond)
        here, there, after = float(sigma), float(next_sigma), float(level)
        seen = behind(memory or (), here, there)
        if there == 0:
            return (at_zero(D, here, seen) if self.extrapolate and after == 0 else D), None
        n, past = (x - D) / here, seen[: self.order - 1]
        factors = [(there - here) * weight for weight in self.weights(here, there, [old.sigma for old in past])]
        # D + there n is the step for a constant n; the differences from n add to it.
        out = torch.add(D, n, alpha=there - math.fsum(factors))
        for factor, old in zip(factors, past, strict=True):
            assert old.n is not None
            out.add_(old.n, alpha=factor)
        keep = max(self.order - 1, int(self.extrapolate))
        return out, (Seen(here, D, n), *seen)[:keep] if after == there else None


@dataclass(frozen=True)
class NoiseEAB(NoiseForm):
    """Exponential Adams-Bashforth in the noise, order 1 to 4: n is a polynomial in ln sigma.

    In this frame it is DEIS with the polynomial in ln rho (Zhang & Chen 2022, section 3): rho is sigma.
    """

    order: int = 3
    extrapolate: bool = True

    def __post_init__(self) -> None:
        check_order("eab", self.order, 4)

    def weights(self, here: float, there: float, past: Sequence[float]) -> tuple[float, ...]:
        move = math.log(here / there)
        nodes = [math.log(here / level) / move for level in past]
        return weights.lagrange(tuple(nodes), weights.exponential(-move, len(nodes) + 1))


@dataclass(frozen=True)
class LMS(NoiseForm):
    """Linear multistep, order 1 to 4: Adams-Bashforth on dx/dsigma = n, a polynomial in sigma itself."""

    order: int = 4
    extrapolate: bool = True

    def __post_init__(self) -> None:
        check_order("LMS", self.order, 4)

    def weights(self, here: float, there: float, past: Sequence[float]) -> tuple[float, ...]:
        nodes = [(level - here) / (there - here) for level in past]
        return weights.lagrange(tuple(nodes), weights.uniform(len(nodes) + 1))
