"""What a call of a model returns: pictures, and of each the record of how it was made."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from PIL.ExifTags import Base
from torch import Tensor

from guided import _files
from guided.model.sheet import sheet

KEY = "guided"
"""The text chunk of a PNG that carries its record."""
LINES = "images.jsonl"
STRIP = 1 << 20
"""Numbers that are rounded at once, so that memory does not grow with the picture."""
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
Array = np.ndarray[Any, np.dtype[Any]]


class Result(list[Image.Image]):
    """PIL pictures, with `tensor` (B, C, H, W) float in [-1, 1], `arrays` and `records`, one a picture.

    Pictures of other than 1 to 4 channels show their first one. bits: 8 or 16, the depth of `arrays`.
    Raises ValueError where the numbers of pictures and records differ.
    """

    def __init__(self, tensor: Tensor, records: Sequence[Mapping[str, Any]], bits: int = 8) -> None:
        if tensor.ndim != 4 or len(tensor) != len(records):
            raise ValueError(f"a result is (B, C, H, W) with B records, got {tuple(tensor.shape)} and {len(records)}")
        self._tensor = tensor.detach().to("cpu", torch.float32).clamp(-1, 1)
        self.records = [dict(record) for record in records]
        self.bits = bits
        super().__init__(_picture(array) for array in levels(self._tensor, 8))

    @property
    def tensor(self) -> Tensor:
        """(B, C, H, W) float32 in [-1, 1], on the CPU."""
        return self._tensor

    @property
    def arrays(self) -> Array:
        """(B, H, W, C), uint8 or uint16: the whole range of the bit depth."""
        return levels(self.tensor, self.bits)

    def encoded(self, index: int) -> tuple[str, bytes]:
        """The suffix and the content of one picture's file, which holds all of its bits and its record."""
        return ".png", png(self[index], self.records[index])

    def save(self, folder: str | os.PathLike[str], name: str = "") -> list[pathlib.Path]:
        """Write one file a picture, each with its record, and a line a picture in `images.jsonl`; returns the paths.

        The files are numbered (`name000000.png`, ...) after those that are there: nothing is ever overwritten, also
        where several processes write to one folder. Raises OSError where the folder cannot be written.
        """
        place = pathlib.Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        paths = []
        for index, record in enumerate(self.records):
            suffix, content = self.encoded(index)
            with _numbered(place, name, suffix) as path:
                _files.write(path, content)
            line = json.dumps({"file": path.name, **record}) + "\n"
            # One write at the end of the file: lines of several processes do not mix.
            with open(place / LINES, "ab", buffering=0) as stream:
                stream.write(line.encode())
            paths.append(path)
        return paths

    def sheet(
        self, path: str | os.PathLike[str], columns: int | None = None, captions: Sequence[str] | None = None
    ) -> pathlib.Path:
        """Write all pictures as one, each above its caption (by default its prompt or class, and its seed)."""
        lines = [caption(record) for record in self.records] if captions is None else captions
        target = pathlib.Path(path)
        _files.write(target, png(sheet(list(self), lines, columns), None))
        return target


def levels(tensor: Tensor, bits: int = 8) -> Array:
    """(B, C, H, W) in [-1, 1] -> (B, H, W, C) of `bits` bits, rounded to the nearest level."""
    top = 2**bits - 1
    count, channels, height, width = tensor.shape
    array: Array = np.empty((count, height, width, channels), np.uint8 if bits == 8 else np.uint16)
    step = max(1, STRIP // max(count * channels * width, 1))
    for start in range(0, height, step):
        rows = slice(start, start + step)
        # Halves of a level are rounded the same way on every device: in float64, on the CPU.
        scaled = ((tensor[:, :, rows].double().cpu() + 1) * (top / 2)).clamp(0, top).round()
        array[:, rows] = scaled.permute(0, 2, 3, 1).numpy()
    return array


def _picture(array: Array) -> Image.Image:
    channels = array.shape[-1]
    if channels not in _MODES:
        return Image.fromarray(np.ascontiguousarray(array[..., 0]))
    return Image.fromarray(np.ascontiguousarray(array[..., 0] if channels == 1 else array), _MODES[channels])


def png(picture: Image.Image, record: Mapping[str, Any] | None) -> bytes:
    """A PNG that carries a record; the same picture and record give the same bytes."""
    chunks = PngImagePlugin.PngInfo()
    if record is not None:
        chunks.add_text(KEY, json.dumps(record))
    out = io.BytesIO()
    picture.save(out, "PNG", pnginfo=chunks)
    return out.getvalue()


def record_of(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The record in a PNG, TIFF or JPEG that guided wrote, None where there is none; ValueError for another file."""
    try:
        with Image.open(path, formats=["PNG", "TIFF", "JPEG"]) as picture:
            text = _record_in(picture)
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{os.fspath(path)}: not a PNG, TIFF or JPEG picture that can be read ({error})") from None
    if text is None:
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)}: its record is not JSON ({error})") from None
    return record if isinstance(record, dict) else None


def _record_in(picture: Image.Image) -> str | None:
    """Where each format keeps it: a text chunk; the description, or the comment, if that is a record of ours."""
    if picture.format == "PNG":
        found: str | None = picture.info.get(KEY)
        return found
    found = picture.getexif().get(Base.ImageDescription) if picture.format == "TIFF" else picture.info.get("comment")
    found = found.decode("ascii", "replace") if isinstance(found, bytes) else found
    return found if isinstance(found, str) and found.startswith(f'{{"{KEY}":') else None


def caption(record: Mapping[str, Any]) -> str:
    """What a contact sheet says below a picture."""
    text = record.get("prompt") or record.get("class") or ""
    return f"{text} ({record['seed']})" if text and "seed" in record else str(text or record.get("seed", ""))


@contextlib.contextmanager
def _numbered(folder: pathlib.Path, name: str, suffix: str) -> Iterator[pathlib.Path]:
    """Reserve the next free number in a folder; on failure the reservation is given back."""
    pattern = re.compile(re.escape(name) + r"(\d+)\.[a-z]+")
    with os.scandir(folder) as entries:
        taken = [int(found[1]) for entry in entries if (found := pattern.fullmatch(entry.name))]
    number = max(taken, default=-1) + 1
    while True:
        path = folder / f"{name}{number:06d}{suffix}"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            break
        except FileExistsError:
            number += 1
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise
