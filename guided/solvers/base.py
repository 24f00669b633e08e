"""What a solver is, and the parts that every solver shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
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


class Seen(NamedTuple):
    """An evaluation that a multistep method remembers: D at noise level sigma, and the noise n = (x - D) / sigma."""

    sigma: float
    D: Tensor
    n: Tensor | None = None


def towards(D: Tensor, x: Tensor, sigma: float, next_sigma: float) -> Tensor:
    """The exact solution for a constant D; at next_sigma = 0 it is D bit for bit."""
    ratio = next_sigma / sigma
    return D if ratio == 0 else D.lerp(x, ratio)


def behind(seen: Sequence[Seen], sigma: float, next_sigma: float) -> list[Seen]:
    """The evaluations on the far side of sigma, seen from next_sigma.

    Where an integration turns round, its history lies ahead, part of it at the very level it now stands on.
    """
    rising = next_sigma > sigma
    return [past for past in seen if past.sigma != sigma and (past.sigma < sigma) == rising]


def at_zero(D: Tensor, sigma: float, seen: Sequence[Seen]) -> Tensor:
    """D extrapolated from its last two values to sigma = 0, free of charge.

    D is even in sigma to leading order: x = x0 + c sigma^2 + ... along the ODE, so D = x - sigma dx/dsigma =
    x0 - c sigma^2 + ... Where D stands still, the result is D bit for bit.
    """
    if not seen:
        return D
    before = seen[0]
    # On a very fine grid the last two D's hardly differ, and what differs is the network's rounding: amplify it little.
    weight = min(sigma**2 / (before.sigma**2 - sigma**2), 4.0)
    return D + weight * (D - before.D)


def sizes(x: Tensor) -> Tensor:
    """The root mean square of each image, (B, 1, ...)."""
    found: Tensor = torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)
    size: Tensor = found * x[0].numel() ** -0.5
    return size


def check_order(name: str, order: int, most: int) -> None:
    """ValueError unless 1 <= order <= most."""
    if not 1 <= order <= most:
        raise ValueError(f"{name} has the orders 1 to {most}, got {order}")
