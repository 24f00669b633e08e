"""The encoder half of the U-Net under a head: a classifier that reads noisy pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guided.cond import Cond
from guided.nn.attend import Size, attend
from guided.nn.attention import group_norm, merge, split, to_sequence
from guided.nn.blocks import activation
from guided.nn.config import UNetConfig
from guided.nn.layers import Conv2d, Linear
from guided.nn.norms import norm_act
from guided.nn.ports import SpacePort, VectorPort
from guided.nn.unet import Body, levels, middle, way_down


class PicturePool(nn.Module):
    """A picture of `places` pixels pooled by one attention query, its mean: (B, width, H, W) -> (B, out).

    Unlike the `AttentionPool` of text, each place has a position of its own, so the picture's size is fixed.
    """

    def __init__(self, width: int, out: int, heads: int, places: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Parameter(torch.randn(places + 1, width) / width**0.5)
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, out)

    def forward(self, h: Tensor) -> Tensor:
        x = to_sequence(h)
        x = torch.cat((x.mean(1, keepdim=True), x), 1) + self.position.to(x.dtype)
        q, k, v = split(self.qkv(x), 3, self.heads)
        return self.proj(merge(attend(q[:, :, :1], k, v))[:, 0])  # type: ignore[no-any-return]


class EncoderUNet(Body):
    """ADM's noisy classifier (Dhariwal and Nichol 2021, arXiv 2105.05233, section 4 and appendix I).

    config: of a U-Net without conditions, whose way up is not built; `out_channels` is the number of classes.
    size: (H, W) of the pictures. Raises ValueError where the config reads a condition.
    """

    accepts: frozenset[str] = frozenset()

    def __init__(self, config: UNetConfig, size: Size) -> None:
        super().__init__()
        if config.accepts:
            raise ValueError(
                f"a classifier reads the picture alone, this config also {', '.join(sorted(config.accepts))}"
            )
        if config.patch > 1:
            raise ValueError(f"patch: a classifier reads single pixels, got squares of {config.patch}")
        self.config, self.size = config, (size[0], size[1])
        self.act = activation(config.act)
        self.vector = VectorPort(config, self.act)
        self.space = SpacePort(config)
        self.conv_in = Conv2d(config.in_channels + 2 * config.coordinates, config.widths[0], 3, padding=1)
        self.down, _ = way_down(config)
        self.middle = middle(config)
        width, places = config.widths[-1], 1
        for side in size:
            for _ in config.widths[1:]:
                side = (side + 1) // 2
            places *= side
        heads = config.heads or max(width // config.head_width, 1)
        if width % heads:
            raise ValueError(f"heads: {heads} do not divide the width {width}")
        self.norm_out = group_norm(config, width)
        self.pool = PicturePool(width, config.out_channels, heads, places)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond | None = None) -> Tensor:
        """x (B, C, H, W), c_noise (B,) or () -> logits (B, classes); ValueError for pictures of another size."""
        if x.shape[2:] != self.size:
            raise ValueError(f"this classifier reads pictures of {self.size}, got {tuple(x.shape[2:])}")
        nothing = Cond()
        embedding = self.act(self.vector(x, c_noise, nothing))
        with self._keeping():
            return self._through(self.space(x, nothing), embedding)

    def _through(self, h: Tensor, embedding: Tensor) -> Tensor:
        """From the pixels to the logits."""
        h = self.conv_in(h)
        for level in levels(self.down):
            for stage in level.stages:
                h = self._run(stage, h, embedding, None)
            if level.move is not None:
                h = self._run(level.move, h, embedding)
        for stage in self.middle:
            h = self._run(stage, h, embedding, None)
        return self.pool(norm_act(self.norm_out, h, self.act))  # type: ignore[no-any-return]
