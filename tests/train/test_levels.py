"""Noise levels: the law they follow, and how evenly."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch

from guided.train.levels import LogNormal, even, uniform


def test_levels_follow_the_log_normal_law() -> None:
    law = LogNormal(-0.8, 1.2, 1e-3, 1e3)
    draws = law.levels(0, range(20_000)).log().sort().values
    normal = NormalDist(-0.8, 1.2)
    cdf = torch.tensor([normal.cdf(value) for value in draws.tolist()])
    ranks = (torch.arange(len(cdf)) + 0.5) / len(cdf)
    assert float((cdf - ranks).abs().max()) < 0.001, "closer than 20,000 independent draws would come (0.01)"


def test_logit_normal_time_is_the_same_law() -> None:
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    sigma = LogNormal(0.3, 0.9, 1e-4, 1e4).quantile(u)
    normal = NormalDist(0.3, 0.9)
    time = [1 / (1 + math.exp(-normal.inv_cdf(p))) for p in u.tolist()]
    torch.testing.assert_close(sigma / (1 + sigma), torch.tensor(time, dtype=torch.float64))


def test_levels_stay_in_the_models_range() -> None:
    found = LogNormal(0, 5, 0.02, 40).levels(1, range(5000))
    assert float(found.min()) == 0.02 and float(found.max()) == 40


def test_any_run_of_counters_covers_the_unit_interval() -> None:
    for start in (0, 77, 10**9):
        for size in (8, 64, 100):
            points = even("x", 3, range(start, start + size)).sort().values
            gaps = points.diff(prepend=points[-1:] - 1)
            assert float(gaps.max()) < 2.7 / size, "independent draws leave gaps of ln(size) / size"


def test_a_level_is_a_function_of_seed_and_counter() -> None:
    whole = even("x", 3, range(20))
    assert even("x", 3, [7, 2]).tolist() == [whole[7].item(), whole[2].item()]
    assert not torch.equal(even("x", 4, range(20)), whole)


def test_uniform_is_strictly_inside() -> None:
    ends = uniform([0, (1 << 64) - 1, 1 << 63]).tolist()
    assert 0 < ends[0] < 1e-15 and 1 - 1e-15 < ends[1] < 1 and abs(ends[2] - 0.5) < 1e-15
