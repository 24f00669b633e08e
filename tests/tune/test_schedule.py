"""The errors of steps against the solvers themselves, and the shortest path against all paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from guided import oracle, path
from guided.cond import Cond
from guided.solvers import dpmpp_2m, euler
from guided.solvers.base import Seen, at_zero
from guided.solvers.data_form import History
from guided.tune import schedule


def known() -> tuple[oracle.GaussianMixture, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    means = torch.randn(3, 5, generator=draw, dtype=torch.float64)
    mixture = oracle.GaussianMixture(means, torch.tensor([0.3, 0.5, 0.4]).double(), torch.ones(3).double() / 3)
    return mixture, 10 * torch.randn(4, 5, generator=draw, dtype=torch.float64)


@pytest.fixture(scope="module")
def found() -> schedule.Trajectory:
    mixture, x = known()
    return schedule.follow(mixture.denoiser(), x, path.karras(9, 0.05, 10.0), Cond())


def test_trajectory_holds_what_the_solver_saw(found: schedule.Trajectory) -> None:
    denoise = known()[0].denoiser()
    for k in range(9):
        assert torch.equal(found.D[k], denoise(found.x[k], found.levels[k], Cond()))
    assert torch.equal(found.end, found.x[9])


def test_between_its_levels_a_trajectory_is_known_to_fourth_order() -> None:
    """On a Gaussian x(sigma) is known: its distance from the mean grows with the std of x."""
    data = oracle.GaussianMixture(torch.ones(1, 5).double(), torch.tensor([0.5]).double(), torch.ones(1).double())
    x = 1 + 10 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = lambda sigma: 1 + (x - 1) * ((0.25 + sigma**2) / (0.25 + 100)) ** 0.5  # noqa: E731
    missed = []
    for n in (8, 16):
        levels = path.log_snr(n + 1, 0.1, 10.0)[:-1]
        states = torch.stack([exact(float(s)) for s in levels])
        Ds = torch.stack([data.denoiser()(s, sigma, Cond()) for s, sigma in zip(states, levels[:-1], strict=False)])
        known = schedule.Trajectory(levels, states, Ds)
        assert torch.equal(known.at(10.0), exact(10.0)) and torch.equal(known.at(float(levels[3])), states[3])
        between = [float((a * b) ** 0.5) for a, b in itertools.pairwise(levels[:-1].tolist())]
        missed.append(max(float((known.at(s) - exact(s)).abs().max()) for s in between))
    assert missed[0] < 0.05 and 3.5 < math.log2(missed[0] / missed[1]) < 4.6


def test_errors_are_those_of_the_solvers_steps(found: schedule.Trajectory) -> None:
    """A step of Euler, or of DPM-Solver++ 2M with an exact past, made from the recorded x by the solvers' own code."""
    levels, first, second = found.levels, schedule.errors(found, 1), schedule.errors(found, 2)
    for h, i, j in itertools.combinations(range(10), 3):
        now = lambda x, sigma, cond, i=i: found.D[i]  # noqa: E731
        step = (now, found.x[i], levels[i], levels[j], Cond())
        by_euler, _ = euler(*step, None, levels[j])
        missed = (by_euler - found.x[j]).square().mean().sqrt()
        assert float(first[h, i, j]) == pytest.approx(float(missed), rel=1e-6, abs=1e-7)
        past = History((Seen(float(levels[h]), found.D[h]),), False, None)
        by_2m, _ = dpmpp_2m(*step, past, levels[j])
        if j == 9:
            by_2m = at_zero(found.D[i], float(levels[i]), past.seen)
        missed = (by_2m - found.x[j]).square().mean().sqrt()
        assert float(second[h, i, j]) == pytest.approx(float(missed), rel=1e-6, abs=1e-7)


def test_a_path_begins_with_nothing_to_remember(found: schedule.Trajectory) -> None:
    first, second = schedule.errors(found, 1), schedule.errors(found, 2)
    torch.testing.assert_close(second[0, 0], first[0, 0])
    assert (
        bool(second[1, 1].isinf().all()) and bool(second[2, 1].isinf().all()) and bool(second[0, 2, :3].isinf().all())
    )


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("variance", [0.01, 1.0])
@pytest.mark.parametrize("n", [1, 2, 4, 9])
def test_shortest_is_the_least_of_all_paths(found: schedule.Trajectory, order: int, variance: float, n: int) -> None:
    errors, levels = schedule.errors(found, order), found.levels

    def total(inner: tuple[int, ...]) -> float:
        places = (0, *inner, 9)
        before = (0, *places[:-2])
        left = [math.sqrt(variance / (variance + float(levels[j]) ** 2)) for j in places[1:]]
        moves = zip(before, places[:-1], places[1:], left, strict=True)
        return sum(float(errors[h, i, j]) * share for h, i, j, share in moves)

    every = list(itertools.combinations(range(1, 9), n - 1))
    best = min(every, key=total)
    assert schedule.shortest(errors, levels, n, variance).tolist() == [*levels[[0, *best]].tolist(), 0.0]


def test_batches_are_joined() -> None:
    mixture, x = known()
    levels = path.karras(6, 0.05, 10.0)
    whole = schedule.follow(mixture.denoiser(), x, levels, Cond())
    parts = schedule.joined(schedule.follow(mixture.denoiser(), part, levels, Cond()) for part in x.split(3))
    torch.testing.assert_close(parts.x, whole.x)
    torch.testing.assert_close(schedule.errors(parts, 2), schedule.errors(whole, 2), rtol=1e-6, atol=1e-9)
