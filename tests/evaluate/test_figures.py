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


def test_figures_read_as_a_line_and_as_json() -> None:
    figure = share("right", [True, True, False, True], "w = 2", {"chance": 0.25})
    assert str(figure).startswith("right (w = 2): 75.0 % [30.1 %, 95.4 %], n = 4, chance 25.0 %")
    assert json.loads(json.dumps(figure.json()))["beside"] == {"chance": 0.25}
    bare = Figure("FD", 3.14159, math.nan, math.nan, 7)
    assert str(bare) == "FD: 3.142, n = 7" and bare.json()["low"] is None and bare.text(math.nan) == "-"
