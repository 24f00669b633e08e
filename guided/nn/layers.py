"""The layers of the U-Net: torch's own, which on a CPU without gradients take faster ways to the same numbers.

They hold torch's parameters under its names. What follows a layer (a sum, a product) may be given to it, and is then
done in the same pass; `added` and `gated` do so where the layer can, and say it in torch's terms where it cannot: under
gradients, in a compiler, on other devices, or where something else stands in its place.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided.nn import onednn, recompute


class Linear(nn.Linear):
    """x W' + b (+ plus)."""

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        found = onednn.linear(x, self, plus)
        if found is not None:
            return found
        y = F.linear(x, self.weight, self.bias)
        return y if plus is None else y + plus


class Conv2d(nn.Conv2d):
    """A convolution (+ plus), with zeros around."""

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        found = onednn.convolution(x, self, plus)
        if found is not None:
            return found
        y = super().forward(x)
        return y if plus is None else y + plus


def added(layer: nn.Module, x: Tensor, plus: Tensor) -> Tensor:
    """layer(x) + plus."""
    # What stands in a layer's place, as an adapter does, has a forward of its own.
    return layer(x, plus) if type(layer) in (Linear, Conv2d) else layer(x) + plus  # type: ignore[no-any-return]


def gated(layer: nn.Module, x: Tensor) -> Tensor:
    """value * gelu(gate), of layer(x) = (value, gate) (GEGLU, Shazeer 2020, arXiv 2002.05202)."""
    found = onednn.gated(x, layer) if type(layer) is Linear else None
    if found is not None:
        return found
    h = layer(x)
    if h.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
        y: Tensor = Gated.apply(h)  # type: ignore[no-untyped-call]
        return recompute.known(y, functools.partial(geglu, h.detach()))
    return geglu(h)


def geglu(h: Tensor) -> Tensor:
    """value * gelu(gate), of h = (value, gate)."""
    value, gate = h.chunk(2, -1)
    return value * F.gelu(gate)


class Gated(torch.autograd.Function):
    """`geglu` that keeps h alone for the way back: torch would keep gelu(gate) beside it."""

    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        ctx.save_for_backward(h)
        return geglu(h)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (h,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return recompute.gradients(geglu, (h,), dy)[0]  # type: ignore[return-value]
        value, gate = h.chunk(2, -1)
        dh = torch.empty_like(h)
        torch.mul(dy, F.gelu(gate), out=dh[..., : value.shape[-1]])
        dh[..., value.shape[-1] :] = torch.ops.aten.gelu_backward(dy * value, gate)
        return dh
