"""The laws of the noise levels seen in training, drawn evenly: any run of consecutive samples covers a law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guided.noise import key

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def uniform(hashes: Sequence[int]) -> Tensor:
    """64-bit integers as numbers strictly inside (0, 1), float64."""
    # 52 bits and a half: the largest is exact, and below 1.
    return torch.tensor([((value & _MASK) >> 12) + 0.5 for value in hashes], dtype=torch.float64) * 2.0**-52


def even(stream: str, seed: int, counters: Sequence[int]) -> Tensor:
    """Numbers in (0, 1), (B,) float64: a golden-ratio sequence from a hashed start.

    Each counter's number is a function of it alone, and any B consecutive ones lie about 1 / B apart, which takes
    the luck of the draw out of a batch's noise levels (Kingma et al. 2021, appendix I.1, for the purpose).
    """
    start = key(stream, seed, 0) << 1
    return uniform([start + counter * _GOLDEN for counter in counters])


class Law(Protocol):
    """A distribution of noise levels; `levels` gives sigma (B,) float64 of these counters."""

    def levels(self, seed: int, counters: Sequence[int], /) -> Tensor: ...

    def quantile(self, u: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class LogNormal:
    """ln sigma ~ N(mean, std^2) (Karras et al. 2022), held within [lo, hi].

    In the frame x = x0 + sigma n this is the logit-normal law of flow time (Esser et al. 2024) too: t / (1 - t) is
    sigma, so logit t is ln sigma.
    """

    mean: float
    std: float
    lo: float
    hi: float

    def quantile(self, u: Tensor) -> Tensor:
        """Sigma below which a share u in (0, 1) of the draws lies."""
        z: Tensor = torch.special.ndtri(u)
        return (self.mean + self.std * z).exp().clamp(self.lo, self.hi)

    def levels(self, seed: int, counters: Sequence[int]) -> Tensor:
        return self.quantile(even("train/sigma", seed, counters))


@dataclass(frozen=True)
class Trained:
    """Each of the levels that a published network was trained on equally often: ln sigma, rising."""

    log_sigmas: tuple[float, ...]

    def quantile(self, u: Tensor) -> Tensor:
        """Sigma below which a share u in (0, 1) of the draws lies."""
        levels = torch.tensor(self.log_sigmas, dtype=torch.float64)
        return levels[(u * len(levels)).long().clamp(max=len(levels) - 1)].exp()

    def levels(self, seed: int, counters: Sequence[int]) -> Tensor:
        return self.quantile(even("train/sigma", seed, counters))
