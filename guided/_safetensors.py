"""Weights files: nothing in one is believed before it is checked against the file itself.

The header is read without torch, so that describing a file is quick and allocates nothing.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guided import _files

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Path = str | os.PathLike[str]
HEADER_LIMIT = 16 << 20
TENSOR_LIMIT = 20_000
# Bytes of one element, for every dtype that is read.
DTYPES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1},
}
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
_MAGIC = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x93NUMPY": "a NumPy array",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself with `git lfs pull`",
}


class NotFinite(UserWarning):
    """Weights hold NaN or infinity."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its dtype as the format names it, its shape, its bytes within the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds; `data` is the number of bytes of all tensors."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    data: int

    @property
    def parameters(self) -> int:
        """The number of elements of all tensors."""
        return sum(math.prod(entry.shape) for entry in self.tensors.values())


def header(path: Path) -> Header:
    """Read and check the header of a safetensors file; no tensor is read.

    Raises FileNotFoundError, and ValueError where the file is something else, is cut, or contradicts itself: a header
    longer than the file or 16 MB, an unknown dtype, bytes that overlap, leave holes or do not fit the shape.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    refuse_pickle(file)
    size = file.stat().st_size
    if size == 0:
        raise ValueError(f"{file}: the file is empty")
    with file.open("rb") as stream:
        start = stream.read(32)
        if not _plausible(start, size):
            _recognise(file, start)
        if size < 8:
            raise ValueError(f"{file}: not a safetensors file ({size} bytes)")
        length = int.from_bytes(start[:8], "little")
        if length > min(size - 8, HEADER_LIMIT):
            limit = f"it has {size} bytes" if length > size - 8 else f"at most {HEADER_LIMIT} are read"
            raise ValueError(f"{file}: not a sound safetensors file: its header claims {length} bytes, {limit}")
        stream.seek(8)
        text = stream.read(length)
    try:
        return _parsed(json.loads(text, object_pairs_hook=_unique), size - 8 - length)
    except (UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: not a safetensors file: its header is no JSON") from error
    except ValueError as error:
        raise ValueError(f"{file}: not a sound safetensors file: {error}") from None


@dataclass(frozen=True)
class Files:
    """The files of one set of weights, in the order of their index; variant as in `NAME.fp16.safetensors`."""

    paths: tuple[pathlib.Path, ...]
    variant: str | None = None
    index: pathlib.Path | None = None


VARIANTS = (None, "fp16", "bf16", "fp32")
_SIBLING = re.compile(r"[A-Za-z0-9._-]+\.safetensors")


def files(folder: Path, stem: str) -> Files | None:
    """`STEM.safetensors` in a folder, or the shards of its index, or a variant of either; None where there is none.

    Raises ValueError for an index that is no such list, or names anything but files beside it; FileNotFoundError where
    one of them is missing.
    """
    place = pathlib.Path(folder)
    for variant in VARIANTS:
        end = "" if variant is None else f".{variant}"
        single, index = place / f"{stem}{end}.safetensors", place / f"{stem}.safetensors.index{end}.json"
        if single.is_file():
            return Files((single,), variant)
        if index.is_file():
            return Files(tuple(place / name for name in _shards(index)), variant, index)
    return None


def _shards(index: pathlib.Path) -> list[str]:
    if index.stat().st_size > HEADER_LIMIT:
        raise ValueError(f"{index}: {index.stat().st_size} bytes, at most {HEADER_LIMIT} are read")
    try:
        names = json.loads(index.read_bytes())["weight_map"].values()
        shards = sorted(set(names))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index}: not an index of safetensors files ({error!r:.80})") from None
    for name in shards:
        if not isinstance(name, str) or not _SIBLING.fullmatch(name):
            raise ValueError(f"{index}: weight_map: expected names of .safetensors files beside it, got {name!r:.80}")
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index}: names {name}, which is not in the folder")
    if not shards:
        raise ValueError(f"{index}: weight_map names no file")
    return shards


def headers(found: Files) -> dict[str, Entry]:
    """The tensors of all files, none of which is read; ValueError where two hold one name."""
    entries: dict[str, Entry] = {}
    for path in found.paths:
        tensors = header(path).tensors
        twice = entries.keys() & tensors.keys()
        if twice:
            raise ValueError(f"{path}: {min(twice)} is in another file of the set too")
        entries.update(tensors)
    return entries


def refuse_pickle(path: Path) -> None:
    """Raise ValueError if the file is a Python pickle by its name or its content; it is never unpickled."""
    file = pathlib.Path(path)
    with file.open("rb") as stream:
        start = stream.read(9)
    pickled = start[:1] == b"\x80" and 1 <= int.from_bytes(start[1:2], "little") <= 5
    if (pickled and not _plausible(start, file.stat().st_size)) or file.suffix.lower() in PICKLES:
        raise ValueError(
            f"{file}: refused: a Python pickle, which can run code when it is read. guided reads safetensors only; "
            "get the .safetensors version of this file"
        )


def _plausible(start: bytes, size: int) -> bool:
    """Whether this may be a safetensors file: the bytes of its length can look like the mark of any other format."""
    return int.from_bytes(start[:8], "little") <= size - 8 and start[8:9] == b"{"


def _recognise(file: pathlib.Path, start: bytes) -> None:
    for magic, name in _MAGIC.items():
        if start.startswith(magic):
            raise ValueError(f"{file}: not a safetensors file: this is {name}")
    if start.lstrip()[:1] == b"<":
        raise ValueError(f"{file}: not a safetensors file: this is an HTML or XML text (a failed download?)")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("its header names something twice")
    return found


def _parsed(values: Any, data: int) -> Header:
    if not isinstance(values, dict):
        raise ValueError("its header is no mapping")
    metadata = values.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are not text")
    if len(values) > TENSOR_LIMIT:
        raise ValueError(f"it names {len(values)} tensors, at most {TENSOR_LIMIT} are read")
    tensors = {name: _entry(name, value) for name, value in values.items()}
    expected = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != expected:
            kind = "shares bytes with another tensor" if entry.start < expected else "leaves a hole before it"
            raise ValueError(f"{name!r} {kind} (it begins at {entry.start}, expected {expected})")
        expected = entry.end
    if expected != data:
        kind = "is cut" if expected > data else "is too long"
        raise ValueError(f"the file {kind}: its tensors take {expected} bytes, it holds {data}")
    return Header(tensors, metadata, data)


def _entry(name: str, value: Any) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} is described by {value!r:.80}, expected dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if dtype not in DTYPES:
        raise ValueError(f"{name!r} has the dtype {dtype!r:.40}; known are {', '.join(DTYPES)}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 8:
        raise ValueError(f"{name!r} has the shape {shape!r:.80} and the offsets {offsets!r:.80}")
    start, end = offsets
    if end - start != math.prod(shape) * DTYPES[dtype]:
        raise ValueError(f"{name!r} needs {math.prod(shape) * DTYPES[dtype]} bytes, its offsets give {end - start}")
    return Entry(dtype, tuple(shape), start, end)


def _counts(values: object) -> bool:
    # A boolean is an int to Python, not to the format.
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def load(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """The tensors of a sound safetensors file; warns (`NotFinite`) with the names of those that hold NaN or infinity.

    Raises what `header` raises.
    """
    header(path)
    import safetensors.torch

    mapped: dict[str, Tensor] = safetensors.torch.load_file(path, device=str(device))
    # Copies, not views into the file, which lie anywhere: kernels choose their way by the alignment of a weight, and
    # the same weights are to give the same bits from whatever file they come.
    tensors = {name: value.clone() for name, value in mapped.items()}
    bad = not_finite(tensors)
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        warnings.warn(f"{path}: NaN or infinity in {', '.join(bad[:5])}{more}", NotFinite, stacklevel=2)
    return tensors


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or infinity."""
    # 8-bit floats know no isfinite of their own.
    wide = {name: value.float() if value.element_size() == 1 else value for name, value in tensors.items()}
    return [name for name, value in wide.items() if not bool(value.isfinite().all())]


def save(
    tensors: Mapping[str, Tensor],
    path: Path,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors to a safetensors file, aside and renamed; the same tensors give the same bytes.

    dtype: what floating-point tensors are stored in, None: as they are. metadata: of the file, by default none.
    Raises OSError where the disk is full.
    """
    import safetensors.torch

    with _files.writing(path) as aside:
        try:
            safetensors.torch.save_file(plain(tensors, dtype), aside, None if metadata is None else dict(metadata))
        except safetensors.SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), os.fspath(path)) from None
        aside.chmod(0o644)  # the library makes it readable by its owner alone


def plain(tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, floating-point ones in `dtype`: as a file holds them."""
    return {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else None).contiguous()
        for name, value in tensors.items()
    }


def compare(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str | None:
    """How the shapes in a file differ from those a network needs, in one line; None where they are the same."""
    shapes = [
        f"{name} is {list(found[name])}, expected {list(expected[name])}"
        for name in expected
        if name in found and expected[name] != found[name]
    ]
    parts = {
        "missing": [name for name in expected if name not in found],
        "not expected": [name for name in found if name not in expected],
        "of another shape": shapes,
    }
    return "; ".join(f"{len(names)} {kind}: {_first(names)}" for kind, names in parts.items() if names) or None


def _first(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
