"""The folder of an adapter: its weights in the published form of its base, and `adapter.json`, which says the rest."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import torch

from guided import _files, _safetensors
from guided.model import parts
from guided.tune.adapters.adapter import Adapter

FORMAT = "guided-adapter/1"
MANIFEST = "adapter.json"
_LIMIT = 1 << 20


def manifest(place: pathlib.Path) -> dict[str, Any]:
    """The checked `adapter.json` of a folder; FileNotFoundError, or ValueError naming the entry that is wrong."""
    file = place / MANIFEST
    values = parts.read(file, _LIMIT)
    if values.get("format") != FORMAT:
        raise ValueError(f"{file}: format: expected {FORMAT!r}, got {values.get('format')!r:.80}")
    base = values.get("base")
    if not isinstance(base, dict) or not isinstance(base.get("source"), str):
        raise ValueError(f"{file}: base: expected its source and sha256, got {base!r:.80}")
    if not isinstance(base.get("sha256"), str | None):
        raise ValueError(f"{file}: base.sha256: expected a hash, got {base['sha256']!r:.80}")
    files = values.get("files")
    if not isinstance(files, dict) or not files:
        raise ValueError(f"{file}: files: expected the hash of each, got {files!r:.80}")
    for name, digest in files.items():
        inner = pathlib.PurePosixPath(name)
        if inner.is_absolute() or ".." in inner.parts or not isinstance(digest, str) or len(inner.parts) > 2:
            raise ValueError(f"{file}: files: expected files of the folder and their hashes, got {name!r:.80}")
    for name in ("words", "card"):
        if not isinstance(values.get(name, {}), dict):
            raise ValueError(f"{file}: {name}: expected a mapping, got {values[name]!r:.80}")
    return values


def read(place: pathlib.Path) -> Adapter:
    """The adapter of a folder, every file of it checked first; raises as `reading.read`."""
    from guided.tune.adapters import reading

    values = manifest(place)
    for name, digest in values["files"].items():
        if not (place / name).is_file():
            raise FileNotFoundError(f"{place / name}: {MANIFEST} names it, it is not there")
        found = _files.sha256(place / name)
        if found != digest:
            raise ValueError(f"{place / name}: its SHA-256 is {found}, {MANIFEST} says {digest}: damaged, or replaced")
    layers = {}
    if reading.DIFFUSERS in values["files"]:
        layers = reading.layers_of(place / reading.DIFFUSERS)
    for part, path in reading.peft_folders(place).items():
        inner = (path / reading.PEFT).relative_to(place).as_posix()
        if inner in values["files"]:
            layers[part] = reading.peft_layers(path, part)
    words: dict[str, Any] = {}
    for word, name in values.get("words", {}).items():
        if name not in values["files"]:
            raise ValueError(f"{place / MANIFEST}: words: {word!r}: expected one of its files, got {name!r:.80}")
        held = reading.words_of(reading.loaded(place / name)[0], word)
        if word not in held:
            raise ValueError(f"{place / name}: {word!r}, which {MANIFEST} names, is not in it")
        words[word] = held[word]
    digests = [values["files"][name] for name in sorted(values["files"])]
    return Adapter(
        layers,
        words,
        name=str(values.get("name") or place.name),
        file=str(place),
        sha256=digests[0] if len(digests) == 1 else _joined(digests),
        base=values["base"],
        card=values.get("card", {}),
    )


def _joined(digests: list[str]) -> str:
    import hashlib

    return hashlib.sha256("".join(digests).encode()).hexdigest()


def write(
    place: pathlib.Path,
    adapter: Adapter,
    base: Mapping[str, Any],
    diffusers: bool,
    dtype: torch.dtype = torch.float32,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write the folder of an adapter, whole or not at all.

    diffusers: its layers have diffusers' names and go into diffusers' form, else they are ours and go into peft's.
    Raises ValueError where the folder holds something else, OSError where the disk is full.
    """
    from guided.tune.adapters import writing

    refuse_other(place)
    with _files.folder(place) as aside:
        if diffusers:
            writing.to_diffusers(adapter, aside, dtype)
        else:
            writing.to_peft(adapter, aside, dtype, str(base["source"]))
        words = writing.words(adapter, aside)
        files = sorted(path for path in aside.rglob("*.safetensors"))
        values = {
            "format": FORMAT,
            "name": place.name,
            "method": adapter.method,
            "base": dict(base),
            "files": {file.relative_to(aside).as_posix(): _files.sha256(file) for file in files},
            "words": words,
            "card": dict(card or {}),
        }
        text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (aside / MANIFEST).write_text(text, encoding="utf-8")
    _safetensors.header(place / next(iter(values["files"])))


def refuse_other(place: pathlib.Path) -> None:
    """Raise ValueError where an adapter would be written over something else."""
    if place.is_file() or (place.is_dir() and any(place.iterdir()) and not (place / MANIFEST).is_file()):
        raise ValueError(f"{place}: holds something other than an adapter; choose a new folder")
