"""Denoisers: functions (x, sigma, cond) -> D that estimate the clean image in the frame x = x0 + sigma * n.

A network trained in another frame is wrapped once, here at the edge. All parametrisations are affine in the network's
output: D = c_skip x + c_out F(c_in x, c_noise).
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from guided import reuse
from guided.cond import FIELDS, Cond


class Denoise(Protocol):
    """(x: (B, *), sigma: () or (B,), cond) -> D: (B, *) in x's dtype, the estimate of E[x0 | x, cond]."""

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond, /) -> Tensor: ...


@runtime_checkable
class Together(Protocol):
    """What a denoiser may offer: the estimates of one x under several conditions, sharing what does not differ."""

    def together(self, x: Tensor, sigma: Tensor, conds: Sequence[Cond], /) -> tuple[Tensor, ...]: ...


@runtime_checkable
class Network(Protocol):
    """(x: (B, C, H, W), c_noise: (B,), cond) -> (B, C_out, H, W); `accepts` names the fields of `Cond` it can see.

    One that declares nothing is shown all of them. c_noise is float32 or float64, whatever the network computes in. One
    with `takes_several` may be given k conditions for one x, and returns (k B, ...), one below the other.
    """

    accepts: frozenset[str]

    def __call__(self, x: Tensor, c_noise: Tensor, cond: Cond, /) -> Tensor: ...


class Coefficients(NamedTuple):
    """D = skip * x + out * F(scale * x, noise)."""

    skip: Tensor
    out: Tensor
    scale: Tensor
    noise: Tensor


class Parametrization(Protocol):
    """What the network's output means, as four functions of sigma."""

    def coefficients(self, sigma: Tensor, /) -> Coefficients: ...


def _level(sigma: Tensor) -> Tensor:
    # 1000 times EDM's ln(sigma) / 4: about the range of integer timesteps, which sinusoidal embeddings are made for.
    return 250.0 * sigma.log()


@dataclass(frozen=True)
class EDM:
    """Karras et al. 2022, table 1: unit-variance input and target at every level; `sigma_data` is the data's std."""

    sigma_data: float = 0.5

    def coefficients(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        return Coefficients(
            self.sigma_data**2 / total, sigma * self.sigma_data * total.rsqrt(), total.rsqrt(), _level(sigma)
        )


@dataclass(frozen=True)
class Eps:
    """The network predicts the unit noise n (Ho et al. 2020) and sees the variance-preserving x / sqrt(1 + sigma^2)."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt(), _level(sigma))


@dataclass(frozen=True)
class X0:
    """The network predicts the clean image; its input has unit variance for data of std `sigma_data`."""

    sigma_data: float = 1.0

    def coefficients(self, sigma: Tensor) -> Coefficients:
        scale = (sigma**2 + self.sigma_data**2).rsqrt()
        return Coefficients(torch.zeros_like(sigma), torch.ones_like(sigma), scale, _level(sigma))


@dataclass(frozen=True)
class V:
    """The network predicts v = a n - s x0 (Salimans & Ho 2022) with a = 1 / sqrt(1 + sigma^2), s = sigma a."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        scale = (1 + sigma**2).rsqrt()
        return Coefficients(scale**2, -sigma * scale, scale, _level(sigma))


@dataclass(frozen=True)
class Flow:
    """The network predicts u = n - x0 at z = (1 - t) x0 + t n, t = sigma / (1 + sigma) (Lipman et al. 2023)."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        scale = 1 / (1 + sigma)
        return Coefficients(scale, -sigma * scale, scale, 1000.0 * sigma * scale)


def spread(value: Tensor, x: Tensor) -> Tensor:
    """A () or (B,) tensor, in x's dtype and on its device, shaped to multiply x (B, *) image by image."""
    value = value.to(device=x.device, dtype=x.dtype)
    return value.reshape(-1, *[1] * (x.ndim - 1)) if value.ndim else value


class Edge(Protocol):
    """Makes of a condition, as it is declared, what a published network was trained to be given."""

    @property
    def accepts(self) -> frozenset[str]: ...

    def __call__(self, x: Tensor, cond: Cond, /) -> Cond: ...


class Denoiser(nn.Module):
    """A network in some parametrisation, as a `Denoise` of the common frame.

    lo, hi: the noise levels the network was trained on; it sees sigma clamped to them, the affine part the true one.
    autocast: the dtype in which the network runs (None: its own). The state x keeps its dtype in any case. edge: what
    the condition goes through first, where the network does not see absent fields as such.
    """

    def __init__(
        self, network: nn.Module, parametrization: Parametrization, lo: float = 0.002, hi: float = 80.0
    ) -> None:
        super().__init__()
        if not 0 < lo < hi < math.inf:
            raise ValueError(f"a denoiser's range needs 0 < lo < hi < inf, got lo={lo}, hi={hi}")
        self.network = network
        self.parametrization = parametrization
        self.lo = lo
        self.hi = hi
        self.autocast: torch.dtype | None = None
        self.edge: Edge | None = None

    def with_network(self, network: nn.Module) -> Self:
        """The same frame, range, edge and precision around another network."""
        made = type(self)(network, self.parametrization, self.lo, self.hi)
        made.autocast, made.edge = self.autocast, self.edge
        return made

    @property
    def accepts(self) -> frozenset[str]:
        """The fields of `Cond` that the network can see."""
        return _accepted(self.network) if self.edge is None else self.edge.accepts

    def forward(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return self.together(x, sigma, (cond,))[0]

    def together(self, x: Tensor, sigma: Tensor, conds: Sequence[Cond]) -> tuple[Tensor, ...]:
        """The estimates of x (B, *) under each of several conditions, as calls one by one would give them."""
        sigma = sigma.to(device=x.device, dtype=torch.float64).expand(len(x))
        skip, out, _, _ = (spread(c, x) for c in self.parametrization.coefficients(sigma))
        kept = skip * x
        return tuple(kept + out * self._meant(found) for found in self._outputs(x, sigma, conds))

    def _meant(self, found: Tensor) -> Tensor:
        """The part of the network's output that the parametrisation is about."""
        return found

    def _outputs(self, x: Tensor, sigma: Tensor, conds: Sequence[Cond]) -> tuple[Tensor, ...]:
        """What the network returns at sigma (B,) under each condition, in x's dtype."""
        scale = spread(self.parametrization.coefficients(sigma).scale, x)
        noise = self.parametrization.coefficients(sigma.clamp(self.lo, self.hi)).noise
        weights = next(self.network.parameters(), x)
        shown = [self._shown(x, cond) for cond in conds]
        with _autocast(x.device, self.autocast):
            seen, noise = (scale * x).to(weights.dtype), noise.to(_exact(weights))
            return _under(self.network, seen, noise, shown, x.dtype)

    def _shown(self, x: Tensor, cond: Cond) -> Cond:
        """What the network is given of a condition."""
        edge = self.edge

        def make() -> Cond:
            seen = cond.only(self.accepts)
            return seen if edge is None else edge(x, seen)

        return reuse.once(("shown", x.shape, x.dtype), (self.network, edge, cond), make)


class Around(Denoiser):
    """A network that estimates how the picture differs from the one it is shown, in some parametrisation of that.

    D = m + D'(x - m) with m the image condition (0 where it says nothing), D' the denoiser of the difference: its
    `sigma_data` is the std of what the condition leaves open, a fraction of the picture's own (as SRDiff, Li et al.
    2022, arXiv 2104.14951). The noise it has to start from shrinks likewise.
    """

    def together(self, x: Tensor, sigma: Tensor, conds: Sequence[Cond]) -> tuple[Tensor, ...]:
        if any(cond.image is not conds[0].image for cond in conds):
            return one_below_the_other(self, x, sigma, conds)
        middle = middle_of(conds[0], x)
        return tuple(middle + D for D in super().together(x - middle, sigma, conds))


def middle_of(cond: Cond, x: Tensor) -> Tensor:
    """The image condition in x's dtype, 0 where it says nothing; raises ValueError without one."""
    if cond.image is None:
        raise ValueError("this network changes a picture: it needs cond.image (B, C, H, W), of the shape of x")
    return cond.image.to(x).nan_to_num(0.0)


class LearnedVariance(Denoiser):
    """A network that predicts beside the noise where between its bounds the log variance of a DDPM step lies.

    Its output has twice the channels of x: the parametrization's half, then v in [-1, 1] (Nichol and Dhariwal 2021,
    eq. 15; ADM). `guided.sample` asks for `std` on an ancestral path, which is one evaluation more for each step.
    """

    def _meant(self, found: Tensor) -> Tensor:
        return found.chunk(2, 1)[0]

    def std(self, x: Tensor, sigma: Tensor, level: Tensor, cond: Cond) -> Tensor:
        """The std (B, *) of x at `level`, () or (B,) and above 0, given x (B, *) at the higher sigma."""
        sigma, level = (s.to(device=x.device, dtype=torch.float64).expand(len(x)) for s in (sigma, level))
        share = (self._outputs(x, sigma, (cond,))[0].chunk(2, 1)[1] + 1) / 2
        # In the variance-preserving frame: beta = 1 - abar / abar', and beta (1 - abar') / (1 - abar), the posterior's.
        high = ((sigma**2 - level**2) / (1 + sigma**2)).log()
        low = high + (level**2 * (1 + sigma**2) / (sigma**2 * (1 + level**2))).log()
        log_variance = share * spread(high, x) + (1 - share) * spread(low, x)
        return (0.5 * (log_variance + spread(torch.log1p(level**2), x))).exp()


def one_below_the_other(denoise: Denoise, x: Tensor, sigma: Tensor, conds: Sequence[Cond]) -> tuple[Tensor, ...]:
    """The estimates of x under each condition by one call, of x as many times."""
    if len(conds) == 1:
        return (denoise(x, sigma, conds[0]),)
    levels = sigma if sigma.ndim == 0 else torch.cat([sigma] * len(conds))
    return torch.split(denoise(torch.cat([x] * len(conds)), levels, _joined(x, conds)), len(x))


def _joined(x: Tensor, conds: Sequence[Cond]) -> Cond:
    return reuse.once(("joined", len(x)), tuple(conds), lambda: Cond.cat(conds, [len(x)] * len(conds)))


def _under(
    network: nn.Module, seen: Tensor, noise: Tensor, conds: Sequence[Cond], dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """The network's outputs under each condition: one call, or what it may share where it takes several."""
    if len(conds) == 1 or getattr(network, "takes_several", False):
        return torch.split(network(seen, noise, *conds).to(dtype), len(seen))
    found = network(torch.cat([seen] * len(conds)), torch.cat([noise] * len(conds)), _joined(seen, conds))
    return torch.split(found.to(dtype), len(seen))


def place_among(log_levels: Tensor, sigma: Tensor) -> Tensor:
    """The (fractional) index of sigma among rising levels (T,), given as ln sigma and clamped to them; float64."""
    target = sigma.to(log_levels).log().clamp(log_levels[0], log_levels[-1])
    above = torch.searchsorted(log_levels, target).clamp(1, len(log_levels) - 1)
    low, high = log_levels[above - 1], log_levels[above]
    return above - 1 + (target - low) / (high - low)


def _accepted(network: nn.Module) -> frozenset[str]:
    # A network that declares nothing must not lose its condition in silence.
    return frozenset(getattr(network, "accepts", FIELDS))


def _exact(weights: Tensor) -> torch.dtype:
    # bfloat16 has 8 bits: it knows no timestep 999.
    return torch.promote_types(weights.dtype, torch.float32)


def _autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


class FromVP(nn.Module):
    """A network trained on discrete-time variance-preserving noise (DDPM, Stable Diffusion), as a `Denoise`.

    network(z, t, cond): z = sqrt(abar_t) x0 + sqrt(1 - abar_t) n, t (B,) float. alphas_bar: (T,), falling from near 1.
    Between the trained levels, t is interpolated linearly in ln sigma. `parametrization` is `Eps()` or `V()`.
    Raises ValueError where alphas_bar is not a falling list within (0, 1).
    """

    def __init__(
        self, network: nn.Module, alphas_bar: Tensor | Sequence[float], parametrization: Eps | V | None = None
    ) -> None:
        super().__init__()
        abar = torch.as_tensor(alphas_bar, dtype=torch.float64)
        if abar.ndim != 1 or len(abar) < 2 or not bool(((abar > 0) & (abar < 1)).all() and (abar.diff() < 0).all()):
            raise ValueError("alphas_bar must be a 1-D list that falls strictly within (0, 1)")
        self.network = network
        self.parametrization = parametrization or Eps()
        self.log_sigmas: Tensor
        self.register_buffer("log_sigmas", 0.5 * (1 / abar - 1).log(), persistent=False)
        self.lo, self.hi = (float(self.log_sigmas[i].exp()) for i in (0, -1))
        self.autocast: torch.dtype | None = None

    @property
    def accepts(self) -> frozenset[str]:
        """The fields of `Cond` that the network can see."""
        return _accepted(self.network)

    def timestep(self, sigma: Tensor) -> Tensor:
        """The (fractional) index of sigma among the trained noise levels, clamped to them; float64."""
        return place_among(self.log_sigmas, sigma)

    def forward(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return self.together(x, sigma, (cond,))[0]

    def together(self, x: Tensor, sigma: Tensor, conds: Sequence[Cond]) -> tuple[Tensor, ...]:
        """The estimates of x (B, *) under each of several conditions, as calls one by one would give them."""
        sigma = sigma.to(device=x.device, dtype=torch.float64).expand(len(x))
        skip, out, scale, _ = (spread(c, x) for c in self.parametrization.coefficients(sigma))
        weights = next(self.network.parameters(), x)
        shown = [
            reuse.once("shown", (self.network, cond), functools.partial(cond.only, self.accepts)) for cond in conds
        ]
        with _autocast(x.device, self.autocast):
            seen, t = (scale * x).to(weights.dtype), self.timestep(sigma).to(_exact(weights))
            outputs = _under(self.network, seen, t, shown, x.dtype)
        kept = skip * x
        return tuple(kept + out * found for found in outputs)
