"""Whether a tuned model learnt or copied: what it draws of each caption, beside the nearest picture it was shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from guided import _files
from guided.data import BadPicture
from guided.evaluate.features import Thumbnail
from guided.model import Model
from guided.model.sheet import sheet
from guided.train.setup import Job

SHOWN = 16
MOST = 512
"""Training pictures that are compared; of more, as many evenly spread ones."""
SEED = 1 << 41
SAME = 0.01
"""Thumbnails nearer than this are of one picture, which was given twice: that says nothing of how far two lie apart."""


@dataclass(frozen=True, eq=False)
class Panel:
    """Drawn pictures, the training rows nearest to them, how near, and how near those lie to each other.

    A picture counts as near where it is nearer to a training picture than half the median distance between one and its
    nearest other. unseen: how near what is drawn of captions that were kept out comes to the pictures kept out, which
    cannot have been copied: a world in which captions say everything brings those near, too.
    """

    drawn: Sequence[Image.Image]
    captions: Sequence[str]
    rows: Sequence[int]
    distances: Tensor
    apart: float
    unseen: Tensor

    def near(self, distances: Tensor) -> int:
        """How many are near."""
        return int((distances < self.apart / 2).sum())

    def facts(self) -> dict[str, Any]:
        """For a card."""
        return {
            "drawn": len(self.drawn),
            "near": self.near(self.distances),
            "distance": round(float(self.distances.median()), 4),
            "apart": round(self.apart, 4),
            "unseen": len(self.unseen),
            "unseen_near": self.near(self.unseen),
        }


def memorised(model: Model, job: Job) -> Panel | None:
    """Draw what the training pictures are called, and find the nearest; None without two that are sound and differ.

    Distances are between thumbnails freed of contrast (`evaluate.features.Thumbnail`), at most 2. A network that
    changes pictures draws nothing by itself: None.
    """
    known = _known(job, job.split.train)
    if len(known) < 2 or job.translation is not None:
        return None
    space = Thumbnail()
    shown = space(torch.stack([picture for _, picture in known]))
    between = torch.cdist(shown, shown).fill_diagonal_(torch.inf)
    nearest_other = between.masked_fill(between < SAME, torch.inf).min(1).values
    if not bool(nearest_other.isfinite().any()):
        return None
    result, captions = drawn(model, job, [row for row, _ in known])
    distance, nearest = torch.cdist(space(_levels(result)), shown).min(1)
    rows = [known[int(at)][0] for at in nearest]
    apart = float(nearest_other[nearest_other.isfinite()].median())
    kept = _known(job, job.held)
    unseen = torch.zeros(0)
    if kept:
        held = space(torch.stack([picture for _, picture in kept]))
        unseen = torch.cdist(space(_levels(drawn(model, job, [row for row, _ in kept])[0])), held).min(1).values
    return Panel(list(result), captions, rows, distance, apart, unseen)


def _levels(result: Any) -> Tensor:
    """The pictures of a result, uint8 (N, C, H, W)."""
    return torch.from_numpy(result.arrays).permute(0, 3, 1, 2)


def _known(job: Job, rows: Sequence[int]) -> list[tuple[int, Tensor]]:
    pictures: Any = getattr(job.pictures, "pictures", job.pictures)  # of latents, what they were made of
    chosen = rows if len(rows) <= MOST else [rows[at * len(rows) // MOST] for at in range(MOST)]
    found = []
    for row in chosen:
        try:
            found.append((row, pictures[row]))
        except BadPicture:
            continue
    return found


def drawn(model: Model, job: Job, rows: Sequence[int]) -> tuple[Any, list[str]]:
    """What a model draws of the captions, or the classes, of at most 16 of these records, and what those are."""
    chosen = [rows[at * len(rows) // SHOWN] for at in range(SHOWN)] if len(rows) > SHOWN else list(rows)
    records = [job.source.records[row] for row in chosen]
    texts = [record.caption or "" for record in records] if "text" in model.encoders else None
    labels = [record.label or 0 for record in records] if texts is None and model.classes else None
    n = len(chosen) if texts is None and labels is None else 1
    result = model.generate(texts, n, labels=labels, seed=SEED, batch=min(SHOWN, job.recipe.train.at_once))
    return result, texts or [model.classes[label] for label in labels or ()] or [""] * n


def save(panel: Panel, job: Job, file: Path) -> None:
    """Write the panel: each drawn picture left of the training picture nearest to it."""
    pictures: Any = getattr(job.pictures, "pictures", job.pictures)
    images, captions = [], []
    for at in panel.distances.argsort().tolist():
        near = pictures[panel.rows[at]].permute(1, 2, 0).numpy()
        ratio = float(panel.distances[at]) / panel.apart if panel.apart else float("inf")
        images += [panel.drawn[at], Image.fromarray(near if near.shape[-1] == 3 else near[..., 0])]
        captions += [panel.captions[at], f"{'NEAR: ' if ratio < 0.5 else ''}{ratio:.2f} of their own distance"]
    columns = min(8, len(images))
    made = sheet(images, captions, columns, heads=["drawn", "nearest shown"] * (columns // 2))
    with _files.writing(file) as aside:
        made.save(aside, "PNG")
