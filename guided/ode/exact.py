"""A solver that can be undone to the last bit: O-BELM, in the frame that keeps it stable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.ode.along import check_dtype
from guided.ode.embedded import turn
from guided.solvers import Memory

# Sums of multiples of 2^-26 are exact in float64 up to 2^27; a step of float32 is 2^-24 at 1.
_GRID = 2.0**26


@dataclass(frozen=True)
class Belm:
    """The two-step scheme of second order whose new state is linear in the last two (Wang et al. 2024, O-BELM).

    With the last step g, the next one h and r = h / g, matching z, z' and z'' leaves
    z_next = (1 - r^2) z + r^2 z_before + h (1 + r) z', or, in differences divided by their step squared,
    w_next = (1/g + 1/h) z' - w and z_next = z + h^2 w_next: a sum that can be taken back. z = x cos(t) and
    t = atan(sigma) are chosen because the scheme has a second solution, w alternating in sign, that shrinks only where
    the first one grows: in this frame neither does much, and the steps of a usual grid shrink where noise is low.
    The first step is Euler's: it costs no order but on a path whose steps alternate in length. One evaluation a step;
    on a noisy path every step is a first one, and a step to 0 returns D.
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
        if float(next_sigma) == 0:
            return D, None
        slope, rate = turn(x, D, sigma), 1 / _angle(sigma, next_sigma)
        if memory is None:
            momentum = _rounded(rate * slope)
        else:
            before, last = memory
            momentum = _rounded((rate + 1 / _angle(last, sigma)) * slope) - before
        x = _moved(x, momentum, sigma, next_sigma)
        return x, (momentum, sigma) if float(level) == float(next_sigma) else None


@torch.no_grad()
def belm(
    denoise: Denoise, x: Tensor, path: Tensor, cond: Cond | None = None, momentum: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Follow a path, up or down, so that it can be undone exactly: x and the momentum, (B, *) float64, at its end.

    belm(denoise, x, path.flip(0), cond, -momentum) returns to where it came from: bit for bit where the denoiser gives
    the same bits for the same x, for all images start with is rounded to a grid of 2^-26 on which sums are exact. Keep
    both in float64 meanwhile; the network computes in its own dtype. x: (B, *) float32 or float64 at path[0]. path:
    1-D list of levels above 0 that falls or rises at every move; ValueError otherwise.
    """
    check_dtype(x)
    path = torch.as_tensor(path, dtype=torch.float64, device="cpu")
    moves = path.diff() if path.ndim == 1 else path
    if path.ndim != 1 or len(path) < 2 or not bool((path > 0).all()) or not bool((moves * moves[0] > 0).all()):
        raise ValueError(
            f"an invertible path falls or rises at every move and stays above 0 (leave out a last move to 0), "
            f"got {path.tolist()}"
        )
    cond, step, memory = cond if cond is not None else Cond(), Belm(), None
    x = x.double()
    if momentum is not None:
        x, memory, path = _moved(x, momentum, path[0], path[1]), (momentum, path[0]), path[1:]
    for here, there in pairwise(path):
        x, memory = step(denoise, x, here, there, cond, memory, there)
    assert memory is not None
    return x, memory[0]


def _angle(sigma: Tensor, next_sigma: Tensor) -> float:
    return math.atan(next_sigma) - math.atan(sigma)


def _moved(x: Tensor, momentum: Tensor, sigma: Tensor, next_sigma: Tensor) -> Tensor:
    """x at the next level: z + h^2 momentum, both on the grid."""
    here, there = (math.cos(math.atan(level)) for level in (sigma, next_sigma))
    return (_rounded(x * here) + _rounded(_angle(sigma, next_sigma) ** 2 * momentum)) / there


def _rounded(value: Tensor) -> Tensor:
    return (value * _GRID).round() / _GRID
