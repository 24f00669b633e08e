"""The weights of `solvers.Fitted`, by least squares on a reference trajectory, step by step (arXiv 2403.01329)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.solvers import Fitted
from guided.solvers.base import sizes, towards
from guided.solvers.fitted import REMEMBERED, bent
from guided.tune.schedule import Trajectory

RIDGE = 1e-6
"""Of the mean square of the differences: on fine grids they are nearly one another's multiples."""


def fit(
    denoise: Denoise, parts: Sequence[tuple[Tensor, Cond]], reference: Trajectory, levels: Tensor
) -> tuple[Fitted, Tensor]:
    """The solver of a path whose every step lands as near to the reference as it can, and where it ends (B, *).

    parts: x (B, *) and conditions in batches, in the order of the reference. A step starts where those before it led,
    so it also makes good what they missed.
    """
    states, weights, limits = [x for x, _ in parts], [], []
    history: list[list[Tensor]] = [[] for _ in parts]
    numbers, sigmas = levels.tolist(), levels.unbind()
    for here, there, sigma in zip(numbers, numbers[1:], sigmas, strict=False):
        wanted = torch.split(reference.at(there), [len(x) for x in states])
        Ds = [denoise(x, sigma, cond) for x, (_, cond) in zip(states, parts, strict=True)]
        plain = [towards(D, x, here, there) for D, x in zip(Ds, states, strict=True)]
        found = _least_squares(history, Ds, [w.to(p) - p for w, p in zip(wanted, plain, strict=True)])
        weights.append(found)
        bends = [bent(D, past, found) for D, past in zip(Ds, history, strict=True)]
        limits.append(max(float(sizes(bend).max()) for bend in bends) / (here - there))
        states = [p + bend for p, bend in zip(plain, bends, strict=True)]
        history = [[D, *past][:REMEMBERED] for D, past in zip(Ds, history, strict=True)]
    return Fitted(tuple(numbers), tuple(weights), tuple(limits)), torch.cat([x.cpu() for x in states])


def _least_squares(
    history: Sequence[Sequence[Tensor]], Ds: Sequence[Tensor], rest: Sequence[Tensor]
) -> tuple[float, ...]:
    """The weights of the differences D_j - D whose sum is nearest to the rest, over all batches."""
    count = len(history[0])
    if not count:
        return ()
    gram, aim = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    for past, D, left in zip(history, Ds, rest, strict=True):
        away = torch.stack([(before - D).flatten() for before in past]).double().cpu()
        gram += away @ away.T
        aim += away @ left.flatten().double().cpu()
    ridge = RIDGE * float(gram.diagonal().mean())
    if ridge == 0:  # D stands still: any weights lead there
        return (0.0,) * count
    return tuple(torch.linalg.solve(gram + ridge * torch.eye(count, dtype=torch.float64), aim).tolist())
