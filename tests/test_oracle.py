"""The oracle against numerical integration and plain linear algebra, so that everything else may lean on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from guided.cond import Cond
from guided.oracle import GaussianMixture

F64 = torch.float64
MEANS, STDS, WEIGHTS, CLASSES = [-1.5, 0.2, 2.0], [0.3, 0.8, 0.5], [0.2, 0.5, 0.3], [0, 1, 0]


def line() -> GaussianMixture:
    """A mixture of three on the line."""
    return GaussianMixture(
        torch.tensor(MEANS, dtype=F64)[:, None], torch.tensor(STDS), torch.tensor(WEIGHTS, dtype=F64), CLASSES
    )


def density(x: np.ndarray | float, only: int | None = None) -> np.ndarray | float:
    rows = [(w, m, s) for w, m, s, c in zip(WEIGHTS, MEANS, STDS, CLASSES, strict=True) if only in (None, c)]
    return sum(w * stats.norm.pdf(x, m, s) for w, m, s in rows)


@pytest.mark.parametrize("sigma", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("label", [-1, 0, 1])
def test_denoiser_is_the_posterior_mean_by_quadrature(sigma: float, label: int) -> None:
    only = None if label < 0 else label
    for x in (-2.0, 0.3, 1.7):
        weigh = lambda x0, x=x: density(x0, only) * stats.norm.pdf(x, x0, sigma)  # noqa: E731
        points = [-1.5, 0.2, 2.0, x]
        mass = integrate.quad(weigh, -12, 12, points=points, limit=400)[0]
        mean = integrate.quad(lambda x0, weigh=weigh: x0 * weigh(x0), -12, 12, points=points, limit=400)[0]
        D = line().denoiser()(torch.tensor([[x]], dtype=F64), torch.tensor(sigma), Cond(label=torch.tensor([label])))
        assert math.isclose(D.item(), mean / mass, rel_tol=1e-7, abs_tol=1e-8)


def test_density_and_class_posterior_by_scipy() -> None:
    x, sigma = torch.linspace(-4, 4, 9, dtype=F64), 0.7
    blurred = [w * stats.norm.pdf(x, m, math.hypot(s, sigma)) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)]
    np.testing.assert_allclose(line().log_prob(x[:, None], sigma), np.log(sum(blurred)), rtol=1e-6)
    np.testing.assert_allclose(line().log_prob(x[:, None]), np.log(density(x.numpy())), rtol=1e-6)
    share = (blurred[0] + blurred[2]) / sum(blurred)
    np.testing.assert_allclose(line().class_log_prob(x[:, None], sigma)[:, 0].exp(), share, rtol=1e-5)


def test_score_is_the_gradient_of_the_density() -> None:
    g = torch.Generator().manual_seed(0)
    data = GaussianMixture(
        torch.randn(4, 3, 2, 2, generator=g, dtype=F64), torch.rand(4, generator=g) + 0.2, torch.ones(4)
    )
    x = torch.randn(5, 3, 2, 2, generator=g, dtype=F64, requires_grad=True)
    sigma = torch.rand(5, generator=g, dtype=F64) + 0.1
    gradient = torch.autograd.grad(data.log_prob(x, sigma).sum(), x)[0]
    assert torch.allclose(data.score(x, sigma).detach(), gradient, atol=1e-10)


def test_posterior_with_a_measurement_by_importance_weighting() -> None:
    data, g = line(), torch.Generator().manual_seed(1)
    x, sigma, A, y, sigma_y = torch.tensor([[0.6]], dtype=F64), 1.2, torch.tensor([[0.8]], dtype=F64), 1.1, 0.5

    def weigh(x0: float) -> float:
        return density(x0) * stats.norm.pdf(0.6, x0, sigma) * stats.norm.pdf(y, 0.8 * x0, sigma_y)

    powers = [integrate.quad(lambda x0, k=k: x0**k * weigh(x0), -12, 12, limit=400)[0] for k in range(3)]
    mean, second = powers[1] / powers[0], powers[2] / powers[0]
    found = data.posterior(x, sigma, A, torch.tensor([[y]], dtype=F64), sigma_y)
    assert math.isclose(found.mean.item(), mean, rel_tol=1e-6)
    assert math.isclose(found.cov.item(), second - mean**2, rel_tol=1e-6)
    wide = torch.randn(2, 4, generator=g, dtype=F64)
    single = GaussianMixture(torch.randn(1, 4, generator=g, dtype=F64), torch.tensor([0.7]), torch.ones(1))
    x, y2 = torch.randn(1, 4, generator=g, dtype=F64), torch.randn(1, 2, generator=g, dtype=F64)
    precision = torch.eye(4, dtype=F64) * (1 / single.stds[0] ** 2 + 1 / 0.9**2) + wide.T @ wide / 0.3**2
    pull = single.means[0] / single.stds[0] ** 2 + x[0] / 0.9**2 + wide.T @ y2[0] / 0.3**2
    found = single.posterior(x, 0.9, wide, y2, 0.3)
    assert torch.allclose(found.cov[0], precision.inverse(), atol=1e-10)
    assert torch.allclose(found.mean[0], torch.linalg.solve(precision, pull), atol=1e-10)


def test_samples_have_the_moments_of_the_closed_form() -> None:
    data = line()
    for label in (None, 0):
        x = data.sample(200_000, torch.Generator().manual_seed(2), label)
        mean, cov = data.moments(label)
        assert abs(x.mean() - mean.item()) < 4 * (cov.item() / len(x)) ** 0.5
        assert abs(x.var() / cov.item() - 1) < 0.02


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="one entry a component"):
        GaussianMixture(torch.zeros(2, 1), torch.ones(3), torch.ones(2))
    with pytest.raises(ValueError, match="weights positive"):
        GaussianMixture(torch.zeros(2, 1), torch.ones(2), torch.zeros(2))
    with pytest.raises(ValueError, match="classes="):
        GaussianMixture(torch.zeros(1, 1), torch.ones(1), torch.ones(1)).class_log_prob(torch.zeros(1, 1), 1.0)


def test_it_is_differentiable_twice_and_reads_a_number_in_full() -> None:
    x = torch.tensor([[-0.4], [1.1]], dtype=F64)
    assert torch.autograd.gradgradcheck(lambda x: line().denoise(x, 0.7), x.clone().requires_grad_())
    assert torch.equal(line().denoise(x, 0.1), line().denoise(x, torch.tensor(0.1, dtype=F64)))
