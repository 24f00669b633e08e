"""Tiny models with random weights."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import torch

from guided import text
from guided.codec import Pixels
from guided.denoiser import EDM, Denoiser
from guided.model import Model
from guided.nn import UNet, preset
from guided.text import Encoded

CLASSES = ["cat", "dog", "red bird", "7"]
SIZE = [16, 16]


def network(name: str, seed: int = 0, **changes: Any) -> UNet:
    """A tiny U-Net; the layers that start at zero get weights too, so that conditions matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = UNet(dataclasses.replace(preset(name), **changes))
        for weights in net.parameters():
            if not bool(weights.any()):
                torch.nn.init.normal_(weights, std=0.1)
    return net


def model(
    name: str, encoders: dict[str, Any] | None = None, card: dict[str, Any] | None = None, **changes: Any
) -> Model:
    """A model around `network`."""
    denoiser = Denoiser(network(name, **changes), EDM(), 0.02, 20.0)
    defaults = {"steps": 4, "w": 2.0}
    return Model(denoiser, Pixels(), encoders or {}, {"name": name, "size": SIZE, "defaults": defaults, **(card or {})})


def class_model() -> Model:
    return model("tiny-class", card={"classes": CLASSES})


def plain_model() -> Model:
    return model("tiny")


def words_model(**changes: Any) -> Model:
    return model("tiny-text", {"text": Words()}, **changes)


def real_text_model(spec: pathlib.Path | str, **changes: Any) -> Model:
    """A model of a text encoder in its publisher's own format."""
    encoder = text.open(str(spec))
    return model("tiny-text", {"text": encoder}, token_width=encoder.width, **changes)


class Words:
    """An encoder of nothing but the words themselves: each word is eight numbers of its hash."""

    key = "words"
    width, vector_width, length = 8, 0, 12
    null = "learned"

    def __init__(self) -> None:
        self.spec: Any = {"class": "Words"}
        self.calls: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> Encoded:
        self.calls.append(list(texts))
        rows = [text.split()[: self.length] for text in texts]
        longest = max(len(row) for row in rows)
        tokens, mask = torch.zeros(len(rows), longest, 8), torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            for j, word in enumerate(row):
                tokens[i, j] = torch.tensor(list(hashlib.sha256(word.encode()).digest()[:8])) / 64 - 2
                mask[i, j] = True
        return Encoded(tokens, mask, None, (None,) * len(rows))

    def ids(self, text: str) -> list[int]:
        return [int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) for word in text.split()[: self.length]]

    def nothing(self, n: int) -> Encoded:
        return Encoded(torch.zeros(n, 1, 8), torch.zeros(n, 1, dtype=torch.bool), None, (None,) * n)
