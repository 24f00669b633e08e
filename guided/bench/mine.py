"""Our network as a side of a comparison: within a sampling run, or bare."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any

import torch
from torch import Tensor

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


def reuse() -> Any | None:
    """`guided.reuse`, where this version has it: what a sampling run computes once and keeps."""
    found = importlib.import_module("guided.reuse") if importlib.util.find_spec("guided.reuse") else None
    return found if hasattr(found, "within") else None


def kept(way: Way) -> Callable[[], AbstractContextManager[object]]:
    """The context of all calls: one sampling run, entered anew by each, or none."""
    module = None if way is Way.BARE else reuse()
    if module is None:
        return contextlib.nullcontext
    run = module.Run()
    return lambda: module.within(run)  # type: ignore[no-any-return]


def described(way: Way) -> str:
    """What is said of a way to the reader."""
    if way is Way.BARE:
        return "outside a run"
    if reuse() is None:
        return "nothing kept between calls (this version cannot)"
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
