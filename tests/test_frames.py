"""Frames at the edge: networks of the published SDEs, written here from the papers, against the common frame."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from guided import ode, path
from guided.cond import Cond
from guided.denoiser import EDM, X0, Denoiser, Parametrization, V
from guided.frames import VE, VP, Framed, FromFrame, Karras, RectifiedFlow, Score, SubVP
from guided.noise import generator
from guided.oracle import GaussianMixture

F64 = torch.float64
LO, HI = 0.02, 40.0


class SDE(NamedTuple):
    """dz = f(t) z dt + g(t) dw of Song et al. 2021, its mean factor a and std s (eq. 29), the time a network sees."""

    f: Callable[[Tensor], Tensor]
    g2: Callable[[Tensor], Tensor]
    a: Callable[[Tensor], Tensor]
    s: Callable[[Tensor], Tensor]
    t_of_shown: Callable[[Tensor], Tensor]


def beta(t: Tensor) -> Tensor:
    return 0.1 + 19.9 * t


def area(t: Tensor) -> Tensor:
    return 0.1 * t + 19.9 * t**2 / 2


RATE = math.log(50 / 0.01)
SDES = {
    VP(): SDE(
        lambda t: -beta(t) / 2,
        beta,
        lambda t: torch.exp(-area(t) / 2),
        lambda t: torch.sqrt(1 - torch.exp(-area(t))),
        lambda c: c / 999,
    ),
    SubVP(): SDE(
        lambda t: -beta(t) / 2,
        lambda t: beta(t) * (1 - torch.exp(-2 * area(t))),
        lambda t: torch.exp(-area(t) / 2),
        lambda t: 1 - torch.exp(-area(t)),
        lambda c: c / 999,
    ),
    VE(): SDE(
        lambda t: 0 * t,
        lambda t: (0.01 * (50 / 0.01) ** t) ** 2 * 2 * RATE,
        lambda t: torch.ones_like(t),
        lambda t: 0.01 * (50 / 0.01) ** t,
        lambda c: torch.log(c / 0.01) / RATE,
    ),
}


class Published(nn.Module):
    """The network that a perfect training in a frame would give for a denoiser of the common one."""

    accepts = frozenset()

    def __init__(self, frame: object, predicts: Parametrization, D: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.frame, self.predicts, self.D = frame, predicts, D

    def forward(self, z: Tensor, shown: Tensor, cond: Cond) -> Tensor:
        c = shown.reshape(-1, *[1] * (z.ndim - 1)).to(F64)
        if isinstance(self.frame, Karras):
            sigma, d2 = (4 * c).exp(), self.frame.sigma_data**2
            x = z * (sigma**2 + d2).sqrt()
            D = self.D(x, sigma.flatten())
            return ((D - d2 / (sigma**2 + d2) * x) * (sigma**2 + d2).sqrt() / (sigma * d2**0.5)).to(z)
        if isinstance(self.frame, RectifiedFlow):
            t = c / self.frame.times
            D = self.D(z / (1 - t), (t / (1 - t)).flatten())
            return ((z - (1 - t) * D) / t - D).to(z)
        sde = SDES[self.frame]
        t = sde.t_of_shown(c)
        a, s = sde.a(t), sde.s(t)
        D = self.D(z / a, (s / a).flatten())
        n = (z - a * D) / s
        out = {Score: -n / s, X0: D, V: a * n - s * D}.get(type(self.predicts), n)
        return out.to(z)


def mixture() -> GaussianMixture:
    g = torch.Generator().manual_seed(0)
    return GaussianMixture(
        torch.randn(4, 3, 4, 4, generator=g, dtype=F64), torch.rand(4, generator=g) * 0.5 + 0.1, torch.ones(4)
    )


USUAL = [VP(), SubVP(), VE(), RectifiedFlow(), RectifiedFlow(times=1000.0), Karras(0.5), Karras(1.3)]
OTHER = [(VP(), V()), (VP(), Score(VP())), (SubVP(), X0()), (SubVP(), Score(SubVP()))]


@pytest.mark.parametrize(("frame", "predicts"), [*((f, f.predicts) for f in USUAL), *OTHER], ids=repr)
def test_the_right_network_of_each_frame_is_the_oracle(frame, predicts) -> None:
    levels = torch.tensor([frame.lo, 0.3, 1.0, 7.0, frame.hi], dtype=F64)
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    x = x * (1 + levels).reshape(-1, 1, 1, 1)
    found = FromFrame(Published(frame, predicts, mixture().denoise), frame, predicts)(x, levels, Cond())
    assert torch.allclose(found, mixture().denoise(x, levels), atol=1e-7)


@pytest.mark.parametrize("frame", [VP(), SubVP(), VE(), RectifiedFlow()], ids=repr)
def test_the_trained_levels_are_those_of_the_trained_times(frame) -> None:
    ends = torch.tensor([getattr(frame, "first", 0.0), getattr(frame, "last", 1.0)], dtype=F64)
    assert torch.allclose(frame.sigma(ends), torch.tensor([frame.lo, frame.hi], dtype=F64), rtol=1e-12)
    seen: list[Tensor] = []

    class Eye(nn.Module):
        def forward(self, z: Tensor, shown: Tensor, cond: Cond) -> Tensor:
            seen.append(shown)
            return z

    denoise = FromFrame(Eye(), frame)
    for sigma in (frame.hi, 10 * frame.hi, frame.lo, frame.lo / 10):
        denoise(torch.zeros(1, 2, dtype=F64), torch.tensor(sigma, dtype=F64), Cond())
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3]) and not torch.equal(seen[0], seen[2])


MEAN, STD = 0.8, 0.5


@pytest.mark.parametrize("frame", list(SDES), ids=repr)
def test_euler_maruyama_paths_of_each_sde_have_the_frames_moments(frame) -> None:
    """10^5 paths forward in time, to three times on the way: mean and std within 1 % of a m and sqrt(a^2 v + s^2)."""
    sde, steps, n = SDES[frame], 400, 100_000
    g = generator("sde", 0, 0)
    z = MEAN + STD * torch.randn(n, generator=g)
    if isinstance(frame, VE):
        z = z + 0.01 * torch.randn(n, generator=g)
    # Drift and diffusion at the middle of each step; the last of 400 steps of VE multiplies s by 1.02.
    for i in range(steps):
        t = torch.tensor((i + 0.5) / steps, dtype=F64)
        drift, spread = float(sde.f(t)) / steps, math.sqrt(float(sde.g2(t)) / steps)
        z = z + drift * z + spread * torch.randn(n, generator=g)
        if i + 1 in (steps // 10, steps // 3, steps):
            end = torch.tensor((i + 1) / steps, dtype=F64)
            sigma = frame.sigma(end)
            a = float(frame.scale(sigma))
            std = math.hypot(a * STD, a * float(sigma))
            assert float(z.std()) == pytest.approx(std, rel=0.01)
            assert float(z.mean()) == pytest.approx(a * MEAN, rel=0.01, abs=0.01 * std)


@pytest.mark.slow
@pytest.mark.parametrize("frame", list(SDES), ids=repr)
def test_euler_maruyama_paths_of_each_reverse_sde_end_in_the_data(frame) -> None:
    """dz = (f z - g^2 score) dt + g dw backwards (eq. 6), 10^5 paths, with the score of the wrapped network."""
    sde, steps, shape = SDES[frame], 500, (10, 10_000)
    data = GaussianMixture(torch.full((1, 10_000), MEAN), torch.tensor([STD]), torch.ones(1))
    denoise, g = FromFrame(Published(frame, frame.predicts, data.denoise), frame), generator("reverse", 0, 0)
    high = float(frame.scale(torch.tensor(frame.hi)))
    z = high * (MEAN + math.hypot(frame.hi, STD) * torch.randn(shape, generator=g))
    times = torch.linspace(1, 1e-3, steps + 1, dtype=F64)
    for t, dt in zip(times[:-1], times.diff(), strict=True):
        a, s = float(sde.a(t)), float(sde.s(t))
        score = (a * denoise(z / a, torch.tensor(s / a), Cond()) - z) / s**2
        drift = float(sde.f(t)) * z - float(sde.g2(t)) * score
        z = z + drift * float(dt) + math.sqrt(-float(sde.g2(t) * dt)) * torch.randn(shape, generator=g)
    assert float(z.mean()) == pytest.approx(MEAN, rel=0.01)
    assert float(z.std()) == pytest.approx(STD, rel=0.01)


class Small(nn.Module):
    """A fixed smooth network."""

    accepts = frozenset()

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(5)
        for name, (rows, columns) in {"first": (32, 13), "second": (12, 32)}.items():
            weight = torch.randn(rows, columns, generator=g, dtype=F64) / columns**0.5
            self.register_parameter(name, nn.Parameter(weight))

    def forward(self, z: Tensor, shown: Tensor, cond: Cond) -> Tensor:
        both = torch.cat([z, shown[:, None].to(z) / 1000], 1)
        return torch.tanh(both @ self.first.to(z).T) @ self.second.to(z).T


def one_image(frame: object) -> tuple[FromFrame, Tensor]:
    """One network, seen through a frame; and the noise it begins with."""
    common = Denoiser(Small(), EDM(0.5), LO, HI)
    D = lambda x, sigma: common(x.to(F64), sigma, Cond())  # noqa: E731
    x = HI * torch.randn(3, 12, generator=torch.Generator().manual_seed(6), dtype=F64)
    return FromFrame(Published(frame, frame.predicts, D), frame), x


@torch.no_grad()
def test_one_network_gives_one_image_under_all_frames() -> None:
    """In float32, on one path; and the same image as each SDE's own probability-flow ODE in its own time (eq. 13)."""
    levels = path.log_snr(40, LO, HI)[:-1]
    images = {}
    for frame in [*SDES, RectifiedFlow(), Karras()]:
        denoise, x = one_image(frame)
        images[frame] = ode.integrate(denoise, x.float(), levels, None, "heun")
        exact = ode.adaptive(denoise, x, LO, HI, tol=1e-5).x
        if frame in SDES:
            assert (exact - own_ode(frame, denoise, x)).abs().max() < 1e-4
    first, *others = images.values()
    assert first.std() > 0.3
    for other in others:
        assert (other - first).abs().max() < 1e-4


def own_ode(frame: object, denoise: FromFrame, x: Tensor) -> Tensor:
    """dz/dt = f z - g^2 score / 2, by the classical Runge-Kutta method on 100 steps in the SDE's own time."""
    sde = SDES[frame]
    times = sde.t_of_shown(frame.shown(path.log_snr(101, LO, HI)[:-1]))

    def slope(z: Tensor, t: Tensor) -> Tensor:
        a, s = sde.a(t), sde.s(t)
        return sde.f(t) * z - 0.5 * sde.g2(t) * (a * denoise(z / a, s / a, Cond()) - z) / s**2

    z = sde.a(times[0]) * x
    for t, h in zip(times[:-1], times.diff(), strict=True):
        k1 = slope(z, t)
        k2 = slope(z + h / 2 * k1, t + h / 2)
        k3 = slope(z + h / 2 * k2, t + h / 2)
        k4 = slope(z + h * k3, t + h)
        z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return z / sde.a(times[-1])


def test_a_frame_is_a_parametrisation_like_the_others() -> None:
    """VP's noise prediction is `Eps`, the straight path's velocity `Flow`: only what is shown of the time differs."""
    sigma = torch.tensor([0.02, 1.0, 9.0], dtype=F64)
    for frame in (VP(), RectifiedFlow(), Karras(0.7)):
        framed = Framed(frame, frame.predicts).coefficients(sigma)
        assert all(
            torch.allclose(a, b) for a, b in zip(framed[:3], frame.predicts.coefficients(sigma)[:3], strict=True)
        )
