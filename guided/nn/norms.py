"""Group normalisation with what stands around it: the embedding before or after it, and the activation.

In torch's terms, or by our own kernels (native.py) where they are: for inference, and for training as one function that
keeps its input alone.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from guided import reuse
from guided.nn import native, recompute


def norm_act(
    norm: nn.Module, x: Tensor, act: nn.Module | None = None, add: Tensor | None = None, affine: Tensor | None = None
) -> Tensor:
    """act(norm(x + add)), or act(norm(x) (1 + scale) + shift); add (B, C), affine = (scale, shift) (B, 2 C)."""
    known = act is None or isinstance(act, nn.SiLU)
    if not (isinstance(norm, nn.GroupNorm) and type(norm) is nn.GroupNorm and known and native.usable(x)):
        return plainly(norm, x, act, add, affine)
    if not torch.is_grad_enabled():
        weight, bias = reuse.once("norm", (norm,), lambda: (norm.weight.float(), norm.bias.float()), lasting=True)
        beside = (None if value is None else value.float() for value in (add, affine))
        return native.group_norm(x, native.Norm(norm.num_groups, norm.eps, act is not None, weight, bias, *beside))
    inputs = x, norm.weight, norm.bias, add, affine
    if not any(value is not None and value.requires_grad for value in inputs):
        return plainly(norm, x, act, add, affine)
    kept: Any = [None if value is None else value.detach() for value in inputs]
    settings = norm.num_groups, norm.eps, act is not None
    y: Tensor = NormAct.apply(*inputs, *settings)  # type: ignore[no-untyped-call]
    return recompute.known(y, lambda: _forward(*kept, *settings)[0])


def plainly(norm: nn.Module, x: Tensor, act: nn.Module | None, add: Tensor | None, affine: Tensor | None) -> Tensor:
    """`norm_act` in torch's terms."""
    x = x if add is None else x + add[..., None, None]
    y = norm(x) if affine is None else modulated_norm(cast(nn.GroupNorm, norm), x, affine)
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


class NormAct(torch.autograd.Function):
    """`norm_act` for training: it keeps x for the way back, and not what the activation is given."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None, affine: Tensor | None, *settings: Any
    ) -> Tensor:
        y, mean, rstd = _forward(x, weight, bias, add, affine, *settings)
        ctx.save_for_backward(x, weight, bias, add, affine, mean, rstd)
        ctx.settings = settings
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, mean, rstd = ctx.saved_tensors
        groups, eps, act = ctx.settings
        if torch.is_grad_enabled():
            # A gradient that is to be differentiated in turn is made of what torch can differentiate.
            found = recompute.gradients(lambda *given: _in_torch(*given, *ctx.settings), inputs, dy)
            return *found, None, None, None
        x, weight, bias, add, affine = inputs
        norm = native.Norm(groups, eps, act, *_float(weight, bias, add, affine))
        dx, (dz, dz_normal, down) = native.train_backward(dy, x, norm, mean, rstd)
        d_add = None if add is None else down.to(add.dtype)
        d_affine = None
        if affine is not None:
            assert norm.affine is not None
            d_affine = torch.cat((norm.weight * dz_normal + norm.bias * dz, dz), 1).to(affine.dtype)
            gain = 1 + norm.affine.chunk(2, 1)[0]
            dz, dz_normal = dz * gain, dz_normal * gain
        return dx, dz_normal.sum(0).to(weight.dtype), dz.sum(0).to(bias.dtype), d_add, d_affine, None, None, None


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None, affine: Tensor | None, *settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return native.train_forward(x, native.Norm(*settings, *_float(weight, bias, add, affine)))


def _float(*values: Tensor | None) -> Any:
    return (None if value is None else value.float() for value in values)


def _in_torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    add: Tensor | None,
    affine: Tensor | None,
    groups: int,
    eps: float,
    act: bool,
) -> Tensor:
    weight, bias = weight.to(x.dtype), bias.to(x.dtype)
    y = torch.group_norm(x if add is None else x + add[..., None, None], groups, weight, bias, eps)
    if affine is not None:
        # norm(x) (1 + scale) + shift
        scale, shift = affine[..., None, None].chunk(2, 1)
        y = y * (1 + scale) + shift
    return torch.nn.functional.silu(y) if act else y
