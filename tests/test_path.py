"""Paths: grids by independent formulas, transforms by their laws."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided import path, solvers

GRIDS = [path.karras, path.log_snr, path.flow]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(GRIDS), st.integers(1, 1000), st.floats(1e-4, 1.0), st.floats(1.5, 1e3))
def test_every_grid_falls_from_hi_to_lo_and_then_to_0(grid, n: int, lo: float, hi: float) -> None:
    p = grid(n, lo, hi)
    assert p.dtype == torch.float64 and p.shape == (n + 1,) and p[0] == hi and p[-1] == 0
    assert (p.diff() < 0).all() and (n == 1 or p[-2] == lo)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1000), st.floats(1e-4, 1.0), st.floats(1.5, 3e4), st.floats(-2.0, 30.0))
def test_the_default_grid_falls_from_hi_to_0_and_never_leaves_the_range(n: int, lo: float, hi: float, w: float) -> None:
    for top in (hi, 1.2 * lo):
        p = path.default(n, lo, top, w)
        assert p.dtype == torch.float64 and p.shape == (n + 1,) and p[0] == top and p[-1] == 0
        assert (p.diff() < 0).all() and (n == 1 or lo <= p[-2] <= max(lo, 0.4 / n))


def test_the_default_grid_is_its_rule() -> None:
    for n, w, rho in ((9, 1.0, 11.0), (9, 4.0, 5.5), (9, 0.0, 11.0), (60, 1.0, 11.0)):
        warped = lambda s: (s / (1 + s / 100)) ** (1 / rho)  # noqa: B023, E731
        last = max(0.03, 0.4 / n)
        expect = np.linspace(warped(15.0), warped(last), n)
        np.testing.assert_allclose(warped(path.default(n, 0.03, 15.0, w)[:-1].numpy()), expect, rtol=1e-12)
    # Far below 100 it is Karras' grid; guidance moves levels up; and the top of a cosine schedule is left at once.
    plain = path.karras(12, 0.05, 0.3, rho=11.0)
    assert torch.allclose(path.default(12, 0.05, 0.3)[:-1], plain[:-1], rtol=3e-3)
    assert bool((path.default(12, 0.05, 15.0, 7.0)[1:-2] > path.default(12, 0.05, 15.0)[1:-2]).all())
    assert path.default(10, 0.006, 20000.0)[2] < 100


def test_karras_is_the_published_formula() -> None:
    i = np.arange(10)
    expect = (80 ** (1 / 7) + i / 9 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(path.karras(10, 0.002, 80)[:-1].numpy(), expect, rtol=1e-12)


def test_log_snr_and_flow_are_uniform_in_their_variable() -> None:
    levels = path.log_snr(9, 0.1, 50)[:-1]
    assert torch.allclose(levels.log().diff(), levels.log().diff()[0].expand(8), atol=1e-12)
    plain = path.flow(9, 0.1 / 3, 50 / 3)[:-1]
    t = plain / (1 + plain)
    assert torch.allclose(t.diff(), t.diff()[0].expand(8), atol=1e-12)
    assert torch.allclose(path.flow(9, 0.1, 50, shift=3.0)[:-1], 3 * plain, rtol=1e-12)


def test_from_alphas_gives_the_models_own_levels() -> None:
    abar = torch.linspace(0.999, 0.01, 50, dtype=torch.float64)
    full = path.from_alphas(abar)
    assert full[0] == (1 / abar[-1] - 1).sqrt() and full[-2] == (1 / abar[0] - 1).sqrt() and len(full) == 51
    some = path.from_alphas(abar, 10)
    assert len(some) == 11 and some[0] == full[0] and all(level in full for level in some)
    with pytest.raises(ValueError, match=r"1\.\.50"):
        path.from_alphas(abar, 51)


@pytest.mark.parametrize("eta", [0.25, 1.0])
def test_ancestral_keeps_the_variance_of_every_level(eta: float) -> None:
    grid = path.karras(10, 0.1, 20)
    noisy = path.ancestral(grid, eta)
    for here, there in pairwise(grid[:-1]):
        i = int((noisy == there).nonzero()[0])
        up = there**2 - noisy[i - 1] ** 2
        # DDIM's stochastic variance (Song et al. 2021, eq. 16) in this frame
        assert math.isclose(up, (eta * there) ** 2 * (1 - (there / here) ** 2), rel_tol=1e-12)
    assert torch.equal(path.ancestral(grid, 0.0), grid)


def test_churn_goes_up_first_and_only_inside_its_range() -> None:
    assert path.churn(torch.tensor([4.0, 2.0, 1.0, 0.0]), 0.5, lo=2.0, hi=3.0).tolist() == [4, 2, 3, 1, 0]


def test_resample_and_restart_read_as_published() -> None:
    grid = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    assert path.resample(grid, 2, 2).tolist() == [5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 0]
    assert path.restart(grid, 1.0, 3.0, times=2).tolist() == [5, 4, 3, 2, 1, 3, 2, 1, 3, 2, 1, 0]
    assert path.lcm(grid).tolist() == [5, 0, 4, 0, 3, 0, 2, 0, 1, 0]


def test_langevin_corrects_where_the_path_evaluates() -> None:
    q = 1 - 2 * 0.5**2
    assert path.langevin(torch.tensor([4.0, 2.0, 1.0, 0.0]), 0.5).tolist() == [4, 2, 2 * q, 2, 1, q, 1, 0]
    noisy = torch.tensor([4.0, 1.0, 2.0, 0.0])
    assert path.langevin(noisy, 0.5, times=2).tolist() == [4, 1, 2, 2 * q, 2, 2 * q, 2, 0]
    assert torch.equal(path.langevin(noisy, 0.0), noisy.double())
    assert path.nfe(path.langevin(path.karras(5, 0.1, 9), times=3), solvers.euler) == 5 + 4 * 3


def test_adjacent_rises_are_one_draw() -> None:
    joined = path.churn(path.restart(torch.tensor([4.0, 3.0, 2.0, 1.0, 0.0]), 2.0, 4.0), 0.1)
    rises = (joined.diff() > 0).tolist()
    assert not any(a and b for a, b in pairwise(rises))


@pytest.mark.parametrize("transform", [lambda p: path.restart(p, 1, 3), lambda p: path.resample(p, 2, 2), path.lcm])
def test_transforms_of_a_grid_refuse_a_path_that_rises(transform) -> None:
    with pytest.raises(ValueError, match="before ancestral or churn"):
        transform(path.ancestral(path.karras(8, 0.1, 20)))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 100), st.floats(0.001, 1.0))
def test_a_strength_always_means_n_steps_and_starts_where_it_says(n: int, strength: float) -> None:
    p = path.at_strength(n, 0.02, 40.0, strength)
    assert len(p) == n + 1 and (p.diff() < 0).all() and p[-1] == 0
    expect = 40.0 if strength == 1 else min(40.0, strength / (1 - strength))
    assert math.isclose(p[0], expect, rel_tol=1e-12)
    assert path.nfe(p, solvers.euler) == n and path.nfe(p, solvers.heun) == 2 * n - 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: path.karras(0, 0.1, 1), "at least 1 step"),
        (lambda: path.karras(5, 2, 1), "lo < hi"),
        (lambda: path.start_of(0, 0.1, 1), "as it is"),
        (lambda: path.ancestral(path.karras(4, 0.1, 9), 2), "eta"),
        (lambda: path.churn(path.karras(4, 0.1, 9), -1), "gamma"),
        (lambda: path.restart(path.karras(4, 0.1, 9), 9, 0.1), "lo < hi"),
        (lambda: path.langevin(path.karras(4, 0.1, 9), 0.8), "snr"),
    ],
)
def test_bad_paths_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
