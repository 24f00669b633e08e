"""A fitted solver is the linear method of its weights: with those of DPM-Solver++ 2M it is that solver."""

from __future__ import annotations

import math

import pytest
import torch

from guided import path
from guided.cond import Cond
from guided.sampling import sample, trajectory
from guided.solvers import Fitted
from tests.solvers.problems import F64, mixture, start

ROUTE = path.karras(6, 0.05, 10.0)


def of_2m(levels: list[float]) -> Fitted:
    """DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095, algorithm 2): D + (D - D_before) h / (2 h_before) is held."""
    rows: list[tuple[float, ...]] = [()]
    for before, here, there in zip(levels, levels[1:-1], levels[2:], strict=False):
        if there == 0:  # extrapolated in sigma^2
            lean = min(here**2 / (before**2 - here**2), 4.0)
        else:
            lean = (1 - there / here) * math.log(here / there) / (2 * math.log(before / here))
        rows.append((-lean,))
    return Fitted(tuple(levels), tuple(rows))


def test_with_the_weights_of_a_solver_it_is_that_solver() -> None:
    denoise, x = mixture().denoiser(), start(0, 10.0)
    found = sample(denoise, x, ROUTE, solver=of_2m(ROUTE.tolist()))
    torch.testing.assert_close(found, sample(denoise, x, ROUTE, solver="dpmpp_2m"), rtol=0, atol=1e-11)


def test_older_estimates_count_by_their_own_weights() -> None:
    """Three steps written out."""
    levels, rows = (8.0, 4.0, 2.0, 1.0, 0.0), ((), (0.3,), (-0.2, 0.5), (0.1, 0.2, -0.4))
    denoise, x = mixture().denoiser(), start(1, 8.0)
    want, seen = x, []
    for i, row in enumerate(rows):
        D = denoise(want, torch.tensor(levels[i], dtype=F64), Cond())
        want = D + levels[i + 1] / levels[i] * (want - D)
        want = want + sum(a * (seen[-1 - j] - D) for j, a in enumerate(row))
        seen.append(D)
    found = sample(denoise, x, torch.tensor(levels, dtype=F64), solver=Fitted(levels, rows))
    torch.testing.assert_close(found, want, rtol=0, atol=1e-12)


def test_where_the_estimate_stands_still_it_is_the_end_bit_for_bit() -> None:
    levels = (8.0, 4.0, 2.0, 0.0)
    solver, x0 = Fitted(levels, ((), (0.7,), (-3.1, 0.9))), torch.randn(2, 3, 4, 4)
    found = sample(lambda x, sigma, cond: x0, 8 * torch.randn(2, 3, 4, 4), torch.tensor(levels), solver=solver)
    assert torch.equal(found, x0)


def test_begun_in_the_middle_its_steps_are_of_first_order_until_it_has_seen_enough() -> None:
    denoise, x, solver = mixture().denoiser(), start(0, 2.0), Fitted((8.0, 4.0, 2.0, 1.0, 0.0), ((), (0.3,)) * 2)
    route = torch.tensor(solver.levels, dtype=F64)
    found = next(iter(trajectory(denoise, x, route, solver=solver, start=1)))[1]
    assert torch.equal(found, next(iter(trajectory(denoise, x, route, solver="euler", start=1)))[1])


def test_another_path_and_other_numbers_of_weights_are_refused() -> None:
    denoise, x, solver = mixture().denoiser(), start(0, 8.0), Fitted((8.0, 4.0, 0.0), ((), (0.3,)))
    for route in ([8.0, 3.0, 0.0], [8.0, 4.0, 1.0, 0.0], [8.0, 4.0, 6.0, 0.0], [4.0, 8.0]):
        with pytest.raises(ValueError, match=r"fitted to \[8\.0, 4\.0, 0\.0\]: it takes no step"):
            sample(denoise, x, torch.tensor(route), solver=solver, noise=lambda i, shape: torch.zeros(64, 6))
    for rows in (((), (0.3,), ()), ((0.1,), ()), ((),)):
        with pytest.raises(ValueError, match=r"for step i of its 2 at most min\(i, 3\) weights"):
            Fitted((8.0, 4.0, 0.0), rows)
