"""The bench's problems: exact denoisers, exact ends, the schedules in use."""

from __future__ import annotations

import math

import pytest
import torch

from guided.bench import problems
from guided.bench.problems import Mixture
from guided.cond import Cond
from guided.oracle import GaussianMixture

F64 = torch.float64


@pytest.mark.parametrize("sigma", [0.03, 0.4, 15.0])
@pytest.mark.parametrize("label", [None, torch.tensor([0, 1, 2, -1, 0])])
def test_an_isotropic_mixture_is_the_oracles(sigma: float, label: torch.Tensor | None) -> None:
    data = problems.ring(0.15)
    oracle = GaussianMixture(data.means, torch.full((8,), 0.15, dtype=F64), torch.ones(8), data.classes)
    x = sigma * torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    level, cond = torch.tensor(sigma, dtype=F64), Cond(label=label)
    torch.testing.assert_close(data(x, level, cond), oracle.denoiser()(x, level, cond), rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [0.05, 0.7, 6.0])
def test_a_spectrum_is_denoised_by_its_score(sigma: float) -> None:
    data = problems.spectral(3, dim=12)
    x = torch.randn(4, 12, generator=torch.Generator().manual_seed(1), dtype=F64).mul(1 + sigma).requires_grad_()
    # Tweedie: D = x + sigma^2 grad ln p, with the density written out.
    variance = data.variances + sigma**2
    apart = x[:, None] - data.means
    log = (-0.5 * (apart**2 / variance + variance.log()).sum(-1)).logsumexp(1)
    (score,) = torch.autograd.grad(log.sum(), x)
    D = data(x.detach(), torch.tensor(sigma, dtype=F64), Cond())
    torch.testing.assert_close(D, x.detach() + sigma**2 * score, rtol=0, atol=1e-9)


def test_the_ode_ends_where_a_gaussian_says() -> None:
    stds = torch.tensor([[0.05, 0.3, 2.0]], dtype=F64)
    data = Mixture(torch.tensor([[1.0, -2.0, 0.5]], dtype=F64), stds, torch.zeros(1, dtype=torch.long))
    x = 15 * torch.randn(6, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    exact = data.means + (x - data.means) * stds / (stds**2 + 15.0**2).sqrt()
    torch.testing.assert_close(problems.integrate(data, x, 15.0, Cond()), exact, rtol=0, atol=1e-7)
    between = data.means + (x - data.means) * ((stds**2 + 0.3**2) / (stds**2 + 15.0**2)).sqrt()
    torch.testing.assert_close(problems.integrate(data, x, 15.0, Cond(), lo=0.3), between, rtol=0, atol=1e-7)


def test_schedules_have_the_published_range_and_the_standard_problems_stand_on_them() -> None:
    listed = problems.standard(4)
    assert [problem.w for problem in listed] == [1, 1, 3, 7, 5, 1] and len({p.name for p in listed}) == 6
    for problem in listed[:5]:
        assert math.isclose(problem.lo, 0.0292, rel_tol=2e-3) and math.isclose(problem.hi, 14.61, rel_tol=1e-3)
    assert math.isclose(listed[5].lo, 0.0064, rel_tol=1e-2) and math.isclose(listed[5].hi, 20291, rel_tol=1e-3)
    for problem in listed:
        assert (problem.cond.label is None) == (problem.w == 1)
        assert abs(float(problem.x.square().mean().sqrt()) / problem.hi - 1) < 0.4


def test_random_problems_follow_from_their_seed_and_other_noise_is_another_problem() -> None:
    once, twice, other = (problems.random_mixtures(8, seed, 4) for seed in (1, 1, 2))
    for a, b, c in zip(once, twice, other, strict=True):
        assert a.name == b.name and torch.equal(a.x, b.x) and torch.equal(a.data.means, b.data.means)
        assert not torch.equal(a.x, c.x)
    assert len({p.name for p in once}) == 8 and {p.w for p in once} == {1, 3, 5, 7}
    assert not torch.equal(once[0].again(5).x, once[0].x) and once[0].again(5).data is once[0].data
