"""A row with all that was said of it, and the file that holds them so that nothing is measured twice."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from guided.bench import timing

SHOWN = ("name", "ours", "peer", "ratio", "low", "high")
"""What `--json` prints of a row."""


@dataclass(frozen=True)
class Record:
    """One comparison. ours, peer: medians in `unit`, "s" or "B"; ratio: peer / ours, so above 1 ours costs less.

    low, high: its 95 % interval. tried: every setting of the peer that was measured, with its median; peer_setting is
    the best of them. *_error: relative to float64. *_share: of the machine's measured peak. flops: of one run. ratios:
    round by round. family: rows of one family have a geometric mean.
    """

    key: str
    command: str
    name: str
    ours: float
    peer: float
    ratio: float
    low: float
    high: float
    unit: str = "s"
    rounds: int = 0
    ours_setting: str = ""
    peer_setting: str = ""
    tried: list[str] = field(default_factory=list)
    ours_error: float | None = None
    peer_error: float | None = None
    ours_share: float | None = None
    peer_share: float | None = None
    flops: float | None = None
    ratios: list[float] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    date: str = ""
    family: str = ""

    def shown(self) -> dict[str, Any]:
        """The six fields for programs."""
        return {name: getattr(self, name) for name in SHOWN}


def quantity(value: float, unit: str) -> str:
    """Seconds or bytes as people write them."""
    seconds = [(1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")]
    scales = seconds if unit == "s" else [(1e6, "MB"), (1e3, "kB"), (1.0, "B")]
    scale, word = next(((s, w) for s, w in scales if value >= s), scales[-1])
    return f"{value / scale:.3g} {word}" if value / scale < 1000 else f"{value / scale:.0f} {word}"


class Log:
    """The rows of a file of JSON lines, which grows by one line a row; without a file, of this run alone."""

    def __init__(self, file: pathlib.Path | None = None) -> None:
        self.file = file
        self._rows: dict[str, Record] = {}
        if file is not None and file.exists():
            self._rows = {record.key: record for record in read(file)}
        elif file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> Record:
        return self._rows[name]

    def add(self, record: Record) -> None:
        """Keep a row, in the file too; a row of an earlier run that was cut off in its line ends there."""
        self._rows[record.key] = record
        if self.file is None:
            return
        torn = self.file.exists() and self.file.stat().st_size and not self.file.read_bytes().endswith(b"\n")
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(("\n" if torn else "") + json.dumps(asdict(record)) + "\n")


def read(file: pathlib.Path) -> list[Record]:
    """The rows of a file; a line that was cut off is passed over. Raises ValueError where no line is a row."""
    known = {one.name for one in fields(Record)}
    found, lines = [], [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    for line in lines:
        try:
            values = json.loads(line)
            found.append(Record(**{name: value for name, value in values.items() if name in known}))
        except (ValueError, TypeError, AttributeError):
            continue
    if lines and not found:
        raise ValueError(f"{file}: no line of it is a row of `guided bench`; give another --out")
    return found


def key(settings: Any) -> str:
    """A short hash of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def means(records: Iterable[Record]) -> list[Record]:
    """The geometric mean of each family that has more than one row, its members of one machine."""
    families: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.family:
            families.setdefault((record.family, json.dumps(record.machine)), []).append(record)
    return [_mean(members) for members in families.values() if len(members) > 1]


def _mean(members: Sequence[Record]) -> Record:
    found = timing.together([record.ratios for record in members])
    first = members[0]
    ours, peer = (timing.geometric([getattr(record, side) for record in members]) for side in ("ours", "peer"))
    return Record(
        key([record.key for record in members]),
        first.command,
        f"{first.family}, geometric mean over batches",
        ours,
        peer,
        *found,
        unit=first.unit,
        rounds=first.rounds,
        ours_setting=first.ours_setting,
        peer_setting=" | ".join(dict.fromkeys(record.peer_setting for record in members)),
        machine=first.machine,
        date=first.date,
    )


def latest(records: Iterable[Record]) -> list[Record]:
    """The last row of each name on each device, in the order of their first."""
    found: dict[tuple[str, object], Record] = {}
    for record in records:
        found[record.command + record.name, record.machine.get("device")] = record
    return list(found.values())
