"""The variational bound: above the exact likelihood, closing with T, the same in every parametrisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from guided import path as paths
from guided.cond import Cond
from guided.denoiser import EDM, X0, Denoiser, Eps, Flow, Parametrization, V
from guided.evaluate.likelihood import elbo
from guided.noise import Noise, generator
from guided.oracle import GaussianMixture


def mixture() -> GaussianMixture:
    means = torch.tensor([[-0.5, 0.2, 0.0], [0.6, -0.3, 0.4]], dtype=torch.float64)
    return GaussianMixture(means, torch.tensor([0.2, 0.3]), torch.tensor([1.0, 2.0]), classes=[0, 1])


def draws(n: int) -> Callable[[int, Sequence[int]], Tensor]:
    """A whole batch at once, in float64: quicker than one generator an image."""
    return lambda index, shape: torch.randn(n, *shape, generator=generator("e", 0, index), dtype=torch.float64)


def test_it_lies_above_the_exact_nll_and_the_gap_falls() -> None:
    data, n = mixture(), 9_000
    x0 = data.sample(n, torch.Generator().manual_seed(0))
    exact = -data.log_prob(x0)
    gaps, errors = [], []
    for steps in (50, 200, 1000):
        gap = elbo(data.denoiser(), x0, paths.log_snr(steps, 0.005, 60.0), draws(n), levels=None).nats - exact
        gaps.append(float(gap.mean()))
        errors.append(float(gap.std()) / math.sqrt(n))
    assert all(gap > 3 * error for gap, error in zip(gaps, errors, strict=True)), (gaps, errors)
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2], gaps
    # The error of the first order in the step h of ln sigma: h^2 / 2 a number and move, in the middle of the range.
    assert gaps[2] == pytest.approx(gaps[1] / 5, abs=4 * (errors[1] / 5 + errors[2]))


def test_conditions_reach_the_denoiser() -> None:
    data, n = mixture(), 500
    x0 = data.sample(n, torch.Generator().manual_seed(1), label=1)
    path = paths.log_snr(50, 0.01, 60.0)
    right, wrong = (
        elbo(data.denoiser(), x0, path, draws(n), Cond(label=torch.full((n,), label)), levels=None).nats.mean()
        for label in (1, 0)
    )
    assert float(right) + 1 < float(wrong)


class Inverted(nn.Module):
    """The oracle as a network of some parametrisation: its affine map solved for the network's output."""

    accepts = frozenset({"label"})

    def __init__(self, data: GaussianMixture, kind: Parametrization) -> None:
        super().__init__()
        self.data, self.kind = data, kind

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        t = c_noise / 1000
        sigma = t / (1 - t) if isinstance(self.kind, Flow) else (c_noise / 250).exp()
        skip, out, scale, _ = (c[:, None] for c in self.kind.coefficients(sigma))
        D = self.data.denoise(x / scale, sigma, cond.label)
        return (D - skip * x / scale) / out


@pytest.mark.parametrize("kind", [EDM(0.5), EDM(1.3), Eps(), X0(0.7), V(), Flow()], ids=repr)
def test_it_is_equal_for_all_parametrisations(kind: Parametrization) -> None:
    data = mixture()
    x0 = data.sample(40, torch.Generator().manual_seed(2))
    path = paths.log_snr(50, 0.01, 60.0)
    oracle = elbo(data.denoiser(), x0, path, draws(40), levels=None)
    found = elbo(Denoiser(Inverted(data, kind), kind, 0.01, 60.0), x0, path, draws(40), levels=None)
    assert float((found.nats - oracle.nats).abs().max()) < 1e-5
    assert float((found.bits_per_dim - oracle.nats / (3 * math.log(2))).abs().max()) < 1e-5


def test_a_move_is_the_kl_of_the_two_posterior_steps() -> None:
    """By the general formula for Gaussians, from the chain's own means and variances."""
    data = mixture()
    x0 = data.sample(7, torch.Generator().manual_seed(3))
    noise = draws(7)
    high, low = 1.7, 0.6
    bound = elbo(data.denoiser(), x0, torch.tensor([high, low, 0.0]), noise, levels=None)
    x = x0 + high * noise(1, (3,))
    keep = low**2 / high**2
    variance = low**2 * (high**2 - low**2) / high**2
    D = data.denoise(x, high)
    p = torch.distributions.Normal(keep * x + (1 - keep) * x0, variance**0.5)
    q = torch.distributions.Normal(keep * x + (1 - keep) * D, variance**0.5)
    assert torch.allclose(bound.moves[:, 0], torch.distributions.kl_divergence(p, q).sum(1), atol=1e-12)
    start = torch.distributions.kl_divergence(
        torch.distributions.Normal(x0, high), torch.distributions.Normal(torch.zeros(()).double(), high)
    )
    assert torch.allclose(bound.prior, start.sum(1), atol=1e-12)


def test_discrete_levels_have_probabilities_that_sum_to_1() -> None:
    """One move, an image of one number: the masses of all 256 levels under the same D add up to 1."""
    grid = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]

    def constant(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return torch.full_like(x, 0.31)

    for sigma in (1e-3, 0.02, 0.5, 5.0):
        bound = elbo(constant, grid, torch.tensor([sigma, 0.0]), draws(256))
        assert float((-bound.reconstruction).exp().sum()) == pytest.approx(1, abs=1e-12)
        assert bool(bound.nats.isfinite().all()), "far from D the tails stay finite"


def test_a_lookup_of_discrete_data_needs_no_more_bits_than_its_entropy_allows() -> None:
    """Data of two equally likely images: the oracle's bound falls to ln 2 nats."""
    means = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    data = GaussianMixture(means, torch.zeros(2), torch.ones(2))
    x0 = means.repeat(500, 1)
    nats = elbo(data.denoiser(), x0, paths.log_snr(400, 1e-3, 80.0), draws(1000)).nats
    assert math.log(2) < float(nats.mean()) < math.log(2) + 0.05


def test_counted_noise_makes_it_a_figure_of_the_image_alone() -> None:
    data = mixture()
    x0 = data.sample(5, torch.Generator().manual_seed(4))
    path = paths.log_snr(8, 0.05, 20.0)
    whole = elbo(data.denoiser(), x0, path, Noise(range(5)), levels=None).nats
    alone = elbo(data.denoiser(), x0[3:4], path, Noise([3]), levels=None).nats
    assert torch.allclose(whole[3:4], alone, atol=1e-12)


def test_other_paths_and_dtypes_are_refused() -> None:
    data = mixture()
    x0 = data.sample(2, torch.Generator().manual_seed(5))
    for path in ([3.0, 1.0], [1.0, 2.0, 0.0], [1.0]):
        with pytest.raises(ValueError, match="falls at every move"):
            elbo(data.denoiser(), x0, torch.tensor(path), draws(2))
    with pytest.raises(ValueError, match="float32 or float64"):
        elbo(data.denoiser(), x0.half(), torch.tensor([1.0, 0.0]), draws(2))
