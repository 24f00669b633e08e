"""Operators on the pixels themselves: known ones, boxes, channels. A A^T is diagonal: all inverses are one factor."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from guided.operators.operator import Operator, inverse

MEAN: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)
LUMA: tuple[float, ...] = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in the luma of ITU-R BT.601."""


@dataclass(frozen=True, eq=False, repr=False)
class Mask(Operator):
    """The pixels that are known, in place: y = x where `known`, 0 elsewhere. The complement of a user's edit mask.

    known: bool, or 0 and 1, of a shape that broadcasts to x: (H, W), (C, H, W) or (B, 1, H, W). What a measurement
    holds at unknown pixels is never read. Raises ValueError for values in between.
    """

    known: Tensor

    def __post_init__(self) -> None:
        if not bool(((self.known == 0) | (self.known == 1)).all()):
            raise ValueError("Mask: `known` holds 1 / True for known pixels and 0 / False for others, nothing between")
        object.__setattr__(self, "known", self.known.bool())

    def _known(self, x: Tensor) -> Tensor:
        known = self.known.to(x.device)
        sizes = [1] * (x.ndim - known.ndim) + list(known.shape)
        if len(sizes) != x.ndim or any(k not in (1, n) for k, n in zip(sizes, x.shape, strict=True)):
            raise ValueError(f"Mask: known {tuple(known.shape)} does not fit images {tuple(x.shape)}")
        return known

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(self._known(x), x, torch.zeros_like(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def pinv(self, y: Tensor) -> Tensor:
        return self(y)

    def solve(self, v: Tensor, r2: float | Tensor, sigma_y: float) -> Tensor:
        return v * inverse(self._known(v).to(v.dtype), r2, sigma_y, v)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        return self(self.fitting(y, x) - x)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        # A choice, never a sum: x + (y - x) is not y in floating point.
        return torch.where(self._known(x), self.fitting(y, x), x)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.known.shape))
        return f"Mask({size}, {100 * float(self.known.double().mean()):.3g}% known)"


@dataclass(frozen=True)
class BoxDown(Operator):
    """The mean of every factor x factor box: (B, C, H, W) -> (B, C, H / factor, W / factor).

    Raises ValueError where the factor does not divide H and W.
    """

    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"BoxDown: the factor is a whole number >= 1, got {self.factor}")

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[-1] % self.factor or x.shape[-2] % self.factor:
            raise ValueError(
                f"{self!r} needs images (B, C, H, W) with H and W divisible by {self.factor}, got {tuple(x.shape)}; "
                "crop or pad them"
            )
        return F.avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.pinv(y) / self.factor**2

    def pinv(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)

    def solve(self, v: Tensor, r2: float | Tensor, sigma_y: float) -> Tensor:
        return v * inverse(v.new_tensor(self.factor**-2), r2, sigma_y, v)


@dataclass(frozen=True)
class Grey(Operator):
    """One channel out of C, sum_c weights_c x_c: (B, C, H, W) -> (B, 1, H, W); `MEAN` or `LUMA`, or any other weights.

    Raises ValueError where x has another number of channels.
    """

    weights: tuple[float, ...] = MEAN

    def __post_init__(self) -> None:
        if not any(self.weights):
            raise ValueError(f"Grey: at least one weight must differ from 0, got {self.weights}")

    def _column(self, x: Tensor) -> Tensor:
        return x.new_tensor(self.weights).reshape(-1, 1, 1)

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != len(self.weights):
            raise ValueError(f"{self!r} needs images (B, {len(self.weights)}, H, W), got {tuple(x.shape)}")
        return (x * self._column(x)).sum(1, keepdim=True)

    def adjoint(self, y: Tensor) -> Tensor:
        return y * self._column(y)

    def pinv(self, y: Tensor) -> Tensor:
        return self.adjoint(y) / math.fsum(w * w for w in self.weights)

    def solve(self, v: Tensor, r2: float | Tensor, sigma_y: float) -> Tensor:
        return v * inverse(v.new_tensor(math.fsum(w * w for w in self.weights)), r2, sigma_y, v)

    def __repr__(self) -> str:
        names = {MEAN: "", LUMA: "LUMA"}
        return f"Grey({names.get(self.weights, self.weights)})"
