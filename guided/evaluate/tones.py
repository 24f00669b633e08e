"""A judge of skin tones by colours alone: which tone a picture shows, wherever in it, and whatever else it shows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from guided.data.splitting import TONES
from guided.evaluate.features import unit
from guided.noise import generator

NONE = len(TONES)
"""The class of pictures without a tone: the yellow default, and all that are no people."""


class ToneJudge:
    """Ridge regression from a picture's colour histogram (square roots of 10 x 10 x 10 soft bins) to its skin tone.

    Fitted in closed form on real pictures and on softened, faded, noisy and tinted copies of them, so that a
    slightly blurred drawing counts for what it shows. The nearest training picture would not do as a judge: of a
    pair that was kept out, its own picture is the one that is missing there, and the nearest has a neighbouring tone.
    """

    def __init__(self, pictures: Tensor, tones: Sequence[str | None], bins: int = 10, ridge: float = 1.0) -> None:
        """pictures: uint8 (N, 3, H, W); tones: one of `TONES`, or None; raises ValueError where a tone is missing."""
        lacking = sorted(set(TONES) - set(tones))
        if lacking:
            raise ValueError(f"the judge of tones needs pictures of every tone; there are none of {', '.join(lacking)}")
        self.bins = bins
        target = torch.tensor([NONE if tone is None else TONES.index(tone) for tone in tones])
        copies = _copies(unit(pictures))
        x = torch.cat([self._histogram(part) for part in copies])
        y = F.one_hot(target.repeat(len(copies)), NONE + 1).double()
        # Every tone counts the same, however many pictures it has.
        weight = (1 / y.sum(0))[target.repeat(len(copies))]
        weight = weight * len(weight) / weight.sum()
        self.mean = weight @ x / weight.sum()
        off, level = x - self.mean, weight @ y / weight.sum()
        gram = (off * weight[:, None]).T @ off + ridge * torch.eye(off.shape[1], dtype=off.dtype)
        self.weights = torch.linalg.solve(gram, (off * weight[:, None]).T @ (y - level))

    def __call__(self, pictures: Tensor) -> list[str | None]:
        """The tone of each picture uint8 (N, 3, H, W), None for none."""
        found = ((self._histogram(unit(pictures)) - self.mean) @ self.weights).argmax(1).tolist()
        return [None if tone == NONE else TONES[tone] for tone in found]

    def _histogram(self, images: Tensor) -> Tensor:
        """(N, bins^3) float64: the square roots of the shares of colours, each pixel split between its 8 bins."""
        place = (images.double() + 1) / 2 * (self.bins - 1)
        place = place.clamp(0, self.bins - 1).permute(0, 2, 3, 1).flatten(1, 2)
        low = place.floor().clamp(0, self.bins - 2)
        rest = place - low
        out = torch.zeros(len(images), self.bins**3, dtype=torch.float64)
        for corner in range(8):
            step = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1])
            share = torch.where(step.bool(), rest, 1 - rest).prod(2)
            index = (low.long() + step) @ torch.tensor([self.bins**2, self.bins, 1])
            out.scatter_add_(1, index, share)
        return (out / place.shape[1]).sqrt()


def _copies(images: Tensor) -> list[Tensor]:
    rng = generator("tones", 0, len(images))
    soft = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    fade = 0.85 + 0.15 * torch.rand(len(images), 1, 1, 1, generator=rng)
    noisy = images + 0.15 * torch.randn(images.shape, generator=rng)
    tinted = images + 0.07 * torch.randn(len(images), 3, 1, 1, generator=rng)
    return [images, soft, (images + soft) / 2, 1 + fade * (images - 1), noisy.clamp(-1, 1), tinted.clamp(-1, 1)]
