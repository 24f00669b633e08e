"""Intervals hold what they promise, and figures read and print as they should."""

from __future__ import annotations

import json
import math

import pytest
import torch

from guided.evaluate.figures import Figure, bootstrap, clustered, counts, mean, share, wilson


def test_wilson_is_the_solution_of_its_equation() -> None:
    """Its ends are the p whose score statistic is exactly z (Wilson 1927)."""
    for hits, n in ((0, 20), (3, 20), (97, 200), (200, 200)):
        low, high = wilson(hits, n)
        for p, end in ((low, hits > 0), (high, hits < n)):
            if end:
                assert abs(hits / n - p) / math.sqrt(p * (1 - p) / n) == pytest.approx(1.959964, abs=1e-6)
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == 1


def test_wilson_covers_the_truth_about_95_times_of_100() -> None:
    hits = torch.distributions.Binomial(80, 0.3).sample((4000,))
    ends = [wilson(int(h), 80) for h in hits]
    inside = sum(low <= 0.3 <= high for low, high in ends) / 4000
    assert 0.93 < inside < 0.97


@pytest.mark.parametrize(("hits", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_an_impossible_share_is_refused(hits: int, n: int) -> None:
    with pytest.raises(ValueError, match="hits"):
        wilson(hits, n)


def test_resampling_counts_are_those_of_drawing_with_replacement() -> None:
    drawn = counts(50, 4000)
    assert bool((drawn.sum(1) == 50).all())
    assert float(drawn.mean()) == pytest.approx(1, abs=1e-9)
    assert float(drawn.var()) == pytest.approx(1 - 1 / 50, abs=0.03)
    assert torch.equal(drawn, counts(50, 4000)), "an interval is the same at every call"


def test_the_bootstrap_of_a_mean_is_its_standard_error() -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(400, generator=rng, dtype=torch.float64)
    low, high = bootstrap(lambda weights: weights @ x / 400, 400, draws=4000)
    assert (high - low) / 2 == pytest.approx(1.96 * float(x.std()) / 20, rel=0.06)


def test_clustered_values_count_once_a_group() -> None:
    values = torch.tensor([1.0, 1.0, 1.0, 0.0])
    figure = clustered("x", values, ["a", "a", "a", "b"])
    assert figure.value == 0.5 and figure.n == 2
    with pytest.raises(ValueError, match="no picture"):
        clustered("x", torch.zeros(0), [])


def test_a_mean_has_its_normal_interval() -> None:
    figure = mean("x", torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert figure.value == 2.5
    assert figure.high - 2.5 == pytest.approx(1.959964 * math.sqrt(5 / 3) / 2)
    with pytest.raises(ValueError, match="at least 2"):
        mean("x", torch.ones(1))


def test_what_hangs_together_is_resampled_together() -> None:
    """30 pictures in five windows each that say the same are 30 values, not 150; so says the bootstrap's interval."""
    values = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    five, groups = values.repeat_interleave(5), [7 * i for i in range(30) for _ in range(5)]
    alone, grouped, apart = mean("x", values), mean("x", five, groups=groups), mean("x", five)
    assert grouped.value == pytest.approx(alone.value) and grouped.n == 150
    assert grouped.high - grouped.value == pytest.approx(alone.high - alone.value)
    assert apart.high - apart.value < 0.5 * (alone.high - alone.value)
    once = bootstrap(lambda weights: weights @ values / weights.sum(1), 30, draws=400)
    often = bootstrap(lambda weights: weights @ five / weights.sum(1), 150, draws=400, groups=groups)
    assert often == pytest.approx(once)
    # Groups of unequal sizes: the standard error of a ratio, by its formula.
    uneven, sizes = torch.cat([values[:20], values[20:].repeat_interleave(3)]), [1] * 20 + [3] * 10
    named = [i for i, size in enumerate(sizes) for _ in range(size)]
    middle = float(uneven.mean())
    square = sum((size * (float(v) - middle)) ** 2 for v, size in zip(values, sizes, strict=True)) * 30 / 29
    found = mean("x", uneven, groups=named)
    assert found.high - found.value == pytest.approx(1.959964 * square**0.5 / 50)
    alone_low, _ = bootstrap(lambda weights: weights @ uneven / weights.sum(1), 50, groups=[0] * 50)
    assert math.isnan(mean("x", uneven, groups=[0] * 50).high) and math.isnan(alone_low), "one picture tells no other's"


def test_figures_read_as_a_line_and_as_json() -> None:
    figure = share("right", [True, True, False, True], "w = 2", {"chance": 0.25})
    assert str(figure).startswith("right (w = 2): 75.0 % [30.1 %, 95.4 %], n = 4, chance 25.0 %")
    assert json.loads(json.dumps(figure.json()))["beside"] == {"chance": 0.25}
    bare = Figure("FD", 3.14159, math.nan, math.nan, 7)
    assert str(bare) == "FD: 3.142, n = 7" and bare.json()["low"] is None and bare.text(math.nan) == "-"
