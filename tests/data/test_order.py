"""The order of training is a function of (seed, counter), and fair."""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from guided.data import Order, Record

groups = st.lists(st.integers(1, 7), min_size=1, max_size=12)


def made(sizes: list[int]) -> list[list[int]]:
    ends = np.cumsum([0, *sizes])
    return [list(range(a, b)) for a, b in pairwise(ends)]


@settings(max_examples=50, deadline=None)
@given(groups, st.integers(0, 2**63), st.integers(1, 30))
def test_every_group_equally_often_and_every_member_within_one(sizes: list[int], seed: int, rounds: int) -> None:
    parts = made(sizes)
    drawn = Counter(Order(parts, seed).take(0, rounds * len(parts)))
    for part in parts:
        counts = [drawn[i] for i in part]
        assert sum(counts) == rounds and max(counts) - min(counts) <= 1


@settings(max_examples=30, deadline=None)
@given(groups, st.integers(0, 99), st.lists(st.integers(0, 10_000), max_size=20))
def test_stateless(sizes: list[int], seed: int, counters: list[int]) -> None:
    order = Order(made(sizes), seed)
    again = pickle.loads(pickle.dumps(order))
    assert [order[c] for c in counters] == [Order(made(sizes), seed)[c] for c in counters]
    assert [again[c] for c in reversed(counters)] == [order[c] for c in reversed(counters)]


def test_rounds_are_permuted_uniformly() -> None:
    first = Counter(Order([[i] for i in range(10)], seed)[10 * r] for seed in range(40) for r in range(50))
    assert chisquare([first[i] for i in range(10)]).pvalue > 1e-3
    pairs = Counter(tuple(Order([[i] for i in range(4)], seed).take(0, 2)) for seed in range(2400))
    assert chisquare(list(pairs.values())).pvalue > 1e-3 and len(pairs) == 12


def test_even_draws_bases_evenly() -> None:
    records = [Record("a", f"man, {tone} skin tone") for tone in ("light", "medium", "dark")]
    records += [Record("b", "apple"), Record("c", None), Record("d", None), Record("e", "kept out")]
    drawn = Counter(Order.even(records, range(6), seed=3).take(0, 4 * 30))
    assert [drawn[i] for i in range(6)] == [10, 10, 10, 30, 30, 30]
    assert set(Order.uniform([2, 5], 1).take(0, 2)) == {2, 5}


def test_known_values() -> None:
    """Pinned: a change would silently break every resumed run."""
    assert Order(made([3, 1, 2, 5]), 7).take(0, 12) == KNOWN
    with pytest.raises(ValueError, match="empty"):
        Order([])
    with pytest.raises(IndexError):
        Order([[1]])[-1]


KNOWN = [3, 5, 1, 9, 4, 2, 3, 7, 3, 0, 5, 8]
