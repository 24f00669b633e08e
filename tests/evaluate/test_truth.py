"""Figures against the truth: intervals over repeated draws, independent formulas, real pictures and noise.

What "the truth" is: every interval is for the figure's own mean at its number of pictures, over fresh sets of the first
law, the reference staying as it is. FD has no unbiased estimate, so its truth is not the closed form of two Gaussians
but that plus the bias at this n. Both are estimated here by many sets that the intervals never see, with formulas
written anew in numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from guided.evaluate import distances, measures
from guided.evaluate.distances import coverage, frechet, kernel, precision, recall
from guided.evaluate.features import Bands, Blur, Features, noise_pictures
from guided.evaluate.figures import Figure
from tests.evaluate.test_distances import draw
from tests.evaluate.test_memory import things

Array = NDArray[np.float64]
N, SHIFT, SCALE = 150, 0.3, 0.8
REPEATS = 100


def fid(x: Array, y: Array) -> float:
    """|a - b|^2 + tr(A + B - 2 sqrtm(A B)), the trace of the root being the sum of the roots of A B's eigenvalues."""
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * roots)


def kid(x: Array, y: Array) -> float:
    """The unbiased MMD^2 with a polynomial kernel of degree 3, gamma 1 / F and coefficient 1."""

    def k(a: Array, b: Array) -> Array:
        found: Array = (a @ b.T / a.shape[1] + 1.0) ** 3
        return found

    n, m = len(x), len(y)
    xx, yy = k(x, x), k(y, y)
    inside = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(inside - 2 * k(x, y).mean())


def away(x: Array, y: Array) -> Array:
    found: Array = np.sqrt(((x[:, None] - y[None]) ** 2).sum(2))
    return found


def within(x: Array, y: Array, k: int, strict: bool = False) -> Array:
    """(N, M): which rows of x lie in which neighbourhoods of y, of its k-th nearest other row."""
    radius = np.sort(away(y, y), 1)[:, k]
    return (away(x, y) < radius) if strict else (away(x, y) <= radius)


FORMULAS: dict[str, Callable[[Array, Array], float]] = {
    "FD": fid,
    "KID": kid,
    "precision": lambda x, y: float(within(x, y, 3).any(1).mean()),
    "recall": lambda x, y: float(within(y, x, 3).any(1).mean()),
    "coverage": lambda x, y: float(within(x, y, 5, strict=True).any(0).mean()),
}
FIGURES: dict[str, Callable[..., Figure]] = {
    "FD": frechet,
    "KID": kernel,
    "precision": precision,
    "recall": recall,
    "coverage": coverage,
}


def truth(name: str, reference: Array, n: int, sets: int) -> Array:
    """The figure of so many sets of n, by the formula here."""
    rng, dim = np.random.default_rng(1), reference.shape[1]
    return np.array([FORMULAS[name](SCALE * rng.normal(size=(n, dim)) + SHIFT, reference) for _ in range(sets)])


@pytest.mark.parametrize(("name", "dim"), [*((name, 4) for name in FIGURES), ("FD", 16), ("FD of many features", 16)])
def test_intervals_hold_the_truth(name: str, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if name.endswith("features"):
        name = "FD"
        monkeypatch.setattr(distances, "WIDE", 0)
    reference = draw(N, dim, 10**6)
    found = truth(name, reference.numpy(), N, 600)
    target, error = float(found.mean()), float(found.std()) / 600**0.5
    figures = [FIGURES[name](draw(N, dim, seed, SHIFT, SCALE), reference) for seed in range(REPEATS)]
    inside = sum(figure.low <= target <= figure.high for figure in figures)
    assert 90 <= inside <= 100, f"{inside} of {REPEATS} hold {target:.4g} (known to {error:.2g})"
    values = torch.tensor([figure.value for figure in figures])
    assert abs(float(values.mean()) - target) < 4 * float(values.std()) / REPEATS**0.5
    # An interval that always holds it may still be useless: twice as wide as it need be is the most.
    width = sum(figure.high - figure.low for figure in figures) / REPEATS
    assert width < 2 * 2 * 1.96 * float(values.std())


def test_the_influence_of_a_picture_is_the_slope_by_its_weight() -> None:
    x, y = draw(60, 5, 0, 0.3, 0.8), draw(80, 5, 1)
    flat = torch.cat([x, torch.ones(60, 1)], 1)  # a feature that never changes

    def weighed(row: int, weight: float) -> float:
        """FD with one row counted `weight` times; the covariance keeps the unbiased one's factor."""
        weights = np.ones(60)
        weights[row] = weight
        a, b = np.cov(x.numpy(), rowvar=False, aweights=weights, ddof=0) * 60 / 59, np.cov(y.numpy(), rowvar=False)
        off = np.average(x.numpy(), 0, weights) - y.numpy().mean(0)
        return float((off**2).sum() + np.trace(a) + np.trace(b) - 2 * np.sqrt(np.linalg.eigvals(a @ b).real).sum())

    def found(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return distances._influence(x, y.mean(0), distances._root(torch.cov(y.T)))

    slopes = [60 * (weighed(row, 1 + 1e-4) - weighed(row, 1 - 1e-4)) / 2e-4 for row in range(60)]
    assert found(x, y).numpy() == pytest.approx(np.array(slopes), rel=1e-4, abs=1e-3)
    assert torch.allclose(found(flat, torch.cat([y, torch.ones(80, 1)], 1)), found(x, y), atol=1e-8)


def test_the_bias_of_fd_falls_as_one_over_n() -> None:
    """The closed form against the reference's own moments is what remains at many pictures."""
    dim = 4
    reference = draw(400, dim, 10**6).numpy()
    mean, cov = reference.mean(0), np.cov(reference, rowvar=False)
    roots = np.sqrt(np.linalg.eigvalsh(SCALE**2 * cov)).sum()
    closed = ((SHIFT - mean) ** 2).sum() + dim * SCALE**2 + np.trace(cov) - 2 * roots
    few, many = truth("FD", reference, 100, 1000).mean() - closed, truth("FD", reference, 400, 1000).mean() - closed
    assert few > 0.01 and many > 0 and few / many == pytest.approx(4, rel=0.25)


@pytest.mark.parametrize("dim", [3, 16])
def test_figures_are_those_of_independent_formulas(dim: int) -> None:
    root = draw(dim, dim, 5) / dim**0.5
    x, y = draw(220, dim, 0, 0.2) @ root, draw(260, dim, 1)
    cut = torch.arange(220) * 260 // 220  # the shares are compared at as many pictures
    for name, figure in FIGURES.items():
        other = y if name in ("FD", "KID") else y[cut]
        expected = FORMULAS[name](x.numpy(), other.numpy())
        assert figure(x, y).value == pytest.approx(expected, rel=1e-3, abs=1e-9), name
        single = figure(x.float(), y.float()).value
        assert single == pytest.approx(expected, rel=1e-3, abs=1e-2 if name not in ("FD", "KID") else 1e-6), name


def judged(
    pictures: torch.Tensor, floor: torch.Tensor | None = None, space: Features | None = None
) -> dict[str, Figure]:
    space = space or Bands(2)
    reference = space(things(0, 400))
    figures = measures.distances(space(pictures), reference, None if floor is None else space(floor))
    return {figure.name: figure for figure in figures}


def test_real_against_real_is_about_its_floor() -> None:
    for name, figure in judged(things(1000, 400), things(2000, 400)).items():
        beside: dict[str, Any] = dict(figure.beside)
        if name == "density":
            assert figure.value == pytest.approx(1, abs=0.15)
            continue
        (floor,) = beside.values()
        reach = figure.high - figure.low
        assert abs(figure.value - floor) < 1.2 * reach, name


def test_noise_is_the_worst() -> None:
    real, noise = judged(things(1000, 400)), judged(noise_pictures(400, (3, 16, 16)))
    rng = torch.Generator().manual_seed(0)
    grainy = things(1000, 400).double() + 12 * torch.randn(400, 3, 16, 16, generator=rng)
    between = judged(grainy.clamp(0, 255).round().to(torch.uint8))
    for name in ("FD", "KID"):
        assert real[name].value < between[name].value < noise[name].value, name
        assert real[name].high < noise[name].low
    for name in ("precision", "recall", "coverage", "density"):
        assert real[name].value > between[name].value >= noise[name].value, name
        assert noise[name].value < 0.01, name


def test_plain_means_take_noise_for_the_middle_of_all_pictures() -> None:
    """Why FD and recall are printed too: noise has the means of an average picture, which the others praise."""
    noise = judged(noise_pictures(400, (3, 16, 16)), space=Blur(4))
    assert noise["precision"].value == 1.0 and noise["coverage"].value > 0.9 and noise["density"].value > 10
    assert noise["recall"].value < 0.01 and noise["FD"].value > 5 * judged(things(1000, 400), space=Blur(4))["FD"].value
