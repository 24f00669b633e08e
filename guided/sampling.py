"""Sampling: follow a path. Down = one solver step, up = fresh noise of variance s'^2 - s^2."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from guided import reuse, solvers
from guided.cond import Cond
from guided.denoiser import Denoise, spread
from guided.solvers import Solver

NoiseSource = Callable[[int, Sequence[int]], Tensor]
LearnedStd = Callable[[Tensor, Tensor, Tensor, Cond], Tensor]
"""What a denoiser may offer as `std`: (x, sigma, level, cond) -> (B, *), the std of x at `level` given x at sigma.

A guided denoiser forwards its base's, or None where that has none.
"""


@runtime_checkable
class Stateful(Protocol):
    """A guided denoiser that wants the next noise level, or carries a state from step to step."""

    def evaluate(
        self, x: Tensor, sigma: Tensor, cond: Cond, next_sigma: Tensor | None, state: Any, /
    ) -> tuple[Tensor, Any]: ...


class _Step:
    """The denoiser as one solver step sees it: the first evaluation updates the state, later ones see the same."""

    def __init__(self, denoise: Denoise, next_sigma: Tensor, state: Any) -> None:
        self.denoise, self.next_sigma, self.before = denoise, next_sigma, state
        self.state, self.D = state, None

    state: Any
    D: Tensor | None

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        first = self.D is None
        if isinstance(self.denoise, Stateful):
            found, state = self.denoise.evaluate(x, sigma, cond, self.next_sigma if first else None, self.before)
            self.state = state if first else self.state
        else:
            found = self.denoise(x, sigma, cond)
        self.D = found if first else self.D
        return found


@torch.no_grad()
def trajectory(
    denoise: Denoise,
    x: Tensor,
    path: Tensor,
    cond: Cond | None = None,
    *,
    solver: Solver | str | None = None,
    noise: NoiseSource | None = None,
    start: int = 0,
) -> Iterator[tuple[float, Tensor, Tensor | None]]:
    """Yield (sigma, x, D) after every move; D (B, *) is the denoiser's last first-of-a-step estimate, None before one.

    x: (B, *) float32 or float64, already x0 + path[0] n. path: 1-D list of noise levels; a path that rises needs
    `noise`, a callable like `guided.Noise`: move i draws index i + 1. solver: a callable with `.evaluations`, its name,
    or None: `solvers.default(path)`. start: the move to begin with (x belongs to path[start]); a multistep solver
    begins anew there. Raises ValueError for anything else.

    Where the denoiser offers `std`, each down-and-up pair of `path.ancestral(path)` is one posterior step (Nichol &
    Dhariwal 2021, eq. 15): Euler's move down gives the mean at the level above, whatever the solver, and the draw of
    the move up is scaled by that std. Elsewhere, and for eta < 1, the std is not asked for.
    """
    path = _checked(x, path, noise, start)
    std = _learned_std(denoise)
    if std and start > 0 and _is_posterior(path, start - 1):
        raise ValueError(
            f"start={start} lies within a posterior step, whose std is known at its beginning: {start - 1}"
        )
    step = solvers.default(path) if solver is None else solvers.by_name(solver) if isinstance(solver, str) else solver
    cond = cond if cond is not None else Cond()
    memory, state, lowest, D, deviation = None, None, math.inf, None, None
    run = reuse.current() or reuse.Run()
    for move in range(start, len(path) - 1):
        here, there = path[move], path[move + 1]
        if there > here:
            assert noise is not None
            fresh = spread(torch.sqrt(there**2 - here**2), x) if deviation is None else deviation
            x, deviation = x + fresh * noise(move + 1, x.shape[1:]).to(x), None
        elif there < here:
            if here >= lowest:
                state = None
            after = path[move + 2] if move + 2 < len(path) else there
            call, posterior = _Step(denoise, there, state), std if _is_posterior(path, move) else None
            walk = solvers.euler if posterior else step
            with reuse.within(run):
                deviation = posterior(x, here, after, cond).to(x) if posterior else None
                x, memory = walk(call, x, here, there, cond, memory, torch.maximum(after, there))
            state, lowest, D = call.state, float(here), call.D
        yield float(there), x, D


def _learned_std(denoise: Denoise) -> LearnedStd | None:
    std = getattr(denoise, "std", None)
    return std if callable(std) else None


def _is_posterior(path: Tensor, move: int) -> bool:
    """Whether the move and the next are a step of DDPM: down from s to level^2 / s and back up to the level."""
    if move + 2 >= len(path):
        return False
    here, there, level = path[move : move + 3].tolist()
    return 0 < there < level < here and math.isclose(here * there, level**2, rel_tol=1e-6)


def _checked(x: Tensor, path: Tensor, noise: NoiseSource | None, start: int) -> Tensor:
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x must be float32 or float64, got {x.dtype}; autocast belongs around the network alone")
    path = torch.as_tensor(path, dtype=torch.float64, device="cpu")
    if path.ndim != 1 or len(path) < 1 or not bool(torch.isfinite(path).all()) or bool((path < 0).any()):
        raise ValueError(f"a path is a 1-D list of finite noise levels >= 0, got {path}")
    if not 0 <= start < len(path):
        raise ValueError(f"start must be a move of the path, 0..{len(path) - 1}, got {start}")
    if noise is None and bool((path[start:].diff() > 0).any()):
        raise ValueError("the path rises, which draws fresh noise: pass noise=guided.Noise(seeds)")
    return path


def sample(
    denoise: Denoise,
    x: Tensor,
    path: Tensor,
    cond: Cond | None = None,
    *,
    solver: Solver | str | None = None,
    noise: NoiseSource | None = None,
    start: int = 0,
) -> Tensor:
    """Follow the whole path and return the last x (B, *); arguments and errors as in `trajectory`."""
    for move in trajectory(denoise, x, path, cond, solver=solver, noise=noise, start=start):
        x = move[1]
    return x
