"""Open a data set of any supported layout, saying what it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from guided.data.parquet import ParquetSource, parquet_files
from guided.data.records import Source

FORMATS = ("auto", "folder", "parquet", "shards", "hub")


def open(  # the verb of the public face: data.open
    path: str | os.PathLike[str] | Any,
    *,
    format: str = "auto",
    caption_key: str = "text",
    label_key: str = "label",
    root_check: bool = True,
) -> Source:
    """Open pictures, captions and labels; the source's `summary["format"]` says what was found.

    `path`: a folder of pictures (class folders, `metadata.jsonl` or `.csv`, sidecar `.txt` captions, or plain),
    a parquet file or a folder of them, a tar shard or a folder of them, a folder written by `save_to_disk`, a
    `datasets` data set, "shapes:1" or "shapes:2" for rendered scenes or, with `format="hub"`, the id of a data
    set. `root_check=False` allows metadata to name pictures outside its folder. Raises FileNotFoundError;
    ValueError naming file, line and fault; Refused.
    """
    if format not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    if not isinstance(path, str | os.PathLike) or format == "hub":
        from guided.data.hub import hub

        return hub(path, caption_key, label_key)
    place = Path(path)
    if not place.exists() and str(path).partition(":")[0] == "shapes":
        return _shapes(str(path))
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such file or folder")
    if place.name in ("metadata.jsonl", "metadata.csv"):
        place = place.parent
    kind = found(place) if format == "auto" else format
    if kind == "parquet":
        files = parquet_files(place) if place.is_dir() else [place]
        if not files:
            raise ValueError(f"{place}: holds no parquet files")
        return ParquetSource(files, caption_key, label_key)
    if kind == "shards":
        from guided.data.shards import shards

        return shards(place, caption_key, label_key)
    if kind == "hub":
        from guided.data.hub import hub

        return hub(place, caption_key, label_key)
    from guided.data.folder import folder

    return folder(place, caption_key, label_key, root_check)


def _shapes(spec: str) -> Source:
    """ "shapes", "shapes:1" or "shapes:2": rendered scenes of one or two objects."""
    from guided.data.shapes import ShapesSource

    _, _, objects = spec.partition(":")
    if objects not in ("", "1", "2"):
        raise ValueError(f'expected "shapes", "shapes:1" or "shapes:2", got {spec!r}')
    return ShapesSource(objects=int(objects or 1))


def found(place: Path) -> str:
    """The layout of an existing path, by what lies in it."""
    if place.is_file():
        suffix = place.suffix.lower()
        return {".parquet": "parquet", ".tar": "shards"}.get(suffix, "folder")
    names = sorted(entry.name for entry in place.iterdir() if not entry.name.startswith("."))
    if "dataset_info.json" in names or "dataset_dict.json" in names:
        return "hub"
    if "metadata.jsonl" in names or "metadata.csv" in names:
        return "folder"
    if parquet_files(place):
        return "parquet"
    if any(name.lower().endswith(".tar") for name in names):
        return "shards"
    return "folder"
