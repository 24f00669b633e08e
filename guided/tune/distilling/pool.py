"""Pictures for a student that the teacher draws itself, kept in the folder of the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guided import _files, _safetensors
from guided.cond import Cond
from guided.data import Order
from guided.guide import Guide
from guided.model import Model, Request, conditioning, drawing
from guided.model import request as requests
from guided.noise import Noise
from guided.sampling import sample
from guided.train.setup import Conditions
from guided.tune.distilling.material import encoded
from guided.tune.distilling.settings import Settings
from guided.tune.model import subjects

CHUNK = 16
"""Pictures drawn at once, and kept in one file."""


@dataclass(frozen=True, eq=False)
class Pool:
    """Pictures drawn by the teacher: x0 (N, C, h, w) float32 in the codec's space."""

    x0: Tensor
    order: Order
    conditions: Conditions
    fingerprint: str

    def __call__(self, counters: Sequence[int]) -> tuple[Tensor, Cond]:
        rows = [self.order[counter] for counter in counters]
        return self.x0[rows], self.conditions(rows)


@dataclass(frozen=True, eq=False)
class Wanted:
    """What is to be drawn: a prompt or a class for each picture, or neither."""

    teacher: Model
    settings: Settings
    guide: Guide | None
    texts: tuple[str, ...] | None
    labels: tuple[int, ...] | None

    @property
    def fingerprint(self) -> str:
        """A hash of what is drawn."""
        told = [self.settings.pool, self.texts, self.labels, repr(self.guide)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]

    def conditions(self) -> Conditions:
        """The conditions of the pictures, as those of a data set's records."""
        count, texts = self.settings.pool, self.texts
        captions = (None,) * count if texts is None else texts
        tokens = None if texts is None else encoded(self.teacher, texts)
        labels = (-1,) * count if self.labels is None else self.labels
        return Conditions(captions, labels, tokens, frozenset(self.teacher.denoiser.accepts))


def wanted(teacher: Model, settings: Settings, guide: Guide | None) -> Wanted:
    """What the pool of a distillation holds; raises ValueError for a teacher of prompts without any."""
    texts, labels = subjects(teacher, settings.prompts or None, settings.pool)
    return Wanted(
        teacher,
        settings,
        guide,
        None if texts is None else tuple(texts),
        None if labels is None else tuple(labels),
    )


def filled(asked: Wanted, folder: Path) -> Generator[int, None, Pool]:
    """Draw what is not there yet, chunk by chunk, each a function of (seed, its number); then read it all.

    Yields how many pictures are there before each chunk that is drawn.
    """
    count = asked.settings.pool
    folder.mkdir(parents=True, exist_ok=True)
    _files.sweep(folder)
    parts = []
    for start in range(0, count, CHUNK):
        file = folder / f"{start:06d}.safetensors"
        rows = range(start, min(start + CHUNK, count))
        if not file.exists():
            yield start
            with _files.writing(file) as aside:
                _safetensors.save({"x0": _drawn(asked, rows)}, aside)
        parts.append(_safetensors.load(file)["x0"])
    order = Order.uniform(range(count), asked.settings.seed)
    return Pool(torch.cat(parts), order, asked.conditions(), asked.fingerprint)


@torch.no_grad()
def _drawn(asked: Wanted, rows: range) -> Tensor:
    teacher, n = asked.teacher, len(rows)
    request = Request(
        None if asked.texts is None else [asked.texts[row] for row in rows],
        n if asked.texts is None and asked.labels is None else 1,
        None if asked.labels is None else [asked.labels[row] for row in rows],
        guide=asked.guide,
        seed=rows.start,
    )
    plan = requests.plan(teacher, request)
    noise = Noise([image.seed for image in plan.images], f"distill/pool/{asked.settings.seed}")
    denoise, x = drawing.begin(teacher, plan, slice(0, n), noise)
    cond = conditioning.trimmed(conditioning.condition(teacher, plan.images)).to(teacher.device)
    return sample(denoise, x, plan.path, cond, solver=plan.solver, noise=noise).float().cpu()
