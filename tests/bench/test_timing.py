"""Interleaved rounds, and the intervals of the median ratio, against binomials and draws of a known law."""

from __future__ import annotations

import math
import time
from collections import Counter
from statistics import median

import pytest
import torch

from guided.bench import timing


def test_every_round_holds_every_run_once_in_an_order_of_its_own() -> None:
    calls: list[str] = []
    runs = {name: (lambda name=name: calls.append(name)) for name in "abcd"}
    found = timing.rounds(runs, 40, seed=3)
    assert all(len(values) == 40 and min(values) > 0 for values in found.values())
    orders = [tuple(calls[i : i + 4]) for i in range(0, 160, 4)]
    assert all(sorted(order) == list("abcd") for order in orders)
    # 40 draws of 24 orders: hardly ever fewer than 15 different ones, and each place is held by each.
    assert len(set(orders)) > 14 and set(Counter(order[0] for order in orders)) == set("abcd")
    again: list[str] = []
    timing.rounds({name: (lambda name=name: again.append(name)) for name in "dcba"}, 40, seed=3)
    assert again == calls
    with pytest.raises(ValueError, match="--rounds"):
        timing.rounds(runs, 0)


def test_what_sleeps_longer_is_found_longer_by_as_much() -> None:
    found = timing.rounds({"a": lambda: time.sleep(0.01), "b": lambda: time.sleep(0.03)}, 12)
    ratio = timing.ratio(timing.ratios(found["a"], found["b"]))
    assert ratio.low <= ratio.value <= ratio.high and 2.4 < ratio.value < 3.3


@pytest.mark.parametrize(("n", "low", "high"), [(6, 1, 6), (10, 2, 9), (30, 10, 21), (31, 10, 22), (100, 40, 61)])
def test_intervals_are_the_order_statistics_of_the_tables(n: int, low: int, high: int) -> None:
    """Ranks for the sign-test interval of a median at 95 %, as in Conover 1999, table A3."""
    values = [float(i) for i in range(n, 0, -1)]
    assert timing.interval(values) == (low, high)
    outside = sum(math.comb(n, k) for k in range(low)) / 2**n
    wider = sum(math.comb(n, k) for k in range(low + 1)) / 2**n
    assert 2 * outside <= 0.05 < 2 * wider


def test_few_rounds_give_their_range() -> None:
    assert timing.interval([3.0]) == (3.0, 3.0) and timing.interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_intervals_cover_the_true_median_as_often_as_they_say() -> None:
    source = torch.Generator().manual_seed(0)
    drawn = torch.distributions.LogNormal(0.0, 0.5)
    values = drawn.icdf(torch.rand(2000, 30, generator=source, dtype=torch.float64))
    held = sum(low <= 1.0 <= high for low, high in (timing.interval(row.tolist()) for row in values))
    # P(Bin(30, 1/2) in 10..20) is 0.957; three standard errors of 2000 draws are 0.014.
    assert abs(held / 2000 - 0.957) < 0.014


def test_geometric_means_cover_too_and_are_the_root_of_the_product() -> None:
    source = torch.Generator().manual_seed(1)
    drawn = torch.distributions.LogNormal(0.0, 0.3)
    held = 0
    for _ in range(200):
        each = 2.0 * drawn.icdf(torch.rand(3, 30, generator=source, dtype=torch.float64))
        found = timing.together(each.tolist(), draws=400)
        exact = math.exp(sum(math.log(median(row)) for row in each.tolist()) / 3)
        assert found.value == pytest.approx(exact) and found.low <= found.value <= found.high
        held += found.low <= 2.0 <= found.high
    assert 0.90 < held / 200 < 0.995
    assert timing.together([[2.0] * 5, [8.0] * 5]) == pytest.approx((4.0, 4.0, 4.0))


def test_a_machine_that_changes_its_speed_does_it_to_both() -> None:
    """Costs that drift tenfold over the rounds leave a ratio of 2 within a hundredth."""
    state = {"speed": 1.0}

    def meter(run: timing.Run) -> float:
        state["speed"] *= 1.02
        return float(run()) * state["speed"]  # type: ignore[arg-type]

    found = timing.rounds({"a": lambda: 1.0, "b": lambda: 2.0}, 60, meter)
    ratio = timing.ratio(timing.ratios(found["a"], found["b"]))
    assert abs(ratio.value / 2 - 1) < 0.025 and ratio.low <= 2 <= ratio.high
