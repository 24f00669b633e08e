"""Solvers: orders of convergence against a fine reference, and the exact step each reduces to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from guided import path, solvers
from guided.cond import Cond
from guided.oracle import GaussianMixture
from guided.sampling import sample

F64 = torch.float64
ORDERS = [("euler", 1), ("heun", 2), ("dpmpp_2m", 2), ("eab2", 2), ("eab2_data", 2), ("lms2", 2), ("unipc2", 3)]


def problem() -> tuple[GaussianMixture, Tensor, Cond]:
    g = torch.Generator().manual_seed(0)
    data = GaussianMixture(
        torch.randn(5, 6, generator=g, dtype=F64), torch.tensor([0.3, 0.5, 0.4, 0.6, 0.35]), torch.ones(5)
    )
    return data, 20 * torch.randn(64, 6, generator=g, dtype=F64), Cond()


def legs(n: int) -> Tensor:
    """n moves over [0.3, 20], without the last one to 0."""
    return path.log_snr(n + 1, 0.3, 20.0)[:-1]


def slope(errors: list[float]) -> float:
    """The order that three halvings of the step show."""
    return math.log2(errors[0] / errors[-1]) / (len(errors) - 1)


@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_order_of_convergence(name: str, order: int) -> None:
    data, x, cond = problem()
    truth = sample(data.denoiser(), x, legs(2000), cond, solver="heun")
    found = [sample(data.denoiser(), x, legs(n), cond, solver=name) for n in (64, 128, 256)]
    # The median image: one that starts near the border of two modes converges late, whatever the solver.
    errors = [(f - truth).norm(dim=1).median().item() for f in found]
    assert abs(slope(errors) - order) < 0.2, errors


@pytest.mark.parametrize("name", [name for name, _ in ORDERS])
def test_a_constant_denoiser_is_solved_exactly_and_a_step_to_0_is_D_itself(name: str) -> None:
    target = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    x = target + 9 * torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
    still = lambda x, sigma, cond: target  # noqa: E731
    assert torch.equal(sample(still, x, path.karras(7, 0.01, 9.0), solver=name), target)
    near = sample(still, x, torch.tensor([9.0, 5.0, 0.5]), solver=name)
    assert torch.allclose(near, target + 0.5 / 9 * (x - target), atol=1e-6)


@pytest.mark.parametrize("make", [path.ancestral, lambda p: path.churn(p, 2 / len(p))])
def test_2m_keeps_second_order_on_noisy_paths(make) -> None:
    """The mean of a Gaussian along a noisy path is free of the draws: Euler errs at first order in it, 2M at second."""
    data = GaussianMixture(torch.zeros(1, 1, dtype=F64), torch.tensor([0.7]), torch.ones(1))
    variances = {}
    for name in ("euler", "dpmpp_2m"):
        errors = []
        for n in (40, 160):
            # A linear problem: the variance follows from the response to each draw, one image a draw.
            route = make(legs(n))
            draws = int((route.diff() > 0).sum())
            rises = iter(range(1, draws + 1))
            impulse = lambda i, shape, rises=rises, draws=draws: torch.eye(draws + 1, dtype=F64)[:, next(rises), None]  # noqa: E731
            start = torch.zeros(draws + 1, 1, dtype=F64)
            start[0] = math.hypot(0.7, 20)
            final = sample(data.denoiser(), start, route, solver=name, noise=impulse)
            errors.append(abs(final.square().sum().item() / (0.49 + 0.09) - 1))
        variances[name] = errors
    assert variances["dpmpp_2m"][1] < variances["euler"][1] / 8
    assert math.log(variances["euler"][0] / variances["euler"][1], 4) < 1.3
    assert math.log(variances["dpmpp_2m"][0] / variances["dpmpp_2m"][1], 4) > 1.6


def test_multistep_memory_is_forgotten_where_the_path_returns() -> None:
    data, x, cond = problem()
    level = torch.tensor(3.0, dtype=F64)
    step = solvers.dpmpp_2m
    memory = step(data.denoiser(), x, torch.tensor(5.0, dtype=F64), level, cond, None, level)[1]
    down = torch.tensor(2.0, dtype=F64)
    assert step(data.denoiser(), x, level, down, cond, memory, torch.tensor(4.0, dtype=F64))[1] is None
    assert step(data.denoiser(), x, level, down, cond, memory, down)[1] is not None


def test_diffusers_ddim_agrees_on_the_same_levels() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(20)
    data, _, cond = problem()
    abar = scheduler.alphas_cumprod.double()
    sigmas = torch.cat([(1 / abar[scheduler.timesteps] - 1).sqrt(), torch.zeros(1, dtype=F64)])
    x = sigmas[0] * torch.randn(8, 6, generator=torch.Generator().manual_seed(3), dtype=F64)
    z = x * abar[scheduler.timesteps[0]].sqrt()
    for t in scheduler.timesteps:
        alpha = abar[t].sqrt()
        eps = (z - alpha * data.denoise(z / alpha, (1 / abar[t] - 1).sqrt())) / (1 - abar[t]).sqrt()
        z = scheduler.step(eps, t, z).prev_sample
    assert torch.allclose(sample(data.denoiser(), x, sigmas, cond, solver="ddim"), z, atol=1e-6)


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(ValueError, match="heun"):
        solvers.by_name("hein")
