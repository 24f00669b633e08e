"""Parametrisations and wrappers: each, given the network that is right in it, is the oracle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from guided.cond import Cond
from guided.denoiser import EDM, X0, Around, Denoiser, Eps, Flow, FromVP, V
from guided.oracle import GaussianMixture

F64 = torch.float64
PARAMETRIZATIONS = [EDM(0.5), EDM(1.3), Eps(), X0(0.7), V(), Flow()]


def mixture() -> GaussianMixture:
    g = torch.Generator().manual_seed(0)
    return GaussianMixture(
        torch.randn(4, 3, 4, 4, generator=g, dtype=F64), torch.rand(4, generator=g) * 0.5 + 0.1, torch.ones(4)
    )


class Published(nn.Module):
    """What a perfect network predicts in each published frame, written from the papers rather than the library."""

    accepts = frozenset({"label"})

    def __init__(self, kind: object) -> None:
        super().__init__()
        self.kind = kind
        self.seen: list[Tensor] = []

    def forward(self, z: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        self.seen.append(c_noise)
        t = c_noise.double()
        sigma = (t / 1000) / (1 - t / 1000) if isinstance(self.kind, Flow) else (t / 250).exp()
        s = sigma.reshape(-1, 1, 1, 1)
        a = (1 + s**2).rsqrt()
        if isinstance(self.kind, Flow):
            x = z / (1 - t.reshape(-1, 1, 1, 1) / 1000)
        elif isinstance(self.kind, EDM | X0):
            x = z * (s**2 + self.kind.sigma_data**2).sqrt()
        else:
            x = z / a
        D = mixture().denoise(x, sigma)
        n = (x - D) / s
        if isinstance(self.kind, Eps):
            return n
        if isinstance(self.kind, X0):
            return D
        if isinstance(self.kind, V):
            return a * n - s * a * D
        if isinstance(self.kind, Flow):
            return n - D
        d2 = self.kind.sigma_data**2
        return (D - d2 / (s**2 + d2) * x) * (s**2 + d2).sqrt() / (s * d2**0.5)


@pytest.mark.parametrize("kind", PARAMETRIZATIONS, ids=repr)
def test_the_right_network_in_each_parametrisation_is_the_oracle(kind) -> None:
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    sigma = torch.tensor([0.02, 0.3, 1.0, 7.0, 60.0], dtype=F64)
    x = x * (1 + sigma).reshape(-1, 1, 1, 1)
    D = Denoiser(Published(kind), kind, 0.01, 80.0)(x, sigma, Cond())
    assert torch.allclose(D, mixture().denoise(x, sigma), atol=1e-9)


@pytest.mark.parametrize("sigma_data", [0.3, 1.0])
def test_edm_gives_the_network_unit_input_and_target(sigma_data: float) -> None:
    g = torch.Generator().manual_seed(2)
    x0 = sigma_data * torch.randn(20_000, generator=g, dtype=F64)
    n = torch.randn(20_000, generator=g, dtype=F64)
    for level in (0.01, 0.5, 3.0, 70.0):
        c = EDM(sigma_data).coefficients(torch.tensor(level, dtype=F64))
        x = x0 + level * n
        assert abs((c.scale * x).var() - 1) < 0.05
        assert abs(((x0 - c.skip * x) / c.out).var() - 1) < 0.05


def test_the_network_sees_the_level_clamped_and_the_affine_part_does_not() -> None:
    network = Published(EDM(0.5))
    denoise = Denoiser(network, EDM(0.5), 0.1, 10.0)
    x = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=F64)
    tiny = denoise(x, torch.tensor(1e-6, dtype=F64), Cond())
    assert torch.allclose(network.seen[-1], 250 * torch.tensor(0.1, dtype=F64).log().reshape(1))
    assert torch.allclose(tiny, x, atol=1e-5)


def test_x_keeps_its_dtype_under_autocast() -> None:
    class Half(nn.Module):
        accepts = frozenset()

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, z: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
            assert self.conv(z).dtype == torch.bfloat16
            return self.conv(z)

    denoise = Denoiser(Half(), EDM())
    denoise.autocast = torch.bfloat16
    for dtype in (torch.float32, F64):
        assert denoise(torch.zeros(2, 3, 4, 4, dtype=dtype), torch.tensor(1.0), Cond()).dtype == dtype


@pytest.mark.parametrize("kind", [Eps(), V()], ids=repr)
def test_a_discrete_time_network_is_wrapped_at_its_own_levels(kind) -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    abar = (1 - betas).cumprod(0)

    class Discrete(nn.Module):
        accepts = frozenset({"label"})

        def forward(self, z: Tensor, t: Tensor, cond: Cond) -> Tensor:
            index = t.round().long()
            assert (t - index).abs().max() < 1e-6
            alpha = abar[index].sqrt().reshape(-1, 1, 1, 1)
            s = (1 - alpha**2).sqrt()
            D = mixture().denoise(z / alpha, (s / alpha).flatten())
            n = (z - alpha * D) / s
            return n if isinstance(kind, Eps) else alpha * n - s * D

    denoise = FromVP(Discrete(), abar, kind)
    index = torch.tensor([0, 10, 500, 999])
    sigma = (1 / abar[index] - 1).sqrt()
    x = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(4), dtype=F64) * sigma.reshape(-1, 1, 1, 1)
    assert torch.allclose(denoise(x, sigma, Cond()), mixture().denoise(x, sigma), atol=1e-8)
    assert denoise.timestep(torch.tensor([1e-9, 1e9])).tolist() == [0, 999]
    middle = denoise.timestep((sigma[1] * (1 / abar[11] - 1).sqrt()).sqrt()[None])
    assert torch.allclose(middle, torch.tensor([10.5], dtype=F64), atol=1e-6)
    assert denoise.accepts == {"label"}


def test_bad_ranges_and_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="lo < hi"):
        Denoiser(nn.Identity(), EDM(), 5.0, 1.0)
    with pytest.raises(ValueError, match="falls strictly"):
        FromVP(nn.Identity(), [0.5, 0.9])


@pytest.mark.parametrize("wrap", [lambda net: Denoiser(net, Eps()), lambda net: FromVP(net, [0.9, 0.5, 0.1])])
def test_a_network_that_declares_nothing_keeps_its_condition_and_its_exact_level(wrap) -> None:
    seen: list[tuple[Cond, Tensor]] = []

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.bfloat16))

        def forward(self, z: Tensor, level: Tensor, cond: Cond) -> Tensor:
            seen.append((cond, level))
            return z * self.scale

    denoise = wrap(Plain())
    D = denoise(torch.zeros(2, 3, 4, 4), torch.tensor(0.7), Cond(label=torch.tensor([3, 5])))
    cond, level = seen[-1]
    assert cond.label is not None and cond.label.tolist() == [3, 5] and "label" in denoise.accepts
    assert level.dtype == torch.float32 and D.dtype == torch.float32


def test_around_a_picture_the_difference_is_denoised() -> None:
    """The difference of a Gaussian from a known picture is a Gaussian: the exact estimate follows in closed form."""
    std, mean = 0.2, torch.randn(2, 3, 4, 4, dtype=F64)

    class Exact(nn.Module):
        """What a perfect EDM network of the difference predicts: c_skip alone is right where sigma_data is."""

        accepts = frozenset({"image"})

        def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
            return torch.zeros_like(x)

    denoise = Around(Exact(), EDM(std), 0.01, 10.0)
    for sigma in (0.05, 0.4, 5.0):
        x = mean + torch.randn(mean.shape, dtype=F64) * sigma
        wanted = mean + std**2 / (std**2 + sigma**2) * (x - mean)
        found = denoise(x, torch.tensor(sigma, dtype=F64), Cond(image=mean))
        assert float((found - wanted).abs().max()) < 1e-12
    hole = mean.clone()
    hole[:, :, 1:3] = torch.nan
    found = denoise(mean, torch.tensor(1.0, dtype=F64), Cond(image=hole))
    assert bool(found.isfinite().all())
    with pytest.raises(ValueError, match=r"needs cond\.image"):
        denoise(mean, torch.tensor(1.0), Cond())
