"""The algebra of low-rank changes, against the formulas written out in float64."""

from __future__ import annotations

import pytest
import torch

from guided.tune.adapters.lowrank import LowRank, joined, row_norms, split, weighed
from tests.tune.adapters.build import delta

G = torch.Generator()


def change(out: int, into: tuple[int, ...], rank: int, scale: float, dora: bool, seed: int) -> LowRank:
    g = torch.Generator().manual_seed(seed)
    magnitude = torch.rand(out, generator=g) + 0.5 if dora else None
    down, up = torch.randn(rank, *into, generator=g), torch.randn(out, rank, generator=g)
    return LowRank(down, up, scale, magnitude)


@pytest.mark.parametrize("into", [(5,), (3, 3, 3)])
@pytest.mark.parametrize("dora", [False, True])
def test_a_joined_change_is_that_of_each_part(into: tuple[int, ...], dora: bool) -> None:
    weight = torch.randn(12, *into, generator=torch.Generator().manual_seed(1))
    parts = [change(4, into, 2, 0.5, dora, 2), None, change(4, into, 3, 2.0, dora, 3)]
    whole = joined(parts, 4, row_norms(weight).chunk(3))
    expected = torch.cat([
        torch.zeros_like(rows).double() if part is None else delta(part, rows)
        for part, rows in zip(parts, weight.chunk(3), strict=True)
    ])  # fmt: skip
    assert (delta(whole, weight) - expected).abs().max() < 1e-5
    for part, given, rows in zip(split(whole, 3), parts, weight.chunk(3), strict=True):
        if given is None and not dora:
            assert part is None
            continue
        assert part is not None
        wanted = torch.zeros_like(rows).double() if given is None else delta(given, rows)
        assert (delta(part, rows) - wanted).abs().max() < 1e-5
        assert part.rank == (whole.rank if given is None else given.rank)


def test_equal_scales_stay_and_alpha_over_rank_with_them() -> None:
    parts = [change(4, (5,), 2, 1.5, False, i) for i in range(3)]
    whole = joined(parts, 4)
    assert whole.scale == 1.5 and whole.rank == 6 and whole.alpha == 9.0


def test_a_part_of_a_change_trained_as_one_keeps_all_of_its_ranks() -> None:
    whole = change(12, (5,), 4, 2.0, False, 1)
    found = split(whole, 3)
    assert [part.rank for part in found if part is not None] == [4, 4, 4]
    stacked = torch.cat([delta(part, torch.zeros(4, 5)) for part in found if part is not None])
    assert torch.equal(stacked, delta(whole, torch.zeros(12, 5)))


@pytest.mark.parametrize("kinds", [(False, False), (True, False), (True, True), (False, True, True)])
def test_weighed_changes_add(kinds: tuple[bool, ...]) -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    given = [
        (change(6, (5,), 2 + i, 0.7, dora, i), w)
        for i, (dora, w) in enumerate(zip(kinds, (0.5, -0.3, 2.0), strict=False))
    ]
    expected = sum(w * delta(one, weight) for one, w in given)
    assert (delta(weighed(given, weight), weight) - expected).abs().max() < 1e-5


def test_a_dora_of_weight_nothing_is_nothing() -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    assert delta(weighed([(change(6, (5,), 2, 1.0, True, 1), 0.0)], weight), weight).abs().max() < 1e-6


def test_parts_of_two_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="some parts of one layer are DoRA"):
        joined([change(4, (5,), 2, 1.0, True, 1), change(4, (5,), 2, 1.0, False, 1)], 4)
