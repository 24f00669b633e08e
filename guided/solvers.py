"""Solvers: pure steps of the probability-flow ODE  dx/dsigma = (x - D) / sigma.

A solver is (denoise, x, sigma, next_sigma, cond, memory, level) -> (x, memory) with the number of its `evaluations`.
`level` is the noise level of the next evaluation: next_sigma, unless an up-move follows. Memory is whatever a multistep
method wants to see again, None at the start; nothing is kept in the solver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise

Memory = Any


class Solver(Protocol):
    """One step along a path; `evaluations` is how often it calls the denoiser on a step that does not end at 0."""

    @property
    def evaluations(self) -> int: ...

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigma: Tensor,
        next_sigma: Tensor,
        cond: Cond,
        memory: Memory,
        level: Tensor,
        /,
    ) -> tuple[Tensor, Memory]: ...


def _towards(D: Tensor, x: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """The exact solution for a constant D; at next_sigma = 0 it is D bit for bit."""
    ratio = float(next_sigma / sigma)
    return D if ratio == 0 else D + ratio * (x - D)


@dataclass(frozen=True)
class Euler:
    """First order. In this frame it is DDIM (Song et al. 2021), and on an ancestral path DDPM."""

    evaluations: ClassVar[int] = 1

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigma: Tensor,
        next_sigma: Tensor,
        cond: Cond,
        memory: Memory,
        level: Tensor,
    ) -> tuple[Tensor, Memory]:
        return _towards(denoise(x, sigma, cond), x, sigma, next_sigma), None


@dataclass(frozen=True)
class Heun:
    """Second order, two evaluations a step and one on the step to 0 (Karras et al. 2022, algorithm 1)."""

    evaluations: ClassVar[int] = 2

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigma: Tensor,
        next_sigma: Tensor,
        cond: Cond,
        memory: Memory,
        level: Tensor,
    ) -> tuple[Tensor, Memory]:
        D = denoise(x, sigma, cond)
        guess = _towards(D, x, sigma, next_sigma)
        if float(next_sigma) == 0:
            return guess, None
        again = denoise(guess, next_sigma, cond)
        slope = (x - D) / float(sigma) + (guess - again) / float(next_sigma)
        return x + 0.5 * float(next_sigma - sigma) * slope, None


@dataclass(frozen=True)
class DPMpp2M:
    """DPM-Solver++ 2M: second order, one evaluation a step (Lu et al. 2022, algorithm 2).

    D is extrapolated to the middle of the move from sigma to `level` (in ln sigma), so that the order holds on noisy
    paths too: there the fresh noise of the up-move leaves D's history untouched.
    """

    evaluations: ClassVar[int] = 1

    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        sigma: Tensor,
        next_sigma: Tensor,
        cond: Cond,
        memory: Memory,
        level: Tensor,
    ) -> tuple[Tensor, Memory]:
        D = denoise(x, sigma, cond)
        # A move that comes back to sigma or above starts afresh: its history lies on the wrong side.
        forget = bool(level >= sigma) and float(level) != float(next_sigma)
        kept = None if forget else (D, sigma)
        if float(next_sigma) == 0 or memory is None:
            return _towards(D, x, sigma, next_sigma), kept
        previous, before = memory
        target = next_sigma if forget else level
        reach = math.log(float(sigma / target)) / (2 * math.log(float(before / sigma)))
        return _towards(D + reach * (D - previous), x, sigma, next_sigma), kept


euler = Euler()
heun = Heun()
dpmpp_2m = DPMpp2M()
NAMES: dict[str, Solver] = {"euler": euler, "ddim": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}


def by_name(name: str) -> Solver:
    """The solver of a name; ValueError lists the known ones."""
    if name not in NAMES:
        raise ValueError(f"unknown solver {name!r}; known: {', '.join(sorted(NAMES))}")
    return NAMES[name]
