"""The probability-flow ODE in both directions: paths, inversion, steps per image, densities, and what can be undone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from guided import ode, path, solvers
from guided.cond import Cond
from guided.denoiser import EDM, X0, Denoiser, Eps, Flow, V
from guided.noise import Noise, generator
from guided.oracle import GaussianMixture
from guided.sampling import sample

F64 = torch.float64
LO, HI = 0.02, 80.0


def mixture() -> GaussianMixture:
    g = torch.Generator().manual_seed(0)
    means = torch.randn(5, 6, generator=g, dtype=F64)
    return GaussianMixture(means, torch.tensor([0.3, 0.5, 0.4, 0.6, 0.35]), torch.ones(5), classes=[0, 1, 0, 1, 1])


def pictures(n: int = 48) -> Tensor:
    return mixture().sample(n, torch.Generator().manual_seed(1))


def legs(n: int) -> Tensor:
    """n levels of Karras' path, without the move to 0."""
    return path.karras(n, LO, HI)[:-1]


def rms(x: Tensor) -> Tensor:
    return x.double().flatten(1).square().mean(1).sqrt()


def slope(errors: list[float]) -> float:
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


class Counted:
    """A denoiser that keeps the levels it is asked about."""

    def __init__(self, denoise: Callable[[Tensor, Tensor, Cond], Tensor]) -> None:
        self.denoise, self.levels = denoise, []

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        self.levels.append(sigma)
        return self.denoise(x, sigma, cond)


# --- integrate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(solvers.NAMES))
def test_downwards_it_is_sample_bit_for_bit_and_upwards_it_comes_back(name: str) -> None:
    data, x = mixture(), HI * torch.randn(8, 6, generator=torch.Generator().manual_seed(2), dtype=F64)
    grid = path.karras(12, LO, HI)
    down = ode.integrate(data.denoiser(), x, grid, None, name)
    assert torch.equal(down, sample(data.denoiser(), x, grid, solver=name))
    fine = legs(100)
    low = ode.integrate(data.denoiser(), x, fine, None, name)
    up = ode.integrate(data.denoiser(), low, fine.flip(0), None, name)
    there_and_back = ode.integrate(data.denoiser(), x, torch.cat([fine, fine.flip(0)[1:]]), None, name)
    limit = 0.05 * HI if name in ("euler", "ddim", "eab1", "eab1_data", "deis1", "lms1") else 0.001 * HI
    assert (up - x).abs().median() < limit
    assert (there_and_back - x).abs().median() < limit


def test_a_start_at_0_is_a_start_at_lo() -> None:
    data, x = mixture(), pictures(4)
    denoise = Counted(data.denoiser())
    up = path.karras(6, LO, HI).flip(0)
    found = ode.integrate(denoise, x, up, None, "euler", lo=LO)
    assert torch.equal(found, ode.integrate(data.denoiser(), x, up[1:], None, "euler"))
    assert [float(level) for level in denoise.levels] == up[1:-1].tolist()
    lower = torch.cat([torch.tensor([0.002], dtype=F64), up[1:]])
    assert torch.equal(ode.integrate(denoise, x, up, None, "euler"), ode.integrate(denoise, x, lower, None, "euler"))
    # Where lo lies above the first level, the first move is none.
    assert torch.equal(ode.integrate(denoise, x, up, None, "euler", lo=1.0), found)


def test_integrate_refuses_what_is_no_path_and_no_state() -> None:
    x = pictures(2)
    with pytest.raises(ValueError, match="float32 or float64"):
        ode.integrate(mixture().denoiser(), x.half(), legs(4))
    for wrong in ([[1.0, 0.0]], [1.0, -1.0], [math.inf, 1.0]):
        with pytest.raises(ValueError, match="noise levels >= 0"):
            ode.integrate(mixture().denoiser(), x, torch.tensor(wrong))


# --- invert ------------------------------------------------------------------------------------------------------


def round_trip(n: int, solver: str, refinements: int) -> Tensor:
    denoise, x = mixture().denoiser(), pictures()
    noise = ode.invert(denoise, x, path.karras(n, LO, HI), None, solver, refinements=refinements)
    return rms(ode.integrate(denoise, noise, legs(n), None, solver) - x)


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("dpm2", 2), ("dpmpp_2m", 2), ("unipc2", 2)])
def test_the_round_trip_error_falls_with_the_order_and_each_refinement_adds_it_again(name: str, order: int) -> None:
    """Up and down again by a solver of even order p, the errors h^(p+1) of the two ways cancel: the trip has p + 1."""
    trip = order if order % 2 else order + 1
    for refinements, grid in ((0, (32, 64, 128)), (1, (32, 64))):
        errors = [float(round_trip(n, name, refinements).median()) for n in grid]
        assert abs(slope(errors) - trip * (1 + refinements)) < 0.35 * (1 + refinements), errors
        assert slope(errors) > order * (1 + refinements) - 0.2


@pytest.mark.parametrize("name", ["euler", "heun", "eab3"])
def test_no_refinement_makes_a_round_trip_worse(name: str) -> None:
    """Five steps are far too few for the fixed point: some images it helps, the others it leaves as they were."""
    plain, once, thrice = (round_trip(5, name, refinements) for refinements in (0, 1, 3))
    assert bool((once <= plain + 1e-9).all()) and bool((thrice <= once + 1e-9).all())
    assert bool((once < 0.9 * plain).any())


def test_invert_takes_a_falling_path_alone() -> None:
    for wrong in (legs(4).flip(0), torch.tensor([1.0, 0.0]), torch.tensor([3.0, 1.0, 2.0])):
        with pytest.raises(ValueError, match="falling path"):
            ode.invert(mixture().denoiser(), pictures(2), wrong)


# --- adaptive ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rising", [False, True])
@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-4])
def test_adaptive_keeps_its_tolerance_on_a_gaussian(rising: bool, tol: float) -> None:
    """In closed form: x - m goes with sqrt(v + sigma^2)."""
    m, v = 0.7, 0.04
    data = GaussianMixture(torch.full((1, 5), m, dtype=F64), torch.tensor([v**0.5], dtype=F64), torch.ones(1))
    ends = (0.002, 60.0)
    start, end = ends if rising else ends[::-1]
    x = m + math.hypot(v**0.5, start) * torch.randn(6, 5, generator=torch.Generator().manual_seed(3), dtype=F64)
    exact = m + math.hypot(v**0.5, end) / math.hypot(v**0.5, start) * (x - m)
    found = ode.adaptive(data.denoiser(), x, *ends, None, tol, rising=rising)
    error = rms(found.x - exact) / math.hypot(1, end)
    assert float(error.max()) < 10 * tol and int(found.evaluations.max()) < 40 * tol ** (-1 / 3)
    single = ode.adaptive(data.denoiser(), x.float(), *ends, None, tol, rising=rising)
    assert single.x.dtype == torch.float32
    assert float((rms(single.x - exact) / math.hypot(1, end)).max()) < 10 * tol


@pytest.mark.parametrize("rising", [False, True])
def test_what_an_image_gets_is_free_of_its_batch(rising: bool) -> None:
    """Steps, evaluations and result alone are those in a batch with other conditions; the count is the calls."""
    data, labels = mixture(), torch.tensor([0, 1, -1, 0, 1])
    x = pictures(5) if rising else HI * torch.randn(5, 6, generator=torch.Generator().manual_seed(4), dtype=F64)
    whole = ode.adaptive(data.denoiser(), x, LO, HI, Cond(label=labels), 1e-3, rising=rising)
    assert len(set(whole.evaluations.tolist())) > 1
    for i in range(5):
        denoise = Counted(data.denoiser())
        alone = ode.adaptive(denoise, x[i : i + 1], LO, HI, Cond(label=labels[i : i + 1]), 1e-3, rising=rising)
        assert int(alone.evaluations) == int(whole.evaluations[i]) == len(denoise.levels)
        assert (alone.x - whole.x[i]).abs().max() < 1e-9 * HI


def test_up_and_down_again_is_where_it_was() -> None:
    data, x = mixture(), pictures(8)
    up = ode.adaptive(data.denoiser(), x, LO, HI, tol=1e-6, rising=True).x
    assert (ode.adaptive(data.denoiser(), up, LO, HI, tol=1e-6).x - x).abs().max() < 1e-3


def test_adaptive_says_when_it_cannot_arrive() -> None:
    broken = lambda x, sigma, cond: torch.where(sigma[:, None] < 1, torch.nan, 0.0) * x  # noqa: E731
    with pytest.raises(RuntimeError, match=r"sigma = (1|0\.99)"):
        ode.adaptive(broken, pictures(2), LO, HI)
    for lo, hi, tol in ((0.0, 1.0, 0.1), (2.0, 1.0, 0.1), (0.1, 1.0, 0.0)):
        with pytest.raises(ValueError, match="0 < lo < hi"):
            ode.adaptive(mixture().denoiser(), pictures(2), lo, hi, tol=tol)


# --- log_prob ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [None, 1])
def test_the_exact_density_of_a_mixture(label: int | None) -> None:
    data, n = mixture(), 12
    x = data.sample(n, torch.Generator().manual_seed(5), label=label)
    cond = Cond() if label is None else Cond(label=torch.full((n,), label))
    exact = data.log_prob(x)
    if label is not None:
        share = torch.isin(data.classes, torch.tensor(label)).double()
        exact = GaussianMixture(data.means, data.stds, share + 1e-300).log_prob(x)
    found = ode.log_prob(data.denoiser(), x, 0.002, HI, cond, 1e-3)
    assert float((found.log_prob - exact).abs().max()) / data.dim < 0.001
    up = ode.adaptive(data.denoiser(), x, 0.002, HI, cond, 1e-6, rising=True)
    assert float(rms(found.x - up.x).max()) / HI < 0.01


def test_a_gaussian_needs_no_high_noise() -> None:
    """What is taken for the density at hi is exact there: mean and variance come from the denoiser."""
    data = GaussianMixture(torch.full((1, 4), 3.0, dtype=F64), torch.tensor([0.7]), torch.ones(1))
    x = data.sample(6, torch.Generator().manual_seed(6))
    found = ode.log_prob(data.denoiser(), x, 0.002, 2.0, tol=1e-6)
    assert float((found.log_prob - data.log_prob(x, 0.002)).abs().max()) < 1e-4


def wide() -> GaussianMixture:
    g = torch.Generator().manual_seed(7)
    means = torch.randn(6, 1, 8, 8, generator=g, dtype=F64) / torch.arange(1, 9) ** 0.5
    return GaussianMixture(0.5 * means, torch.full((6,), 0.3), torch.ones(6))


def test_hutchinsons_estimate_is_the_trace_on_average() -> None:
    """Within 0.005 nats a number over counted signs; and exact over signs that are orthogonal to each other."""
    data = wide()
    x = data.sample(24, torch.Generator().manual_seed(8))
    found = ode.log_prob(data.denoiser(), x, 0.01, HI, tol=1e-3, noise=Noise(range(24), "probes"), probes=4)
    error = (found.log_prob - data.log_prob(x, 0.01)) / data.dim
    assert abs(float(error.mean())) < 0.005 and float(error.std()) > 1e-4

    small = GaussianMixture(torch.randn(3, 4, generator=generator("h", 0, 0), dtype=F64), torch.ones(3), torch.ones(3))
    x = small.sample(3, torch.Generator().manual_seed(9))
    signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) * 0.3
    rows = lambda i, shape: signs[i].expand(3, *shape)  # noqa: E731
    exact = ode.log_prob(small.denoiser(), x, LO, HI)
    assert torch.allclose(ode.log_prob(small.denoiser(), x, LO, HI, noise=rows, probes=4).log_prob, exact.log_prob)


def test_a_density_is_free_of_its_batch_and_of_the_precision() -> None:
    data, noise = wide(), Noise([5, 6, 7], "probes")
    x = data.sample(3, torch.Generator().manual_seed(10))
    whole = ode.log_prob(data.denoiser(), x, LO, HI, noise=noise)
    alone = ode.log_prob(data.denoiser(), x[1:2], LO, HI, noise=noise.rows([1]))
    assert torch.allclose(alone.log_prob, whole.log_prob[1:2], atol=1e-8)
    assert alone.evaluations == whole.evaluations[1]
    single = ode.log_prob(data.denoiser(), x.float(), LO, HI, noise=noise)
    assert single.x.dtype == torch.float32 and single.log_prob.dtype == F64
    assert float((single.log_prob - whole.log_prob).abs().max()) / data.dim < 0.001


def test_a_denoiser_without_gradients_is_refused() -> None:
    detached = lambda x, sigma, cond: mixture().denoise(x.detach(), sigma)  # noqa: E731
    with pytest.raises(ValueError, match="carries no gradient"):
        ode.log_prob(detached, pictures(2), LO, HI)
    with pytest.raises(ValueError, match="at least 1 probe"):
        ode.log_prob(mixture().denoiser(), pictures(2), LO, HI, noise=Noise([0, 1]), probes=0)


# --- BELM --------------------------------------------------------------------------------------------------------


def levels_of(n: int, kind: str) -> Tensor:
    """n moves from 20 to 0.1."""
    if kind != "random":
        return (path.karras if kind == "karras" else path.flow)(n + 1, 0.1, 20.0)[:-1]
    steps = 1 + torch.rand(n, generator=torch.Generator().manual_seed(11), dtype=F64)
    along = torch.cat([steps.new_zeros(1), steps.cumsum(0) / steps.sum()])
    return torch.lerp(*torch.tensor([20.0, 0.1], dtype=F64).atan(), along).tan()


@pytest.mark.parametrize("kind", ["karras", "flow", "random"])
@pytest.mark.parametrize("rising", [False, True])
def test_belm_has_second_order_on_steps_that_vary(kind: str, rising: bool) -> None:
    denoise, x = mixture().denoiser(), pictures()
    if not rising:
        x = ode.adaptive(denoise, x, 0.1, 20.0, tol=1e-5, rising=True).x
    truth = ode.adaptive(denoise, x, 0.1, 20.0, tol=1e-6, rising=rising).x
    errors = []
    for n in (50, 100, 200):
        levels = levels_of(n, kind)
        errors.append(float(rms(ode.belm(denoise, x, levels.flip(0) if rising else levels)[0] - truth).median()))
    assert abs(slope(errors) - 2) < 0.2, errors


def test_belm_is_the_papers_recursion_in_the_angle() -> None:
    """Wang et al. 2024: x_next = a1 x + a2 x_before + b h slope, the coefficients that cancel z, z' and z''."""
    denoise, levels = mixture().denoiser(), path.karras(9, 0.05, 30.0)[:-1]
    x = 30 * torch.randn(4, 6, generator=torch.Generator().manual_seed(12), dtype=F64)
    t = levels.atan()
    z = [x * t[0].cos()]
    for i in range(8):
        x_here = z[i] / t[i].cos()
        D = denoise(x_here, levels[i], Cond())
        slope = t[i].cos() * (x_here - D) / levels[i] - t[i].sin() * D
        h = t[i + 1] - t[i]
        if i == 0:
            z.append(z[0] + h * slope)
        else:
            r = h / (t[i] - t[i - 1])
            z.append((1 - r**2) * z[i] + r**2 * z[i - 1] + h * (1 + r) * slope)
    found, _ = ode.belm(denoise, x, levels)
    assert torch.allclose(found, z[-1] / t[-1].cos(), atol=1e-6)
    assert torch.allclose(sample(denoise, x, levels, solver=ode.Belm()), found, atol=1e-6)


class Small(nn.Module):
    """A random convolutional network, in float32."""

    accepts = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(5, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)])
        for i, p in enumerate(self.parameters()):
            fan = p[0].numel() if p.ndim > 1 else 16
            p.data = torch.randn(p.shape, generator=generator("belm", 0, i)) / fan**0.5

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        level = torch.stack([(c_noise / 300).sin(), (c_noise / 300).cos()], 1).to(x)
        h = torch.cat([x, level[:, :, None, None].expand(-1, -1, *x.shape[2:])], 1)
        return self.layers[1](nn.functional.silu(self.layers[0](h)))


@pytest.mark.parametrize("kind", [EDM(0.5), Eps(), X0(0.5), V(), Flow()], ids=repr)
@pytest.mark.parametrize("grid", [path.karras, path.flow], ids=["karras", "flow"])
@torch.no_grad()
def test_belm_returns_to_the_image_in_every_parametrisation(kind, grid) -> None:
    """In float32 to 1e-5, up and down over the whole range; Heun's round trip on the same path misses it."""
    denoise, x0 = Denoiser(Small(), kind), torch.rand(2, 3, 12, 12, generator=generator("x0", 0, 0)) * 2 - 1
    levels = grid(24, 0.002, 80.0)[:-1]
    noise, momentum = ode.belm(denoise, x0, levels.flip(0))
    assert noise.std() > 20
    back, returned = ode.belm(denoise, noise, levels, None, -momentum)
    assert (back.float() - x0).abs().max() < 1e-5
    # On the grid from the start, both ways retrace every bit, and so does the way up once more.
    again, last = ode.belm(denoise, back, levels.flip(0), None, -returned)
    assert torch.equal(again, noise) and torch.equal(last, momentum)
    heun = ode.integrate(denoise, ode.integrate(denoise, x0, levels.flip(0)), levels)
    assert (heun - x0).abs().max() > 1e-3


def test_belm_in_a_loop_of_others_turns_round_and_costs_one_evaluation_a_step() -> None:
    denoise, x = Counted(mixture().denoiser()), pictures(6)
    levels = legs(16).flip(0)
    there = torch.cat([levels, levels.flip(0)[1:]])
    assert (ode.integrate(denoise, x, there, None, ode.Belm()) - x).abs().max() < 1e-6
    assert len(denoise.levels) == 30
    full = path.karras(16, LO, HI)
    denoise.levels.clear()
    sample(denoise, x, full, solver=ode.Belm())
    assert len(denoise.levels) == path.nfe(full, ode.Belm()) == 16
    noisy = path.ancestral(path.karras(40, LO, HI))
    drawn = sample(denoise, HI * torch.randn(6, 6, dtype=F64), noisy, solver=ode.Belm(), noise=Noise(range(6)))
    assert drawn.abs().max() < 5


def test_belm_refuses_a_path_that_cannot_be_undone() -> None:
    for wrong in (path.karras(4, LO, HI), torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0])):
        with pytest.raises(ValueError, match="falls or rises at every move"):
            ode.belm(mixture().denoiser(), pictures(2), wrong)
