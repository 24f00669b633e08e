"""The likelihood of an image under a denoiser: how the probability-flow ODE stretches space on the way to noise."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise, spread
from guided.ode.embedded import State, enter, follow, turn
from guided.sampling import NoiseSource


class Density(NamedTuple):
    """ln p(x) in nats (B,) float64, the x (B, *) at hi that each image came from, and its evaluations (B,) int64."""

    log_prob: Tensor
    x: Tensor
    evaluations: Tensor


@torch.no_grad()
def log_prob(
    denoise: Denoise,
    x: Tensor,
    lo: float,
    hi: float,
    cond: Cond | None = None,
    tol: float = 1e-4,
    *,
    noise: NoiseSource | None = None,
    probes: int = 1,
) -> Density:
    """ln p(x; lo), the density of images at the noise level lo, by the change of variables up to a Gaussian at hi.

    x: (B, *) float32 or float64. tol: as in `adaptive`, and for ln p in nats a number. The trace of dD/dx is exact
    without `noise`, at one backward pass for each number of the image; with it, it is Hutchinson's unbiased estimate
    from `probes` vectors of random signs an image, the same all the way: those of noise(0), ..., noise(probes - 1),
    for which a stream of its own is wanted, as `Noise(seeds, "probes")` (Song et al. 2021, eqs. 39 and 40; in the
    variables of `adaptive`). At hi the images are taken as Gaussian with the mean and variance that the denoiser tells
    there; N(0, hi^2 I) would err by the data's mean / hi. Raises ValueError where the denoiser's estimate carries no
    gradient, and as `adaptive`.
    """
    if probes < 1:
        raise ValueError(f"Hutchinson's estimate needs at least 1 probe, got {probes}")
    z, start, end = enter(x, lo, hi, tol, rising=True)
    cond = cond if cond is not None else Cond()
    dim, shape = x[0].numel(), x.shape[1:]
    signs = None if noise is None else [torch.where(noise(i, shape) < 0, -1.0, 1.0).to(x) for i in range(probes)]

    def slope(state: State, angle: Tensor) -> State:
        x, sigma = state[0] / spread(angle.cos(), state[0]), angle.tan()
        D, trace = _estimate(denoise, x, sigma, cond, signs)
        # The divergence of dz/dt, a number: so the tolerance holds for pictures of any size.
        spreading = (1 - (1 + sigma**2) * trace / dim) / sigma
        return turn(x, D, sigma), spreading[:, None]

    zeros = torch.zeros(len(x), 1, dtype=torch.float64, device=x.device)
    (z, grown), evaluations = follow(slope, (z, zeros), start, end, tol)
    x = z / spread(end.cos(), z)
    base = _gaussian(x, *_estimate(denoise, x, end.tan(), cond, signs), hi)
    return Density(base + dim * (grown[:, 0] + (start.cos() / end.cos()).log()), x, evaluations + 1)


def _gaussian(x: Tensor, D: Tensor, trace: Tensor, hi: float) -> Tensor:
    """ln p(x; hi) (B,) of the isotropic Gaussian that has this D and this trace of dD/dx = v / (v + hi^2) I at x."""
    dim = x[0].numel()
    kept = 1 - trace / dim
    square = (x - D).double().flatten(1).square().sum(1)
    return -0.5 * (square / (kept * hi**2) + dim * (2 * math.pi * hi**2 / kept).log())


def _estimate(
    denoise: Denoise, x: Tensor, sigma: Tensor, cond: Cond, signs: list[Tensor] | None
) -> tuple[Tensor, Tensor]:
    """D, and the trace of dD/dx (B,) float64: along the given probes, or else exact."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        D = denoise(x, sigma, cond)
        if not D.requires_grad:
            raise ValueError("the denoiser's estimate carries no gradient to x: is it detached, or under no_grad?")
        if signs is None:
            rows = [torch.autograd.grad(d, x, retain_graph=True)[0].flatten(1) for d in D.flatten(1).sum(0)]
            trace = torch.stack([row[:, i] for i, row in enumerate(rows)]).double().sum(0)
            return D.detach(), trace
        products = [sign * torch.autograd.grad(D, x, sign, retain_graph=True)[0] for sign in signs]
        return D.detach(), torch.stack(products).double().flatten(2).sum(2).mean(0)
