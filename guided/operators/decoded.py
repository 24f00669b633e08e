"""Operators on pictures, seen from a codec's space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from guided.codec import Codec
from guided.operators.operator import Operator


@dataclass(frozen=True, eq=False, repr=False)
class Decoded(Operator):
    """An operator on pictures, seen from a codec's space: A(decode(x)). Not linear, so its inverses are approximate.

    `pinv` and `project` go through pictures and back, as near as the codec's round trip: bit for bit is one paste after
    decoding. The adjoint belongs to a point: take `at(x)`, which linearises by derivatives of decode.
    """

    operator: Operator
    codec: Codec

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator(self.codec.decode(x))

    def adjoint(self, y: Tensor) -> Tensor:
        raise TypeError(f"{self!r} is not linear: its adjoint belongs to a point, .at(x).adjoint(y)")

    def pinv(self, y: Tensor) -> Tensor:
        return self.codec.encode(self.operator.pinv(y))

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        return self.operator.residual(self.codec.decode(x), y)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        return self.codec.encode(self.operator.project(self.codec.decode(x), y))

    def at(self, x: Tensor) -> Operator:
        return Tangent(self, x.detach())

    def __repr__(self) -> str:
        return f"Decoded({self.operator!r}, {type(self.codec).__name__})"


@dataclass(frozen=True, eq=False, repr=False)
class Tangent(Operator):
    """The derivative of an operator that is not linear, at a point (B, *)."""

    operator: Operator
    point: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        # J x is the derivative, by v, of <J^T v, x>. Only the plain attention kernel can be derived twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            point = self.point.detach().requires_grad_()
            y = self.operator(point)
            v = torch.zeros_like(y).requires_grad_()
            pulled = torch.autograd.grad(y, point, v, create_graph=True)[0]
            return torch.autograd.grad(pulled, v, x)[0]

    def adjoint(self, y: Tensor) -> Tensor:
        with torch.enable_grad():
            point = self.point.detach().requires_grad_()
            return torch.autograd.grad(self.operator(point), point, y)[0]

    def __repr__(self) -> str:
        return f"{self.operator!r}.at(x)"
