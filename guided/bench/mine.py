"""Our network as a side of a comparison: within a sampling run, or bare."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum

import torch
from torch import Tensor

from guided import reuse
from guided.bench.networks import Inputs, Pair
from guided.nn import UNet

Forward = Callable[[Inputs], Tensor]


class Way(Enum):
    """How the network is called."""

    RUN = "ours"
    """As a sampling run calls it: what follows from text and weights alone is found once for all calls."""
    UNCACHED = "ours, uncached"
    """The same with another text at every call."""
    BARE = "ours, outside a run"
    """`network(x, t, cond)` and no more."""


def kept(way: Way) -> Callable[[], AbstractContextManager[object]]:
    """The context of all calls: one sampling run, entered anew by each, or none."""
    if way is Way.BARE:
        return contextlib.nullcontext
    run = reuse.Run()
    return lambda: reuse.within(run)  # type: ignore[return-value]


def described(way: Way) -> str:
    """What is said of a way to the reader."""
    if way is Way.BARE:
        return "outside a run"
    return "text projected beforehand" if way is Way.RUN else "text projected at every call"


def network(pair: Pair, dtype: torch.dtype = torch.float32) -> UNet:
    """Our network for drawing, its weights in a dtype."""
    return pair.ours().eval().requires_grad_(False).to(dtype)


def forward(network: UNet, autocast: torch.dtype | None = None, way: Way = Way.BARE) -> Forward:
    """The network as a function of a batch, as a denoiser calls it."""
    within = kept(way)
    weights = next(network.parameters())

    def call(batch: Inputs) -> Tensor:
        device = batch.x.device.type
        cond = batch.anew() if way is Way.UNCACHED else batch.cond
        with within(), contextlib.nullcontext() if autocast is None else torch.autocast(device, autocast):
            return network(batch.x.to(weights.dtype), batch.t.to(torch.float32), cond)  # type: ignore[no-any-return]

    return call
