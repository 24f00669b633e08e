"""The limited Adams method against the polynomial it integrates, and what its limits do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from guided import path, solvers
from guided.cond import Cond
from guided.sampling import sample
from guided.solvers import Adams
from tests.solvers.problems import F64, mixture, start

FREE = {"predict": 1e9, "correct": 1e9, "share": 1e9}


def integral(levels: list[float], noises: list[Tensor], here: float, there: float, shift: float) -> Tensor:
    """The integral of the polynomial in ln(sigma + shift) through the noises, by a fit and Gauss' quadrature."""
    y = np.log(np.array(levels) + shift)
    points, weights = np.polynomial.legendre.leggauss(40)
    sigma = here + (there - here) * (points + 1) / 2
    powers = np.arange(len(levels))
    # The weights of the noises: the integrals of 1, y, y^2, ... solved for in the powers at the nodes.
    middle = y.mean()
    moments = (((np.log(sigma + shift) - middle)[:, None] ** powers) * weights[:, None]).sum(0) * (there - here) / 2
    factors = np.linalg.solve(((y - middle)[:, None] ** powers).T, moments)
    return sum((float(f) * n for f, n in zip(factors, noises, strict=True)), torch.zeros_like(noises[0]))


@pytest.mark.parametrize("order", [2, 3, 4])
def test_it_predicts_and_corrects_with_the_integrals_of_the_polynomial(order: int) -> None:
    data, shift, route = mixture(), 0.2, path.karras(7, 0.1, 10.0)
    x = start(0, 10.0)
    found = sample(data.denoiser(), x, route, solver=Adams(order, shift, **FREE))
    levels, seen, before = route[:-1].tolist(), [], x
    for i, here in enumerate(levels):
        D = data.denoise(x, here)
        if i:
            # Predicted x, evaluated, corrected: the new noise stands first.
            count = min(order, i + 1)
            past = [(x - D) / here, *(n for _, n in reversed(seen))][:count]
            nodes = [here, *reversed(levels[:i])][:count]
            x = before + integral(nodes, past, levels[i - 1], here, shift)
        seen.append((here, (x - D) / here))
        last = i + 1 == len(levels)
        count = min(2 if last else order - 1, i + 1)
        nodes, past = zip(*reversed(seen[-count:]), strict=True)
        before, x = x, x + integral(list(nodes), list(past), here, 0.0 if last else levels[i + 1], shift)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)


def test_no_term_exceeds_its_share() -> None:
    """A denoiser that jumps to and fro: on every step the bend stays within the limits, image by image."""
    method = Adams(4, predict=0.1, share=0.5)
    sizes = torch.tensor([1e-3, 1.0, 50.0], dtype=F64)[:, None].expand(3, 8)
    turns = iter(range(100))
    jumpy = lambda x, sigma, cond: sizes * (-1.0) ** next(turns)  # noqa: E731
    x, memory = torch.ones(3, 8, dtype=F64), None
    for here, there in [(9.0, 6.0), (6.0, 4.0), (4.0, 3.0), (3.0, 2.0)]:
        one, two = torch.tensor(here, dtype=F64), torch.tensor(there, dtype=F64)
        x, memory = method(jumpy, x, one, two, Cond(), memory, two)
        assert memory is not None and memory.predicted is not None
        bend = memory.predicted.bend.square().mean(1).sqrt() / (here - there)
        assert bool((bend <= 0.1 * (1 + 0.5) + 1e-12).all())
        assert here == 9.0 or (bend[0] < 0.05 and bend[2] > 0.04)


def test_on_short_steps_hardly_anything_is_held() -> None:
    data, x, apart = mixture(), start(0, 6.0), []
    for n in (5, 300):
        route = path.log_snr(n + 1, 0.4, 6.0)[:-1]
        free, held = (sample(data.denoiser(), x, route, solver=method) for method in (Adams(**FREE), Adams()))
        apart.append(float((free - held).abs().max()))
    assert apart[0] > 1e-3 and apart[1] < 1e-7


def test_limits_keep_strong_guidance_in_its_modes() -> None:
    """On 12 steps at weight 7, free extrapolation throws images far from where the ODE ends; held, it does not."""
    from guided.bench import problems

    problem = problems.standard(64)[3]
    route = path.karras(12, problem.lo, problem.hi)
    errors = [
        float(problem.squares(sample(problem.denoise, problem.x, route, problem.cond, solver=method)).mean().sqrt())
        for method in (Adams(**FREE), Adams())
    ]
    assert errors[1] < 0.5 * errors[0]


def test_the_step_to_0_follows_the_trend_and_keeps_what_stands_still() -> None:
    data = mixture()
    still = torch.randn(64, 6, generator=torch.Generator().manual_seed(5), dtype=F64)
    known = torch.zeros(6, dtype=torch.bool)
    known[:2] = True
    partly = lambda x, sigma, cond: torch.where(known, still, data.denoise(x, sigma))  # noqa: E731
    found = sample(partly, start(0, 20.0), path.karras(8, 0.05, 20.0), solver="adams")
    assert torch.equal(found[:, :2], still[:, :2])
    # A Gaussian narrower than the last level: the ODE's end is nearer than D there.
    std, x = 0.3, start(0, 20.0)
    narrow = lambda x, sigma, cond: x * std**2 / (std**2 + float(sigma) ** 2)  # noqa: E731
    exact = x * std / math.hypot(std, 20.0)
    route = path.log_snr(30, 0.15, 20.0)
    free, plain = (sample(narrow, x, route, solver=name) for name in ("adams", "deis4"))
    assert float((free - exact).norm()) < 0.3 * float((plain - exact).norm())


def test_the_default_follows_from_the_path_alone() -> None:
    grid = path.karras(5, 0.1, 10.0)
    assert solvers.default_name(grid) == "adams" and solvers.default(grid) == Adams()
    for rising in (path.ancestral(grid), path.restart(grid, 0.1, 2.0), path.lcm(grid)):
        assert solvers.default_name(rising) == "dpmpp_2m" and solvers.default(rising) is solvers.dpmpp_2m


@pytest.mark.parametrize(("order", "shift"), [(1, 0.3), (5, 0.3), (3, 0.0), (3, math.inf)])
def test_bad_parameters_are_refused(order: int, shift: float) -> None:
    with pytest.raises(ValueError, match="Adams"):
        Adams(order, shift)
