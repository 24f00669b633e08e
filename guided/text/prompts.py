"""The text side of published pipelines: prompts of one fixed length, whose padding is read like words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guided.text._transformers import CLIP, LAST, T5, limit_of, load, states_of, width_of
from guided.text._words import Words
from guided.text.encoder import Encoded, Null, cache_key, checked, report_cuts

_TOWER = {"from", "layer", "pooled", "class", "weights", "tokenizer"}
_DEFAULTS: dict[str, Any] = {"class": "towers", "null": "empty", "length": None, "dtype": "float32"}
_SPEC = {"towers", *_DEFAULTS}


@dataclass(frozen=True, eq=False)
class Tower:
    """One encoder of a pipeline: its model and tokenizer, which of its states are read, whether it gives a vector."""

    model: Any
    words: Any
    pad: int
    layer: int
    pooled: bool
    masked: bool

    def __call__(self, ids: Sequence[int], length: int, device: torch.device) -> tuple[Tensor, Tensor | None]:
        row = torch.full((1, length), self.pad, device=device)
        row[0, : len(ids)] = torch.tensor(ids, device=device)
        mask = torch.arange(length, device=device)[None] < len(ids)
        given = {"attention_mask": mask.long()} if self.masked else {}
        said = self.model(input_ids=row, output_hidden_states=self.layer != LAST, **given)
        return states_of(said, self.layer)[0].float(), said.text_embeds[0].float() if self.pooled else None


@dataclass(frozen=True, eq=False)
class PromptEncoder:
    """The text encoders of a published pipeline behind the `TextEncoder` protocol.

    spec: {"towers": [{"from": a folder of transformers, "layer": -1 for the last states, -2 for those before, "pooled":
    whether its projected state is the vector}, ...], "null": "empty" or "zeros", "length": all prompts' (None: what
    they can), "dtype"}. The states of all towers stand side by side, (B, length, C); padding to `length` is part of the
    prompt, as it was in training, and the mask is True throughout. T5 does not attend to its padding, and reads lower
    case.
    """

    towers: tuple[Tower, ...]
    spec: dict[str, Any]
    width: int
    vector_width: int
    length: int
    null: Null
    device: torch.device

    @property
    def key(self) -> str:
        """Names everything that decides the states."""
        towers = [{k: v for k, v in tower.items() if k != "from"} for tower in self.spec["towers"]]
        return cache_key({**self.spec, "towers": towers})

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Encoded:
        """Encode prompts; warns (`PromptCut`) with the dropped words of those that are too long."""
        return self.encode(texts)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The same with the gradient of what is trained in the towers, where the caller has gradients on."""
        rows = [self._one(text) for text in checked(texts)]
        report_cuts([cut for _, _, cut in rows], self.length)
        tokens = torch.stack([row for row, _, _ in rows]) if rows else torch.zeros(0, self.length, self.width)
        vectors = [vector for _, vector, _ in rows if vector is not None]
        vector = torch.stack(vectors) if vectors else None
        if not (tokens.isfinite().all() and (vector is None or vector.isfinite().all())):
            raise ValueError(f"text encoder: its states are not finite in {self.spec['dtype']}")
        return Encoded(tokens, tokens.new_ones(tokens.shape[:2]).bool(), vector, tuple(cut for _, _, cut in rows))

    def ids(self, text: str) -> list[int]:
        """The tokens of a prompt as the first tower reads them, in the places of its states, without the padding."""
        return list(self.towers[0].words(text).ids)

    def nothing(self, n: int) -> Encoded:
        """The null for n images: the states of "", or zeros."""
        if self.null == "empty":
            return self([""] * n)
        vector = torch.zeros(n, self.vector_width) if self.vector_width else None
        mask = torch.ones(n, self.length, dtype=torch.bool)
        return Encoded(torch.zeros(n, self.length, self.width), mask, vector, (None,) * n)

    def moved(self, device: torch.device) -> PromptEncoder:
        """This encoder, whatever was done to its towers, on another device."""
        for tower in self.towers:
            tower.model.to(device)
        return replace(self, device=device)

    def _one(self, text: str) -> tuple[Tensor, Tensor | None, str | None]:
        # One prompt at a time: then its states are the same bits in any company.
        states, vector, cuts = [], None, []
        for tower in self.towers:
            words: Words = tower.words(text)
            with torch.autocast(self.device.type, enabled=False):
                state, pooled = tower(words.ids, self.length, self.device)
            states.append(state)
            vector = vector if pooled is None else pooled
            cuts.append(words.cut)
        return torch.cat(states, 1), vector, next((cut for cut in cuts if cut is not None), None)


def open_towers(spec: Mapping[str, Any], device: torch.device) -> PromptEncoder:
    """The encoder of a spec with towers, see `PromptEncoder`; raises as `guided.text.open`."""
    from guided.text._open import DTYPES

    wanted = _checked(spec)
    towers, described, lengths = [], [], set()
    for entry in wanted["towers"]:
        tower, facts, limit = _open(entry, wanted["length"], device, DTYPES[wanted["dtype"]])
        towers.append(tower)
        described.append(facts)
        lengths.add(limit)
    if len(lengths) != 1:
        raise ValueError(f"text encoder: its towers read different lengths, {sorted(lengths)}: they are not a pair")
    pooled = [tower.model.config.projection_dim for tower in towers if tower.pooled]
    return PromptEncoder(
        tuple(towers),
        {**wanted, "towers": described, "length": lengths.copy().pop()},
        sum(width_of(tower.model) for tower in towers),
        int(pooled[0]) if pooled else 0,
        lengths.pop(),
        wanted["null"],
        device,
    )


def _open(
    entry: Mapping[str, Any], length: int | None, device: torch.device, dtype: torch.dtype
) -> tuple[Tower, dict[str, Any], int]:
    from guided.text._locate import locate
    from guided.text._words import TransformersWords

    found = locate(entry["from"])
    if found.library != "transformers":
        raise ValueError(f"text encoder {found.name!r}: expected a folder of transformers, this is {found.library}'s")
    model, tokenizer, kind = load(found, device, dtype)
    if kind not in (*CLIP, *T5):
        raise ValueError(f"text encoder {found.name!r}: expected CLIP text or the T5 family, got {kind!r}")
    if entry["pooled"] and not hasattr(model, "text_projection"):
        raise ValueError(f"text encoder {found.name!r}: expected CLIPTextModelWithProjection, it has no projection")
    limit = limit_of(model, tokenizer)
    taken = length if length is not None else limit
    if not 1 <= taken <= limit:
        raise ValueError(f"text encoder {found.name!r}: length is between 1 and {limit}, got {taken}")
    words = TransformersWords(tokenizer, taken, _lower if kind in T5 else str)
    facts = {**entry, "class": type(model).__name__, "weights": found.checksum(), "tokenizer": words.fingerprint}
    for field in ("class", "weights", "tokenizer"):
        if entry.get(field, facts[field]) != facts[field]:
            raise ValueError(f"text encoder {found.name!r}: its {field} is {facts[field]}, expected {entry[field]}")
    masked = kind in T5 or bool(getattr(model.config, "use_attention_mask", False))
    return Tower(model, words, tokenizer.pad_token_id, entry["layer"], entry["pooled"], masked), facts, taken


def _lower(text: str) -> str:
    return text.lower().strip()


def _checked(spec: Mapping[str, Any]) -> dict[str, Any]:
    from guided.text._open import DTYPES

    values = {**_DEFAULTS, **spec}
    towers = values["towers"]
    if set(values) - _SPEC or values["null"] not in ("empty", "zeros") or values["dtype"] not in DTYPES:
        raise ValueError(f"text encoder: expected {sorted(_SPEC)}, null empty or zeros, a dtype; got {spec!r:.200}")
    if not isinstance(towers, list | tuple) or not towers:
        raise ValueError(f"text encoder: towers: expected a list of encoders, got {towers!r:.80}")
    entries = []
    for tower in towers:
        if not isinstance(tower, Mapping) or set(tower) - _TOWER or not isinstance(tower.get("from"), str):
            raise ValueError(f"text encoder: towers: expected {sorted(_TOWER)} of each, got {tower!r:.200}")
        entry = {"layer": -1, "pooled": False, **tower}
        if type(entry["layer"]) is not int or entry["layer"] >= 0 or type(entry["pooled"]) is not bool:
            raise ValueError(
                f"text encoder: towers: layer counts from the end, -1 the last; got {entry['layer']!r:.80}"
            )
        entries.append(entry)
    length = values["length"]
    if length is not None and (type(length) is not int or length < 1):
        raise ValueError(f"text encoder: length is a whole number of tokens, got {length!r:.80}")
    return {**values, "towers": entries}
