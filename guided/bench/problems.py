"""Sampling problems with exact denoisers: mixtures of Gaussians seen through the noise schedules in use."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.guide import cfg

IMAGES = 256


class Mixture:
    """A mixture of equally likely Gaussians with axis-parallel covariances; an exact `Denoise`.

    means, stds: (K, d) float64, stds positive; classes: (K,) int, the class of each component. cond.label chooses a
    class, -1 or None the whole mixture. sigma: (), one level for all. (The oracle's `GaussianMixture` is isotropic:
    pictures are not, and how far a solver gets depends on the narrowest direction.)
    """

    accepts: ClassVar[frozenset[str]] = frozenset({"label"})

    def __init__(self, means: Tensor, stds: Tensor, classes: Tensor) -> None:
        self.means, self.variances, self.classes = means, stds.square(), classes

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        total = self.variances + sigma**2
        square = x.square() @ (1 / total).T - 2 * x @ (self.means / total).T
        joint = -0.5 * (square + (self.means.square() / total + total.log()).sum(1))
        if cond.label is not None:
            label = cond.label[:, None]
            joint = joint.masked_fill((label >= 0) & (label != self.classes), -math.inf)
        chance, gain = joint.softmax(1), self.variances / total
        return chance @ ((1 - gain) * self.means) + (chance @ gain) * x

    @property
    def std(self) -> float:
        """The data's standard deviation per number."""
        away = self.means - self.means.mean(0)
        return float((self.variances + away.square()).mean().sqrt())


@dataclass(frozen=True, eq=False)
class Problem:
    """Sample `data` at guidance weight w from x (B, d) at the top of a discrete schedule; labels are in `cond`."""

    name: str
    data: Mixture
    w: float
    alphas_bar: Tensor
    x: Tensor
    cond: Cond

    @functools.cached_property
    def sigmas(self) -> Tensor:
        """The schedule's noise levels, rising."""
        return (1 / self.alphas_bar - 1).sqrt()

    @property
    def lo(self) -> float:
        """The lowest noise level of the schedule."""
        return float(self.sigmas[0])

    @property
    def hi(self) -> float:
        """The highest noise level of the schedule."""
        return float(self.sigmas[-1])

    @property
    def denoise(self) -> Denoise:
        """The exact guided denoiser."""
        return self.data if self.w == 1 else cfg(self.w)(self.data)

    @functools.cached_property
    def truth(self) -> Tensor:
        """Where the probability-flow ODE ends at sigma = 0, (B, d)."""
        return integrate(self.denoise, self.x, self.hi, self.cond)

    def squares(self, x: Tensor) -> Tensor:
        """The squared error of each image, (B,), in units of the data's variance."""
        return (x.double() - self.truth).square().mean(1) / self.data.std**2

    def again(self, seed: int) -> Problem:
        """The same problem from other starting noise."""
        return problem(self.name, self.data, self.w, self.alphas_bar, seed, len(self.x))


def integrate(
    denoise: Denoise, x: Tensor, hi: float, cond: Cond, *, lo: float = 0.0, steps: int = 800, bend: float = 0.01
) -> Tensor:
    """The ODE from hi to lo by classical Runge-Kutta steps, uniform in u = arsinh(sigma / bend).

    Well above `bend` that is ln sigma; below it is sigma itself, in which dx/dsigma = (x - D) / sigma is smooth and
    vanishes at 0.
    """
    levels = torch.linspace(math.asinh(hi / bend), math.asinh(lo / bend), steps + 1, dtype=torch.float64).tolist()

    def slope(x: Tensor, u: float) -> Tensor:
        sigma = bend * math.sinh(u)
        if sigma < 1e-12:
            return torch.zeros_like(x)
        D = denoise(x, torch.tensor(sigma, dtype=torch.float64), cond)
        return (x - D) * (bend * math.cosh(u) / sigma)

    for u, v in itertools.pairwise(levels):
        h, middle = v - u, 0.5 * (u + v)
        a = slope(x, u)
        b = slope(x + 0.5 * h * a, middle)
        c = slope(x + 0.5 * h * b, middle)
        d = slope(x + h * c, v)
        x = x + h / 6 * (a + 2 * b + 2 * c + d)
    return x


def problem(name: str, data: Mixture, w: float, alphas_bar: Tensor, seed: int, images: int = IMAGES) -> Problem:
    """A problem whose labels and starting noise follow from the seed."""
    draw = torch.Generator().manual_seed(seed)
    hi = float((1 / alphas_bar[-1] - 1).sqrt())
    x = hi * torch.randn(images, data.means.shape[1], generator=draw, dtype=torch.float64)
    label = torch.randint(int(data.classes.max()) + 1, (images,), generator=draw)
    return Problem(name, data, w, alphas_bar, x, Cond(label=label if w != 1 else None))


def scaled_linear() -> Tensor:
    """abar of Stable Diffusion: betas uniform in their square root, sigma from 0.0292 to 14.61; (1000,) float64."""
    return torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)


def cosine() -> Tensor:
    """abar of improved DDPM, betas at most 0.999 (Nichol & Dhariwal 2021, eq. 17): sigma from 0.0064 to 20291."""
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    bar = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    return torch.cumprod(1 - (1 - bar[1:] / bar[:-1]).clamp(max=0.999), 0)


def ring(std: float = 0.1) -> Mixture:
    """Eight Gaussians on the unit circle, in three classes."""
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    return Mixture(torch.stack([angle.cos(), angle.sin()], 1), _full(8, 2, std), torch.arange(8) % 3)


def spectral(seed: int, std: float = 0.5, power: float = 1.0, within: bool = True, dim: int = 64) -> Mixture:
    """Ten Gaussians in four classes, whose means have the power spectrum 1 / k^power.

    std: of a component, as a share of the means' std; `within`: whether components have that spectrum too, or none.
    """
    draw = torch.Generator().manual_seed(seed)
    shape = torch.arange(1, dim + 1, dtype=torch.float64) ** (-power / 2)
    shape = shape / shape.square().mean().sqrt()
    means = torch.randn(10, dim, generator=draw, dtype=torch.float64) * shape
    stds = std * shape.expand(10, dim) if within else _full(10, dim, std)
    return Mixture(means, stds, torch.arange(10) % 4)


def scattered(seed: int, std: float) -> Mixture:
    """Eight Gaussians at random places of the plane, in three classes."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(8, 2, generator=draw, dtype=torch.float64)
    return Mixture(means / (2**0.5 * means.square().mean().sqrt()), _full(8, 2, std), torch.arange(8) % 3)


def _full(count: int, dim: int, value: float) -> Tensor:
    return torch.full((count, dim), value, dtype=torch.float64)


def standard(images: int = IMAGES) -> list[Problem]:
    """The five problems on Stable Diffusion's schedule, then the one on the cosine schedule."""
    plane, pictures = ring(), spectral(0)
    five: list[tuple[str, Mixture, float]] = [
        ("ring 2-D, w=1", plane, 1.0),
        ("spectrum 64-D, w=1", pictures, 1.0),
        ("spectrum 64-D, w=3", pictures, 3.0),
        ("spectrum 64-D, w=7", pictures, 7.0),
        ("ring 2-D, w=5", plane, 5.0),
    ]
    listed = [problem(name, data, w, scaled_linear(), 0, images) for name, data, w in five]
    return [*listed, problem("spectrum 64-D, cosine, w=1", pictures, 1.0, cosine(), 0, images)]


def random_mixtures(count: int, seed: int, images: int = IMAGES) -> list[Problem]:
    """Random problems on Stable Diffusion's schedule: planes and 64-D spectra, unguided to strongly guided.

    The default path and solver were chosen on other mixtures of these kinds.
    """
    draw = torch.Generator().manual_seed(seed)
    uniform: Callable[[], float] = lambda: float(torch.rand((), generator=draw))  # noqa: E731
    found = []
    for i in range(count):
        key = int(torch.randint(2**31, (), generator=draw))
        if i % 2:
            std, w = 0.05 * 6 ** uniform(), (1.0, 5.0)[(i // 2) % 2]
            data = ring(std) if i % 4 == 1 else scattered(key, std)
            kind = "ring" if i % 4 == 1 else "plane"
        else:
            std, power, w = 0.3 * 2.5 ** uniform(), 0.5 + uniform(), (1.0, 3.0, 7.0)[(i // 2) % 3]
            data = spectral(key, std, power, within=uniform() < 0.6)
            kind = "spectrum"
        found.append(problem(f"{kind} {i}, std {std:.2f}, w={w:g}", data, w, scaled_linear(), key, images))
    return found
