"""From a prompt to token ids, with an exact account of what did not fit."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple, Protocol

# What a tokenizer does to these tells it from its relatives: case, accents, digits, spaces, scripts, emoji.
PROBES = (
    "",
    "a",
    "A photo of Two  red-circles, 12.5% left!",
    "Crème brûlée naïve ß",
    "日本語 \U0001f600 don't",
)


class Words(NamedTuple):
    """One prompt as token ids, special tokens included; `cut` is the end of the prompt that did not fit."""

    ids: list[int]
    cut: str | None


class Tokenizer(Protocol):
    """A prompt to at most `length` token ids, right-truncated, the end token kept."""

    length: int
    fingerprint: str

    def __call__(self, text: str) -> Words: ...


class TransformersWords:
    """The tokenizer of a transformers encoder; fast ones tell the character at which a prompt was cut."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.tokenizer = tokenizer
        self.length = length
        empty, one = self._ids(""), self._ids("a")
        self._tail = 0  # special tokens at the end; they are kept whatever is cut
        while self._tail < len(empty) and empty[-1 - self._tail] == one[-1 - self._tail]:
            self._tail += 1
        if length <= len(empty):
            raise ValueError(
                f"length: {length} leaves no room for words; this tokenizer needs at least {len(empty) + 1}"
            )
        probes = [self._ids(text) for text in PROBES]
        self.fingerprint = fingerprint(tokenizer.get_vocab(), probes)

    def __call__(self, text: str) -> Words:
        ids = self._ids(text)
        if len(ids) <= self.length:
            return Words(ids, None)
        first = self.length - self._tail  # the first token without a place
        end = len(ids) - self._tail
        if self.tokenizer.is_fast:
            offsets = self.tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
            cut = text[offsets[first][0] :]
        else:
            cut = self.tokenizer.decode(ids[first:end])
        return Words(ids[:first] + ids[end:], cut)

    def _ids(self, text: str) -> list[int]:
        # Some tokenizer files ask for padding and truncation of their own: both are ours to decide.
        found: list[int] = self.tokenizer(text, padding=False, truncation=False, verbose=False)["input_ids"]
        return found


class OpenClipWords:
    """open_clip's own byte-pair tokenizer, which keeps no offsets: what was dropped is decoded from its ids."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.tokenizer = tokenizer
        self.length = length
        if length < 3:
            raise ValueError(f"length: {length} leaves no room for words; this tokenizer needs at least 3")
        self.fingerprint = fingerprint(tokenizer.encoder, [tokenizer.encode(text) for text in PROBES])

    def __call__(self, text: str) -> Words:
        ids = self.tokenizer.encode(text)
        room = self.length - 2
        cut = self.tokenizer.decode(ids[room:]).strip() if len(ids) > room else None
        return Words([self.tokenizer.sot_token_id, *ids[:room], self.tokenizer.eot_token_id], cut)


def fingerprint(vocabulary: dict[str, int], probes: list[list[int]]) -> str:
    """Hex digest of a vocabulary and of what was made of the probes: what a tokenizer does, not how it is stored."""
    text = json.dumps([sorted(vocabulary.items()), probes])
    return hashlib.sha256(text.encode()).hexdigest()
