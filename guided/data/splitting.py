"""Keep part of a captioned set out of training for ever."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from guided.data.records import Record

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
_TONE = r"(light|medium-light|medium|medium-dark|dark) skin tone"
_ENDING = re.compile(rf"[,:] {_TONE}(?: and {_TONE})?$")
_INSIDE = re.compile(rf" with {_TONE}\b")
# What Unicode calls the couples whose two people share a tone.
_COUPLES = {
    "woman and woman holding hands": "women holding hands",
    "man and man holding hands": "men holding hands",
    "person and person holding hands": "people holding hands",
    "woman and woman kissing": "two women kissing",
    "man and man kissing": "two men kissing",
    "person and person kissing": "couple kissing",
    "couple with heart, woman and woman": "couple with heart, two women",
    "couple with heart, man and man": "couple with heart, two men",
    "couple with heart, person and person": "couple with heart",
}


def tone(caption: str) -> str | None:
    """The skin tone a caption names, "medium-light"; "light and dark" for two; None without one."""
    found = [part for match in _ENDING.findall(caption) for part in match if part] or _INSIDE.findall(caption)
    return " and ".join(found) or None


def base_caption(caption: str) -> str:
    """The caption without its skin tones: pictures that differ in tone alone share it.

    "woman scientist, medium skin tone" gives "woman scientist"; couples whose people differ in tone
    ("man with light skin tone and man with dark skin tone kissing") get the name of the plain couple
    ("two men kissing").
    """
    base = _INSIDE.sub("", _ENDING.sub("", caption))
    return _COUPLES.get(base, base) if base != caption else caption


def caption_key(record: Record) -> str | None:
    """The key a captioned set is split by: the base caption."""
    return None if record.caption is None else base_caption(record.caption)


@dataclass(frozen=True)
class Split:
    """Record indices, each sorted: for training; of bases kept out whole; of (base, tone) pairs kept out."""

    train: tuple[int, ...]
    held_bases: tuple[int, ...]
    held_pairs: tuple[int, ...]


def split(
    records: Sequence[Record],
    seed: int = 0,
    share: float = 0.05,
    pairs: int = 200,
    key: Callable[[Record], str | None] = caption_key,
) -> Split:
    """Keep out a `share` of the base captions, and `pairs` of a base and a tone both in training.

    A base is kept out when the hash of (seed, base) falls below the share: it never changes sides whatever is
    added later. The pairs are those with the smallest hashes among the records with one tone whose base is in
    training, at most all but two tones of a base: the base stays with other tones, the tone with other bases.
    Records whose key is None are for training. `key=lambda record: record.name` splits sets without captions.
    Raises ValueError where `share` is not in [0, 1).
    """
    if not 0 <= share < 1:
        raise ValueError(f"share: expected a number in [0, 1), got {share}")
    keys = [key(record) for record in records]
    out = {k for k in set(keys) if k is not None and fraction(f"{seed}:{k}") < share}
    held = [i for i, k in enumerate(keys) if k in out]
    kept = [i for i, k in enumerate(keys) if k not in out]
    apart = set(_pairs([(i, keys[i], records[i].caption) for i in kept], seed, pairs))
    return Split(tuple(i for i in kept if i not in apart), tuple(held), tuple(sorted(apart)))


def _pairs(rows: Sequence[tuple[int, str | None, str | None]], seed: int, count: int) -> list[int]:
    toned: dict[tuple[str, str], list[int]] = {}
    for i, base, caption in rows:
        name = tone(caption) if caption is not None else None
        if base is not None and name in TONES:
            toned.setdefault((base, str(name)), []).append(i)
    left = Counter(base for base, _ in toned)
    spread = Counter(name for _, name in toned)
    chosen: list[int] = []
    for base, name in sorted(toned, key=lambda pair: fraction(f"{seed}:{pair[0]}:{pair[1]}")):
        if count <= 0:
            break
        if left[base] > 2 and spread[name] > 1:
            left[base] -= 1
            spread[name] -= 1
            chosen += toned[base, name]
            count -= 1
    return chosen


def fraction(text: str) -> float:
    """A hash of the text as a number in [0, 1), the same on every machine and for ever."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
