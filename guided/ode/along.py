"""Along a given path: every move, up or down, is one step of a solver; and the way back."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from guided import reuse, solvers
from guided.cond import Cond
from guided.denoiser import Denoise
from guided.solvers import Solver


@torch.no_grad()
def integrate(
    denoise: Denoise,
    x: Tensor,
    path: Tensor,
    cond: Cond | None = None,
    solver: Solver | str = "heun",
    *,
    lo: float = 0.002,
) -> Tensor:
    """Follow the probability-flow ODE along a path that falls, rises or does both, and return the last x (B, *).

    x: (B, *) float32 or float64, at path[0]. path: 1-D list of noise levels. solver: a callable or its name. A move up
    from 0 begins at `lo` (or at its end, if that is lower) with x as it is: below, the ODE moves x by about lo^2 / 2
    times the score. Raises ValueError for another dtype or path.
    """
    check_dtype(x)
    path = torch.as_tensor(path, dtype=torch.float64, device="cpu")
    if path.ndim != 1 or len(path) < 1 or not bool((path.isfinite() & (path >= 0)).all()):
        raise ValueError(f"a path is a 1-D list of finite noise levels >= 0, got {path}")
    step = solvers.by_name(solver) if isinstance(solver, str) else solver
    cond = cond if cond is not None else Cond()
    memory = None
    with reuse.running():
        for here, there in pairwise(path):
            start = torch.clamp(there, max=lo) if here == 0 else here
            if there != start:
                x, memory = step(denoise, x, start, there, cond, memory, there)
    return x


@torch.no_grad()
def invert(
    denoise: Denoise,
    x: Tensor,
    path: Tensor,
    cond: Cond | None = None,
    solver: Solver | str = "heun",
    *,
    refinements: int = 1,
) -> Tensor:
    """The noise (B, *) at path[0] from which a deterministic solver on this falling path arrives at x.

    x: (B, *) float32 or float64, taken to lie at the path's last level above 0. Integrating up (`refinements` = 0) is
    right to the order of the solver. Each refinement goes down and up once more and takes off what the round trip is
    found to err by, y <- y + up(x) - up(down(y)), a fixed-point iteration whose factor is that round trip's relative
    error: on a sensible grid each one gains the solver's order. Where it does not help an image, that image is left as
    it was, so that no refinement makes a round trip worse. Costs 1 + 2 refinements more ways, if any. Raises
    ValueError for a path that does not fall, or another dtype.
    """
    check_dtype(x)
    path = torch.as_tensor(path, dtype=torch.float64, device="cpu")
    path = path[path > 0] if path.ndim == 1 and len(path) and path[-1] == 0 else path
    if path.ndim != 1 or len(path) < 2 or bool((path.diff() >= 0).any()) or refinements < 0:
        raise ValueError(
            f"invert takes the falling path of at least two levels above 0 that leads to x, and refinements >= 0; "
            f"got {path.tolist()} and {refinements}"
        )
    plain = found = integrate(denoise, x, path.flip(0), cond, solver)
    if refinements:
        reached = integrate(denoise, found, path, cond, solver)
    for _ in range(refinements):
        moved = found + (plain - integrate(denoise, reached, path.flip(0), cond, solver))
        again = integrate(denoise, moved, path, cond, solver)
        better = (_distance(again, x) < _distance(reached, x)).view(-1, *[1] * (x.ndim - 1))
        found, reached = torch.where(better, moved, found), torch.where(better, again, reached)
    return found


def _distance(a: Tensor, b: Tensor) -> Tensor:
    found: Tensor = (a - b).double().flatten(1).norm(dim=1)
    return found


def check_dtype(x: Tensor) -> None:
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x must be float32 or float64, got {x.dtype}; autocast belongs around the network alone")
