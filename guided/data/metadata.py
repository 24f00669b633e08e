"""The rows of metadata.jsonl and metadata.csv, each checked before any work starts."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from guided.data.records import Refused, counted, label_of, listed

NAMES = ("file_name", "image", "file", "path")


@dataclass(frozen=True)
class Row:
    """One checked row: where it stands, the picture it names, what it says about it."""

    line: int
    name: str
    file: Path
    caption: str | None
    has_caption: bool
    label: int | str | None
    extra: Mapping[str, str]


def rows_of(table: Path, caption_key: str, label_key: str, root_check: bool) -> tuple[list[Row], list[str]]:
    """All rows of a metadata file, and notes; the first faults raise ValueError (Refused) with their lines.

    A row needs a `file_name` inside the folder and, where any row has one, a caption (which may be empty).
    """
    raw = list(_jsonl(table) if table.suffix == ".jsonl" else _csv(table))
    if not raw:
        raise ValueError(f"{table}: holds no rows")
    captioned = any(caption_key in row for _, row in raw)
    rows, faults, refused = [], [], []
    for line, values in raw:
        try:
            rows.append(_row(table, line, values, (caption_key, label_key), captioned, root_check))
        except Refused as error:
            refused.append(str(error))
        except ValueError as error:
            faults.append(str(error))
    if refused or faults:
        more = len(refused) + len(faults) - 1
        kind = Refused if refused else ValueError
        raise kind((refused + faults)[0] + (f" (and {more} more: {_rest(refused + faults)})" if more else ""))
    notes = []
    twice = {name: n for name, n in Counter(row.name for row in rows).items() if n > 1}
    if twice:
        notes.append(f"{counted(len(twice), 'picture')} with several rows ({listed(sorted(twice))}): every row is kept")
    return rows, notes


def _rest(faults: list[str]) -> str:
    """The next faults without the path: `line 3: ...; line 7: ...`."""
    return "; ".join("line " + fault.split(".jsonl:")[-1].split(".csv:")[-1] for fault in faults[1:4]) + (
        "; ..." if len(faults) > 4 else ""
    )


def _jsonl(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines: JSON may hold U+2028 and its like as they are.
    for number, text in enumerate(_text(table).split("\n"), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", type(error).__name__)
            raise ValueError(f"{table}:{number}: malformed JSON: {reason}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{table}:{number}: expected a JSON object, got {type(row).__name__}")
        yield number, row


def _csv(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_text(table), newline=""))
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{table}:{reader.line_num}: expected {len(reader.fieldnames or ())} fields")
            yield reader.line_num, {str(key): value for key, value in row.items()}
    except csv.Error as error:
        raise ValueError(f"{table}:{reader.line_num}: malformed CSV: {error}") from None


def _text(table: Path) -> str:
    try:
        return table.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{table}: expected text in UTF-8; byte {error.start} is not") from None


def _row(
    table: Path, line: int, values: Mapping[str, Any], keys: tuple[str, str], captioned: bool, root_check: bool
) -> Row:
    where, (caption_key, label_key) = f"{table}:{line}", keys
    key = next((name for name in NAMES if name in values), None)
    if key is None:
        raise ValueError(f"{where}: the key file_name is missing")
    name, caption, label = values[key], values.get(caption_key), values.get(label_key)
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: {key}: expected a file name, got {_shown(name)}")
    if captioned and caption_key not in values:
        raise ValueError(f"{where}: the key {caption_key} is missing (write null or an empty text for no caption)")
    if caption is not None and not isinstance(caption, str):
        raise ValueError(f"{where}: {caption_key}: expected text, got {_shown(caption)}")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
        raise ValueError(f"{where}: {label_key}: expected a name or a whole number, got {_shown(label)}")
    if table.suffix == ".csv" and isinstance(label, str):
        label = label_of(label)
    file = inside(table.parent, name, where, root_check)
    if not file.is_file():
        raise ValueError(f"{where}: there is no file {name!r}")
    extra = {k: v for k, v in values.items() if isinstance(v, str) and k not in (key, caption_key, label_key)}
    return Row(line, name, file, caption, caption_key in values, label, extra)


def inside(root: Path, name: str, where: str, check: bool = True) -> Path:
    """The file `name` below `root`; raises Refused where it is absolute, a URL, or leads out of the folder."""
    file = root / name
    if not check:
        return file
    if "://" in name or name.startswith("~") or PureWindowsPath(name).drive or PurePosixPath(name).is_absolute():
        raise Refused(f"{where}: refused: {name!r} is not a path inside {root}")
    if "\0" in name or not file.resolve().is_relative_to(root.resolve()):
        raise Refused(f"{where}: refused: {name!r} leads out of {root}")
    return file


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
