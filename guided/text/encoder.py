"""Frozen text encoders: prompts in, states per token and a pooled vector out."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from guided.text._words import Tokenizer

Null = Literal["learned", "empty", "zeros"]
Tower = Callable[[Tensor], tuple[Tensor, Tensor | None]]

# On a CPU prompts go through one by one: then the states of a prompt are the same bits in any company.
_TOGETHER = 64


class PromptCut(UserWarning):
    """A prompt was longer than its encoder reads."""


@dataclass(frozen=True, eq=False)
class Encoded:
    """What an encoder says of B prompts.

    tokens (B, T, C) float32, zeros where padded, T the longest of the batch; mask (B, T) bool, True = a real
    token; vector (B, V) float32 or None; cut: the end of each prompt that was too long to be read, or None.
    """

    tokens: Tensor
    mask: Tensor
    vector: Tensor | None
    cut: tuple[str | None, ...]


class TextEncoder(Protocol):
    """A frozen text encoder.

    spec reopens it (JSON; `guided.text.open`). key names everything that decides its states, for caches. width
    is C, vector_width V (0: no vector), length the most tokens it reads; ids gives the tokens of a prompt as numbers,
    in the places of their states. null says how it was trained to hear nothing: "empty" by the states of "", "zeros" by
    states of zero, "learned" not at all, so that a network learns its own.
    """

    @property
    def spec(self) -> dict[str, Any]: ...
    @property
    def key(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def vector_width(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def null(self) -> Null: ...

    def __call__(self, texts: Sequence[str]) -> Encoded: ...

    def ids(self, text: str) -> list[int]: ...

    def nothing(self, n: int) -> Encoded: ...


@dataclass(frozen=True, eq=False)
class FrozenEncoder:
    """A tokenizer and a tower of weights behind the `TextEncoder` protocol.

    The tower takes ids (n, T) and gives states (n, T, C) and a pooled (n, V) or None; no prompt is padded to the
    length of another, because only prompts of one length go through it together.
    """

    tokenizer: Tokenizer
    tower: Tower
    spec: dict[str, Any]
    width: int
    vector_width: int
    null: Null
    device: torch.device

    @property
    def key(self) -> str:
        return cache_key(self.spec)

    @property
    def length(self) -> int:
        return self.tokenizer.length

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Encoded:
        """Encode prompts; warns (`PromptCut`) with the dropped words of those that are too long.

        Raises TypeError if a prompt is not a string.
        """
        return self.encode(texts)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The same with the gradient of what is trained in the tower, where the caller has gradients on."""
        words = [self.tokenizer(text) for text in checked(texts)]
        report_cuts([entry.cut for entry in words], self.length)
        states: dict[tuple[int, ...], tuple[Tensor, Tensor | None]] = {}
        distinct = sorted({tuple(entry.ids) for entry in words}, key=lambda ids: (len(ids), ids))
        together = 1 if self.device.type == "cpu" else _TOGETHER
        for _, group in groupby(distinct, key=len):
            same = list(group)
            for start in range(0, len(same), together):
                states.update(self._run(same[start : start + together]))
        rows = [states[tuple(entry.ids)] for entry in words]
        return stack([row[0] for row in rows], [row[1] for row in rows], [entry.cut for entry in words], self.width)

    def ids(self, text: str) -> list[int]:
        """The tokens of a prompt, in the places of its states."""
        return list(self.tokenizer(text).ids)

    def nothing(self, n: int) -> Encoded:
        """The null of this encoder for n images: the states of "", or a mask all False and NaN for a vector."""
        if self.null == "empty":
            return self([""] * n)
        return absent(n, self.width, self.vector_width)

    def moved(self, device: torch.device) -> FrozenEncoder:
        """This encoder, whatever was done to its tower, on another device."""
        if isinstance(self.tower, nn.Module):
            self.tower.to(device)
        return replace(self, device=device)

    def _run(self, ids: list[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[Tensor, Tensor | None]]:
        # A caller's autocast must not reach in: a prompt has the same states in training and in sampling.
        with torch.autocast(self.device.type, enabled=False):
            tokens, vector = self.tower(torch.tensor(ids, device=self.device))
        if not (tokens.isfinite().all() and (vector is None or vector.isfinite().all())):
            dtype = self.spec["dtype"]
            raise ValueError(
                f"text encoder {self.spec['from']!r}: its states are not finite in {dtype}; "
                + ("its weights are damaged" if dtype == "float32" else "open it with dtype float32 or bfloat16")
            )
        tokens = tokens.float() * self.spec["scale"]
        vectors = [None] * len(ids) if vector is None else list(vector.float())
        return {row: (tokens[i], vectors[i]) for i, row in enumerate(ids)}


def open(
    spec: str | Mapping[str, Any],
    *,
    length: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> TextEncoder:
    """Open a frozen text encoder.

    spec: "minilm"; a folder or hub id (`org/name`, `org/name/subfolder`) of a transformers text encoder or of
    an open_clip model; "open_clip:ARCH:FILE.safetensors"; or the `spec` of an encoder opened before, which must
    then have the same weights and tokenizer; or {"towers": [...]}, see `guided.text.PromptEncoder`. A spec may say
    which "layer" of a transformers encoder gives the states, counted from the end: {"from": "minilm", "layer": -2}.
    length: the most tokens read, by default what the encoder can.
    dtype: what the weights are computed in (float32 by default); the states are float32 in any case. Weights
    are read from safetensors only, no code of a repository is run, a local folder opens without the network.

    Raises ValueError for an unknown or changed encoder, FileNotFoundError if it is not there or not to be had.
    """
    if isinstance(spec, Mapping) and "towers" in spec:
        from guided.text.prompts import open_towers

        return open_towers(spec, torch.device(device))
    from guided.text._open import open_encoder

    return open_encoder(spec, length, torch.device(device), dtype)


def cache_key(spec: Mapping[str, Any]) -> str:
    """A short name of what decides an encoder's states: all of its spec but the place it was read from."""
    text = json.dumps({name: spec[name] for name in sorted(spec) if name != "from"})
    return f"{spec['class']}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def checked(texts: Sequence[str]) -> Sequence[str]:
    """The prompts, if that is what they are; a bare string is refused, its letters are not prompts."""
    if isinstance(texts, str):
        raise TypeError(f"expected a list of prompts, got one string: write [{texts!r}]")
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"a prompt is a string, got {type(text).__name__}: {text!r}")
    return texts


def report_cuts(cuts: Sequence[str | None], length: int) -> None:
    """Warn once, quoting what was dropped from the first three prompts that were too long."""
    dropped = list(dict.fromkeys(cut for cut in cuts if cut is not None))
    if dropped:
        quoted = "; ".join(f'"{cut}"' for cut in dropped[:3])
        more = f"; and {len(dropped) - 3} more" if len(dropped) > 3 else ""
        warnings.warn(f"the text encoder reads {length} tokens; not read: {quoted}{more}", PromptCut, stacklevel=3)


def stack(
    tokens: Sequence[Tensor], vectors: Sequence[Tensor | None], cuts: Sequence[str | None], width: int
) -> Encoded:
    """Rows (T_i, C) of different lengths as one batch, padded with zeros to the longest."""
    longest = max((len(row) for row in tokens), default=1)
    device = tokens[0].device if tokens else None
    batch = torch.zeros(len(tokens), longest, width, device=device)
    mask = torch.zeros(len(tokens), longest, dtype=torch.bool, device=device)
    for i, row in enumerate(tokens):
        batch[i, : len(row)] = row
        mask[i, : len(row)] = True
    given = [vector for vector in vectors if vector is not None]
    return Encoded(batch, mask, torch.stack(given) if given else None, tuple(cuts))


def absent(n: int, width: int, vector_width: int) -> Encoded:
    """No text at all for n images, as `Cond` declares it: a mask all False, NaN for a vector."""
    vector = torch.full((n, vector_width), torch.nan) if vector_width else None
    return Encoded(torch.zeros(n, 1, width), torch.zeros(n, 1, dtype=torch.bool), vector, (None,) * n)
