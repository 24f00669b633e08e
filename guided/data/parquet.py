"""Pictures, captions and labels in parquet files, with the columns as the Hugging Face hub writes them."""

from __future__ import annotations

import builtins
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guided.data.records import BadPicture, Record, describe, listed, plain

CACHE = 1 << 30
"""Bytes of decompressed row groups kept in memory."""


@dataclass(frozen=True)
class Columns:
    """Which column holds what."""

    image: str
    caption: str | None
    label: str | None
    extra: tuple[str, ...]


class ParquetSource:
    """The rows of one or several parquet files; captions and labels are read at once, pictures on demand.

    Raises ValueError naming the file (and the rows) where a file is damaged, no column holds pictures, or a
    label has no class name.
    """

    def __init__(self, files: Sequence[Path], caption_key: str = "text", label_key: str = "label"):
        self.files = [Path(file) for file in files]
        self._open: dict[tuple[int, int], Any] = {}
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._where: list[tuple[int, int, int]] = []  # file, row group, row in it
        records: list[Record] = []
        self.classes: tuple[str, ...] = ()
        for at, file in enumerate(self.files):
            reader = _reader(file)
            features = _features(reader)
            columns = _columns(reader, features, file, caption_key, label_key)
            if at == 0:
                self.columns = columns
                self.classes = _classes(features, columns.label)
            elif columns.image != self.columns.image:
                raise ValueError(f"{file}: its picture column is {columns.image!r}, not {self.columns.image!r}")
            records += _rows(reader, columns, file, len(records))
            for group in range(reader.metadata.num_row_groups):
                count = reader.metadata.row_group(group).num_rows
                self._where += [(at, group, row) for row in range(count)]
        self.classes = self.classes or _numbered(records)
        self.records: Sequence[Record] = records
        _check_labels(records, self.classes, self.files)
        self.skipped: tuple[tuple[str, str], ...] = ()
        path = str(self.files[0] if len(self.files) == 1 else self.files[0].parent)
        self.summary = describe("parquet", path, records, self.classes, captioned=self.columns.caption is not None)

    def bytes(self, i: int) -> builtins.bytes:
        """The encoded picture of row i; raises BadPicture naming file and row where there is none."""
        at, group, row = self._where[i]
        where = f"{self.files[at]}: row {i + 1}"
        try:
            cell = self._group(at, group)[row].as_py()
        except (OSError, ValueError) as error:  # Arrow's own errors are among them
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadPicture(f"{where}: its row group cannot be read: {reason}") from None
        if cell is None:
            raise BadPicture(f"{where}: its picture is null")
        data = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if data is None:
            path = cell.get("path")
            raise BadPicture(f"{where}: its picture has the path {path!r} but no bytes")
        if not isinstance(data, builtins.bytes):
            raise BadPicture(f"{where}: expected the bytes of a picture, got {type(data).__name__}")
        return data

    def _group(self, at: int, group: int) -> Any:
        """The picture column of a row group, from the cache; one reader a process, for forked workers."""
        key = (at, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        reader = self._open.setdefault((os.getpid(), at), None) or _reader(self.files[at])
        self._open[os.getpid(), at] = reader
        column = reader.read_row_group(group, columns=[self.columns.image]).column(self.columns.image)
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        self._groups[key] = column
        while len(self._groups) > 1 and sum(c.nbytes for c in self._groups.values()) > CACHE:
            self._groups.popitem(last=False)
        return column

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}, "_groups": OrderedDict()}


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files of a folder (and its `data/`): the training split where splits are named."""
    found = sorted(p for where in (folder, folder / "data") if where.is_dir() for p in where.glob("*.parquet"))
    found = [p for p in found if not p.name.startswith(".")]
    return [p for p in found if p.name.startswith("train")] or found


def _reader(file: Path) -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(f"{file}: reading parquet needs pyarrow: pip install 'guided[train]'") from None
    try:
        return pq.ParquetFile(file)
    except FileNotFoundError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{file}: not a sound parquet file: {reason}") from None


def _features(reader: Any) -> dict[str, Any]:
    """The column descriptions the `datasets` library stores; empty where there are none."""
    raw = (reader.schema_arrow.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(raw)["info"]["features"] if raw else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _columns(reader: Any, features: dict[str, Any], file: Path, caption_key: str, label_key: str) -> Columns:
    import pyarrow as pa

    schema = reader.schema_arrow
    named = [name for name, feature in features.items() if (feature or {}).get("_type") == "Image"]
    guessed = [
        field.name
        for field in schema
        if (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
        or pa.types.is_binary(field.type)
        or pa.types.is_large_binary(field.type)
    ]
    images = [name for name in named + guessed if name in schema.names]
    if not images:
        raise ValueError(f"{file}: no column holds pictures; it has {', '.join(schema.names)}")
    caption = caption_key if caption_key in schema.names else None
    label = label_key if label_key in schema.names else None
    if label and not pa.types.is_integer(schema.field(label).type):
        raise ValueError(f"{file}: column {label!r} is {schema.field(label).type}, expected whole numbers")
    if caption and not _is_text(schema.field(caption).type):
        raise ValueError(f"{file}: column {caption!r} is {schema.field(caption).type}, expected text")
    extra = tuple(f.name for f in schema if _is_text(f.type) and f.name != caption)
    return Columns(images[0], caption, label, extra)


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _classes(features: dict[str, Any], label: str | None) -> tuple[str, ...]:
    names = (features.get(label or "") or {}).get("names")
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _numbered(records: Sequence[Record]) -> tuple[str, ...]:
    """Labels without names: "0", "1", ..."""
    labels = [record.label for record in records if record.label is not None]
    return tuple(str(i) for i in range(max(labels) + 1)) if labels and max(labels) >= 0 else ()


def _rows(reader: Any, columns: Columns, file: Path, first: int) -> list[Record]:
    wanted = [name for name in (columns.caption, columns.label, *columns.extra) if name]
    names = _paths(reader, columns.image)
    table = reader.read(columns=wanted)
    count = reader.metadata.num_rows
    column = {name: table.column(name).to_pylist() for name in wanted}
    captions = column[columns.caption] if columns.caption else [None] * count
    labels = column[columns.label] if columns.label else [None] * count
    return [
        Record(
            names[i] or f"{file.name} row {first + i + 1}",
            plain(captions[i]),
            labels[i],
            {name: column[name][i] for name in columns.extra if column[name][i] is not None},
        )
        for i in range(count)
    ]


def _paths(reader: Any, image: str) -> list[str | None]:
    """The file names kept beside the bytes, without reading the bytes."""
    schema = reader.schema_arrow.field(image).type
    if not hasattr(schema, "get_field_index") or schema.get_field_index("path") < 0:
        return [None] * reader.metadata.num_rows
    cells = reader.read(columns=[f"{image}.path"]).column(image).to_pylist()
    return [cell["path"] if cell else None for cell in cells]


def _check_labels(records: Sequence[Record], classes: Sequence[str], files: Sequence[Path]) -> None:
    wrong = [i for i, r in enumerate(records) if r.label is not None and not 0 <= r.label < len(classes)]
    if wrong:
        values = sorted({records[i].label or 0 for i in wrong})
        raise ValueError(
            f"{files[0]}: labels {listed(values)} in rows {listed([i + 1 for i in wrong])}: expected 0 to "
            f"{len(classes) - 1} ({len(classes)} classes are named); leave the label null where there is none"
        )
