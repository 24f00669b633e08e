"""What is measured of the images a guide ends at, beside the truth; each figure of resampled images too."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import Tensor

from guided.bench.steered import F64, Classes, Inverse, Problem, draw
from guided.oracle import GaussianMixture

DIRECTIONS = 32
RANGE = 0.999


def figures(problem: Problem, x: Tensor, rows: Tensor | None = None) -> Mapping[str, Tensor]:
    """The figures (draws,) of images x (B, *) of a problem, by name.

    rows: (draws, n) indices of images to count, of each class where there are several; None: each once, (1,).
    """
    flat = x.flatten(1)
    if isinstance(problem, Inverse):
        return _measured(problem, flat, _all(len(flat)) if rows is None else rows)
    each = len(flat) // problem.count
    return _classes(problem, flat, _all(each) if rows is None else rows)


def _all(n: int) -> Tensor:
    return torch.arange(n)[None]


def _measured(problem: Inverse, x: Tensor, rows: Tensor) -> dict[str, Tensor]:
    """Error of mean and covariance as shares of the exact posterior's norms."""
    truth, drawn = problem.truth, x[rows]
    mean = drawn.mean(1)
    off = drawn - mean[:, None]
    cov = off.mT @ off / rows.shape[1]
    return {
        "mean": (mean - truth.mean).norm(dim=1) / truth.mean.norm(),
        "covariance": (cov - truth.cov).flatten(1).norm(dim=1) / truth.cov.norm(),
    }


def _classes(problem: Classes, x: Tensor, rows: Tensor) -> dict[str, Tensor]:
    data, count = problem.data, problem.count
    label = torch.arange(count).repeat_interleave(len(x) // count)
    hit = (problem.classifier(x).argmax(1) == label).to(F64)
    low, high = _range(data)
    beyond = ((x < low) | (x > high)).to(F64).mean(1)
    hit, beyond, x = (part.reshape(count, -1, *part.shape[1:]) for part in (hit, beyond, x))
    truth = [data.moments(c) for c in range(count)]
    means = torch.cat([moments.mean for moments in truth])
    traces = torch.stack([moments.cov[0].trace() for moments in truth])
    ways = _ways(data.dim)
    exact = _quantiles(data, rows.shape[1], count)
    bias, spread, apart = [], [], []
    for c in range(count):
        drawn = x[c][rows]
        mean = drawn.mean(1)
        bias.append((mean - means[c]).square().sum(1) / traces[c])
        spread.append((drawn - mean[:, None]).square().sum(2).mean(1) / traces[c])
        sliced = (x[c] @ ways)[rows].sort(1).values
        apart.append((sliced - exact[c]).square().mean((1, 2)) * data.dim / traces[c])
    return {
        "accuracy": hit[:, rows].mean((0, 2)),
        "distance": torch.stack(apart).mean(0).sqrt(),
        "bias": torch.stack(bias).mean(0).sqrt(),
        "variance": torch.stack(spread).mean(0),
        "beyond": beyond[:, rows].mean((0, 2)),
    }


def _ways(dim: int) -> Tensor:
    """Unit directions to look along, (dim, DIRECTIONS)."""
    found = draw(dim, DIRECTIONS, seed=11)
    unit: Tensor = found / found.norm(dim=0)
    return unit


@functools.lru_cache(maxsize=16)
def _quantiles(data: GaussianMixture, n: int, count: int) -> Tensor:
    """The quantiles (i + 1/2) / n of each class along each direction, (C, n, DIRECTIONS)."""
    levels = (torch.arange(n, dtype=F64) + 0.5) / n
    return torch.stack([quantiles(data, _ways(data.dim), levels, c) for c in range(count)])


@functools.lru_cache(maxsize=16)
def _range(data: GaussianMixture) -> tuple[Tensor, Tensor]:
    """The middle 99.9 % of each number of the data, (d,) and (d,)."""
    levels = torch.tensor([(1 - RANGE) / 2, (1 + RANGE) / 2], dtype=F64)
    low, high = quantiles(data, torch.eye(data.dim, dtype=F64), levels)
    return low, high


def quantiles(data: GaussianMixture, ways: Tensor, levels: Tensor, label: int | None = None) -> Tensor:
    """Exact quantiles (n, P) at levels (n,) of a mixture, or of one class, along unit directions (d, P); bisection."""
    weights = data.log_weights.exp()
    if label is not None and data.classes is not None:
        weights = weights * (data.classes == label)
    keep = weights > 0
    weights, stds, centres = weights[keep] / weights.sum(), data.stds[keep], data.means[keep] @ ways
    reach = 10 * stds.max()
    low, high = (centres.min(0).values - reach).expand(len(levels), -1), centres.max(0).values + reach
    high = high.expand(len(levels), -1)
    for _ in range(50):
        middle = (low + high) / 2
        z = (middle[..., None] - centres.T) / stds
        under = (torch.special.ndtr(z) * weights).sum(-1) < levels[:, None]
        low, high = torch.where(under, middle, low), torch.where(under, high, middle)
    return (low + high) / 2
