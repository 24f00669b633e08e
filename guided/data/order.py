"""The order in which training draws records: a pure function of (seed, counter)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from guided.data.records import Record
from guided.data.splitting import caption_key

MASK = (1 << 64) - 1


class Order:
    """`order[counter]` is the index of the record drawn at that count, for any counter >= 0, in any order.

    Groups are visited in rounds: each round is a fresh permutation of the groups, so after r rounds each group
    was drawn exactly r times. Within a group the records are drawn in rounds likewise. Nothing is kept between
    calls but the last permutations, so a resumed run goes on exactly. Raises ValueError without records.
    """

    def __init__(self, groups: Sequence[Sequence[int]], seed: int = 0):
        self.groups = [tuple(group) for group in groups if group]
        self.seed = seed
        if not self.groups:
            raise ValueError("the order of an empty set: there is no record to draw")
        self._round = lru_cache(maxsize=4)(lambda number: permutation(len(self.groups), seed, number, -1))

    @classmethod
    def uniform(cls, indices: Sequence[int], seed: int = 0) -> Order:
        """Every record equally often."""
        return cls([[i] for i in indices], seed)

    @classmethod
    def even(cls, records: Sequence[Record], indices: Sequence[int], seed: int = 0) -> Order:
        """Every base caption equally often, whatever number of records it has; records without one count alone."""
        groups: dict[str, list[int]] = {}
        for i in indices:
            groups.setdefault(caption_key(records[i]) or f"\0{i}", []).append(i)
        return cls(list(groups.values()), seed)

    def __getitem__(self, counter: int) -> int:
        if counter < 0:
            raise IndexError(f"counter: expected a number >= 0, got {counter}")
        number, place = divmod(counter, len(self.groups))
        at = int(self._round(number)[place])
        group = self.groups[at]
        cycle, visit = divmod(number, len(group))
        return group[0] if len(group) == 1 else group[int(permutation(len(group), self.seed, cycle, at)[visit])]

    def take(self, start: int, count: int) -> list[int]:
        """The records of the counters start, start + 1, ..."""
        return [self[counter] for counter in range(start, start + count)]

    def __getstate__(self) -> tuple[list[tuple[int, ...]], int]:
        return self.groups, self.seed

    def __setstate__(self, state: tuple[list[tuple[int, ...]], int]) -> None:
        self.__init__(*state)  # type: ignore[misc]


def permutation(n: int, seed: int, number: int, group: int) -> NDArray[np.int64]:
    """A permutation of n by sorting hashes: our own arithmetic, so no library release can change it."""
    key = mix(mix(mix(seed & MASK) ^ (number & MASK)) ^ (group & MASK))
    with np.errstate(over="ignore"):
        hashes = _mix(np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key))
    return np.argsort(hashes, kind="stable")


def mix(value: int) -> int:
    """SplitMix64 (Steele, Lea and Flood 2014): a 64-bit hash of a 64-bit number."""
    value = (value + 0x9E3779B97F4A7C15) & MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
