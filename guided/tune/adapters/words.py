"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): new words, each of one or more vectors of its own.

A word is added to a tower's tokenizer, and its vectors to the end of the table of embeddings; in a prompt it is read as
so many tokens. Nothing of the tower itself is changed.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from guided.text._words import TransformersWords
from guided.tune.adapters.adapter import Words
from guided.tune.adapters.towers import opened_towers, tag, towers, vocabularies

HELD = "words_held"
MOST = 75
"""Vectors of one word: no published encoder of pictures reads more tokens."""


class Extended(nn.Module):
    """A table of embeddings, and new rows for the numbers from `first` on; only these may be trained."""

    def __init__(self, table: nn.Module, rows: Tensor, first: int) -> None:
        super().__init__()
        self.table, self.first = table, first
        self.rows = nn.Parameter(rows, requires_grad=False)

    def forward(self, ids: Tensor) -> Tensor:
        new = (ids >= self.first) & (ids < self.first + len(self.rows))
        known: Tensor = self.table(ids.masked_fill(new, 0))
        added = self.rows[(ids - self.first).clamp(0, len(self.rows) - 1)]
        return torch.where(new[..., None], added.to(known.dtype), known)


@dataclass
class Held:
    """A tower as it was before it had new words, and the words by adapter."""

    table: nn.Module
    tokenizer: Any
    clean: Callable[[str], str]
    ends: list[tuple[nn.Module, int]]
    words: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def put(encoder: Any, name: str, words: Words) -> None:
    """Add an adapter's words to the towers they are for; ValueError, naming the word, where they do not fit."""
    there = towers(encoder)
    for word, vectors in words.items():
        _check(word, vectors, there, encoder)
    for part, tower in there.items():
        own = {word: vectors[part] for word, vectors in words.items() if part in vectors}
        if own:
            vocabulary = vocabularies(encoder)[part]
            now = _held(tower) or _begin(tower, vocabulary)
            _keep(tower, now)
            now.words[name] = own
            try:
                _renew(tower, vocabulary, now)
            except ValueError:
                take(encoder, name)
                raise


def take(encoder: Any, name: str | None = None) -> None:
    """Take an adapter's words off, or all."""
    for part, tower in opened_towers(encoder).items():
        now = _held(tower)
        if now is None or (name is not None and name not in now.words):
            continue
        _keep(tower, now)
        now.words = {} if name is None else {other: own for other, own in now.words.items() if other != name}
        _renew(tower, vocabularies(encoder)[part], now)


def names(encoder: Any) -> list[str]:
    """The adapters whose words an encoder reads."""
    found = [now.words for tower in opened_towers(encoder).values() if (now := _held(tower)) is not None]
    return list(dict.fromkeys(name for words in found for name in words))


def of(encoder: Any, name: str) -> dict[str, dict[str, Tensor]]:
    """The words of one adapter, by tower, as they stand; copies on the CPU."""
    found: dict[str, dict[str, Tensor]] = {}
    for part, tower in opened_towers(encoder).items():
        now = _held(tower)
        rows: Any = _table(tower).rows if now is not None else None
        start = 0
        for owner, words in (now.words if now is not None else {}).items():
            for word, vectors in words.items():
                if owner == name and rows is not None:
                    value = rows[start : start + len(vectors)].detach().cpu().float().clone()
                    found.setdefault(word, {})[part] = value
                start += len(vectors)
    return found


def fresh_words(
    encoder: Any,
    words: Mapping[str, str | int | Tensor | Mapping[str, Tensor]],
    name: str = "default",
    seed: int = 0,
) -> dict[str, nn.Parameter]:
    """Add new words to be trained; returns their rows by tower: {"text_encoder.words": (all vectors, width)}.

    words: of each the text whose tokens it begins as, one vector a token; or how many vectors, drawn from the seed in
    the size of the table's; or the vectors themselves, (n, width), by tower where there are two. Raises ValueError.
    """
    there = towers(encoder)
    if names(encoder):
        raise ValueError(f"there are new words on this encoder ({', '.join(names(encoder))}): eject them first")
    made: dict[str, dict[str, Tensor]] = {}
    for word, start in words.items():
        made[word] = {part: _first(start, part, tower, encoder, f"{seed} {word}") for part, tower in there.items()}
    put(encoder, name, made)
    found = {}
    for part, tower in there.items():
        found[f"{part}.words"] = _table(tower).rows.requires_grad_(True)
    tag(encoder, "trained")
    return found


def _first(start: Any, part: str, tower: Any, encoder: Any, key: str) -> Tensor:
    """The first vectors of a word in a tower."""
    weight = _own(tower).detach().cpu().float()
    if isinstance(start, Mapping):
        start = start.get(part)
    if isinstance(start, Tensor):
        return start.detach().cpu().float().reshape(-1, start.shape[-1])
    if isinstance(start, str):
        ids = vocabularies(encoder)[part].tokenizer(start, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"{start!r}: no token to begin a new word as")
        return weight[ids].clone()
    if type(start) is not int or not 1 <= start <= MOST:
        raise ValueError(f"a new word begins as a text, 1 to {MOST} vectors, or tensors; got {start!r:.80}")
    number = int.from_bytes(hashlib.sha256(f"{key} {part}".encode()).digest()[:7], "big")
    drawn = torch.randn(start, weight.shape[1], generator=torch.Generator().manual_seed(number))
    return drawn * weight.std() + weight.mean(0)


def _check(word: str, vectors: Mapping[str, Tensor], there: Mapping[str, Any], encoder: Any) -> None:
    if not word or word != word.strip() or len(word) > 100:
        raise ValueError(f"{word!r:.120}: expected a word without spaces around it")
    if not vectors:
        raise ValueError(f"{word!r}: no vectors for it")
    known = vocabularies(encoder)
    for part, rows in vectors.items():
        if part not in there:
            raise ValueError(f"{word!r}: has vectors for {part}, and the model has {', '.join(there)} alone")
        width = _own(there[part]).shape[1]
        if rows.ndim != 2 or rows.shape[1] != width or not 1 <= len(rows) <= MOST:
            raise ValueError(
                f"{word!r}: its vectors are {list(rows.shape)}, {part} reads (1 to {MOST}, {width}): made for "
                "another base"
            )
        if not bool(rows.isfinite().all()):
            raise ValueError(f"{word!r}: its vectors hold NaN or infinity")
        if _known(word, known[part]):
            raise ValueError(f"{word!r}: {part} knows this word already; choose another")


def _known(word: str, vocabulary: TransformersWords) -> bool:
    """Whether a tokenizer has a token of its own for a word, in whatever spelling and place: it would be lost."""
    tokenizer = vocabulary.tokenizer
    tokens = tokenizer.tokenize(vocabulary.clean(word))
    return word in tokenizer.get_vocab() or (len(tokens) == 1 and tokens != [tokenizer.unk_token])


def _table(tower: Any) -> Any:
    """The table of embeddings of a tower."""
    return tower.get_input_embeddings()


def _own(tower: Any) -> Tensor:
    """The tower's own vectors, (vocabulary, width)."""
    table = _table(tower)
    own: Any = table.table if isinstance(table, Extended) else table
    found: Tensor = own.weight
    return found


def _held(tower: nn.Module) -> Held | None:
    found: Held | None = tower.__dict__.get(HELD)
    return found


def _begin(tower: Any, vocabulary: TransformersWords) -> Held:
    ends = [(module, module.eos_token_id) for module in tower.modules() if isinstance(_end_of(module), int)]
    now = Held(tower.get_input_embeddings(), vocabulary.tokenizer, vocabulary.clean, ends)
    tower.__dict__[HELD] = now
    return now


def _end_of(module: nn.Module) -> Any:
    return module.__dict__.get("eos_token_id")


def _renew(tower: Any, vocabulary: TransformersWords, now: Held) -> None:
    """Make the tower read the words that it is to have; without any it is as it was."""
    flat = {word: rows for words in now.words.values() for word, rows in words.items()}
    if not flat:
        tower.set_input_embeddings(now.table)
        vocabulary.tokenizer, vocabulary.clean = now.tokenizer, now.clean
        for module, end in now.ends:
            module.__dict__["eos_token_id"] = end
        tower.__dict__.pop(HELD)
        return
    tokenizer = copy.deepcopy(now.tokenizer)
    first = len(tokenizer)
    shaped = {now.clean(word): len(rows) for word, rows in flat.items()}
    folds = tokenizer("A")["input_ids"] == tokenizer("a")["input_ids"]
    if len({word.lower() if folds else word for word in shaped}) < len(flat):
        raise ValueError(f"the tokenizer reads two of {', '.join(flat)} as one word")
    tokens = [token for word, count in shaped.items() for token in spelt(word, count)]
    tokenizer.add_tokens(tokens)
    if tokenizer.convert_tokens_to_ids(tokens) != list(range(first, first + len(tokens))):
        raise ValueError(f"the tokenizer takes {', '.join(flat)} for words that it has already")
    weight: Any = now.table.weight
    rows = torch.cat(list(flat.values())).to(weight.device, torch.float32)
    tower.set_input_embeddings(Extended(now.table, rows, first))
    vocabulary.tokenizer, vocabulary.clean = tokenizer, _expanding(now.clean, shaped, folds)
    # Old configs of CLIP call the end 2, whereupon the largest number of a prompt is taken for it: a new word's.
    for module, end in now.ends:
        module.__dict__["eos_token_id"] = tokenizer.eos_token_id if end == 2 else end


def _keep(tower: Any, now: Held) -> None:
    """Hold the words as they have become: in training their rows change where they lie."""
    table, start = _table(tower), 0
    for own in now.words.values() if isinstance(table, Extended) else ():
        for word, vectors in own.items():
            own[word] = table.rows[start : start + len(vectors)].detach().cpu().clone()
            start += len(vectors)


def spelt(word: str, count: int) -> list[str]:
    """The tokens of a word of so many vectors, as diffusers names them."""
    return [word, *(f"{word}_{i}" for i in range(1, count))]


def _expanding(clean: Callable[[str], str], counts: Mapping[str, int], folds: bool) -> Callable[[str], str]:
    """What a prompt becomes before it is read: each word of several vectors as its tokens."""
    if max(counts.values()) == 1:
        return clean
    # Those of one vector too: one of several may lie within them.
    several = {word.lower() if folds else word: spelt(word, n) for word, n in counts.items()}
    longest = sorted(several, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest)), re.IGNORECASE if folds else 0)

    def expanded(text: str) -> str:
        return pattern.sub(lambda found: " ".join(several[found[0].lower() if folds else found[0]]), clean(text))

    return expanded
