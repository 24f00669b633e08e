"""From a prompt to token ids, with an exact account of what did not fit."""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable
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
    """The tokenizer of a transformers encoder; fast ones tell the character at which a prompt was cut.

    clean: what is done to a prompt first, for an encoder that was trained so.
    """

    def __init__(self, tokenizer: Any, length: int, clean: Callable[[str], str] = str) -> None:
        self.tokenizer = tokenizer
        self.clean = clean
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
        text = self.clean(text)
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
    """open_clip's own byte-pair tokenizer, which keeps no account of where its tokens came from."""

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.tokenizer = tokenizer
        self.length = length
        if length < 3:
            raise ValueError(f"length: {length} leaves no room for words; this tokenizer needs at least 3")
        self.fingerprint = fingerprint(tokenizer.encoder, [tokenizer.encode(text) for text in PROBES])

    def __call__(self, text: str) -> Words:
        ids = self.tokenizer.encode(text)
        room = self.length - 2
        cut = self._source(text, ids[room:]) if len(ids) > room else None
        return Words([self.tokenizer.sot_token_id, *ids[:room], self.tokenizer.eot_token_id], cut)

    def _source(self, text: str, dropped: list[int]) -> str:
        """The end of the text that gives these ids; where they begin inside a word, the ids decoded."""
        encode = self.tokenizer.encode
        starts = [match.start() for match in re.finditer(r"\S+", text)]
        at = bisect_left(starts, True, key=lambda start: len(encode(text[start:])) <= len(dropped))
        if at < len(starts) and encode(text[starts[at] :]) == dropped:
            return text[starts[at] :]
        decoded: str = self.tokenizer.decode(dropped)
        return decoded.strip()


def fingerprint(vocabulary: dict[str, int], probes: list[list[int]]) -> str:
    """Hex digest of a vocabulary and of its use on the probes: what a tokenizer does, not how it is stored."""
    text = json.dumps([sorted(vocabulary.items()), probes])
    return hashlib.sha256(text.encode()).hexdigest()
