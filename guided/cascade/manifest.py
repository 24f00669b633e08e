"""What proves that stages fit: each one's size, factor and kernel, and the hash of its weights, in `cascade.json`."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from guided import _files
from guided.model import card as cards
from guided.model import parts
from guided.tasks import upscaling

if TYPE_CHECKING:
    from guided.model import Model

FORMAT = "guided-cascade/1"
MANIFEST = "cascade.json"
_NAME = re.compile(r"[\w-][\w.-]*")


@dataclass(frozen=True)
class Entry:
    """A stage: its folder within the cascade's, its weights, and the level of augmentation of what it is given."""

    folder: str
    sha256: str
    level: float | None = None


def read(place: pathlib.Path) -> tuple[str, list[Entry]]:
    """The name of a cascade and its stages; raises FileNotFoundError, or ValueError naming the entry that is wrong."""
    file = place / MANIFEST
    values = parts.read(file)
    try:
        if values.get("format") != FORMAT:
            raise ValueError(f"format: expected {FORMAT!r}, got {values.get('format')!r:.80}")
        stages = values.get("stages")
        if not isinstance(stages, list) or not 1 <= len(stages) <= 8:
            raise ValueError(f"stages: expected a list of 1 to 8, got {stages!r:.80}")
        return str(values.get("name") or place.name), [_entry(i, stage) for i, stage in enumerate(stages)]
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _entry(number: int, values: Any) -> Entry:
    where = f"stages[{number}]"
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a mapping, got {values!r:.80}")
    folder, digest, level = values.get("folder"), values.get("sha256"), values.get("level")
    if not isinstance(folder, str) or not _NAME.fullmatch(folder):
        raise ValueError(f"{where}.folder: expected the name of a folder beside the manifest, got {folder!r:.80}")
    if not isinstance(digest, str):
        raise ValueError(f"{where}.sha256: expected the hash of the stage's weights, got {digest!r:.80}")
    if level is not None and (isinstance(level, bool) or not isinstance(level, int | float) or not 0 <= level <= 16):
        raise ValueError(f"{where}.level: expected null or a number from 0 to 16, got {level!r:.80}")
    return Entry(folder, digest, level)


def write(place: pathlib.Path, name: str, stages: Sequence[Model], entries: Sequence[Entry]) -> None:
    """Write the manifest of stages that lie in their folders."""
    rows: list[dict[str, Any]] = []
    for model, entry in zip(stages, entries, strict=True):
        row: dict[str, Any] = {"folder": entry.folder, "name": model.name, "sha256": entry.sha256}
        task = None if model.translation is None else model.translation.down
        row |= {"size": list(model.size)} if task is None else {"task": repr(task), "level": entry.level}
        rows.append(row)
    said = {"format": FORMAT, "name": name, "size": list(sizes(stages)[-1]), "stages": rows}
    _files.write(place / MANIFEST, json.dumps(said, indent=1, ensure_ascii=False) + "\n")


def sizes(stages: Sequence[Model]) -> list[tuple[int, int]]:
    """(H, W) of the pictures of every stage."""
    found = [stages[0].size]
    for stage in stages[1:]:
        task = None if stage.translation is None else stage.translation.down
        assert task is not None
        found.append((found[-1][0] * task.factor, found[-1][1] * task.factor))
    return found


def fitting(stages: Sequence[Model]) -> None:
    """Raise ValueError where models make no cascade, saying which of them and why."""
    if not stages:
        raise ValueError("a cascade has at least one stage")
    first = stages[0]
    if first.translation is not None:
        raise ValueError(f"stage 1, {first.name}, changes pictures: the first stage draws them")
    for number, (before, stage) in enumerate(pairwise(stages), 2):
        who = f"stage {number}, {stage.name},"
        task = None if stage.translation is None else stage.translation.down
        if task is None:
            raise ValueError(f"{who} was not taught to make pictures larger (translate.tasks: [down(4)])")
        taken, given = (upscaling.channels_of(model) for model in (stage, before))
        if taken != given:
            raise ValueError(f"{who} takes {taken} channels, {before.name} gives {given}")
        made = _resize(before.card)
        if number == 2 and made is not None and made != task.kernel:
            raise ValueError(
                f"{who} learnt from pictures made small by {task.kernel!r}, {before.name} draws such made by {made!r}"
            )
    height, width = sizes(stages)[-1]
    if max(height, width) > cards.SIDE:
        raise ValueError(f"the last stage draws {height} x {width} pixels, at most {cards.SIDE} a side can be drawn")


def _resize(card: Mapping[str, Any]) -> str | None:
    """What the first stage's pictures were made small by, where its card tells."""
    data = (card.get("recipe") or {}).get("data")
    if not isinstance(data, Mapping) or data.get("path") == "shapes":
        return None
    return str(data.get("resize", "area"))
