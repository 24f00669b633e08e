"""Tar shards as webdataset writes them: indexed once, read by offset in any order, never extracted."""

from __future__ import annotations

import builtins
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from guided.data.folder import PICTURES
from guided.data.records import BadPicture, Record, Refused, counted, describe, label_of, listed, plain

LARGEST = 256 << 20
"""Bytes of one member at most."""
TEXTS = ("txt", "caption", "text")
LABELS = ("cls", "label")


@dataclass
class Sample:
    """Where the members of one key lie: extension to (offset, length)."""

    key: str
    shard: int
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


class ShardSource:
    """The samples of one or several tar files; a sample is the members that share a name up to its first dot.

    Raises Refused where a member is a link or a device or its name leads out of the archive; a cut archive
    yields its whole samples and is reported in `skipped`.
    """

    def __init__(self, files: Sequence[Path], caption_key: str = "text", label_key: str = "label"):
        self.files = [Path(file) for file in files]
        skipped: list[tuple[str, str]] = []
        notes: list[str] = []
        samples = [sample for at, _ in enumerate(self.files) for sample in self._index(at, skipped, notes)]
        whole = [sample for sample in samples if _picture(sample)]
        for sample in samples:
            if not _picture(sample):
                skipped.append((sample.key, "has no picture"))
        if not whole:
            raise ValueError(f"{self.files[0]}: no sample has a picture")
        described = [self._describe(sample, caption_key, label_key) for sample in whole]
        bare = [sample.key for sample, (text, _, found) in zip(whole, described, strict=True) if not found]
        captioned = len(bare) < len(whole)
        if bare and captioned:
            notes.append(f"{counted(len(bare), 'sample')} without a caption: {listed(bare)}")
        pictureless = [sample.key for sample in samples if not _picture(sample)]
        if pictureless:
            notes.append(f"{counted(len(pictureless), 'sample')} without a picture, left out: {listed(pictureless)}")
        self.classes = _class_names([label for _, label, _ in described])
        number = {name: k for k, name in enumerate(self.classes)}
        self._pictures = [(sample.shard, *sample.members[str(_picture(sample))]) for sample in whole]
        self.records: Sequence[Record] = [
            Record(f"{sample.key}.{_picture(sample)}", text, None if label is None else number[str(label)])
            for sample, (text, label, _) in zip(whole, described, strict=True)
        ]
        self.skipped = tuple(skipped)
        path = str(self.files[0] if len(self.files) == 1 else self.files[0].parent)
        self.summary: dict[str, Any] = describe("shards", path, self.records, self.classes, notes, captioned)

    def bytes(self, i: int) -> builtins.bytes:
        """The encoded picture of sample i, read at its offset."""
        return self._read(*self._pictures[i])

    def _read(self, shard: int, offset: int, length: int) -> builtins.bytes:
        try:
            with self.files[shard].open("rb") as stream:
                stream.seek(offset)
                data = stream.read(length)
        except OSError as error:
            raise BadPicture(f"{self.files[shard]}: {error.strerror}") from None
        if len(data) < length:
            raise BadPicture(f"{self.files[shard]}: ends at {offset + len(data)}, before the end of a sample")
        return data

    def _index(self, at: int, skipped: list[tuple[str, str]], notes: list[str]) -> list[Sample]:
        """The samples of one shard in their order; what a cut took is reported."""
        file = self.files[at]
        samples: dict[str, Sample] = {}
        length = os.path.getsize(file)
        last = ""
        try:
            with tarfile.open(file, "r:") as archive:
                for member in archive:
                    if member.isdir():
                        continue
                    last, extension = checked(member, file)
                    if member.offset_data + member.size > length:
                        raise tarfile.ReadError(f"{member.name} ends beyond the file")
                    sample = samples.setdefault(last, Sample(last, at))
                    sample.members[extension] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            if not samples:
                raise ValueError(f"{file}: not a sound tar file: {error}") from None
            return _cut(file, samples, last, skipped, notes, str(error))
        if length % 512 or not _ended(file, length):
            kinds = [set(sample.members) for sample in samples.values()]
            partial = last if kinds and (kinds[-1] != kinds[0] or (kinds == [kinds[0]] and len(kinds[0]) < 2)) else ""
            return _cut(file, samples, partial, skipped, notes, "its end mark is missing")
        return list(samples.values())

    def _describe(self, sample: Sample, caption_key: str, label_key: str) -> tuple[str | None, int | str | None, bool]:
        """Caption, label, and whether the sample has a place for a caption at all."""
        text: str | None = None
        label: int | str | None = None
        found = False
        where = f"{self.files[sample.shard]}: {sample.key}"
        for extension, place in sample.members.items():
            if extension == "json":
                values = _json(self._read(sample.shard, *place), f"{where}.json")
                found = found or caption_key in values
                text = _typed(values.get(caption_key, text), (str,), f"{where}.json: {caption_key}")
                label = _typed(values.get(label_key, label), (int, str), f"{where}.json: {label_key}")
            elif extension in TEXTS:
                found, text = True, _utf8(self._read(sample.shard, *place), f"{where}.{extension}")
            elif extension in LABELS:
                raw = _utf8(self._read(sample.shard, *place), f"{where}.{extension}").strip()
                label = label_of(raw)
        if isinstance(label, int) and label < 0:
            raise ValueError(f"{where}: label {label}: expected >= 0, or none")
        return plain(text), label, found


def shards(place: Path, caption_key: str = "text", label_key: str = "label") -> ShardSource:
    """Open a tar file, or all of a folder in the order of their names."""
    files = sorted(f for f in place.iterdir() if f.suffix.lower() == ".tar") if place.is_dir() else [place]
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise ValueError(f"{place}: holds no .tar files")
    return ShardSource(files, caption_key, label_key)


def checked(member: tarfile.TarInfo, file: Path) -> tuple[str, str]:
    """Key and extension of a regular member; raises Refused for any other kind, a strange name or a huge one."""
    name = PurePosixPath(member.name)
    if not member.isreg():
        raise Refused(f"{file}: refused: the member {member.name!r} is a link or a device, not a file")
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        raise Refused(f"{file}: refused: the member {member.name!r} leads out of the archive")
    if member.size > LARGEST:
        raise Refused(f"{file}: refused: the member {member.name!r} has {member.size} bytes")
    stem, _, extension = name.name.partition(".")
    return str(name.parent / stem), extension.lower()


def _cut(
    file: Path, samples: dict[str, Sample], partial: str, skipped: list[tuple[str, str]], notes: list[str], why: str
) -> list[Sample]:
    """The whole samples before a cut; the one it went through is left out and reported."""
    samples.pop(partial, None)
    text = f"{file.name} is cut ({why}): {counted(len(samples), 'whole sample')} used"
    skipped.append((partial or f"{file.name} after {counted(len(samples), 'sample')}", text))
    notes.append(text)
    return list(samples.values())


def _ended(file: Path, length: int) -> bool:
    with file.open("rb") as stream:
        stream.seek(max(0, length - 1024))
        return not any(stream.read(1024))


def _picture(sample: Sample) -> str | None:
    return next((e for e in sample.members if e.rsplit(".", 1)[-1] in PICTURES), None)


def _class_names(labels: Sequence[int | str | None]) -> tuple[str, ...]:
    known = {label for label in labels if label is not None}
    if all(isinstance(label, int) for label in known):
        return tuple(str(i) for i in range(max(map(int, known)) + 1)) if known else ()
    return tuple(sorted(map(str, known)))


def _utf8(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{where}: expected text in UTF-8") from None


def _json(data: bytes, where: str) -> dict[str, Any]:
    try:
        values = json.loads(_utf8(data, where))
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: malformed JSON") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(values).__name__}")
    return values


def _typed(value: Any, kinds: tuple[type, ...], where: str) -> Any:
    if value is None or (isinstance(value, kinds) and not isinstance(value, bool)):
        return value
    raise ValueError(f"{where}: expected {' or '.join(k.__name__ for k in kinds)}, got {type(value).__name__}")
