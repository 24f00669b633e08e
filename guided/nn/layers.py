"""The layers of the U-Net: torch's own, which on a CPU without gradients take faster ways to the same numbers.

They hold torch's parameters under torch's names. What follows a layer (a sum, a product, an activation) may be given to
it, and is then done in the same pass; `added`, `gated` and `norm_act` do so where the layer can, and say it in torch's
terms where it cannot: under gradients, in a compiler, on other devices, or where something else stands in its place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided import reuse
from guided.nn import native, onednn


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
    value, gate = layer(x).chunk(2, -1)
    return value * F.gelu(gate)  # type: ignore[no-any-return]


def norm_act(
    norm: nn.Module, x: Tensor, act: nn.Module | None = None, add: Tensor | None = None, affine: Tensor | None = None
) -> Tensor:
    """act(norm(x + add)), or act(norm(x) * (1 + scale) + shift); add (B, C), affine = (scale, shift) (B, 2 C)."""
    if type(norm) is nn.GroupNorm and (act is None or isinstance(act, nn.SiLU)) and native.usable(x):
        weight, bias = reuse.once("norm", (norm.weight, norm.bias), lambda: (norm.weight.float(), norm.bias.float()))
        beside = (None if value is None else value.float() for value in (add, affine))
        return native.group_norm(x, norm.num_groups, norm.eps, weight, bias, *beside, act is not None)
    x = x if add is None else x + add[..., None, None]
    y = norm(x) if affine is None else modulated_norm(norm, x, affine)
    return y if act is None else act(y)  # type: ignore[no-any-return]


def modulated_norm(norm: nn.GroupNorm, h: Tensor, modulation: Tensor) -> Tensor:
    """norm(h) * (1 + scale) + shift, for modulation = (scale, shift) of shape (B, 2 C)."""
    scale, shift = modulation.chunk(2, 1)
    # With the samples side by side as channels, the norm's own affine map is free to differ between them: this
    # is one pass over h instead of two, and the second would cost more than the norm.
    b, c = h.shape[:2]
    gain = 1 + scale.to(norm.weight.dtype)
    weight, bias = norm.weight * gain, norm.bias * gain + shift.to(norm.bias.dtype)
    rows = h.reshape(1, b * c, *h.shape[2:])
    return torch.group_norm(rows, b * norm.num_groups, weight.flatten(), bias.flatten(), norm.eps).view(h.shape)
