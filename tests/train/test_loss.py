"""The loss of every parametrisation against closed forms; its minimiser is the oracle."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from guided.cond import Cond
from guided.denoiser import EDM, X0, Denoiser, Eps, Flow, Parametrization, V, spread
from guided.train.loss import Uncertainty, loss, weight
from guided.train.recipe import LossSection

S = 0.7
"""Std of the toy data, N(0, S^2)."""
KINDS: dict[str, Parametrization] = {"edm": EDM(0.5), "eps": Eps(), "x0": X0(0.5), "v": V(), "flow": Flow()}
WEIGHTS = ("output", "edm", "eps", "x0", "v", "flow", "min_snr", "sigmoid")


def weigh(name: str, kind: str = "edm") -> Callable[[Tensor], Tensor]:
    return weight(LossSection(weight=name), 0.5, KINDS[kind])


class Oracle(nn.Module):
    """The network that makes its denoiser E[x0 | x] = x S^2 / (S^2 + sigma^2), off by a + b x."""

    accepts: frozenset[str] = frozenset()

    def __init__(self, kind: str, sigma: float, a: float = 0.0, b: float = 0.0) -> None:
        super().__init__()
        self.coefficients = KINDS[kind].coefficients(torch.tensor([sigma], dtype=torch.float64))
        self.ideal, self.a, self.b = S**2 / (S**2 + sigma**2), a, b

    def forward(self, z: Tensor, noise: Tensor, cond: Cond) -> Tensor:
        skip, out, scale, _ = self.coefficients
        x = z / scale
        return ((self.ideal + self.b) * x + self.a - skip * x) / out


@pytest.mark.parametrize("sigma", [0.05, 0.7, 8.0])
@pytest.mark.parametrize("kind", KINDS)
def test_minimiser_is_the_oracle(kind: str, sigma: float) -> None:
    draw = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2000, 3, 8, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    x0 *= S
    levels = torch.full((len(x0),), sigma, dtype=torch.float64)
    w = float(weigh("output", kind)(levels[:1]))

    def at(a: float, b: float) -> float:
        denoise = Denoiser(Oracle(kind, sigma, a, b), KINDS[kind])
        return float(loss(denoise, weigh("output", kind), x0, noise, levels, Cond()).mean())

    best, variance = at(0, 0), S**2 * sigma**2 / (S**2 + sigma**2)
    assert best == pytest.approx(w * variance, rel=0.01)
    for a, b in ((0.1, 0.0), (-0.1, 0.0), (0.0, 0.1), (0.0, -0.1), (0.05, 0.05)):
        more = w * (a**2 + b**2 * (S**2 + sigma**2))
        slack = w * 6 * math.sqrt(variance * more / w / x0.numel())
        assert at(a, b) - best == pytest.approx(more, abs=slack)
        assert at(a, b) > best


@pytest.mark.parametrize("kind", KINDS)
def test_output_weight_is_the_networks_own_mean_square(kind: str) -> None:
    """(F - target)^2 with each published target, written out anew."""
    draw = torch.Generator().manual_seed(1)
    x0, noise = (torch.randn(6, 3, 4, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    sigma = torch.tensor([0.01, 0.1, 0.5, 1.0, 5.0, 50.0], dtype=torch.float64)
    s = spread(sigma, x0)
    target = {
        "eps": noise,
        "x0": x0,
        "v": (noise - s * x0) / (1 + s**2).sqrt(),
        "flow": noise - x0,
        "edm": (x0 * s**2 - 0.25 * s * noise) / (0.5 * s * (s**2 + 0.25).sqrt()),
    }[kind]

    class Fixed(nn.Module):
        accepts: frozenset[str] = frozenset()

        def forward(self, z: Tensor, level: Tensor, cond: Cond) -> Tensor:
            return torch.tanh(z) + 0.3

    z = KINDS[kind].coefficients(s).scale * (x0 + s * noise)
    expected = (torch.tanh(z) + 0.3 - target).square().flatten(1).mean(1)
    found = loss(Denoiser(Fixed(), KINDS[kind]), weigh("output", kind), x0, noise, sigma, Cond())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(weigh(kind, kind)(sigma), weigh("output", kind)(sigma))


def test_published_weights() -> None:
    sigma = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    snr = [100.0, 1.0, 0.01]
    assert weigh("min_snr")(sigma).tolist() == pytest.approx([min(r, 5.0) for r in snr])
    assert weigh("sigmoid")(sigma).tolist() == pytest.approx([1 / (1 + math.exp(-3 - math.log(r))) for r in snr])
    # Kingma and Gao write it for the noise prediction: sigmoid(bias - ln SNR); the two differ by e^bias.
    as_eps = [r / (1 + math.exp(3 + math.log(r))) for r in snr]
    assert (weigh("sigmoid")(sigma) * math.exp(-3)).tolist() == pytest.approx(as_eps)


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_positive_over_the_whole_range(name: str) -> None:
    found = weigh(name)(torch.logspace(-3, 3, 50, dtype=torch.float64))
    assert bool((found > 0).all()) and bool(found.isfinite().all())


def test_learned_weight_ends_at_the_log_of_each_levels_loss() -> None:
    head = Uncertainty().double()
    sigma = torch.logspace(-2, 1.5, 24, dtype=torch.float64)
    losses = 0.2 + 3 * torch.sigmoid(2 * sigma.log())
    assert head.objective(losses, sigma).tolist() == losses.tolist(), "at first it weighs nothing"
    fit = torch.optim.LBFGS(
        head.parameters(), lr=1, max_iter=400, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def step() -> Tensor:
        fit.zero_grad()
        out = head.objective(losses, sigma).mean()
        out.backward()  # type: ignore[no-untyped-call]
        return out

    fit.step(step)
    torch.testing.assert_close(head(sigma), losses.log(), rtol=0, atol=0.02)
