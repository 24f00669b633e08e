"""What a student learns on: pictures and their conditions, by the counter of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from guided.cond import Cond
from guided.data import BadPicture, Order, Pictures
from guided.evaluate.material import real
from guided.model import Model
from guided.noise import generator, key
from guided.text import TokenCache
from guided.train.levels import uniform
from guided.train.setup import Conditions, fingerprint, token_folder
from guided.tune.distilling.settings import Settings

Shown = Callable[[Sequence[int]], tuple[Tensor, Cond]]


@dataclass(frozen=True, eq=False)
class Sample:
    """Part of a batch: x0 (B, C, H, W) in the codec's space, unit noise, cond with its drops.

    chance: (B,) float64 in (0, 1), what the guidance weight of each is drawn by.
    """

    x0: Tensor
    noise: Tensor
    cond: Cond
    chance: Tensor


class Source(Protocol):
    """Pictures in the codec's space, with their conditions, by number; `fingerprint` names them."""

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, counters: Sequence[int], /) -> tuple[Tensor, Cond]: ...


@dataclass(frozen=True, eq=False)
class Material:
    """Samples that are functions of (seed, counter)."""

    source: Source
    seed: int
    drop: float
    device: torch.device

    def __call__(self, counters: Sequence[int]) -> Sample:
        x0, cond = self.source(counters)
        noise = torch.empty(x0.shape)
        for row, counter in zip(noise, counters, strict=True):
            torch.randn(row.shape, generator=generator("distill/noise", self.seed, counter), out=row)
        if self.drop:
            cond = cond.drop(self._chance("distill/drop", counters) < self.drop)
        chance = self._chance("distill/weight", counters)
        return Sample(x0.to(self.device), noise.to(self.device), cond.to(self.device, torch.float32), chance)

    def _chance(self, stream: str, counters: Sequence[int]) -> Tensor:
        return uniform([key(stream, self.seed, counter) << 1 for counter in counters])


@dataclass(frozen=True, eq=False)
class Photos:
    """The training part of a data set, as the teacher's recipe has it."""

    pictures: Pictures
    rows: tuple[int, ...]
    order: Order
    conditions: Conditions
    codec: Model
    fingerprint: str

    @torch.no_grad()
    def __call__(self, counters: Sequence[int]) -> tuple[Tensor, Cond]:
        drawn = [self._picture(self.order[counter]) for counter in counters]
        images = torch.stack([picture for picture, _ in drawn]).float() / 127.5 - 1
        x0 = self.codec.codec.encode(images.to(self.codec.device)).float().cpu()
        return x0, self.conditions([row for _, row in drawn])

    def _picture(self, row: int) -> tuple[Tensor, int]:
        for _ in self.rows:
            try:
                return self.pictures[row], row
            except BadPicture:
                row = self.pictures.replacement(row, self.rows)
        raise BadPicture("no sound picture is left in the training part")


def photos(teacher: Model, settings: Settings) -> Photos:
    """Open `settings.data`; raises ValueError and FileNotFoundError where it does not go with the teacher."""
    assert settings.data is not None
    section = (teacher.card.get("recipe") or {}).get("data", {})
    found = real(settings.data, teacher.size, teacher.card.get("recipe"))
    pictures, records = found.pictures, found.records
    channels = 3 if getattr(teacher.codec, "factor", 1) > 1 else teacher.channels
    if pictures.channels != channels:
        pictures = Pictures(found.source, teacher.size, channels=channels)
    if not found.split.train:
        raise ValueError(f"data: {settings.data}: no picture is left for training")
    captions = tuple(record.caption for record in records)
    tokens, labels = None, (-1,) * len(records)
    if "text" in teacher.encoders:
        if all(caption is None for caption in captions):
            raise ValueError(f"data: {teacher.name} draws prompts, and {settings.data} has no captions; give some")
        tokens = encoded(teacher, [caption for caption in captions if caption is not None])
    elif teacher.classes:
        labels = _labels(teacher, found.source.classes, [record.label for record in records], settings.data)
    rows = found.split.train
    even = section.get("balance") == "base" and tokens is not None
    order = Order.even(records, rows, settings.seed) if even else Order.uniform(rows, settings.seed)
    conditions = Conditions(captions, labels, tokens, frozenset(teacher.denoiser.accepts))
    return Photos(pictures, rows, order, conditions, teacher, fingerprint(records))


def _labels(teacher: Model, names: Sequence[str], labels: Sequence[int | None], path: str) -> tuple[int, ...]:
    """The teacher's number of each record's class, by its name."""
    unknown = sorted(set(names) - set(teacher.classes))
    if not names or unknown:
        what = f"classes that {teacher.name} does not know: {', '.join(unknown[:8])}" if unknown else "no classes"
        raise ValueError(f"data: {path} has {what}; it draws {', '.join(teacher.classes[:8])}, ...")
    number = [teacher.classes.index(name) for name in names]
    return tuple(-1 if label is None else number[label] for label in labels)


def encoded(teacher: Model, texts: Sequence[str]) -> TokenCache:
    """The states of texts, each encoded once and kept in the cache of tokens."""
    cache = TokenCache(teacher.encoders["text"], token_folder())  # type: ignore[arg-type]
    cache.fill(["", *texts])
    return cache
