"""One-step solvers: they remember nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.solvers.base import Memory, towards


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
        return towards(denoise(x, sigma, cond), x, float(sigma), float(next_sigma)), None


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
        guess = towards(D, x, float(sigma), float(next_sigma))
        if float(next_sigma) == 0:
            return guess, None
        again = denoise(guess, next_sigma, cond)
        slope = (x - D) / float(sigma) + (guess - again) / float(next_sigma)
        return x + 0.5 * float(next_sigma - sigma) * slope, None


@dataclass(frozen=True)
class DPM2:
    """DPM-Solver-2: second order, the noise at the middle of the step in ln sigma (Lu et al. 2022a, algorithm 1).

    Two evaluations a step and one on the step to 0.
    """

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
        if float(next_sigma) == 0:
            return D, None
        middle = torch.sqrt(sigma * next_sigma)
        between = towards(D, x, float(sigma), float(middle))
        noise = (between - denoise(between, middle, cond)) / float(middle)
        return x + float(next_sigma - sigma) * noise, None


@dataclass(frozen=True)
class DPMpp2S:
    """DPM-Solver++ 2S: second order, D at the middle of the step in ln sigma (Lu et al. 2022b, algorithm 1, r = 1/2).

    Two evaluations a step and one on the step to 0.
    """

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
        if float(next_sigma) == 0:
            return D, None
        middle = torch.sqrt(sigma * next_sigma)
        between = towards(D, x, float(sigma), float(middle))
        return towards(denoise(between, middle, cond), x, float(sigma), float(next_sigma)), None
