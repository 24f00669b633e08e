"""Continuous-time frames: VP, VE, sub-VP, flow and EDM networks, mapped once into the common frame x = x0 + sigma n.

A network trained on z = a(t) x0 + s(t) n sees the common frame's x as z = a x at sigma = s / a. Two functions of sigma
say all about it: a, and what it is shown of the time. `DDPM` names the published discrete times, which a card can
hold; `FromVP` takes any list of them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from guided.denoiser import EDM, Coefficients, Denoiser, Eps, Flow, Parametrization, place_among


class Frame(Protocol):
    """How a network sees a noise level; lo and hi are the levels it was trained on."""

    @property
    def lo(self) -> float: ...
    @property
    def hi(self) -> float: ...
    @property
    def predicts(self) -> Parametrization:
        """What the output of networks of this frame usually means."""
        ...

    def scale(self, sigma: Tensor, /) -> Tensor:
        """a, so that the network's input is a x."""
        ...

    def shown(self, sigma: Tensor, /) -> Tensor:
        """The network's second argument."""
        ...


@dataclass(frozen=True)
class _LinearBeta:
    """What VP and sub-VP share: dz = -b z / 2 dt + ... with b linear in t, so that a = e^(-B/2), B the integral of b.

    The network is shown `times` t (999 t in the authors' code), for t in [first, 1], and predicts the noise.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    first: float = 1e-3
    times: float = 999.0

    @property
    def lo(self) -> float:
        return float(self.sigma(torch.tensor(self.first, dtype=torch.float64)))

    @property
    def hi(self) -> float:
        return float(self.sigma(torch.ones((), dtype=torch.float64)))

    @property
    def predicts(self) -> Parametrization:
        return Eps()

    def sigma(self, t: Tensor) -> Tensor:
        """The noise level at time t."""
        return self._level(self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2)

    def scale(self, sigma: Tensor) -> Tensor:
        return (-0.5 * self._area(sigma)).exp()

    def shown(self, sigma: Tensor) -> Tensor:
        area, rise = self._area(sigma), self.beta_max - self.beta_min
        return self.times * 2 * area / (self.beta_min + (self.beta_min**2 + 2 * rise * area).sqrt())

    def _level(self, area: Tensor) -> Tensor:
        raise NotImplementedError

    def _area(self, sigma: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class VP(_LinearBeta):
    """The variance-preserving SDE, s^2 = 1 - e^(-B), and its continuous-time networks (Song et al. 2021, eq. 11, 29).

    beta_min, beta_max: the rate b at t = 0 and 1. The network is shown `times` t for t in [first, 1]; it predicts n.
    """

    def _level(self, area: Tensor) -> Tensor:
        return area.expm1().sqrt()

    def _area(self, sigma: Tensor) -> Tensor:
        return torch.log1p(sigma**2)


@dataclass(frozen=True)
class SubVP(_LinearBeta):
    """The sub-VP SDE, whose std s = 1 - e^(-B) stays below VP's; otherwise as `VP` (Song et al. 2021, eq. 12, 29)."""

    def _level(self, area: Tensor) -> Tensor:
        return 2 * (area / 2).sinh()

    def _area(self, sigma: Tensor) -> Tensor:
        return 2 * torch.asinh(sigma / 2)


@dataclass(frozen=True)
class VE:
    """The variance-exploding SDE, sigma = lo (hi / lo)^t (Song et al. 2021, eq. 9, 29); it is this very frame.

    The network is shown sigma, and predicts the score.
    """

    lo: float = 0.01
    hi: float = 50.0

    @property
    def predicts(self) -> Parametrization:
        return Score(self)

    def sigma(self, t: Tensor) -> Tensor:
        """The noise level at time t."""
        return self.lo * (t * math.log(self.hi / self.lo)).exp()

    def scale(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def shown(self, sigma: Tensor) -> Tensor:
        return sigma


SCHEDULES = ("linear", "scaled", "cosine")


@dataclass(frozen=True)
class DDPM:
    """Discrete-time variance-preserving noise, sigma^2 = 1 / abar - 1 with abar the product of 1 - beta.

    schedule: "linear", beta from `start` to `end` (Ho et al. 2020); "scaled", its root so (Stable Diffusion); "cosine",
    abar = cos^2 with beta at most 0.999, which takes no ends (Nichol and Dhariwal 2021, eq. 17). The network is shown
    the index of the level, of `steps`, interpolated linearly in ln sigma, and predicts the noise. Raises ValueError for
    values that give no rising noise.
    """

    schedule: str = "linear"
    start: float = 1e-4
    end: float = 0.02
    steps: int = 1000

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if type(self.steps) is not int or not 2 <= self.steps <= 100_000:
            raise ValueError(f"steps: expected a whole number from 2 to 100000, got {self.steps!r}")
        if not 0 < self.start <= self.end < 1:
            raise ValueError(f"expected 0 < start <= end < 1, got start={self.start}, end={self.end}")

    @property
    def lo(self) -> float:
        return float(self.log_sigmas()[0].exp())

    @property
    def hi(self) -> float:
        return float(self.log_sigmas()[-1].exp())

    @property
    def predicts(self) -> Parametrization:
        return Eps()

    def alphas_bar(self) -> Tensor:
        """abar, (steps,) float64, falling."""
        if self.schedule == "cosine":
            t = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
            curve = ((t + 0.008) / 1.008 * (math.pi / 2)).cos() ** 2
            betas = (1 - curve[1:] / curve[:-1]).clamp(max=0.999)
        else:
            power = 0.5 if self.schedule == "scaled" else 1.0
            betas = torch.linspace(self.start**power, self.end**power, self.steps, dtype=torch.float64) ** (1 / power)
        return (1 - betas).cumprod(0)

    def log_sigmas(self, device: torch.device | str = "cpu") -> Tensor:
        """ln sigma of the trained levels, (steps,) float64, rising."""
        return _log_sigmas(self, str(device))

    def scale(self, sigma: Tensor) -> Tensor:
        return (1 + sigma**2).rsqrt()

    def shown(self, sigma: Tensor) -> Tensor:
        return place_among(self.log_sigmas(sigma.device), sigma)


@functools.lru_cache(maxsize=16)
def _log_sigmas(frame: DDPM, device: str) -> Tensor:
    return (0.5 * (1 / frame.alphas_bar() - 1).log()).to(device)


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path of flows, z = (1 - t) x0 + t n (Lipman et al. 2023; Liu et al. 2023).

    The network is shown `times` t, for t in [first, last], and predicts n - x0. t = 1 is sigma = infinity: `last` ends
    it where the image is lost in noise.
    """

    first: float = 1e-3
    last: float = 0.99
    times: float = 1.0

    @property
    def lo(self) -> float:
        return self.first / (1 - self.first)

    @property
    def hi(self) -> float:
        return self.last / (1 - self.last)

    @property
    def predicts(self) -> Parametrization:
        return Flow()

    def sigma(self, t: Tensor) -> Tensor:
        """The noise level at time t."""
        return t / (1 - t)

    def scale(self, sigma: Tensor) -> Tensor:
        return 1 / (1 + sigma)

    def shown(self, sigma: Tensor) -> Tensor:
        return self.times * sigma / (1 + sigma)


@dataclass(frozen=True)
class Karras:
    """EDM's networks: shown ln(sigma) / 4, their input and target of unit variance (Karras et al. 2022, table 1)."""

    sigma_data: float = 0.5
    lo: float = 0.002
    hi: float = 80.0

    @property
    def predicts(self) -> Parametrization:
        return EDM(self.sigma_data)

    def scale(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2).rsqrt()

    def shown(self, sigma: Tensor) -> Tensor:
        return sigma.log() / 4


@dataclass(frozen=True)
class Score:
    """The network predicts the score of its own frame, grad_z ln p(z; t) = -n / s."""

    frame: Frame

    def coefficients(self, sigma: Tensor) -> Coefficients:
        a = self.frame.scale(sigma)
        return Coefficients(torch.ones_like(sigma), sigma**2 * a, a, self.frame.shown(sigma))


@dataclass(frozen=True)
class Framed:
    """A parametrisation whose network lives in a frame: what the output means, at the input that the frame gives."""

    frame: Frame
    predicts: Parametrization

    def coefficients(self, sigma: Tensor) -> Coefficients:
        skip, out, _, _ = self.predicts.coefficients(sigma)
        return Coefficients(skip, out, self.frame.scale(sigma), self.frame.shown(sigma))


class FromFrame(Denoiser):
    """A network trained in another continuous-time frame, as a `Denoise` of the common one.

    network(z, shown, cond) as the frame says. predicts: what its output means, if not what is usual in that frame; `V`
    belongs to VP, `Flow` to the straight path, `Eps`, `X0` and `Score` to any. sigma beyond the trained levels is shown
    clamped to them.
    """

    def __init__(self, network: nn.Module, frame: Frame, predicts: Parametrization | None = None) -> None:
        super().__init__(network, Framed(frame, predicts or frame.predicts), frame.lo, frame.hi)
