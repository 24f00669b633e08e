"""The discrete-time variational bound on the likelihood, for any denoiser of the common frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.sampling import NoiseSource

LEVELS = 256


@dataclass(frozen=True, eq=False)
class Bound:
    """An upper bound on -ln p(x0), in nats for each image (B,) float64: the sum of its three terms.

    prior: KL of q(x_T | x0) from the noise that sampling starts with. moves (B, T - 1): KLs of the posterior steps.
    reconstruction: -ln p(x0 | x at the lowest noise level). dim: numbers per image.
    """

    prior: Tensor
    moves: Tensor
    reconstruction: Tensor
    dim: int

    @property
    def nats(self) -> Tensor:
        """The bound itself, (B,)."""
        return self.prior + self.moves.sum(1) + self.reconstruction

    @property
    def bits_per_dim(self) -> Tensor:
        """The bound in bits for each number of the image, (B,)."""
        return self.nats / (self.dim * math.log(2))


@torch.no_grad()
def elbo(
    denoise: Denoise,
    x0: Tensor,
    path: Tensor,
    noise: NoiseSource,
    cond: Cond | None = None,
    *,
    levels: int | None = LEVELS,
) -> Bound:
    """The bound of the ancestral chain on a falling path of T moves whose last goes to 0, one draw of noise a move.

    x0: (B, *) float32 or float64, the clean image in [-1, 1]. path: as of `path.log_snr`. noise: like `guided.Noise`;
    index i + 1 is the draw at path[i]. levels: how many values a number of the image can take (256 for 8 bits), for the
    probability of a discrete image; None for the density of a continuous one.

    With x = x0 + s n, the posterior q(x_r | x_s, x0) and the model's step, which puts D in place of x0, are Gaussians
    of one variance, and their KL is (1/r^2 - 1/s^2) |x0 - D(x_s)|^2 / 2; the last move is a Gaussian of std path[-2]
    around D, over the bins of the levels where there are any (Ho et al. 2020, eqs. 5 and 13, in this frame).
    Raises ValueError for another path, or images of another dtype.
    """
    if x0.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"x0 must be float32 or float64, got {x0.dtype}")
    path = torch.as_tensor(path, dtype=torch.float64)
    if path.ndim != 1 or len(path) < 2 or not bool((path.diff() < 0).all()) or float(path[-1]) != 0:
        raise ValueError(f"the bound takes a path that falls at every move and ends in 0, got {path.tolist()[:8]}")
    cond = cond if cond is not None else Cond()
    clean = x0.double()
    moves, errors = [], torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    lowest = len(path) - 2
    for i in range(lowest + 1):
        sigma = path[i]
        x = x0 + sigma.to(x0) * noise(i + 1, x0.shape[1:]).to(x0)
        D = denoise(x, sigma.to(x0.device), cond).double()
        if i < lowest:
            errors = (clean - D).square().flatten(1).sum(1)
            moves.append(0.5 * (path[i + 1] ** -2 - sigma**-2).to(errors) * errors)
        else:
            last = _reconstruction(clean, D, float(sigma), levels)
    prior = clean.square().flatten(1).sum(1) / (2 * float(path[0]) ** 2)
    stacked = torch.stack(moves, 1) if moves else errors[:, None][:, :0]
    return Bound(prior, stacked, last, clean[0].numel())


def _reconstruction(x0: Tensor, D: Tensor, sigma: float, levels: int | None) -> Tensor:
    """-ln N(x0; D, sigma^2), or of the mass it puts into the bin of x0; the outer bins reach to infinity."""
    if levels is None:
        each = 0.5 * ((x0 - D) / sigma) ** 2 + math.log(sigma) + 0.5 * math.log(2 * math.pi)
        return each.flatten(1).sum(1)
    half = 1 / (levels - 1)
    above, below = (x0 + half - D) / sigma, (x0 - half - D) / sigma
    above = above.masked_fill(x0 > 1 - half, math.inf)
    below = below.masked_fill(x0 < -1 + half, -math.inf)
    return -_log_mass(below, above).flatten(1).sum(1)


def _log_mass(low: Tensor, high: Tensor) -> Tensor:
    """ln (Phi(high) - Phi(low)), exact in both tails: the interval is mirrored to the left of 0 first."""
    flip = low > -high
    low, high = torch.where(flip, -high, low), torch.where(flip, -low, high)
    upper, lower = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    mass: Tensor = upper + torch.log(-torch.expm1((lower - upper).clamp_max(-1e-300)))
    return mass
