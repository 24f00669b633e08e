"""Steps of its own for each image: an embedded pair of orders 3 and 2, in the frame where the ODE is smoothest.

With x = tan(t) n + x0 and z = x cos(t), dz/dt = n cos(t) - x0 sin(t), estimated, is about 1 in size at every noise
level, and 0 for a Gaussian of std 1: both ends are mild, where dx/dsigma wants steps of 1 / sigma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from guided import reuse
from guided.cond import Cond
from guided.denoiser import Denoise, spread
from guided.ode.along import check_dtype

State = tuple[Tensor, ...]
Slope = Callable[[State, Tensor], State]
"""(parts of the state (B, *), angles (B,)) -> their derivatives by the angle."""

# Bogacki & Shampine 1989: three new slopes a step; the last one is the first of the next step.
_STAGES = ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9))
_ERROR = (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8)
_LIMIT = 3000


class Solution(NamedTuple):
    """x (B, *) where it was to arrive, and how often each image was evaluated, (B,) int64."""

    x: Tensor
    evaluations: Tensor


@torch.no_grad()
def adaptive(
    denoise: Denoise,
    x: Tensor,
    lo: float,
    hi: float,
    cond: Cond | None = None,
    tol: float = 1e-3,
    *,
    rising: bool = False,
) -> Solution:
    """Solve the probability-flow ODE from hi down to lo, or from lo up to hi, to a tolerance rather than on a path.

    x: (B, *) float32 or float64, at the noise level hi (`rising`: at lo). tol: the error of one step, as root mean
    square over the image in units of sqrt(1 + sigma^2): in pixels, at low noise. Each image has steps of its own, so
    what it gets is free of its batch; those that arrive early wait, still in the batch but no longer counted. Raises
    ValueError for another range, tolerance or dtype; RuntimeError where an image does not arrive in 3000 evaluations.
    """
    z, start, end = enter(x, lo, hi, tol, rising)
    cond = cond if cond is not None else Cond()

    def slope(state: State, angle: Tensor) -> State:
        x, sigma = state[0] / spread(angle.cos(), state[0]), angle.tan()
        return (turn(x, denoise(x, sigma, cond), sigma),)

    with reuse.running():
        (z,), evaluations = follow(slope, (z,), start, end, tol)
    return Solution(z / spread(end.cos(), z), evaluations)


def turn(x: Tensor, D: Tensor, sigma: Tensor) -> Tensor:
    """dz/dt at the noise levels sigma = tan(t), () or (B,): the unit noise times cos(t) less D times sin(t)."""
    s = spread(sigma, x)
    return ((x - D) / s - s * D) * (1 + s**2).rsqrt()


def enter(x: Tensor, lo: float, hi: float, tol: float, rising: bool) -> tuple[Tensor, Tensor, Tensor]:
    """z, and the angles (B,) where each image starts and ends."""
    check_dtype(x)
    if not 0 < lo < hi < float("inf") or not tol > 0:
        raise ValueError(f"an adaptive solution needs 0 < lo < hi < inf and tol > 0, got lo={lo}, hi={hi}, tol={tol}")
    ends = torch.tensor([lo, hi] if rising else [hi, lo], dtype=torch.float64, device=x.device).atan()
    start, end = ends[:, None].expand(2, len(x))
    return x * spread(start.cos(), x), start, end


def follow(slope: Slope, state: State, start: Tensor, end: Tensor, tol: float) -> tuple[State, Tensor]:
    """Solve d state / dt = slope from the angles `start` (B,) to `end` (B,); the last state, and evaluations (B,)."""
    here, step = start, 0.01 * (end - start)
    first = slope(state, here)
    evaluations = torch.ones(len(here), dtype=torch.int64, device=here.device)
    while bool((live := here != end).any()):
        last = step.abs() >= (end - here).abs()
        step = torch.where(last, end - here, step)
        slopes, guess = [first], state
        for weights in _STAGES:
            guess = _ahead(state, slopes, weights, step)
            slopes.append(slope(guess, here + sum(weights) * step))
        evaluations = evaluations + len(_STAGES) * live
        none = tuple(torch.zeros_like(part) for part in state)
        errors = [error.double().flatten(1).square().mean(1) for error in _ahead(none, slopes, _ERROR, step)]
        error = torch.stack(errors).amax(0).sqrt() / tol
        taken = live & (error <= 1)
        state = _chosen(taken, guess, state)
        first = _chosen(taken, slopes[-1], first)
        here = torch.where(taken, torch.where(last, end, here + step), here)
        # An error that is no number asks for a far smaller step, like one that is large.
        factor = (0.9 * error.clamp_min(1e-9) ** (-1 / 3)).nan_to_num(0.2).clamp(0.2, 5.0)
        step = torch.where(live, step * factor, step)
        if bool((evaluations > _LIMIT).any()) or bool((step[live].abs() < 1e-12).any()):
            sigma = here[live][step[live].abs().argmin()].tan()
            raise RuntimeError(
                f"the steps became too small at sigma = {float(sigma):.3g}: the denoiser is not finite or not smooth "
                f"there, or tol={tol} lies below what its precision can give"
            )
    return state, evaluations


def _ahead(state: State, slopes: list[State], weights: tuple[float, ...], step: Tensor) -> State:
    """state + step times the weighted sum of the slopes."""
    return tuple(
        part + spread(step, part) * sum(w * slope[i] for w, slope in zip(weights, slopes, strict=True) if w)
        for i, part in enumerate(state)
    )


def _chosen(where: Tensor, new: State, old: State) -> State:
    return tuple(torch.where(where.view(-1, *[1] * (a.ndim - 1)), a, b) for a, b in zip(new, old, strict=True))
