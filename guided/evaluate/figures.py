"""A measured figure: its value, its 95 % interval, the number it rests on, and what to hold it against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from guided.noise import generator

Z = 1.959964
"""Half the width, in standard errors, of a 95 % interval of a normal law."""
DRAWS = 200


@dataclass(frozen=True)
class Figure:
    """One row of a report.

    value, low, high: the figure and its 95 % interval (NaN where there is none); n: how many pictures it rests on.
    at: the setting it was measured at, "w = 3". beside: what it is to be held against, by name: "chance", "floor".
    percent: print as a share of 1.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    at: str = ""
    beside: Mapping[str, float] = field(default_factory=dict)
    percent: bool = False

    def __str__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self.text(self.low)}, {self.text(self.high)}]"
        beside = "".join(f", {name} {self.text(value)}" for name, value in self.beside.items())
        return (
            f"{self.name}{f' ({self.at})' if self.at else ''}: {self.text(self.value)}{interval}, n = {self.n}{beside}"
        )

    def text(self, value: float) -> str:
        """A number as this figure is printed: 61.5 %, or four significant digits."""
        if math.isnan(value):
            return "-"
        return f"{100 * value:.1f} %" if self.percent else f"{value:.4g}"

    def json(self) -> dict[str, Any]:
        """The figure as JSON; what is not a number becomes null."""
        values = {**asdict(self), "beside": dict(self.beside)}
        return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in values.items()}


def wilson(hits: float, n: float) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score (1927); it stays in [0, 1] and is sound at 0 and n hits.

    Raises ValueError unless 0 <= hits <= n and n >= 1.
    """
    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"a share needs 0 <= hits <= n and n >= 1, got {hits} of {n}")
    p, total = hits / n, 1 + Z**2 / n
    middle = (p + Z**2 / (2 * n)) / total
    half = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2)) / total
    return max(0.0, middle - half), min(1.0, middle + half)


def share(name: str, hits: Sequence[bool] | Tensor, at: str = "", beside: Mapping[str, float] | None = None) -> Figure:
    """The share of hits with Wilson's interval; raises ValueError for an empty list."""
    n = len(hits)
    count = sum(bool(hit) for hit in hits)
    low, high = wilson(count, n)
    return Figure(name, count / n, low, high, n, at, beside or {}, percent=True)


def clustered(
    name: str, values: Tensor, groups: Sequence[str], at: str = "", beside: Mapping[str, float] | None = None
) -> Figure:
    """The mean over groups of each group's mean of values (N,) in [0, 1], with a bootstrap interval over the groups.

    Values of one group hang together; the groups are what was drawn independently. n counts the groups.
    """
    names = sorted(set(groups))
    if not names:
        raise ValueError(f"{name}: no picture to judge")
    place = torch.tensor([names.index(group) for group in groups])
    means = torch.zeros(len(names), dtype=torch.float64).index_add_(0, place, values.double())
    means = means / torch.bincount(place, minlength=len(names))
    low, high = bootstrap(lambda weights: weights @ means / len(means), len(means), draws=1000)
    return Figure(name, float(means.mean()), low, high, len(names), at, beside or {}, percent=True)


def counts(n: int, draws: int, seed: int = 0) -> Tensor:
    """(draws, n) float64: how often each of n samples comes up in each resampling with replacement."""
    rng = generator("bootstrap", seed, n)
    drawn = torch.randint(n, (draws, n), generator=rng)
    return torch.zeros(draws, n, dtype=torch.float64).scatter_add_(
        1, drawn, torch.ones(1, dtype=torch.float64).expand(draws, n)
    )


def bootstrap(
    statistic: Callable[[Tensor], Tensor],
    n: int,
    draws: int = DRAWS,
    seed: int = 0,
    centre: float | None = None,
    groups: Sequence[int] | None = None,
) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of n samples, over resamplings with replacement (Efron 1979).

    statistic: weights (draws, n), how often each sample counts -> (draws,). centre: the statistic of the samples
    themselves; where given, the resampled values are shifted to have it as their mean, which takes out the bias that
    repeated samples give a distance between distributions. groups: of each sample, where those of one group hang
    together and groups are what was drawn independently: whole groups are resampled; of a single one nothing is known
    of others, NaN.
    """
    place = _places(n, groups)
    count = int(place.max()) + 1
    if groups is not None and count == 1:
        return math.nan, math.nan
    values = statistic(counts(count, draws, seed)[:, place]).double()
    if centre is not None:
        values = values - values.mean() + centre
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def mean(
    name: str,
    values: Tensor,
    at: str = "",
    beside: Mapping[str, float] | None = None,
    groups: Sequence[int] | None = None,
) -> Figure:
    """The mean of values (N,) with its normal 95 % interval; raises ValueError for fewer than two.

    groups: as in `bootstrap`; the values, or the groups where they are given, are independent.
    """
    if len(values) < 2:
        raise ValueError(f"{name}: a mean with its interval needs at least 2 values, got {len(values)}")
    middle, around = float(values.double().mean()), reach(values, groups)
    return Figure(name, middle, middle - around, middle + around, len(values), at, beside or {})


def reach(values: Tensor, groups: Sequence[int] | None = None) -> float:
    """Half the normal 95 % interval of the mean of values (N,); groups: as in `bootstrap`. NaN for a single group."""
    place = _places(len(values), groups)
    count = int(place.max()) + 1
    off = values.double().cpu()
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, place, off - off.mean())
    return Z * float(sums.norm()) / len(values) * math.sqrt(count / (count - 1)) if count > 1 else math.nan


def _places(n: int, groups: Sequence[int] | None) -> Tensor:
    """The number of each sample's group, (n,)."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups or ()))}
    return torch.arange(n) if groups is None else torch.tensor([numbers[group] for group in groups])
