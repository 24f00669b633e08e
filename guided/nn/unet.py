"""The U-Net of the ADM lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from guided.nn.attention import Context, group_norm, zero
from guided.nn.blocks import Stage, activation, down, up
from guided.nn.config import UNetConfig
from guided.nn.ports import SequencePort, SpacePort, VectorPort

if TYPE_CHECKING:
    from guided.cond import Cond


class UNet(nn.Module):
    """One U-Net for ADM, Stable Diffusion, DeepFloyd IF and our own (arXiv 2105.05233, 2112.10752).

    `accepts` names the fields of `Cond` it sees; it ignores the others. Set `checkpointing = True` to trade
    about a third more time for most of the memory of training.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.accepts = config.accepts
        self.checkpointing = False
        self.act = activation(config.act)
        self.vector = VectorPort(config, activation(config.act))
        self.sequence = SequencePort(config) if config.token_width else None
        self.space = SpacePort(config)
        channels = config.in_channels + config.image_channels + config.presence
        self.conv_in = nn.Conv2d(channels, config.widths[0], 3, padding=1)
        skips = self._build_down(config)
        last = len(config.widths) - 1
        self.middle = nn.ModuleList(
            Stage(config, config.widths[last], last, config.middle_depth if i == 0 else 0)
            for i in range(config.middle_blocks)
        )
        self._build_up(config, skips)
        self.norm_out = group_norm(config, config.widths[0])
        self.conv_out = zero(nn.Conv2d(config.widths[0], config.out_channels, 3, padding=1))

    def _build_down(self, config: UNetConfig) -> list[int]:
        """Make the way down; the widths of the skips, in the order they are made."""
        every = config.skips == "every"
        width, skips = config.widths[0], [config.widths[0]] if every else []
        self.down, self.to_coarser = nn.ModuleList(), nn.ModuleList()
        for level, out in enumerate(config.widths):
            stages = nn.ModuleList()
            for i in range(config.blocks[level]):
                stages.append(Stage(config, width, level, config.depth[level]))
                width = out
                if every or i == config.blocks[level] - 1:
                    skips.append(width)
            self.down.append(stages)
            if level < len(config.widths) - 1:
                self.to_coarser.append(down(config, width))
                if every:
                    skips.append(width)
        return skips

    def _build_up(self, config: UNetConfig, skips: list[int]) -> None:
        """Make the way up, coarsest level first."""
        every = config.skips == "every"
        width = config.widths[-1]
        self.up, self.to_finer = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(config.widths))):
            stages = nn.ModuleList()
            for i in range(config.blocks[level] + every):
                joined = skips.pop() if every or i == 0 else 0
                stages.append(Stage(config, width + joined, level, config.depth[level]))
                width = config.widths[level]
            self.up.append(stages)
            if level:
                self.to_finer.append(up(config, width))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        """x (B, C, H, W), c_noise (B,) or () -> (B, C_out, H, W); raises ValueError for shapes it cannot join."""
        context, pooled = (None, None) if self.sequence is None else self.sequence(x, cond)
        embedding = self.vector(x, c_noise, cond)
        if pooled is not None:
            embedding = embedding + pooled
        if self.config.embed_act:
            embedding = self.act(embedding)
        h = self.conv_in(self.space(x, cond))
        h, skips = self._go_down(h, embedding, context)
        for stage in self.middle:
            h = self._run(stage, h, embedding, context)
        h = self._go_up(h, skips, embedding, context)
        return self.conv_out(self.act(self.norm_out(h)))  # type: ignore[no-any-return]

    def _go_down(self, h: Tensor, embedding: Tensor, context: Context | None) -> tuple[Tensor, list[Tensor]]:
        every = self.config.skips == "every"
        skips = [h] if every else []
        for level, stages in enumerate(self.down):
            for i, stage in enumerate(stages):  # type: ignore[arg-type]
                h = self._run(stage, h, embedding, context)
                if every or i == len(stages) - 1:  # type: ignore[arg-type]
                    skips.append(h)
            if level < len(self.to_coarser):
                h = self._run(self.to_coarser[level], h, embedding)
                if every:
                    skips.append(h)
        return h, skips

    def _go_up(self, h: Tensor, skips: list[Tensor], embedding: Tensor, context: Context | None) -> Tensor:
        every = self.config.skips == "every"
        for level, stages in enumerate(self.up):
            for i, stage in enumerate(stages):  # type: ignore[arg-type]
                if every or i == 0:
                    h = torch.cat((h, skips.pop()), 1)
                h = self._run(stage, h, embedding, context)
            if level < len(self.to_finer):
                h = self._run(self.to_finer[level], h, embedding, skips[-1].shape[-2:])
        return h

    def _run(self, module: nn.Module, *inputs: Any) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)  # type: ignore[no-any-return, no-untyped-call]
        return module(*inputs)  # type: ignore[no-any-return]
