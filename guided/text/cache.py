"""Token states on disk, memory-mapped: an encoder runs once a caption, and need not be installed later."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guided import _files
from guided.text.encoder import Encoded, Null, TextEncoder, absent, cache_key, checked, stack

# Texts encoded between two writes: what a killed run can lose.
_SHARD = 1024
# Seconds after which a file that no index names belongs to nobody.
_ABANDONED = 3600


@dataclass(frozen=True)
class _Row:
    """Where one text lies: token rows start .. start + length of a shard, and the row of its vector."""

    shard: str
    start: int
    length: int
    index: int
    cut: str | None


class TokenCache:
    """The states of an encoder, kept in `folder/KEY/` and served from there, bit for bit as it gave them.

    encoder: an encoder; or, where none is installed, the `spec` of one (a mapping, or the name it was opened
    by), or None for the only one the folder holds. The cache is itself a `TextEncoder`, and its files can be
    carried to another machine. Each write makes one shard: `ID.npy` with the token states, `ID.vector.npy`, and
    `ID.json`, which is renamed into place last and lists the texts. Nothing is changed afterwards, so any number
    of processes may read and write; a text that two of them encoded is there twice, with the same states.

    Raises FileNotFoundError if there is no encoder and the folder holds none of that spec, ValueError if it
    holds several and none was named.
    """

    def __init__(self, encoder: TextEncoder | Mapping[str, Any] | str | None, folder: str | os.PathLike[str]) -> None:
        self.encoder: TextEncoder | None = None
        if encoder is None or isinstance(encoder, str | Mapping):
            self.folder = _find(Path(folder), encoder)
        else:
            self.encoder = encoder
            self.folder = Path(folder) / encoder.key
            _describe(encoder, self.folder / "encoder.json")
        facts = json.loads((self.folder / "encoder.json").read_text())
        # The key says that the states are the same; where the encoder lies is for the caller to say, not for the
        # run that filled the cache.
        given = encoder if isinstance(encoder, Mapping) else getattr(encoder, "spec", {})
        self.spec: dict[str, Any] = {**facts["spec"], **given}
        self.key = self.folder.name
        self.width: int = facts["width"]
        self.vector_width: int = facts["vector_width"]
        self.length: int = facts["length"]
        self.null: Null = facts["null"]
        self._rows: dict[str, _Row] = {}
        self._seen: set[str] = set()
        self._maps: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
        self._sweep()
        self._refresh()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, text: object) -> bool:
        return text in self._rows

    def __call__(self, texts: Sequence[str]) -> Encoded:
        return self.rows(texts)

    def rows(self, texts: Sequence[str]) -> Encoded:
        """The states of the texts, from disk; encodes and keeps those that are missing.

        Raises ValueError, naming a text, if one is missing and there is no encoder.
        """
        self.fill(texts)
        rows = [self._rows[text] for text in texts]
        tokens = [self._read(row.shard, slice(row.start, row.start + row.length)) for row in rows]
        vectors: list[Tensor | None] = [None] * len(rows)
        if self.vector_width:
            vectors = [self._read(f"{row.shard}.vector", row.index) for row in rows]
        return stack(tokens, vectors, [row.cut for row in rows], self.width)

    def fill(self, texts: Iterable[str]) -> int:
        """Encode and keep what is missing, without reading anything back; returns how many that were."""
        missing = self._missing(checked(list(texts) if not isinstance(texts, str) else texts))
        if missing:
            self._refresh()  # another process may have written them meanwhile
            missing = self._missing(missing)
        if missing and self.encoder is None:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ValueError(
                f"{self.folder}: no states for {missing[0]!r}{others}, and no encoder to make them; "
                f"open it with guided.text.open({self.spec['from']!r}) and give it to TokenCache, or fill the "
                "cache where the encoder is installed"
            )
        for start in range(0, len(missing), _SHARD):
            self._write(missing[start : start + _SHARD])
        return len(missing)

    def nothing(self, n: int) -> Encoded:
        """The null of the encoder for n images (see `FrozenEncoder.nothing`)."""
        return self.rows([""] * n) if self.null == "empty" else absent(n, self.width, self.vector_width)

    def _missing(self, texts: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(text for text in texts if text not in self._rows))

    def _write(self, texts: list[str]) -> None:
        assert self.encoder is not None
        encoded = self.encoder(texts)
        lengths = encoded.mask.sum(1).tolist()
        tokens = encoded.tokens[encoded.mask].cpu().numpy()
        bytes_needed = tokens.nbytes + (0 if encoded.vector is None else encoded.vector.nbytes)
        _files.require_space(self.folder, bytes_needed + (1 << 16))
        name = secrets.token_hex(8)
        arrays = {name: tokens}
        if encoded.vector is not None:
            arrays[f"{name}.vector"] = encoded.vector.cpu().numpy()
        for stem, array in arrays.items():
            with _files.writing(self.folder / f"{stem}.npy") as aside, aside.open("wb") as file:
                np.save(file, array)
        # The index comes last: a shard without one was never finished, and is not looked at.
        index = {"texts": texts, "lengths": lengths, "cut": encoded.cut}
        _files.write(self.folder / f"{name}.json", json.dumps(index))
        self._refresh()

    def _sweep(self) -> None:
        """Remove what killed processes left: temporary files, and arrays no index names. Young ones may be alive."""
        with contextlib.suppress(OSError):  # a folder that cannot be written to is read as it is
            for path in self.folder.iterdir():
                finished = not path.name.startswith(".tmp-") and (
                    path.suffix == ".json" or (self.folder / f"{path.name.split('.')[0]}.json").is_file()
                )
                if not finished and time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink(missing_ok=True)

    def _refresh(self) -> None:
        with os.scandir(self.folder) as entries:
            names = {entry.name.removesuffix(".json") for entry in entries if entry.name.endswith(".json")}
        hidden = {name for name in names if name.startswith(".")}
        for name in sorted(names - hidden - self._seen - {"encoder"}):
            self._seen.add(name)
            try:
                self._index(name)
            except (OSError, ValueError, KeyError, TypeError) as error:
                warnings.warn(f"{self.folder / name}.json: not a sound shard, left out ({error})", stacklevel=2)

    def _index(self, name: str) -> None:
        index = json.loads((self.folder / f"{name}.json").read_text())
        texts, lengths, cuts = index["texts"], index["lengths"], index["cut"]
        shapes = {name: (sum(lengths), self.width)}
        if self.vector_width:
            shapes[f"{name}.vector"] = (len(texts), self.vector_width)
        for stem, shape in shapes.items():
            array = np.load(self.folder / f"{stem}.npy", mmap_mode="r", allow_pickle=False)
            if array.shape != shape or array.dtype != np.float32:
                raise ValueError(f"{stem}.npy holds {array.dtype} {array.shape}, expected float32 {shape}")
            self._maps[stem] = array
        start = 0
        for i, (text, length, cut) in enumerate(zip(texts, lengths, cuts, strict=True)):
            self._rows.setdefault(text, _Row(name, start, length, i, cut))
            start += length

    def _read(self, stem: str, where: slice | int) -> Tensor:
        # A copy, so that what is returned can be written to and outlives the map.
        return torch.from_numpy(np.array(self._maps[stem][where]))


def _describe(encoder: TextEncoder, path: Path) -> None:
    if path.is_file():
        return
    facts = {name: getattr(encoder, name) for name in ("spec", "width", "vector_width", "length", "null")}
    _files.write(path, json.dumps(facts, indent=1))


def _find(folder: Path, wanted: Mapping[str, Any] | str | None) -> Path:
    """The only folder of a cache that fits what is known of an encoder that is not at hand."""
    held = {path.parent: json.loads(path.read_text())["spec"] for path in sorted(folder.glob("*/encoder.json"))}
    if isinstance(wanted, Mapping):
        try:
            fits = [path for path in held if path.name == cache_key(wanted)]
        except KeyError:
            fits = [path for path, spec in held.items() if wanted.items() <= spec.items()]
    else:
        fits = [path for path, spec in held.items() if wanted in (None, spec["from"])]
    name = wanted if isinstance(wanted, str) else "any encoder" if wanted is None else wanted.get("from")
    if not fits:
        there = ", ".join(path.name for path in held) or "none"
        raise FileNotFoundError(
            f"{folder}: no states of {name} (it holds: {there}); fill it where the encoder is installed"
        )
    if len(fits) > 1:
        raise ValueError(f"{folder}: holds {', '.join(path.name for path in fits)}; say which by giving its spec")
    return fits[0]
