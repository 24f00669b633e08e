"""Problems with a known answer, for the tests of the solvers."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from guided import path, solvers
from guided.oracle import GaussianMixture

F64 = torch.float64
# The global order of each solver's error, and each under one name only.
ORDERS = {
    "euler": 1,
    **dict.fromkeys(("heun", "dpm2", "dpmpp_2s", "dpmpp_2m", "dpmpp_3m"), 2),
    **{f"{name}{order}": order for name in ("eab", "deis", "lms") for order in (1, 2, 3, 4)},
    **{f"eab{order}_data": order for order in (1, 2, 3, 4)},
    **{f"unipc{order}": order + 1 for order in (1, 2, 3)},
    **{f"sa{order}": order for order in (2, 3)},
    "adams": 4,
}
NAMES = sorted(ORDERS)
NOISE_FORM = [
    name for name in NAMES if isinstance(solvers.by_name(name), solvers.NoiseEAB | solvers.LMS | solvers.Adams)
]


def mixture(seed: int = 0) -> GaussianMixture:
    """Five Gaussians in six dimensions."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(5, 6, generator=g, dtype=F64)
    return GaussianMixture(means, torch.tensor([0.3, 0.5, 0.4, 0.6, 0.35]), torch.ones(5))


def start(seed: int, hi: float) -> Tensor:
    """Where the mixture's images start: (64, 6)."""
    return hi * torch.randn(64, 6, generator=torch.Generator().manual_seed(seed + 1), dtype=F64)


def legs(n: int, lo: float, hi: float) -> Tensor:
    """n moves from hi to lo, uniform in ln sigma, without one to 0."""
    return path.log_snr(n + 1, lo, hi)[:-1]


def solve(data: GaussianMixture, x: Tensor, begin: float, end: float, steps: int) -> Tensor:
    """The probability-flow ODE by the classical Runge-Kutta method of order 4 in ln sigma."""

    def slope(at: float, x: Tensor) -> Tensor:
        return x - data.denoise(x, torch.tensor(math.exp(at), dtype=F64))

    h = math.log(end / begin) / steps
    for i in range(steps):
        at = math.log(begin) + i * h
        a = slope(at, x)
        b = slope(at + h / 2, x + h / 2 * a)
        c = slope(at + h / 2, x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(at + h, x + h * c))
    return x


@functools.cache
def truth(seed: int, lo: float, hi: float) -> Tensor:
    """The exact states at lo."""
    return solve(mixture(seed), start(seed, hi), hi, lo, 800)


@functools.cache
def beginning(seed: int, n: int, lo: float, hi: float) -> list[Tensor]:
    """The exact states at the first four levels of `legs(n, lo, hi)`."""
    levels, states = legs(n, lo, hi).tolist(), [start(seed, hi)]
    for i in range(3):
        states.append(solve(mixture(seed), states[-1], levels[i], levels[i + 1], 8))
    return states
