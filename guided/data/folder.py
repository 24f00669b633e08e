"""Pictures in folders: class folders, metadata.jsonl or .csv, sidecar .txt captions, or just pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guided.data.metadata import Row, rows_of
from guided.data.records import BadPicture, Record, counted, describe, plain

# Told by their names, so that what cannot be read (HEIC, AVIF) is reported rather than overlooked.
DECODED = ("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "bmp", "dib", "tif", "tiff", "gif", "npy")
PICTURES = frozenset((*DECODED, "heic", "heif", "avif", "jp2", "jxl"))


class FolderSource:
    """Pictures as files below one folder; `bytes` reads them when asked for."""

    def __init__(
        self,
        kind: str,
        root: Path,
        files: Sequence[Path],
        records: Sequence[Record],
        classes: Sequence[str] = (),
        skipped: Sequence[tuple[str, str]] = (),
        notes: Sequence[str] = (),
        captioned: bool = False,
    ):
        self.root, self.files = root, list(files)
        self.records: Sequence[Record] = list(records)
        self.classes, self.skipped = tuple(classes), tuple(skipped)
        self.summary: dict[str, Any] = describe(kind, str(root), records, classes, notes, captioned)

    def bytes(self, i: int) -> bytes:
        """The encoded picture i; raises BadPicture where its file cannot be read any more."""
        try:
            return self.files[i].read_bytes()
        except OSError as error:
            raise BadPicture(f"{self.files[i]}: {error.strerror}") from None


def folder(place: Path, caption_key: str = "text", label_key: str = "label", root_check: bool = True) -> FolderSource:
    """Open a folder of pictures (or one picture) by what lies in it; see `data.open`.

    Raises ValueError naming file, line and fault; Refused for metadata that points out of the folder.
    """
    if place.is_file():
        return FolderSource("picture", place.parent, [place], [Record(place.name)])
    for name in ("metadata.jsonl", "metadata.csv"):
        if (place / name).is_file():
            return _imagefolder(place, place / name, caption_key, label_key, root_check)
    files, skipped = scan(place)
    if not files:
        raise ValueError(f"{place}: holds no pictures ({len(skipped)} other files)")
    if (place / "train").is_dir() and not any(file.parent == place for file in files):
        inner = folder(place / "train", caption_key, label_key, root_check)
        beside = len(files) - len(scan(place / "train")[0])
        if beside:
            inner.summary["notes"].append(f"only train/ is used: {counted(beside, 'picture')} beside it left out")
        return inner
    notes = _ignored(skipped)
    if all(file.parent != place for file in files):
        return _class_folders(place, files, skipped, notes)
    captions = [file.with_suffix(".txt") for file in files]
    if any(caption.is_file() for caption in captions):
        return _sidecars(place, files, captions, skipped, notes)
    records = [Record(_name(file, place)) for file in files]
    return FolderSource("pictures", place, files, records, (), skipped, notes)


def scan(place: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """All pictures below a folder, sorted by name, and what was left out with the reason."""
    files, skipped = [], []
    for where, folders, names in os.walk(place):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(where, name)
            if name.startswith("."):
                skipped.append((_name(file, place), "a hidden file"))
            elif file.suffix.lower().lstrip(".") not in PICTURES:
                skipped.append((_name(file, place), "not named as a picture"))
            else:
                files.append(file)
    return sorted(files, key=lambda file: file.relative_to(place).as_posix()), skipped


def _name(file: Path, place: Path) -> str:
    return file.relative_to(place).as_posix()


def _ignored(skipped: Sequence[tuple[str, str]]) -> list[str]:
    count = sum(not name.endswith(".txt") for name, _ in skipped)
    return [f"{counted(count, 'other file')} left out"] if count else []


def _class_folders(
    place: Path, files: Sequence[Path], skipped: Sequence[tuple[str, str]], notes: Sequence[str]
) -> FolderSource:
    """The first folder below the root names the class; one folder alone is no class."""
    of = [file.relative_to(place).parts[0] for file in files]
    classes = sorted(set(of))
    if len(classes) == 1:
        records = [Record(_name(file, place)) for file in files]
        return FolderSource("pictures", place, files, records, (), skipped, notes)
    number = {name: k for k, name in enumerate(classes)}
    records = [Record(_name(f, place), None, number[c]) for f, c in zip(files, of, strict=True)]
    return FolderSource("class folders", place, files, records, classes, skipped, notes)


def _sidecars(
    place: Path,
    files: Sequence[Path],
    captions: Sequence[Path],
    skipped: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> FolderSource:
    records = []
    for file, caption in zip(files, captions, strict=True):
        text = None
        if caption.is_file():
            try:
                text = caption.read_text("utf-8-sig")
            except UnicodeDecodeError:
                raise ValueError(f"{caption}: expected text in UTF-8") from None
        records.append(Record(_name(file, place), plain(" ".join(text.split()) if text else None)))
    used = {_name(caption, place) for caption in captions}
    rest = [entry for entry in skipped if entry[0] not in used]
    return FolderSource("sidecar captions", place, files, records, (), rest, notes, True)


def _imagefolder(place: Path, table: Path, caption_key: str, label_key: str, root_check: bool) -> FolderSource:
    rows, notes = rows_of(table, caption_key, label_key, root_check)
    classes = _label_names(rows, table)
    number = {name: k for k, name in enumerate(classes)}
    records = [
        Record(row.name, plain(row.caption), None if row.label is None else number[str(row.label)], row.extra)
        for row in rows
    ]
    listed = {row.file.resolve() for row in rows}
    extra = [file for file in scan(place)[0] if file.resolve() not in listed]
    skipped = [(_name(file, place), f"not listed in {table.name}") for file in extra]
    if extra:
        notes.append(f"{counted(len(extra), 'picture')} not listed in {table.name}, left out")
    captioned = any(row.has_caption for row in rows)
    return FolderSource("imagefolder", place, [r.file for r in rows], records, classes, skipped, notes, captioned)


def _label_names(rows: Sequence[Row], table: Path) -> list[str]:
    """Class names of text labels, sorted; whole-number labels count from 0."""
    labels = {row.label for row in rows if row.label is not None}
    numbers = [label for label in labels if isinstance(label, int)]
    if len(numbers) < len(labels):
        return sorted(str(label) for label in labels)
    bad = [row for row in rows if isinstance(row.label, int) and row.label < 0]
    if bad:
        raise ValueError(f"{table}:{bad[0].line}: label {bad[0].label}: expected >= 0, or null for no label")
    return [str(i) for i in range(max(numbers) + 1)] if numbers else []
