"""What a data set is to this library: records, a source of their pictures, and what may be wrong with one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

LONG_CAPTION = 1000
"""Captions of more characters are reported: no text encoder in use reads that far."""


class BadPicture(ValueError):
    """One picture cannot be used; the message is one line that names it and the reason."""

    refused = False


class Refused(BadPicture):
    """Input that is hostile rather than broken: a bomb, a path out of its folder, a link in an archive."""

    refused = True


@dataclass(frozen=True)
class Record:
    """One sample: its name, its caption (None: unconditional), its class index (None: no label)."""

    name: str
    caption: str | None = None
    label: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """Records and the encoded bytes of their pictures.

    `classes` names the labels (empty without labels); `summary` is JSON: format, path, counts and notes;
    `skipped` lists (name, reason) of what was found and left out. `bytes(i)` raises BadPicture.
    """

    records: Sequence[Record]
    classes: tuple[str, ...]
    summary: dict[str, Any]
    skipped: tuple[tuple[str, str], ...]

    def bytes(self, i: int) -> bytes: ...


def plain(caption: str | None) -> str | None:
    """A caption without surrounding blanks; None where nothing is left: the sample is unconditional."""
    return (caption or "").strip() or None


def label_of(text: str) -> int | str | None:
    """A label written as text: a whole number, a name, or None where nothing is written."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else text or None


def describe(
    kind: str,
    path: str,
    records: Sequence[Record],
    classes: Sequence[str],
    notes: Sequence[str] = (),
    captioned: bool = True,
) -> dict[str, Any]:
    """The summary of a source: what was found, and in `notes` what a user should know about it."""
    found = list(notes)
    captions = [record.caption for record in records if record.caption is not None]
    empty = len(records) - len(captions) if captioned else 0
    if empty:
        found.append(f"{empty} of {counted(len(records), 'caption')} empty: such samples are unconditional")
    long = [len(caption) for caption in captions if len(caption) > LONG_CAPTION]
    if long:
        found.append(
            f"{counted(len(long), 'caption')} longer than {LONG_CAPTION} characters (the longest has {max(long)}): "
            "the text encoder cuts at its length limit"
        )
    return {
        "format": kind,
        "path": path,
        "records": len(records),
        "captions": len(captions),
        "labels": sum(record.label is not None for record in records),
        "classes": list(classes),
        "notes": found,
    }


def counted(number: int, noun: str) -> str:
    """`1 picture`, `2 pictures`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(rows: Sequence[object], most: int = 8) -> str:
    """`3, 7, 9 and 4 more`: row numbers for a message of one line."""
    text = ", ".join(str(row) for row in rows[:most])
    return text if len(rows) <= most else f"{text} and {len(rows) - most} more"
