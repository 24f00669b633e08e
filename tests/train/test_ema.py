"""Power-function averages against their closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from guided.train.ema import PowerEMA, beta, exponent


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.25])
def test_profile_has_the_width_asked_for(sigma_rel: float) -> None:
    gamma = exponent(sigma_rel)
    # Std of the density (gamma + 1) t^gamma on [0, 1].
    mean, square = (gamma + 1) / (gamma + 2), (gamma + 1) / (gamma + 3)
    assert math.sqrt(square - mean**2) == pytest.approx(sigma_rel, rel=1e-9)


def test_published_exponents() -> None:
    assert exponent(0.05) == pytest.approx(16.97, abs=0.01)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.01)


@pytest.mark.parametrize("sigma_rel", [0.0, 0.3, -1.0])
def test_impossible_widths(sigma_rel: float) -> None:
    with pytest.raises(ValueError, match="relative width"):
        exponent(sigma_rel)


def test_average_is_the_weighted_sum_of_all_weights() -> None:
    source = nn.Linear(3, 2).double()
    ema = PowerEMA(source, 0.1)
    draw = torch.Generator().manual_seed(0)
    seen = []
    for update in range(1, 41):
        with torch.no_grad():
            source.weight.copy_(torch.randn(2, 3, generator=draw, dtype=torch.float64))
        seen.append(source.weight.detach().clone())
        ema.update(list(source.parameters()), update)
    # w_t = (1 - beta_t) prod_{s > t} beta_s, and the product telescopes to (t / T)^(gamma + 1).
    total = len(seen)
    weights = [(1 - beta(ema.gamma, t)) * (t / total) ** (ema.gamma + 1) for t in range(1, total + 1)]
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    expected = sum(w * value for w, value in zip(weights, seen, strict=True))
    torch.testing.assert_close(ema.network.weight, expected, rtol=1e-12, atol=1e-12)
    assert not any(p.requires_grad for p in ema.network.parameters())


def test_first_update_takes_the_weights_whole() -> None:
    source, other = nn.Linear(2, 2), nn.Linear(2, 2)
    ema = PowerEMA(other, 0.05)
    ema.update(list(source.parameters()), 1)
    assert torch.equal(ema.network.weight, source.weight)
