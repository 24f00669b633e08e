"""The U-Net of the ADM lineage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from guided import reuse
from guided.cond import Cond
from guided.nn import recompute
from guided.nn.attention import Context, Perturbable, group_norm, widened, zero
from guided.nn.blocks import Stage, activation, down, up
from guided.nn.config import UNetConfig
from guided.nn.layers import Conv2d
from guided.nn.norms import norm_act
from guided.nn.ports import SequencePort, SpacePort, VectorPort
from guided.perturbation import Change, Copied, active


class Level(nn.Module):
    """The stages of one level on one way, and the step to the next level, if there is one."""

    stages: nn.ModuleList
    move: nn.Module | None

    def __init__(self, stages: list[Stage], move: nn.Module | None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.move = move


class Body(nn.Module):
    """Stages that run one by one.

    `checkpointing = True` trades a third more time for most of training's memory: a stage keeps its inputs alone, and
    is run again on the way back. "cheap" runs normalisations and activations again, and nothing else.
    """

    checkpointing: bool | str = False

    def compile_stages(self, **options: Any) -> None:
        """Compile each stage by itself (`torch.compile` takes the options): seconds, where the whole takes minutes."""
        stages = [module for module in self.modules() if isinstance(module, Stage)]
        # Stages are of one class and many shapes: the compiler counts them together, and gives up at eight.
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, 4 * len(stages))
        for stage in stages:
            stage.compile(**options)

    def _keeping(self) -> contextlib.AbstractContextManager[None]:
        """What is kept of a forward for the way back."""
        return recompute.cheaply() if self.checkpointing == "cheap" else contextlib.nullcontext()

    def _run(self, module: nn.Module, *inputs: Any) -> Tensor:
        if self.checkpointing is True and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
        return module(*inputs)  # type: ignore[no-any-return]


class UNet(Body):
    """One U-Net for ADM, Stable Diffusion, DeepFloyd IF and our own (arXiv 2105.05233, 2112.10752).

    `accepts` names the fields of `Cond` it sees; it ignores the others. `attention_layers()` names what a
    `guided.perturbation.Perturbation` can act on.
    """

    takes_several = True
    """It may be given several conditions for one x."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        self.accepts = config.accepts
        self.act = activation(config.act)
        self.vector = VectorPort(config, self.act)
        self.sequence = SequencePort(config) if config.token_width else None
        self.space = SpacePort(config)
        width = config.widths[0]
        channels = config.in_channels + config.image_channels + config.presence + 2 * config.coordinates
        self.conv_in = Conv2d(channels * config.patch**2, width, 3, padding=1)
        self.down, skips = way_down(config)
        self.middle = middle(config)
        self.up = way_up(config, skips)
        self.norm_out = group_norm(config, width)
        self.conv_out = zero(Conv2d(width, config.out_channels * config.patch**2, 3, padding=1))
        self._perturbable = name_layers(self)

    def forward(self, x: Tensor, c_noise: Tensor, *conds: Cond) -> Tensor:
        """x (B, C, H, W) of any size, c_noise (B,) or () -> (B, C_out, H, W); ValueError for shapes it cannot join.

        Several conditions: x under each of them, (k B, C_out, H, W), one below the other. Where they differ in their
        text alone, what stands before the first layer that reads text is the same for all, and done once.
        """
        cond, text, rows = conds[0], conds[0], len(x)
        if len(conds) > 1 and self._differ_in_text(conds):
            text, rows = reuse.once(("texts", len(x)), conds, lambda: _texts(conds, len(x))), len(x) * len(conds)
        elif len(conds) > 1:
            cond = text = reuse.once(("all", len(x)), conds, lambda: Cond.cat(conds, [len(x)] * len(conds)))
            rows = len(x) * len(conds)
            x, c_noise = widened(x, rows), widened(c_noise.expand(len(x)), rows)
        embedding = self.vector(x, c_noise, cond)
        context = None
        if self.sequence is not None:
            context, pooled = self.sequence(x.new_empty(rows, 0), text)
            embedding = embedding if pooled is None else embedding + pooled
        seen = self.act(embedding), context, self._perturbation()
        with self._keeping():
            out = self._through(laid_out(self._folded(self.space(x, cond))), *seen)
        if self.config.patch > 1:
            out = F.pixel_shuffle(out, self.config.patch)[..., : x.shape[2], : x.shape[3]]
        return out

    def _through(self, h: Tensor, *seen: Any) -> Tensor:
        """From the pixels to the pixels."""
        h, skips = self._go_down(self.conv_in(h), *seen)
        for stage in self.middle:
            h = self._run(stage, h, *seen)
        h = self._go_up(h, skips, *seen)
        return self.conv_out(norm_act(self.norm_out, h, self.act)).contiguous()  # type: ignore[no-any-return]

    def _differ_in_text(self, conds: Sequence[Cond]) -> bool:
        """Whether nothing but what attention reads is another object in these conditions, as far as it is seen."""
        if self.sequence is None or self.sequence.pool is not None or isinstance(active(), Copied):
            return False
        beside = self.accepts - {"tokens", "mask"}
        return all(getattr(cond, name) is getattr(conds[0], name) for cond in conds for name in beside)

    def _folded(self, h: Tensor) -> Tensor:
        """Squares of pixels as channels; what does not fill one is filled with the border's pixels."""
        patch = self.config.patch
        if patch == 1:
            return h
        down, right = (-h.shape[2] % patch, -h.shape[3] % patch)
        if down or right:
            h = F.pad(h, (0, right, 0, down), mode="replicate")
        return F.pixel_unshuffle(h, patch)

    def attention_layers(self) -> tuple[str, ...]:
        """The names of the self-attention layers in the order they run, as `Perturbation.layers` takes them."""
        return self._perturbable

    def _perturbation(self) -> Change | None:
        """The perturbation in force, its layers in full; ValueError where it would change nothing here."""
        found = active()
        if found is None:
            return None
        if isinstance(found, Copied):
            if self.config.attention not in ("cross", "transformer"):
                raise ValueError("attention to text can be copied in a network with cross-attention; this one has none")
            return found
        known = self._perturbable
        if not known:
            raise ValueError(f"{found}: this network has no self-attention that could be perturbed")
        if found.layers is None:
            return replace(found, layers=default_layers(known, len(self.config.widths)))
        for name in found.layers:
            if not within(known, name):
                raise ValueError(f"{found}: no self-attention is called {name!r} here; there are {', '.join(known)}")
        return replace(found, layers=tuple(layer for name in found.layers for layer in within(known, name)))

    def _go_down(
        self, h: Tensor, embedding: Tensor, context: Context | None, perturbation: Change | None
    ) -> tuple[Tensor, list[Tensor]]:
        every = self.config.skips == "every"
        skips = [h] if every else []
        for level in levels(self.down):
            for stage in level.stages:
                h = self._run(stage, h, embedding, context, perturbation)
                if every or stage is level.stages[-1]:
                    skips.append(h)
            if level.move is not None:
                h = self._run(level.move, h, embedding)
                if every:
                    skips.append(h)
        return h, skips

    def _go_up(
        self,
        h: Tensor,
        skips: list[Tensor],
        embedding: Tensor,
        context: Context | None,
        perturbation: Change | None,
    ) -> Tensor:
        every = self.config.skips == "every"
        for level in levels(self.up):
            for stage in level.stages:
                skip = skips.pop() if every or stage is level.stages[0] else None
                h = self._run(stage, h, embedding, context, perturbation, skip)
            if level.move is not None:
                h = self._run(level.move, h, embedding, skips[-1].shape[-2:])
        return h


def laid_out(h: Tensor) -> Tensor:
    """h with channels last for inference on a CPU, where its kernels are faster; training is faster as it is."""
    if h.device.type == "cpu" and not torch.is_grad_enabled():
        return h.contiguous(memory_format=torch.channels_last)
    return h


def _texts(conds: Sequence[Cond], batch: int) -> Cond:
    """The texts of several conditions of a batch, one below the other."""
    return Cond.cat([Cond(tokens=cond.tokens, mask=cond.mask) for cond in conds], [batch] * len(conds))


def name_layers(network: nn.Module) -> tuple[str, ...]:
    """Give each block with self-attention its name in the network; returns them in the order they run."""
    names = []
    for name, module in network.named_modules():
        if isinstance(module, Perturbable) and module.has_self_attention:
            module.name = name
            names.append(name)
    return tuple(names)


def within(names: tuple[str, ...], place: str) -> tuple[str, ...]:
    """The names that are `place` or lie in it."""
    return tuple(name for name in names if f"{name}.".startswith(f"{place}."))


def default_layers(names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Those of the middle; where it has none, of the coarsest of `count` levels that has any, on both ways."""
    places = [("middle",), *((f"down.{i}", f"up.{count - 1 - i}") for i in reversed(range(count)))]
    found = (tuple(name for place in group for name in within(names, place)) for group in places)
    return next(layers for layers in found if layers)


def levels(modules: nn.ModuleList) -> Iterator[Level]:
    """The levels of one way, with their type."""
    return (cast(Level, module) for module in modules)


def way_down(config: UNetConfig) -> tuple[nn.ModuleList, list[int]]:
    """The levels from fine to coarse, and the widths of the skips in the order they are made."""
    every = config.skips == "every"
    way = nn.ModuleList()
    width = config.widths[0]
    skips = [width] if every else []
    for i, out in enumerate(config.widths):
        widths = [(width, out)] + [(out, out)] * (config.blocks[i] - 1)
        stages = [Stage(config, pair, config.depth[i], config.reads_text_only(i)) for pair in widths]
        coarsest = i == len(config.widths) - 1
        way.append(Level(stages, None if coarsest else down(config, out)))
        skips += [out] * (config.blocks[i] + (not coarsest) if every else 1)
        width = out
    return way, skips


def middle(config: UNetConfig) -> nn.ModuleList:
    """The stages at the coarsest size; attention follows the first alone."""
    width = config.widths[-1]
    depths = [config.middle_depth] + [0] * config.middle_blocks
    stages = (Stage(config, (width, width), d, config.middle_text_only) for d in depths[: config.middle_blocks])
    return nn.ModuleList(stages)


def way_up(config: UNetConfig, skips: list[int]) -> nn.ModuleList:
    """The levels from coarse to fine; their first or all stages read a skip, the last made first."""
    every = config.skips == "every"
    way = nn.ModuleList()
    width, skips = config.widths[-1], list(skips)
    for i in reversed(range(len(config.widths))):
        stages = []
        for j in range(config.blocks[i] + every):
            joined = skips.pop() if every or j == 0 else 0
            pair = (width + joined, config.widths[i])
            stages.append(Stage(config, pair, config.depth[i], config.reads_text_only(i)))
            width = config.widths[i]
        way.append(Level(stages, up(config, width) if i else None))
    return way
