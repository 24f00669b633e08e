"""A fitted solver is the linear method of its weights, held to its limits: with DPM-Solver++ 2M's it is that solver."""

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
FREE = (math.inf,)
"""The limit of a step that is not held."""


def of_2m(levels: list[float]) -> Fitted:
    """DPM-Solver++ 2M (Lu et al. 2022, arXiv 2211.01095, algorithm 2): D + (D - D_before) h / (2 h_before) is held."""
    rows: list[tuple[float, ...]] = [()]
    for before, here, there in zip(levels, levels[1:-1], levels[2:], strict=False):
        lean = (1 - there / here) * math.log(here / there) / (2 * math.log(before / here)) if there > 0 else 0.0
        rows.append((-lean,))
    return Fitted(tuple(levels), tuple(rows), FREE * (len(levels) - 1))


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
    found = sample(denoise, x, torch.tensor(levels, dtype=F64), solver=Fitted(levels, rows, 4 * FREE))
    torch.testing.assert_close(found, want, rtol=0, atol=1e-12)


def test_where_the_estimate_stands_still_it_is_the_end_bit_for_bit() -> None:
    levels = (8.0, 4.0, 2.0, 0.0)
    solver, x0 = Fitted(levels, ((), (0.7,), (-3.1, 0.9)), 3 * FREE), torch.randn(2, 3, 4, 4)
    found = sample(lambda x, sigma, cond: x0, 8 * torch.randn(2, 3, 4, 4), torch.tensor(levels), solver=solver)
    assert torch.equal(found, x0)


def test_what_the_weights_add_to_an_image_is_held_to_the_limit_of_the_step() -> None:
    """Of two images the one that would be bent further keeps its direction; its neighbour is as without a limit."""
    first, second = torch.zeros(2, 3, 4), torch.stack([torch.full((3, 4), 0.1), torch.full((3, 4), -2.0)])
    told = iter([first, second])
    levels = torch.tensor([8.0, 4.0, 2.0])
    solver = Fitted((8.0, 4.0, 2.0), ((), (-0.5,)), (0.0, 0.25))
    found = sample(lambda x, sigma, cond: next(told), torch.zeros(2, 3, 4), levels, solver=solver)
    bend = torch.tensor([0.05, -0.25 * 2]).view(2, 1, 1)  # -0.5 (D_before - D): 0.05, and -1.0 held to 0.25 (4 - 2)
    torch.testing.assert_close(found, 0.5 * second + bend.expand(2, 3, 4), rtol=0, atol=1e-7)


def test_begun_in_the_middle_its_steps_are_of_first_order_until_it_has_seen_enough() -> None:
    denoise, x, solver = (
        mixture().denoiser(),
        start(0, 2.0),
        Fitted((8.0, 4.0, 2.0, 1.0, 0.0), ((), (0.3,)) * 2, 4 * FREE),
    )
    route = torch.tensor(solver.levels, dtype=F64)
    found = next(iter(trajectory(denoise, x, route, solver=solver, start=1)))[1]
    assert torch.equal(found, next(iter(trajectory(denoise, x, route, solver="euler", start=1)))[1])


def test_another_path_and_other_numbers_of_weights_are_refused() -> None:
    denoise, x, solver = mixture().denoiser(), start(0, 8.0), Fitted((8.0, 4.0, 0.0), ((), (0.3,)), 2 * FREE)
    for route in ([8.0, 3.0, 0.0], [8.0, 4.0, 1.0, 0.0], [8.0, 4.0, 6.0, 0.0]):
        with pytest.raises(ValueError, match=r"fitted to \[8\.0, 4\.0, 0\.0\]: it takes no step"):
            sample(denoise, x, torch.tensor(route), solver=solver, noise=lambda i, shape: torch.zeros(64, 6))
    for rows in (((), (0.3,), ()), ((0.1,), ()), ((),)):
        with pytest.raises(ValueError, match=r"for step i of its 2 at most min\(i, 3\) weights"):
            Fitted((8.0, 4.0, 0.0), rows, 2 * FREE)
    for limits in ((1.0,), (1.0, -0.1), (1.0, math.nan)):
        with pytest.raises(ValueError, match="a limit >= 0 for each of its 2 steps"):
            Fitted((8.0, 4.0, 0.0), ((), (0.3,)), limits)
