"""A small captioned world: smooth patterns as bases, whose middle takes the colour of a skin tone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from guided.data import Pictures, Record, base_caption, split, tone
from guided.data.records import describe
from guided.data.splitting import TONES
from guided.evaluate.features import levels
from guided.evaluate.material import Real

SIZE = 16
SKIN = {None: (250, 215, 40), "light": (249, 221, 189), "medium-light": (223, 183, 140), "medium": (190, 140, 95)}
SKIN |= {"medium-dark": (150, 95, 60), "dark": (90, 60, 50)}


class Captioned:
    """People of `people` bases in six tones, and `things` of one picture each, at SIZE px."""

    def __init__(self, people: int = 30, things: int = 80) -> None:
        captions = [
            f"worker {i}{'' if t is None else f', {t} skin tone'}" for i in range(people) for t in (None, *TONES)
        ]
        captions += [f"thing {i}" for i in range(things)]
        groups = ["People"] * (6 * people) + ["Things"] * things
        self.records = [
            Record(f"{i}.png", caption, extra={"group": group})
            for i, (caption, group) in enumerate(zip(captions, groups, strict=True))
        ]
        self.classes: tuple[str, ...] = ()
        self.skipped: tuple[tuple[str, str], ...] = ()
        self.summary: dict[str, Any] = describe("toy", "toy", self.records, ())

    def bytes(self, i: int) -> bytes:
        raise AssertionError("rendered")

    def image(self, i: int, size: tuple[int, int]) -> np.ndarray[Any, Any]:
        return picture(str(self.records[i].caption)).permute(1, 2, 0).numpy()


def picture(caption: str) -> Tensor:
    """uint8 (3, SIZE, SIZE): a pattern by the hash of the base; of people, a head and hands of their tone."""
    base = base_caption(caption)
    rng = torch.Generator().manual_seed(sum(ord(c) * 257**k for k, c in enumerate(base)) % 2**31)
    image = levels(F.interpolate(torch.randn(1, 3, 4, 4, generator=rng), SIZE, mode="bicubic") * 0.5)[0]
    if base.startswith("worker"):
        image[:, 3:10, 5:11] = torch.tensor(SKIN[tone(caption)], dtype=torch.uint8)[:, None, None]
    return image


def real(pairs: int = 20, share: float = 0.1) -> Real:
    """The world with a split."""
    source = Captioned()
    return Real(source, Pictures(source, SIZE), split(source.records, share=share, pairs=pairs))


class Perfect:
    """In place of an artist: draws exactly what is asked for."""

    def pictures(self, w: float, prompts: Sequence[str] | None = None, labels: Sequence[int] | None = None) -> Tensor:
        assert prompts is not None
        return torch.stack([picture(prompt) for prompt in prompts])


class Deaf(Perfect):
    """Draws the picture of the next prompt instead."""

    def pictures(self, w: float, prompts: Sequence[str] | None = None, labels: Sequence[int] | None = None) -> Tensor:
        return super().pictures(w, prompts).roll(1, 0)
