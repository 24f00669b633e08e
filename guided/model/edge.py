"""Where a published network meets `Cond`: what it was trained to be given, made of what is declared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from guided.codec import Codec
from guided.cond import Cond
from guided.frames import DDPM
from guided.nn import UNetConfig
from guided.nn.embeddings import Sinusoid
from guided.text import Encoded, TextEncoder

Nothing = Callable[[int], Encoded]


@dataclass(eq=False)
class Edge:
    """Turns a condition into what a published network was trained on; see `of` for what a card says of it.

    Absent text becomes the encoder's null. `sizes`: six numbers are embedded and stand after the pooled text: height
    and width of the picture, of its upper left corner (0, 0), height and width again (SDXL, arXiv 2307.01952, 2.2).
    `low`: the image condition is a picture with noise of std cond.aug, as everywhere in guided, which the network is
    shown scaled to unit variance and with the index of that level, as its `aug` or its `label`; absent is no noise.
    `blank`: the image of a mask and masked latents that stands for "all is to be painted".
    """

    config: UNetConfig
    nothing: Nothing | None = None
    sizes: Sinusoid | None = None
    factor: int = 1
    low: DDPM | None = None
    blank: Codec | None = None
    _null: Encoded | None = None

    @property
    def accepts(self) -> frozenset[str]:
        """The fields of `Cond` that it makes something of."""
        return self.config.accepts | ({"aug"} if self.low is not None else set())

    def __call__(self, x: Tensor, cond: Cond) -> Cond:
        if self.nothing is not None:
            cond = self._text(x, cond)
        if self.sizes is not None:
            cond = self._sizes(x, cond)
        if self.config.image_channels:
            cond = self._image(x, cond)
        return cond

    def _text(self, x: Tensor, cond: Cond) -> Cond:
        assert self.nothing is not None
        self._null = self.nothing(1) if self._null is None else self._null
        null, batch = self._null, len(x)
        tokens = null.tokens.to(x).expand(batch, -1, -1)
        mask = null.mask.to(x.device).expand(batch, -1)
        if cond.tokens is not None and cond.mask is not None:
            absent = ~cond.mask.any(1)
            both = Cond.cat([Cond(tokens=cond.tokens, mask=cond.mask), Cond(tokens=tokens, mask=mask)], [batch, batch])
            rows = torch.arange(batch, device=x.device) + batch * absent
            picked = both.index(rows)
            assert picked.tokens is not None and picked.mask is not None
            tokens, mask = picked.tokens, picked.mask
        cond = dataclasses.replace(cond, tokens=tokens, mask=mask)
        if null.vector is None:
            return cond
        vector = null.vector.to(x).expand(batch, -1)
        if cond.vector is not None and cond.vector.shape[1] == vector.shape[1]:
            vector = torch.where(cond.vector.isnan().any(1, keepdim=True), vector, cond.vector)
        elif cond.vector is not None:
            vector = cond.vector
        return dataclasses.replace(cond, vector=vector)

    def _sizes(self, x: Tensor, cond: Cond) -> Cond:
        assert self.sizes is not None
        width = self.config.vector_width - 6 * self.sizes.width
        if cond.vector is None or cond.vector.shape[1] != width:
            return cond  # absent, or with sizes of the caller's own
        height, length = (self.factor * side for side in x.shape[2:])
        numbers = torch.tensor([height, length, 0, 0, height, length], dtype=torch.float32, device=x.device)
        waves = self.sizes(numbers).flatten().to(cond.vector).expand(len(x), -1)
        return dataclasses.replace(cond, vector=torch.cat((cond.vector, waves), 1))

    def _image(self, x: Tensor, cond: Cond) -> Cond:
        if self.low is None:
            return cond if cond.image is not None or self.blank is None else self._painted(x, cond)
        if cond.image is None:
            raise ValueError(
                "this network enlarges a picture: it needs cond.image (B, C, H, W), the picture at the size of x with "
                "noise of std cond.aug"
            )
        aug = x.new_full((len(x),), torch.nan) if cond.aug is None else cond.aug
        noise = torch.where(aug.isnan(), 0.0, aug.double())
        image = cond.image * self.low.scale(noise).to(cond.image)[:, None, None, None]
        level = self.low.shown(noise.clamp(self.low.lo, self.low.hi))
        if self.config.aug:
            return dataclasses.replace(cond, image=image, aug=level.to(x))
        label = level.round().long()
        if cond.label is not None:  # the index itself
            label = torch.where(cond.label < 0, label, cond.label)
        return dataclasses.replace(cond, image=image, label=label, aug=None)

    def _painted(self, x: Tensor, cond: Cond) -> Cond:
        assert self.blank is not None
        height, width = (self.factor * side for side in x.shape[2:])
        grey = self.blank.encode(x.new_zeros(1, 3, height, width)).to(x)
        image = torch.cat((torch.ones_like(grey[:, :1]), grey), 1).expand(len(x), -1, -1, -1)
        return dataclasses.replace(cond, image=image)


def of(values: Mapping[str, Any], config: UNetConfig, codec: Codec, encoder: TextEncoder | None) -> Edge:
    """The edge that a card describes: {"sizes": width of one embedding, "low": a DDPM schedule, "paint": true}.

    Raises ValueError naming the entry that is wrong.
    """
    unknown = set(values) - {"sizes", "low", "paint"}
    if unknown:
        raise ValueError(f"edge: expected sizes, low and paint alone, got {min(unknown)!r:.80}")
    waves, low = values.get("sizes"), values.get("low")
    if waves is not None and (type(waves) is not int or not 0 < 6 * waves < config.vector_width):
        raise ValueError(f"edge.sizes: expected a width of which six fit into {config.vector_width}, got {waves!r:.80}")
    if low is not None and not (config.image_channels and (config.aug or config.classes)):
        raise ValueError("edge.low: the network takes no image with a level of noise")
    paint = values.get("paint", False)
    if paint and config.image_channels != config.in_channels + 1:
        raise ValueError(f"edge.paint: expected {config.in_channels + 1} image channels, got {config.image_channels}")
    try:
        schedule = None if low is None else DDPM(**low)
    except (TypeError, ValueError) as error:
        raise ValueError(f"edge.low: {error}") from None
    if schedule is not None and config.classes and config.classes < schedule.steps:
        raise ValueError(f"edge.low: {schedule.steps} levels of noise, the network's table knows {config.classes}")
    return Edge(
        config,
        nothing=None if encoder is None else encoder.nothing,
        sizes=None if waves is None else Sinusoid(waves, config.max_period, config.flip, config.shift),
        factor=int(getattr(codec, "factor", 1)),
        low=schedule,
        blank=codec if paint else None,
    )


def painting(codec: Codec, pictures: Tensor, mask: Tensor) -> Tensor:
    """The image condition of an inpainting model: a mask and masked latents, (B, 1 + C, h, w).

    pictures (B, 3, H, W) in [-1, 1]; mask (B or 1, 1, H, W), 1 where the picture may change.
    """
    free = (mask > 0.5).to(pictures).expand(len(pictures), -1, -1, -1)
    known = codec.encode(torch.where(free > 0, 0.0, pictures))
    return torch.cat((nn.functional.interpolate(free, known.shape[2:]), known), 1)
