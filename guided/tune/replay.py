"""What a base model drew before it was tuned: pictures that keep it what it was, and show what it forgets."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from guided import _files, data
from guided.data import Record, Source
from guided.model import Model
from guided.train.batch import Drawn
from guided.train.recipe import Recipe

FOLDER, TOLD = "replay", "drawn.json"
TOGETHER = 16
STEPS = 12
"""Replayed pictures show where the base's pictures lie; that takes no more steps."""
STREAM = 1 << 40
"""Seeds of replayed pictures begin here: those a person draws with are other ones."""
WATCHED = 4
"""One replayed picture in so many is kept out of training, to show what is forgotten."""


class Told:
    """A source with other records: captions and labels as a base model knows them."""

    def __init__(self, source: Source, records: Sequence[Record], classes: Sequence[str] = ()) -> None:
        self.inner = source
        self.records: Sequence[Record] = list(records)
        self.classes = tuple(classes)
        self.summary: dict[str, Any] = dict(source.summary)
        self.skipped = source.skipped

    def bytes(self, i: int) -> bytes:
        """The encoded picture i."""
        return self.inner.bytes(i)


class Joined:
    """One source after another: first one's own pictures, then those of the second, their names under `replay/`."""

    def __init__(self, own: Source, second: Source) -> None:
        self.parts = own, second
        named = [dataclasses.replace(record, name=f"{FOLDER}/{record.name}") for record in second.records]
        self.records: Sequence[Record] = [*own.records, *named]
        self.classes, self.summary, self.skipped = own.classes, own.summary, own.skipped

    def bytes(self, i: int) -> bytes:
        """The encoded picture i."""
        own, second = self.parts
        return own.bytes(i) if i < len(own.records) else second.bytes(i - len(own.records))


class Mixed:
    """`mixed[counter]`: a `share` of the counters draw from the second order, evenly between the first's.

    together: how many counters in a row are of one order: a batch, where pictures differ in size.
    """

    def __init__(self, own: Drawn, second: Drawn, share: float, together: int = 1) -> None:
        self.own, self.second, self.together = own, second, together
        self.share = Fraction(share).limit_denominator(1000)

    def __getitem__(self, counter: int) -> int:
        number, place = divmod(counter, self.together)
        before = int(number * self.share)
        if int((number + 1) * self.share) > before:
            return self.second[before * self.together + place]
        return self.own[(number - before) * self.together + place]


def subjects(base: Model, recipe: Recipe) -> list[tuple[str | None, int | None]]:
    """What a base is asked to draw again, a prompt or a class each; ValueError where nobody says what it knows.

    The prompts of the recipe; else the captions that the base's card keeps of its training, or those of rendered
    shapes; else its own example prompts.
    """
    assert recipe.tune is not None
    n, prompts = recipe.tune.replayed, list(recipe.tune.prompts)
    if "text" in base.encoders:
        known = prompts or _captions(base, n)
        if not known:
            raise ValueError(
                f"tune.prompts: the card of {base.name} does not say what it was trained on: name some prompts it must "
                "not forget (--prompts FILE), or give --replay 0"
            )
        return [(prompt, None) for prompt in islice(cycle(known), n)]
    if prompts:
        raise ValueError(f"tune.prompts: {base.name} draws no prompts; leave them out")
    return [(None, label) for label in islice(cycle(range(len(base.classes)) if base.classes else [None]), n)]


def _captions(base: Model, n: int) -> list[str]:
    learnt = base.card.get("recipe") or {}
    said = (learnt.get("data") or {}).get("path")
    if said == "shapes":
        from guided.data.shapes import ShapesSource

        shapes = learnt["data"].get("shapes") or {}
        source = ShapesSource(n, learnt.get("seed", 0), shapes.get("objects", 1), shapes.get("hold_out", 0.2))
        return [str(record.caption) for record in source.records]
    return list(base.card.get("captions") or learnt.get("sample", {}).get("prompts") or ())


class Repeated:
    """As many records as are asked for, their pictures those of some rows of a source, or all, over and over."""

    def __init__(self, source: Source, records: Sequence[Record], rows: Sequence[int] | None = None) -> None:
        self.inner, self.rows = source, range(len(source.records)) if rows is None else rows
        self.records: Sequence[Record] = list(records)
        self.classes, self.summary, self.skipped = source.classes, source.summary, source.skipped

    def bytes(self, i: int) -> bytes:
        """The encoded picture i."""
        return self.inner.bytes(self.rows[i % len(self.rows)])


def stand_in(base: Model, recipe: Recipe, source: Source, rows: Sequence[int]) -> Source:
    """What `drawn` would give, with some pictures of another source in their place."""
    asked = subjects(base, recipe)
    return Repeated(source, [Record(f"{i:05d}", prompt, label) for i, (prompt, label) in enumerate(asked)], rows)


def drawn(base: Model, recipe: Recipe, folder: Path) -> Source:
    """The base's pictures of what it knows, drawn once with its own defaults and kept in the folder.

    What a run that ended before it had begun left there of another base, seed or subjects is drawn anew.
    """
    asked = subjects(base, recipe)
    told = {"base": base.hash, "seed": recipe.seed, "subjects": [list(pair) for pair in asked]}
    if _told(folder) not in (None, told):
        shutil.rmtree(folder)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _files.folder(folder) as aside:
            rows = []
            for start in range(0, len(asked), TOGETHER):
                some, at_once = asked[start : start + TOGETHER], min(TOGETHER, recipe.train.at_once)
                rows += list(_some(base, some, STREAM + recipe.seed + start, aside, start, at_once))
            (aside / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            (aside / TOLD).write_text(json.dumps(told) + "\n")
    source = data.open(folder)
    if len(source.records) != len(asked):
        raise ValueError(f"{folder}: expected {len(asked)} pictures, found {len(source.records)}; remove the folder")
    records = [
        dataclasses.replace(record, caption=prompt, label=label)
        for record, (prompt, label) in zip(source.records, asked, strict=True)
    ]
    return Told(source, records)


def _told(folder: Path) -> Any:
    """What a folder says that its pictures are; None where it does not."""
    try:
        return json.loads((folder / TOLD).read_text())
    except (OSError, ValueError):
        return None


def _some(
    base: Model, asked: Sequence[tuple[str | None, int | None]], seed: int, folder: Path, first: int, at_once: int
) -> Iterator[dict[str, Any]]:
    texts = [prompt for prompt, _ in asked if prompt is not None]
    labels = [label for _, label in asked if label is not None]
    n = len(asked) if not texts and not labels else 1
    steps = min(STEPS, (base.card.get("defaults") or {}).get("steps", STEPS))
    result = base.generate(texts or None, n, labels=labels or None, steps=steps, seed=seed, batch=at_once)
    for i in range(len(result)):
        suffix, content = result.encoded(i)
        name = f"{first + i:05d}{suffix}"
        (folder / name).write_bytes(content)
        yield {"file_name": name, "text": asked[i][0]}
