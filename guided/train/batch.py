"""Training samples indexed by the run's own counter: picture, noise, noise level and dropout are functions of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from guided.cond import Cond
from guided.data import BadPicture, Pictures, pairing
from guided.degrade import Translation
from guided.noise import generator, key
from guided.train.levels import Law, uniform


class Conditions(Protocol):
    """The condition of some records of a source, without dropout."""

    def __call__(self, rows: Sequence[int], /) -> Cond: ...


class Drawn(Protocol):
    """`drawn[counter]` is the record drawn at that count."""

    def __getitem__(self, counter: int, /) -> int: ...


@dataclass(frozen=True)
class Broken:
    """A picture that could not be read, and the one that stood in for it."""

    counter: int
    name: str
    reason: str
    instead: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Part of a batch: counters, x0 (b, C, H, W) in [-1, 1], unit noise, sigma (b,) float64, cond; names for messages.

    On its way from a worker x0 is uint8, or latents as they are; `to` moves and converts. rows: the records drawn.
    captions: theirs, None where absent or dropped, for who reads them anew in every update.
    """

    counters: tuple[int, ...]
    x0: Tensor
    noise: Tensor
    sigma: Tensor
    cond: Cond
    names: tuple[str, ...]
    broken: tuple[Broken, ...] = ()
    rows: tuple[int, ...] = ()
    captions: tuple[str | None, ...] = ()

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """On the device, the pictures as numbers in [-1, 1] of this dtype."""
        x0 = values(self.x0.to(device, non_blocking=True), dtype)
        noise = self.noise.to(device, dtype, non_blocking=True)
        sigma = self.sigma.to(device, non_blocking=True)
        return replace(self, x0=x0, noise=noise, sigma=sigma, cond=self.cond.to(device, dtype))

    def pin_memory(self) -> Batch:
        """For the loader, where a GPU reads what it hands over."""
        return replace(self, x0=self.x0.pin_memory(), noise=self.noise.pin_memory(), sigma=self.sigma.pin_memory())


def values(pictures: Tensor, dtype: torch.dtype) -> Tensor:
    """Pictures as the denoiser takes them: uint8 brought to [-1, 1], latents as they are."""
    if pictures.dtype != torch.uint8:
        return pictures.to(dtype)
    return pictures.to(dtype).mul_(1 / 127.5).sub_(1.0)


@dataclass(frozen=True, eq=False)
class Samples:
    """A map-style data set over counters, so that any number of workers hands over the same bits.

    rows: the sorted records of the training part. drop: share of samples whose whole condition is dropped. crop: from
    which share of its sides on a window of the picture stands for it, evenly in the logarithm; 1: always the middle; 0:
    any window, at the picture's own scale. translation: what makes the picture that the network is shown; partners: or
    the pictures that hold it.
    """

    pictures: Pictures
    order: Drawn
    rows: tuple[int, ...]
    conditions: Conditions
    law: Law
    seed: int
    drop: float = 0.0
    flip: bool = False
    crop: float = 1.0
    translation: Translation | None = None
    partners: Pictures | None = None

    def __getitem__(self, counter: int) -> Batch:
        return self.__getitems__([counter])

    def __getitems__(self, counters: Sequence[int]) -> Batch:
        drawn = [self._picture(counter) for counter in counters]
        rows = [row for _, row, _ in drawn]
        x0 = torch.stack([picture for picture, _, _ in drawn])
        if self.flip:
            mirrored = self._chance("train/flip", counters) < 0.5
            x0[mirrored] = x0[mirrored].flip(-1)
        noise = torch.empty(len(x0), self.pictures.channels, *x0.shape[2:])
        for row, counter in zip(noise, counters, strict=True):
            torch.randn(row.shape, generator=generator("train/noise", self.seed, counter), out=row)
        cond = self.conditions(rows)
        dropped = self._chance("train/drop", counters) < self.drop
        if self.drop:
            cond = cond.drop(dropped)
        records = [self.pictures.source.records[row] for row in rows]
        if self.translation is not None:
            x0, cond = self._translated(x0, counters, cond)
        return Batch(
            counters=tuple(counters),
            x0=x0,
            noise=noise,
            sigma=self.law.levels(self.seed, counters),
            cond=cond,
            names=tuple(record.name for record in records),
            broken=tuple(fault for _, _, fault in drawn if fault is not None),
            rows=tuple(rows),
            captions=tuple(
                None if gone else record.caption for record, gone in zip(records, dropped.tolist(), strict=True)
            ),
        )

    def _translated(self, x0: Tensor, counters: Sequence[int], cond: Cond) -> tuple[Tensor, Cond]:
        """The pictures without their partners, and their condition with what the network is shown of them."""
        assert self.translation is not None
        shown = x0[:, self.pictures.channels :] if self.partners is not None else x0
        seeds = [key("train/degrade", self.seed, counter) for counter in counters]
        values = shown.float() / 127.5 - 1
        return x0[:, : self.pictures.channels], self.translation.taught(values, seeds, cond, "degrade")[0]

    def _picture(self, counter: int) -> tuple[Tensor, int, Broken | None]:
        row, fault = self.order[counter], None
        for _ in self.rows:
            try:
                return self._seen(row, counter), row, fault
            except BadPicture as error:
                other = self.pictures.replacement(row, self.rows)
                records = self.pictures.source.records
                fault = fault or Broken(counter, records[row].name, str(error), records[other].name)
                row = other
        first = "" if fault is None else f"; the first: {fault.reason}"
        raise BadPicture(f"no sound picture is left in the training part{first}")

    def _seen(self, row: int, counter: int) -> Tensor:
        if self.crop == 1:
            return self.pictures[row] if self.partners is None else pairing.pair(self.pictures, self.partners, row)
        size, down, right = (float(self._chance(f"train/crop/{what}", [counter])) for what in ("size", "down", "right"))
        window = row, self.crop**size, down, right
        if self.partners is None:
            return self.pictures.piece(*window)
        return pairing.piece(self.pictures, self.partners, *window)

    def _chance(self, stream: str, counters: Sequence[int]) -> Tensor:
        return uniform([key(stream, self.seed, counter) << 1 for counter in counters])


@dataclass(frozen=True)
class Parts:
    """The counters of every part that one process computes, from `start` on: batch after batch, part after part.

    A batch is cut into `accumulate` parts, each part into one slice a process; so the batch is the same set of
    counters for any number of processes and parts.
    """

    start: int
    stop: int
    batch: int
    accumulate: int
    rank: int
    count: int

    def __iter__(self) -> Iterator[list[int]]:
        size = self.batch // (self.accumulate * self.count)
        for first in range(self.start, self.stop, self.batch):
            for part in range(self.accumulate):
                begin = first + (part * self.count + self.rank) * size
                yield list(range(begin, begin + size))

    def __len__(self) -> int:
        return -(-(self.stop - self.start) // self.batch) * self.accumulate


def _same(batch: Batch) -> Batch:
    return batch


def loader(samples: Samples, parts: Parts, workers: int, pin: bool, begin: Callable[[int], None]) -> DataLoader[Batch]:
    """The parts in order, made ahead by `workers` processes (0: in this one), each of which first calls `begin`."""
    return DataLoader(
        samples,  # type: ignore[arg-type]
        batch_sampler=parts,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_same,  # type: ignore[arg-type]
        worker_init_fn=begin,
        pin_memory=pin,
        prefetch_factor=2 if workers else None,
        # The loader draws a base seed for its workers; nothing of ours reads it, and ours must not be disturbed.
        generator=torch.Generator().manual_seed(0),
    )
