"""Look at a whole data set before training on it: what is found, skipped, refused, and what the network sees."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from guided import _files
from guided.data.opening import open as open_source
from guided.data.pictures import Pictures
from guided.data.records import BadPicture, Record, Refused, Source, counted
from guided.data.splitting import base_caption

SHOWN = 12
"""Lines of each kind in the printed report; the JSON form has all."""


@dataclass
class Report:
    """The result of `check`; `exit` is 0 where all is usable or merely skipped, 2 otherwise."""

    path: str
    format: str = ""
    found: int = 0
    usable: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    channels: list[dict[str, float]] = field(default_factory=list)
    captions: dict[str, float] = field(default_factory=dict)
    duplicates: list[list[str]] = field(default_factory=list)
    sheet: str | None = None

    @property
    def exit(self) -> int:
        """The exit status of `guided data check`."""
        return 2 if self.errors or self.refused else 0

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able values."""
        return asdict(self) | {"exit": self.exit}

    def text(self) -> str:
        """The report for a reader."""
        lines = [f"{self.path}: {self.format or 'not opened'}, {counted(self.found, 'record')}, {self.usable} usable"]
        lines += [f"  note: {note}" for note in self.notes]
        for title, rows in (("skipped", self.skipped), ("refused", self.refused)):
            lines += [f"  {title}: {name}: {why}" for name, why in rows[:SHOWN]]
            if len(rows) > SHOWN:
                lines.append(f"  {title}: ... and {len(rows) - SHOWN} more")
        lines += [f"  error: {error}" for error in self.errors[:SHOWN]]
        if self.classes:
            few, many = min(self.classes.values()), max(self.classes.values())
            lines.append(f"  {counted(len(self.classes), 'class').replace('classs', 'classes')}, {few} to {many} each")
        if self.captions:
            c = self.captions
            lines.append(
                f"  captions: {c['count']:.0f} ({c['distinct']:.0f} distinct, {c['bases']:.0f} base captions), "
                f"{c['empty']:.0f} empty, {c['words']:.1f} words on average, the longest {c['longest']:.0f} characters"
            )
        for k, channel in enumerate(self.channels):
            lines.append(
                f"  channel {k}: min {channel['min']:.0f}, mean {channel['mean']:.1f}, std {channel['std']:.1f}, "
                f"max {channel['max']:.0f} of 255"
            )
        for names in self.duplicates[:SHOWN]:
            lines.append(f"  the same picture {len(names)} times: {', '.join(names[:4])}{' ...' * (len(names) > 4)}")
        if self.sheet:
            lines.append(f"  what the network sees: {self.sheet}")
        return "\n".join(lines)


def check(
    path: Any,
    size: int | tuple[int, int] = 64,
    channels: int = 3,
    background: str | tuple[int, int, int] = "white",
    *,
    format: str = "auto",
    sheet: str | Path | None = None,
    most: int = 64,
) -> Report:
    """Open a data set and decode every picture as training would; nothing raises but a wrong argument.

    Pictures are brought to `size`; `sheet` names a PNG that shows up to `most` of them exactly as the network
    will see them, evenly spaced through the set and enlarged without smoothing.
    """
    report = Report(str(path))
    try:
        source = path if isinstance(path, Source) else open_source(path, format=format)
    except Refused as error:
        report.refused.append((str(path), _reason(error, str(path))))
        return report
    except (ValueError, OSError) as error:
        report.errors.append(str(error))
        return report
    report.path = str(source.summary.get("path", path))
    report.format, report.found = str(source.summary["format"]), len(source.records)
    report.notes += source.summary["notes"]
    report.skipped += [entry for entry in source.skipped if entry[1] != "not named as a picture"]
    pictures = Pictures(source, size, channels, background, cache=False)
    shown = _look(pictures, report, most)
    report.notes += [f"{note} ({counted(n, 'picture')})" for note, n in sorted(pictures.notes.items())]
    report.classes = _classes(source)
    report.captions = _captions(source.records)
    if not report.usable:
        report.errors.append("no picture is usable")
    elif sheet is not None:
        _files.write(Path(sheet), contact_sheet(shown))
        report.sheet = str(sheet)
    return report


def _look(pictures: Pictures, report: Report, most: int) -> list[NDArray[np.uint8]]:
    """Decode everything once: counts, channel statistics, duplicates, and the pictures of the sheet."""
    wanted = {round(k * (len(pictures) - 1) / max(1, most - 1)) for k in range(most)}
    shown: list[NDArray[np.uint8]] = []
    same: dict[bytes, list[str]] = {}
    low, high, count = np.full(pictures.channels, 255), np.zeros(pictures.channels, np.int64), 0
    sums = np.zeros((2, pictures.channels))
    for i, record in enumerate(pictures.source.records):
        try:
            array = pictures.array(i)
        except Refused as error:
            report.refused.append((record.name, _reason(error, record.name)))
            continue
        except BadPicture as error:
            report.skipped.append((record.name, _reason(error, record.name)))
            continue
        flat = array.reshape(-1, array.shape[2])
        low, high = np.minimum(low, flat.min(0)), np.maximum(high, flat.max(0))
        sums += [flat.sum(0, dtype=np.float64), (flat.astype(np.float64) ** 2).sum(0)]
        count += len(flat)
        same.setdefault(hashlib.sha256(array.tobytes()).digest(), []).append(record.name)
        report.usable += 1
        if i in wanted:
            shown.append(array)
    report.duplicates = [names for names in same.values() if len(names) > 1]
    if count:
        mean = sums[0] / count
        std = np.sqrt(np.maximum(sums[1] / count - mean**2, 0))
        values = zip(low.tolist(), mean.tolist(), std.tolist(), high.tolist(), strict=True)
        report.channels = [dict(zip(("min", "mean", "std", "max"), row, strict=True)) for row in values]
    return shown


def _reason(error: BadPicture, name: str) -> str:
    return str(error).removeprefix(f"{name}: ")


def _classes(source: Source) -> dict[str, int]:
    counts = dict.fromkeys(source.classes, 0)
    for record in source.records:
        if record.label is not None:
            counts[source.classes[record.label]] += 1
    return counts


def _captions(records: Sequence[Record]) -> dict[str, float]:
    texts = [record.caption for record in records if record.caption]
    if not texts:
        return {}
    return {
        "count": len(texts),
        "empty": len(records) - len(texts),
        "distinct": len(set(texts)),
        "bases": len({base_caption(text) for text in texts}),
        "words": sum(len(text.split()) for text in texts) / len(texts),
        "longest": max(map(len, texts)),
    }


def contact_sheet(pictures: Sequence[NDArray[np.uint8]], gap: int = 2) -> bytes:
    """A PNG of pictures (H, W, C) of one size side by side, each pixel enlarged to a square of whole pixels."""
    height, width = pictures[0].shape[:2]
    scale = max(1, 64 // max(height, width))
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    high, wide = height * scale + gap, width * scale + gap
    sheet = np.full((rows * high + gap, columns * wide + gap, 3), 128, np.uint8)
    for k, picture in enumerate(pictures):
        colour = picture[..., :3] if picture.shape[2] >= 3 else np.repeat(picture[..., :1], 3, -1)
        top, left = gap + (k // columns) * high, gap + (k % columns) * wide
        big = colour.repeat(scale, 0).repeat(scale, 1)
        sheet[top : top + height * scale, left : left + width * scale] = big
    import io

    out = io.BytesIO()
    Image.fromarray(sheet).save(out, "PNG")
    return out.getvalue()
