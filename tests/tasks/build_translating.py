"""Tiny networks that change pictures, with random weights, or with answers that are known."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from guided import degrade
from guided.codec import Pixels
from guided.degrade import Augment, Translation
from guided.denoiser import X0, Denoiser
from guided.model import Model
from guided.nn import preset
from tests.model import build

QUARTET = Translation(tuple(degrade.parse(word) for word in ("colourise", "inpaint", "uncrop", "jpeg")))
LARGER = Translation((degrade.Down(4),), Augment("noise", 0.5, 0.1))


def quartet(**changes: Any) -> Model:
    return build.model("tiny-local", card={"translate": QUARTET.card()}, presence=True, classes=4, **changes)


def larger(taught: Translation = LARGER, **changes: Any) -> Model:
    return build.model("tiny-local", card={"translate": taught.card()}, aug=taught.augment is not None, **changes)


class Shown(torch.nn.Module):
    """In place of a network in a denoiser of x0: it answers with the picture it is shown, and remembers calls."""

    accepts = frozenset({"image", "aug", "label"})

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.calls: list[tuple[tuple[int, ...], Tensor | None, Tensor | None]] = []

    def forward(self, x: Tensor, c_noise: Tensor, cond: Any) -> Tensor:
        self.calls.append((tuple(x.shape), cond.aug, cond.label))
        return cond.image.nan_to_num(0.0)  # type: ignore[no-any-return]


def answering(taught: Translation, size: list[int] | None = None, steps: int = 3) -> tuple[Model, Shown]:
    """A model whose estimate is what it is shown, at every noise level."""
    config = dataclasses.replace(
        preset("tiny-local"), aug=taught.augment is not None, classes=len(taught.tasks) if taught.several else 0,
        presence=taught.presence,
    )  # fmt: skip
    network = Shown(config)
    card = {"size": size or [16, 16], "translate": taught.card(), "defaults": {"steps": steps}}
    return Model(Denoiser(network, X0(), 0.02, 20.0), Pixels(), {}, card), network
