"""A user's own pairs: folders `source` and `target`, with the same names in both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from guided.data.opening import open as open_source
from guided.data.pictures import Pictures
from guided.data.records import BadPicture, Record, Source, counted, listed
from guided.data.resize import alike, corner


class Picked:
    """Some of a source's pictures, in an order of one's own."""

    def __init__(self, source: Source, rows: list[int]) -> None:
        self.source, self.rows = source, rows
        self.records: Sequence[Record] = [source.records[row] for row in rows]
        self.classes, self.summary, self.skipped = source.classes, dict(source.summary), source.skipped

    def bytes(self, i: int) -> bytes:
        """The encoded picture i; raises BadPicture."""
        return self.source.bytes(self.rows[i])


def pairs(
    path: str | Path, format: str = "auto", caption_key: str = "text", label_key: str = "label"
) -> tuple[Source, Source]:
    """The targets, with their captions and labels, and for each its partner in `source`; pictures without are left out.

    They are partners whose names are the same but for the suffix. Raises FileNotFoundError, or ValueError where a
    folder is missing, two pictures have one name, or no name is in both.
    """
    place = Path(path)
    for name in ("source", "target"):
        if not (place / name).is_dir():
            raise FileNotFoundError(f"{place}: pairs are two folders with the same names in both; {name}/ is not there")
    targets = open_source(place / "target", format=format, caption_key=caption_key, label_key=label_key)
    sources = open_source(place / "source", format=format, caption_key=caption_key, label_key=label_key)
    partner, own = _by_name(sources, place / "source"), _by_name(targets, place / "target")
    both = [name for name in own if name in partner]
    if not both:
        raise ValueError(
            f"{place}: no picture of target/ has a partner of the same name in source/ (as {next(iter(own))!r} and "
            f"{next(iter(partner))!r})"
        )
    alone = sorted(set(own) ^ set(partner))
    found = Picked(targets, [own[name] for name in both]), Picked(sources, [partner[name] for name in both])
    if alone:
        found[0].summary["notes"] = [
            *found[0].summary.get("notes", ()),
            f"{counted(len(alone), 'picture')} without a partner left out: {listed(alone)}",
        ]
    found[0].summary |= {"format": "pairs", "path": str(place), "records": len(both)}
    return found


def pair(targets: Pictures, partners: Pictures, i: int) -> Tensor:
    """Pair i, each brought to `size`, uint8 (2 C, H, W); raises BadPicture, also where the two differ in shape."""
    found = torch.cat([targets[i], partners[i]])
    _matched(targets, partners, i)
    return found


def piece(targets: Pictures, partners: Pictures, i: int, share: float, down: float, right: float) -> Tensor:
    """The same window of both pictures of pair i, whatever their sizes: see `Pictures.piece` and `pair`."""
    shape = targets.shape(i)
    _matched(targets, partners, i)
    window = corner(shape, targets.size, share, down, right)
    return torch.cat([pictures.cut(i, window, shape) for pictures in (targets, partners)])


def _matched(targets: Pictures, partners: Pictures, i: int) -> None:
    """Raise BadPicture where pair i differs in shape: no part of one is then the same part of the other."""
    (height, width), (other, across) = targets.shape(i), partners.shape(i)
    if not alike((height, width), (other, across)):
        raise BadPicture(
            f"{targets.source.records[i].name}: {width} x {height} pixels, but {across} x {other} in source/: a pair "
            "has one shape, whatever the sizes"
        )


def _by_name(source: Source, place: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for row, record in enumerate(source.records):
        name = _stem(record)
        if name in found:
            raise ValueError(f"{place}: {source.records[found[name]].name} and {record.name} have one name: rename one")
        found[name] = row
    return found


def _stem(record: Record) -> str:
    return str(PurePosixPath(record.name).with_suffix(""))
