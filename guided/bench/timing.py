"""Times side by side: interleaved rounds in random order, and intervals of the median ratio."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import torch

Run = Callable[[], object]
"""Does once what is measured."""
Meter = Callable[[Run], float]
"""What one run costs: seconds, or bytes."""
Watch = Callable[[float, str], None]
LEVEL = 0.95
INTERVAL = "95 % of the median ratio, by binomial order statistics; of geometric means by bootstrap over rounds"


class Ratio(NamedTuple):
    """A ratio, and the interval that holds the true one with 95 % probability."""

    value: float
    low: float
    high: float


def seconds(run: Run) -> float:
    """How long a run takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def synchronised(run: Run) -> float:
    """How long a run takes until the GPU has done all of it."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def clock(device: str) -> Meter:
    """The meter of time on a device."""
    return synchronised if device.startswith("cuda") else seconds


def rounds(
    runs: Mapping[str, Run],
    count: int,
    meter: Meter = seconds,
    seed: int = 0,
    watch: Watch = lambda done, note: None,
) -> dict[str, list[float]]:
    """What each run costs in each of `count` rounds; a round measures every run once, in an order of its own.

    So a machine that slows down or speeds up does it to all of them, and none stands always after the same other.
    Raises ValueError unless count >= 1.
    """
    if count < 1:
        raise ValueError(f"--rounds: expected at least 1, got {count}")
    found: dict[str, list[float]] = {name: [] for name in runs}
    draw = random.Random(seed)
    for i in range(count):
        for name in draw.sample(sorted(runs), len(runs)):
            watch(i / count, name)
            found[name].append(meter(runs[name]))
    return found


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float]:
    """The order statistics between which the true median lies with probability `level` or more, whatever the law.

    The number of n values below the median is binomial with p = 1/2. Fewer than six values allow no 95 %: then the
    least and the largest, with 1 - 2^(1 - n).
    """
    ranked, n = sorted(values), len(values)
    below, rank = 0.0, 0
    # The largest rank with P(Bin(n, 1/2) < rank) <= (1 - level) / 2.
    for k in range(n // 2):
        below += math.comb(n, k) * 0.5**n
        if below > (1 - level) / 2:
            break
        rank = k + 1
    rank = max(rank, 1)
    return ranked[rank - 1], ranked[n - rank]


def ratios(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """How many times cheaper mine are than theirs, round by round."""
    return [b / a for a, b in zip(mine, theirs, strict=True)]


def ratio(by_round: Sequence[float]) -> Ratio:
    """The median of ratios of the same round, and its interval."""
    return Ratio(median(by_round), *interval(by_round))


def together(each: Sequence[Sequence[float]], draws: int = 2000) -> Ratio:
    """The geometric mean of median ratios, and its interval by drawing the rounds of each again."""
    value = geometric([median(one) for one in each])
    source = torch.Generator().manual_seed(0)
    logs = torch.zeros(draws, dtype=torch.float64)
    for one in each:
        rows = torch.randint(len(one), (draws, len(one)), generator=source)
        drawn = torch.tensor(one, dtype=torch.float64)[rows]
        # torch's median is the lower of two middle values; the quantile is the one of `statistics`.
        logs += drawn.quantile(0.5, dim=1).log() / len(each)
    low, high = logs.exp().quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)).tolist()
    return Ratio(value, min(low, value), max(high, value))


def geometric(values: Sequence[float]) -> float:
    """Geometric mean."""
    return math.exp(math.fsum(map(math.log, values)) / len(values))
