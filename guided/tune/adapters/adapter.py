"""`Adapter`: what an adapter's files hold, before any model is at hand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from guided.tune.adapters.lowrank import LowRank

Words = Mapping[str, Mapping[str, Tensor]]
"""Of each word, its vectors (n, width) by the tower that reads them."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """Changes of layers by part ("unet", "text_encoder", "text_encoder_2") and by the names that the file gives them.

    words: new words of the text towers. name, file and sha256 (of the weights) say what it is and where it came from;
    base is what its folder says of the model that it was made for, card what else it says.
    """

    layers: Mapping[str, Mapping[str, LowRank]] = field(default_factory=dict)
    words: Words = field(default_factory=dict)
    name: str = "adapter"
    file: str | None = None
    sha256: str | None = None
    base: Mapping[str, Any] | None = None
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """ "lora", "dora" or "textual-inversion"."""
        changes = [change for part in self.layers.values() for change in part.values()]
        if not changes:
            return "textual-inversion"
        return "dora" if any(change.magnitude is not None for change in changes) else "lora"

    @property
    def parameters(self) -> int:
        """The number of its own numbers."""
        count = sum(
            change.down.numel() + change.up.numel() + (0 if change.magnitude is None else change.magnitude.numel())
            for part in self.layers.values()
            for change in part.values()
        )
        return count + sum(rows.numel() for vectors in self.words.values() for rows in vectors.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the file it came from, or of what it holds."""
        return self.sha256 or digest(self.layers, self.words)


def digest(layers: Mapping[str, Mapping[str, LowRank]], words: Words) -> str:
    """SHA-256 of names, shapes and values."""
    total = hashlib.sha256()

    def add(name: str, value: Tensor | None) -> None:
        if value is not None:
            plain = value.detach().to("cpu", torch.float32).contiguous()
            total.update(f"{name} {list(plain.shape)}\n".encode() + plain.numpy().tobytes())

    for part, changes in sorted(layers.items()):
        for name, change in sorted(changes.items()):
            total.update(f"{part} {name} {change.scale!r}\n".encode())
            add("down", change.down)
            add("up", change.up)
            add("magnitude", change.magnitude)
    for word, vectors in sorted(words.items()):
        for tower, rows in sorted(vectors.items()):
            add(f"{word} {tower}", rows)
    return total.hexdigest()
