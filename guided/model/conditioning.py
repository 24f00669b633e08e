"""From prompts and classes to a `Cond`; encoders are opened when the first prompt comes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from guided import text
from guided.cond import Cond
from guided.text import Encoded, TextEncoder

if TYPE_CHECKING:
    from guided.model.model import Model
    from guided.model.request import Wanted


class LazyEncoder:
    """A text encoder that is opened when it is first asked for anything but its `spec`."""

    def __init__(self, spec: Mapping[str, Any] | str, device: torch.device | str = "cpu") -> None:
        self.spec: Any = spec
        self.device = torch.device(device)
        self._opened: TextEncoder | None = None
        self.changed = False  # whether its towers are no longer what the spec says: an adapter is on them

    @property
    def opened(self) -> TextEncoder:
        """The encoder itself; raises what `guided.text.open` raises."""
        if self._opened is None:
            self._opened = text.open(self.spec, device=self.device)
        return self._opened

    @property
    def is_open(self) -> bool:
        """Whether anything but its spec was asked for yet."""
        return self._opened is not None

    def to(self, device: torch.device | str) -> LazyEncoder:
        """The same encoder on another device."""
        place = torch.device(device)
        if place == self.device:
            return self
        found = LazyEncoder(self.spec, place)
        if self.changed:
            found._opened, found.changed = self.opened.moved(place), True  # type: ignore[attr-defined]
        return found

    def __getattr__(self, name: str) -> Any:
        # key, width, vector_width, length, null: only the encoder knows them.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.opened, name)

    def __call__(self, texts: Sequence[str]) -> Encoded:
        return self.opened(texts)

    def ids(self, text: str) -> list[int]:
        """The tokens of a prompt."""
        return self.opened.ids(text)

    def nothing(self, n: int) -> Encoded:
        """The encoder's null for n images."""
        return self.opened.nothing(n)


Cuts = list[str | None]
"""For each image the part of its prompt that was too long to be read, or None."""


def encode(encoder: TextEncoder, texts: Sequence[str | None]) -> Cond:
    """The condition of prompts, see `read`."""
    return read(encoder, texts)[0]


def read(encoder: TextEncoder, texts: Sequence[str | None]) -> tuple[Cond, Cuts]:
    """The condition of prompts, (B, T, C) tokens with their mask and a vector if the encoder has one; and the cuts.

    A blank prompt is an absent one, as a blank caption is in training. Each distinct prompt is encoded once; one that
    is too long is cut with a warning that quotes what was dropped.
    """
    plain = [(prompt or "").strip() for prompt in texts]
    distinct = list(dict.fromkeys(prompt for prompt in plain if prompt))
    if not distinct:
        absent = encoder.nothing(0)
        width, vector = absent.tokens.shape[-1], absent.vector
        cond = Cond(
            tokens=torch.zeros(len(plain), 1, width),
            mask=torch.zeros(len(plain), 1, dtype=torch.bool),
            vector=None if vector is None else torch.full((len(plain), vector.shape[-1]), torch.nan),
        )
        return cond, [None] * len(plain)
    encoded = encoder(distinct)
    known = Cond(tokens=encoded.tokens, mask=encoded.mask, vector=encoded.vector)
    cond = known.index([distinct.index(prompt) if prompt else 0 for prompt in plain])
    cuts = [encoded.cut[distinct.index(prompt)] if prompt else None for prompt in plain]
    return cond.drop(torch.tensor([not prompt for prompt in plain])), cuts


def trimmed(cond: Cond) -> Cond:
    """The condition without the padding that every image has: what a prompt gets never depends on a longer one."""
    if cond.tokens is None or cond.mask is None:
        return cond
    used = cond.mask.any(0).nonzero()
    longest = int(used.max()) + 1 if len(used) else 1
    return dataclasses.replace(cond, tokens=cond.tokens[:, :longest], mask=cond.mask[:, :longest])


def condition(model: Model, images: Sequence[Wanted]) -> Cond:
    """The condition of the images of a call, see `understood`."""
    return understood(model, images)[0]


def understood(model: Model, images: Sequence[Wanted]) -> tuple[Cond, Cuts]:
    """The condition of the images of a call, and what was cut off their prompts; what none of them has stays None."""
    cond, cuts = Cond(), cast(Cuts, [None] * len(images))
    if any(image.prompt is not None for image in images):
        cond, cuts = read(model.encoders["text"], [image.prompt for image in images])
    if any(image.label is not None for image in images):
        labels = [-1 if image.label is None else image.label for image in images]
        cond = dataclasses.replace(cond, label=torch.tensor(labels))
    return cond, cuts


def negative(model: Model, what: str | int) -> Cond:
    """What to steer away from, a prompt or for a model of classes a class, as the condition of one image."""
    if "text" in model.encoders:
        if not isinstance(what, str):
            raise TypeError(f"negative: expected a prompt, got {what!r}")
        return trimmed(encode(model.encoders["text"], [what]))
    from guided.model.request import label

    return Cond(label=torch.tensor([label(model, what)]))
