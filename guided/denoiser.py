"""Denoisers: functions (x, sigma, cond) -> D that estimate the clean image in the frame x = x0 + sigma * n.

A network trained in another frame is wrapped once, here at the edge. All parametrisations are affine in the network's
output: D = c_skip x + c_out F(c_in x, c_noise).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn

from guided import reuse
from guided.cond import FIELDS, Cond


class Denoise(Protocol):
    """(x: (B, *), sigma: () or (B,), cond) -> D: (B, *) in x's dtype, the estimate of E[x0 | x, cond].

    One with `takes_several` may be given k conditions for one x: (k B, *), one below the other, sharing what it can.
    """

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond, /) -> Tensor: ...


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

    takes_several = True

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

    def forward(self, x: Tensor, sigma: Tensor, *conds: Cond) -> Tensor:
        """D (B, *); under several conditions (k B, *), one below the other, as calls one by one would give them."""
        numbers, found = self._outputs(x, sigma, conds)
        found = self._meant(found)
        if len(conds) == 1:
            return numbers.applied(x, found)
        return numbers.applied(x, found.view(len(conds), *x.shape)).flatten(0, 1)

    def _meant(self, found: Tensor) -> Tensor:
        """The part of the network's output that the parametrisation is about."""
        return found

    def _outputs(self, x: Tensor, sigma: Tensor, conds: Sequence[Cond]) -> tuple[Numbers, Tensor]:
        """The coefficients at sigma, and the network's outputs under k conditions, (k B, ...), in x's dtype."""
        held = self, self.network, self.edge, reuse.levels(), *conds
        given = reuse.once(("given", x.shape, x.dtype, x.device), held, lambda: self._given(x, conds))
        numbers = given.numbers.get(sigma.item()) if alone(sigma) else None
        numbers = numbers or numbers_at(self.parametrization, x, sigma, self.lo, self.hi)
        with _autocast(x.device, self.autocast):
            # bfloat16 has 8 bits and knows no timestep 999: the level is told in float32 at least.
            seen, noise = (numbers.scale * x).to(given.dtype), numbers.noise.to(given.exact)
            if given.repeat > 1:
                seen, noise = torch.cat([seen] * given.repeat), torch.cat([noise] * given.repeat)
            return numbers, self.network(seen, noise, *given.conds).to(x.dtype)

    def _given(self, x: Tensor, conds: Sequence[Cond]) -> Given:
        """What the network is given under these conditions, at any level."""
        seen = [cond.only(self.accepts) for cond in conds]
        shown = seen if self.edge is None else [self.edge(x, cond) for cond in seen]
        repeat = 1 if getattr(self.network, "takes_several", False) else len(shown)
        if repeat > 1:
            shown = [Cond.cat(shown, [len(x)] * repeat)]
        dtype = next(self.network.parameters(), x).dtype
        return Given(tuple(shown), repeat, dtype, torch.promote_types(dtype, torch.float32), self._known(x))

    def _known(self, x: Tensor) -> dict[float, Numbers]:
        """The coefficients at the levels of the run."""
        levels = reuse.levels()
        if levels is None:
            return {}
        kind = "numbers", self.lo, self.hi, len(x), x.device
        held = self.parametrization, levels
        return reuse.once(kind, held, lambda: _numbers(self.parametrization, levels, self.lo, self.hi, x))


class Given(NamedTuple):
    """What a network is given at any level of a run.

    repeat: how often x stands below itself, one time for each condition. dtype: of x; exact: of the level. numbers: the
    coefficients at the levels of the run.
    """

    conds: tuple[Cond, ...]
    repeat: int
    dtype: torch.dtype
    exact: torch.dtype
    numbers: dict[float, Numbers]


class Around(Denoiser):
    """A network that estimates how the picture differs from the one it is shown, in some parametrisation of that.

    D = m + D'(x - m) with m the image condition (0 where it says nothing), D' the denoiser of the difference: its
    `sigma_data` is the std of what the condition leaves open, a fraction of the picture's own (as SRDiff, Li et al.
    2022, arXiv 2104.14951). The noise it has to start from shrinks likewise.
    """

    def forward(self, x: Tensor, sigma: Tensor, *conds: Cond) -> Tensor:
        if any(cond.image is not conds[0].image for cond in conds):
            return torch.cat(one_below_the_other(self, x, sigma, conds))
        middle = middle_of(conds[0], x)
        D = super().forward(x - middle, sigma, *conds)
        return middle + D if len(conds) == 1 else (middle + D.view(len(conds), *x.shape)).flatten(0, 1)


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
        share = (self._outputs(x, sigma, (cond,))[1].chunk(2, 1)[1] + 1) / 2
        # In the variance-preserving frame: beta = 1 - abar / abar', and beta (1 - abar') / (1 - abar), the posterior's.
        high = ((sigma**2 - level**2) / (1 + sigma**2)).log()
        low = high + (level**2 * (1 + sigma**2) / (sigma**2 * (1 + level**2))).log()
        log_variance = share * spread(high, x) + (1 - share) * spread(low, x)
        return (0.5 * (log_variance + spread(torch.log1p(level**2), x))).exp()


class Numbers(NamedTuple):
    """Coefficients as they multiply x (B, *): numbers where all images are at one level; noise is (B,)."""

    skip: float | Tensor
    out: float | Tensor
    scale: float | Tensor
    noise: Tensor

    def applied(self, x: Tensor, found: Tensor) -> Tensor:
        """skip * x + out * found, x (B, *), found (B, *) or (k, B, *)."""
        if isinstance(self.out, Tensor):
            return self.skip * x + self.out * found
        # A product with 1 changes no bit; noise-predicting networks would pay for it at every step.
        kept = x if self.skip == 1 else self.skip * x
        return torch.add(kept, found, alpha=self.out)


def alone(sigma: Tensor) -> bool:
    """Whether sigma is one level for all images whose value can be had without waiting for a device."""
    return sigma.ndim == 0 and sigma.device.type == "cpu" and not torch.compiler.is_compiling()


def numbers_at(parametrization: Parametrization, x: Tensor, sigma: Tensor, lo: float, hi: float) -> Numbers:
    """The coefficients at sigma, () or (B,), for x; the network is shown sigma clamped to [lo, hi]."""
    if alone(sigma):
        return _numbers(parametrization, sigma[None], lo, hi, x)[sigma.item()]
    sigma = sigma.to(device=x.device, dtype=torch.float64).expand(len(x))
    skip, out, scale, _ = (spread(c, x) for c in parametrization.coefficients(sigma))
    return Numbers(skip, out, scale, parametrization.coefficients(sigma.clamp(lo, hi)).noise)


def _numbers(parametrization: Parametrization, levels: Tensor, lo: float, hi: float, x: Tensor) -> dict[float, Numbers]:
    """The coefficients at all these levels (L,) above 0, by level."""
    names, levels = levels.tolist(), levels.double()
    skip, out, scale, _ = (c.tolist() for c in parametrization.coefficients(levels))
    noise = rows(parametrization.coefficients(levels.clamp(lo, hi)).noise.to(x.device)[:, None].expand(-1, len(x)))
    return {level: Numbers(*found) for level, *found in zip(names, skip, out, scale, noise, strict=True)}


def rows(values: Tensor) -> list[Tensor]:
    """values[0], values[1], ...: `unbind`, whose time grows with the square of their number, piece by piece."""
    return [row for part in torch.split(values, 64) for row in part.unbind()]


def one_below_the_other(denoise: Denoise, x: Tensor, sigma: Tensor, conds: Sequence[Cond]) -> tuple[Tensor, ...]:
    """The estimates of x under each condition by one call, of x as many times."""
    if len(conds) == 1:
        return (denoise(x, sigma, conds[0]),)
    levels = sigma if sigma.ndim == 0 else torch.cat([sigma] * len(conds))
    joined = reuse.once(("joined", len(x)), tuple(conds), lambda: Cond.cat(conds, [len(x)] * len(conds)))
    return torch.split(denoise(torch.cat([x] * len(conds)), levels, joined), len(x))


def place_among(log_levels: Tensor, sigma: Tensor) -> Tensor:
    """The (fractional) index of sigma among rising levels (T,), given as ln sigma and clamped to them; float64."""
    target = sigma.to(log_levels).log().clamp(log_levels[0], log_levels[-1])
    above = torch.searchsorted(log_levels, target).clamp(1, len(log_levels) - 1)
    low, high = log_levels[above - 1], log_levels[above]
    return above - 1 + (target - low) / (high - low)


def _accepted(network: nn.Module) -> frozenset[str]:
    # A network that declares nothing must not lose its condition in silence.
    return frozenset(getattr(network, "accepts", FIELDS))


def _autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


@dataclass(frozen=True, eq=False)
class Discrete:
    """A parametrisation whose network is shown the index of the noise level among rising levels, given as ln sigma."""

    log_levels: Tensor
    predicts: Eps | V

    def coefficients(self, sigma: Tensor) -> Coefficients:
        found = self.predicts.coefficients(sigma)
        return found._replace(noise=place_among(self.log_levels.to(sigma.device), sigma))


class FromVP(Denoiser):
    """A network trained on discrete-time variance-preserving noise (DDPM, Stable Diffusion), as a `Denoise`.

    network(z, t, cond): z = sqrt(abar_t) x0 + sqrt(1 - abar_t) n, t (B,) float. alphas_bar: (T,), falling from near 1.
    Between the trained levels, t is interpolated linearly in ln sigma. `parametrization` is `Eps()` or `V()`.
    Raises ValueError where alphas_bar is not a falling list within (0, 1).
    """

    def __init__(
        self, network: nn.Module, alphas_bar: Tensor | Sequence[float], parametrization: Eps | V | None = None
    ) -> None:
        abar = torch.as_tensor(alphas_bar, dtype=torch.float64)
        if abar.ndim != 1 or len(abar) < 2 or not bool(((abar > 0) & (abar < 1)).all() and (abar.diff() < 0).all()):
            raise ValueError("alphas_bar must be a 1-D list that falls strictly within (0, 1)")
        self._made_with = abar, parametrization
        logs = 0.5 * (1 / abar - 1).log()
        super().__init__(network, Discrete(logs, parametrization or Eps()), *logs[[0, -1]].exp().tolist())

    def with_network(self, network: nn.Module) -> Self:
        made = type(self)(network, *self._made_with)
        made.autocast, made.edge = self.autocast, self.edge
        return made

    def timestep(self, sigma: Tensor) -> Tensor:
        """The (fractional) index of sigma among the trained noise levels, clamped to them; float64."""
        return self.parametrization.coefficients(sigma).noise
