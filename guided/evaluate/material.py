"""What a report is made from: real pictures with their split, and a model that draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided import data
from guided.data import BadPicture, Pictures, Record, Source, Split
from guided.evaluate.features import levels
from guided.evaluate.figures import Figure
from guided.model import Model, Request, Result

How = float | str | None
"""A guidance weight, the text of a guide (`guided.guide.expression`), or None for no guidance."""
Watch = Callable[[str, int, int], None]
"""Called as (what is being done, done, total)."""
HOLD_OUT = {"share": 0.05, "pairs": 200}
"""The recipes' default."""


@dataclass(frozen=True, eq=False)
class Real:
    """A source of real pictures as a model sees them, and which of them were kept out of its training."""

    source: Source
    pictures: Pictures
    split: Split

    @property
    def records(self) -> Sequence[Record]:
        """The records of the source."""
        return self.source.records

    def read(self, rows: Sequence[int]) -> tuple[Tensor, list[int]]:
        """The pictures of some records, uint8 (N, C, H, W), and the rows that could be read."""
        found, kept = [], []
        for row in rows:
            try:
                found.append(self.pictures[row])
                kept.append(row)
            except BadPicture:
                continue
        if not found:
            raise ValueError(f"{self.source.summary.get('path', 'the data')}: none of {len(rows)} pictures can be read")
        return torch.stack(found), kept

    def labels(self, rows: Sequence[int]) -> list[int]:
        """The labels of some records; raises ValueError where one has none."""
        found = [self.records[row].label for row in rows]
        if any(label is None for label in found):
            raise ValueError("classes are judged on pictures that all have a label")
        return [label for label in found if label is not None]

    @property
    def preprocessing(self) -> str:
        """How the real pictures were prepared, for the report."""
        p = self.pictures
        height, width = p.size
        return (
            f"{width} x {height} px, {p.channels} channels, {p.resize} resize, {p.crop} crop, on {p.background}, "
            "values 0..255 as stored"
        )


def thinned(rows: Sequence[int], most: int) -> list[int]:
    """At most so many rows, spread evenly."""
    return list(rows) if len(rows) <= most else [rows[at * len(rows) // most] for at in range(most)]


def real(path: str, size: tuple[int, int], recipe: Mapping[str, Any] | None = None) -> Real:
    """Open real pictures the way a model's recipe (the mapping on its card) did, and split them the same way.

    Without a recipe: on white, by area averaging, RGB, and the recipes' default split. Raises what `data.open` raises.
    """
    section: Mapping[str, Any] = (recipe or {}).get("data", {})
    names = {key: section[key] for key in ("format", "caption_key", "label_key") if key in section}
    source = data.open(path, **names)
    looks = {key: section[key] for key in ("channels", "background", "resize") if key in section}
    pictures = Pictures(source, size, **looks)
    captioned = any(record.caption is not None for record in source.records)
    # A recipe that does not say so is one of captions.
    condition = section.get("condition", "text" if recipe or not source.classes else "class")
    text = captioned and condition != "class"
    return Real(source, pictures, split_of(source.records, section.get("hold_out", HOLD_OUT), text))


def split_of(records: Sequence[Record], hold_out: Mapping[str, Any] | None, text: bool) -> Split:
    """The split of a training run: by base captions, or for other sets by the names of their pictures."""
    if hold_out is None:
        return Split(tuple(range(len(records))), (), ())
    share = float(hold_out.get("share", HOLD_OUT["share"]))
    if text:
        return data.split(records, share=share, pairs=int(hold_out.get("pairs", HOLD_OUT["pairs"])))
    return data.split(records, share=share, pairs=0, key=by_name)


def by_name(record: Record) -> str:
    """The key that sets without captions are split by."""
    return Path(record.name).name


def told(how: How) -> str:
    """The setting as a report names it."""
    return "" if how is None else how if isinstance(how, str) else f"w = {how:g}"


@dataclass(frozen=True, eq=False)
class Artist:
    """A model with the settings it is judged at."""

    model: Model
    steps: int | None = None
    solver: str | None = None
    seed: int = 0
    batch: int = 64
    watch: Watch | None = None

    def draw(
        self, how: How, prompts: Sequence[str] | None = None, labels: Sequence[int] | None = None, n: int = 1
    ) -> Result:
        """n pictures for each prompt or label, or n alone; picture i has seed `seed + i`, the same however guided."""
        request = Request(
            prompts=None if prompts is None else list(prompts),
            labels=None if labels is None else list(labels),
            n=n,
            w=None if isinstance(how, str) else how,
            guide=how if isinstance(how, str) else None,
            steps=self.steps,
            solver=self.solver,
            seed=self.seed,
            batch=self.batch,
        )
        what = "drawing" if how is None else f"drawing at {told(how)}"
        result = None
        for progress in self.model.drawing(request):
            result = progress.result
            if self.watch is not None:
                self.watch(what, progress.done, progress.total)
        assert result is not None
        return result

    def pictures(
        self, how: How, prompts: Sequence[str] | None = None, labels: Sequence[int] | None = None, n: int = 1
    ) -> Tensor:
        """`draw` as uint8 (N, C, H, W)."""
        return levels(self.draw(how, prompts, labels, n).tensor)

    def cost(self, how: How) -> Figure:
        """How many evaluations of the model's own network a picture takes, by drawing one."""
        text, classes = "text" in self.model.encoders, bool(self.model.classes)
        quiet = replace(self, watch=None)
        return self.counted(lambda: quiet.draw(how, ["a picture"] if text else None, [0] if classes else None), how)

    def counted(self, one: Callable[[], object], how: How) -> Figure:
        """How many evaluations of the model's network it takes to make one picture, its early snapshot's among them."""
        rows: list[int] = []
        network = self.model.denoiser.network
        hook = network.register_forward_hook(lambda module, args, out: rows.append(len(out)))
        try:
            one()
        finally:
            hook.remove()
        return Figure("network evaluations a picture", sum(rows), math.nan, math.nan, 1, told(how))

    @property
    def w(self) -> float | None:
        """The guidance weight of the card; None for a student without a dial."""
        if self.model.distilled is not None and self.model.distilled.w is None:
            return None
        return float(self.model.card.get("defaults", {}).get("w") or 1.0)
