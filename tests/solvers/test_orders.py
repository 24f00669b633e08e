"""Orders of convergence: of the ODE against a fine reference, and of noisy paths against moments in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from guided import path, solvers
from guided.cond import Cond
from guided.oracle import GaussianMixture
from guided.sampling import sample
from guided.solvers.adams import Past
from guided.solvers.data_form import History
from tests.solvers.problems import F64, NAMES, NOISE_FORM, ORDERS, beginning, legs, mixture, start, truth


def error(name: str, seed: int, n: int, ends: tuple[float, float], exact: int) -> float:
    """The RMS error after n moves, of which the first `exact` are replaced by the truth and remembered."""
    step, denoise, levels, memory = solvers.by_name(name), mixture(seed).denoiser(), legs(n, *ends), None
    x, states = start(seed, ends[1]), beginning(seed, n, *ends)
    for i in range(n):
        x, memory = step(denoise, x, levels[i], levels[i + 1], Cond(), memory, levels[i + 1])
        if i < exact:
            x = states[i + 1]
            # An exact value wants no correction.
            memory = memory._replace(predicted=None) if isinstance(memory, History | Past) else memory
    return (x - truth(seed, *ends)).square().mean().sqrt().item()


def measured(name: str, seed: int, n: int, ends: tuple[float, float], exact: int) -> float:
    return math.log2(error(name, seed, n, ends, exact) / error(name, seed, 2 * n, ends, exact))


def test_every_solver_is_tested() -> None:
    assert {repr(solvers.by_name(name)) for name in NAMES} == {repr(solver) for solver in solvers.NAMES.values()}


@pytest.mark.parametrize("name", NAMES)
def test_order_of_convergence(name: str) -> None:
    order = measured(name, 0, 80, (1.5, 6.0), exact=3)
    print(f"{name}: order {order:.2f} from exact values, {measured(name, 0, 80, (1.5, 6.0), 0):.2f} from its own start")
    assert abs(order - ORDERS[name]) < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_order_of_convergence_over_more_noise_levels(name: str, seed: int) -> None:
    order = measured(name, seed, 160, (1.0, 8.0), exact=3)
    print(f"{name}: order {order:.2f} from exact values, {measured(name, seed, 160, (1.0, 8.0), 0):.2f} from its own")
    assert abs(order - ORDERS[name]) < 0.2


ROUTES = {"ancestral": path.ancestral, "churn": lambda grid: path.churn(grid, 2 / len(grid))}


def variance_error(name: str, route: Tensor) -> float:
    """The relative error of the final variance of a Gaussian, free of the draws: the problem is linear, so the variance
    is the sum of the squared responses to each draw, one image a draw."""
    std, draws = 0.7, int((route.diff() > 0).sum())
    data = GaussianMixture(torch.zeros(1, 1, dtype=F64), torch.tensor([std], dtype=F64), torch.ones(1))
    rises = iter(range(1, draws + 1))
    impulse = lambda index, shape: torch.eye(draws + 1, dtype=F64)[:, next(rises), None]  # noqa: E731
    x = torch.zeros(draws + 1, 1, dtype=F64)
    x[0] = math.hypot(std, route[0])
    final = sample(data.denoiser(), x, route, solver=name, noise=impulse)
    return abs(final.square().sum().item() / (std**2 + float(route[-1]) ** 2) - 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ROUTES)
def test_weak_order_on_noisy_paths(name: str, kind: str) -> None:
    """Order 1 with Euler; the data form keeps second order, the noise form steps as Euler does."""
    coarse, fine = (variance_error(name, ROUTES[kind](legs(n, 0.3, 20.0))) for n in (40, 160))
    order = math.log(coarse / fine, 4)
    print(f"{name} on a path with {kind}: weak order {order:.2f}")
    if name in NOISE_FORM or ORDERS[name] == 1:
        assert 0.8 <= order <= 1.2
    else:
        assert order > 1.6
        assert fine < variance_error("euler", ROUTES[kind](legs(160, 0.3, 20.0))) / 8


@pytest.mark.parametrize("name", NAMES)
def test_restart_ends_in_the_datas_own_variance(name: str) -> None:
    grid = legs(64, 0.3, 20.0)
    route = path.restart(grid, 0.5, 5.0, times=2)
    assert variance_error(name, route) < (0.15 if ORDERS[name] == 1 else 0.01)
