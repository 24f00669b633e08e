"""The text towers of an encoder, for adapters to be put on, and prompts encoded with gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from guided.model.conditioning import LazyEncoder
from guided.text import Encoded
from guided.text._transformers import ClipTower, MeanTower, T5Tower
from guided.text._words import TransformersWords
from guided.text.encoder import FrozenEncoder
from guided.text.prompts import PromptEncoder
from guided.tune.adapters.places import TOWERS

TAG = "adapters"
"""The entry of an encoder's spec that says what is on it: states with and without it never share a cache."""


def opened(encoder: Any) -> FrozenEncoder | PromptEncoder:
    """The encoder itself; ValueError where no adapter can be put on its towers."""
    found = encoder.opened if isinstance(encoder, LazyEncoder) else encoder
    if isinstance(found, PromptEncoder):
        return found
    if isinstance(found, FrozenEncoder) and isinstance(found.tower, ClipTower | T5Tower | MeanTower):
        return found
    kind = getattr(found, "spec", {}).get("class", type(found).__name__)
    raise ValueError(f"text encoder: an adapter goes on towers of transformers alone, this is {kind}")


def towers(encoder: Any) -> dict[str, nn.Module]:
    """The towers of an encoder by the names that pipelines give their folders."""
    found = opened(encoder)
    if isinstance(found, PromptEncoder):
        return {name: tower.model for name, tower in zip(TOWERS, found.towers, strict=False)}
    tower: Any = found.tower
    return {TOWERS[0]: tower.model}


def opened_towers(encoder: Any) -> dict[str, nn.Module]:
    """The towers of an encoder that is open and can carry an adapter, else none; nothing is opened."""
    if encoder is None or (isinstance(encoder, LazyEncoder) and not encoder.is_open):
        return {}
    try:
        return towers(encoder)
    except ValueError:
        return {}


def vocabularies(encoder: Any) -> dict[str, TransformersWords]:
    """What makes numbers of a prompt's words, tower by tower."""
    found = opened(encoder)
    words: list[Any] = (
        [tower.words for tower in found.towers] if isinstance(found, PromptEncoder) else [found.tokenizer]
    )
    return dict(zip(TOWERS, words, strict=False))


def tag(encoder: Any, digest: str | None) -> None:
    """Mark an encoder as one with an adapter, of this digest, or None as one without."""
    found = opened(encoder)
    found.spec.pop(TAG, None)
    if digest is not None:
        found.spec[TAG] = digest
    if isinstance(encoder, LazyEncoder):
        encoder.changed = digest is not None


def live(encoder: Any, texts: Sequence[str]) -> Encoded:
    """Encode prompts with gradient: it reaches what is trained in the towers, an adapter or new words, and no more.

    The numbers are those of calling the encoder. Raises ValueError for an encoder whose towers cannot be trained.
    """
    with torch.enable_grad():
        return opened(encoder).encode(texts)
