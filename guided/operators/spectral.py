"""Operators inverted in a basis of their own: a blur in its frequencies, a matrix in its singular vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from guided.operators.operator import Operator, inverse


@dataclass(frozen=True)
class Blur(Operator):
    """A Gaussian blur of std `std` pixels: (B, C, H, W) to the same shape.

    reflect: beyond the edge lies the mirrored picture; else the picture repeats itself. It is a real, symmetric filter,
    so all of its inverses are filters too. threshold: the pseudo-inverse takes frequencies that the blur leaves at most
    this share of for lost, and so amplifies noise by at most 1 / threshold; A A^+ A is A but for those.
    """

    std: float
    reflect: bool = True
    threshold: float = 0.01

    def __post_init__(self) -> None:
        if not self.std > 0 or not 0 <= self.threshold < 1:
            raise ValueError(f"Blur: std must be positive and threshold in [0, 1), got {self.std}, {self.threshold}")

    def _along(self, n: int) -> Tensor:
        """What the blur leaves of each frequency of a row of n pixels, (n,): the transform of the sampled Gaussian."""
        # At 10 std the kernel has fallen to e^-50.
        offsets = torch.arange(-math.ceil(10 * self.std), math.ceil(10 * self.std) + 1, dtype=torch.float64)
        kernel = (-0.5 * (offsets / self.std) ** 2).exp()
        waves = (2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64)[:, None] * offsets).cos()
        left: Tensor = waves @ (kernel / kernel.sum())
        return left

    def _filter(self, x: Tensor, response: Callable[[Tensor], Tensor]) -> Tensor:
        """Scale every frequency of x by response(what the blur leaves of it)."""
        if x.ndim != 4:
            raise ValueError(f"{self!r} needs images (B, C, H, W), got {tuple(x.shape)}")
        wide = x
        if self.reflect:
            wide = torch.cat([wide, wide.flip(-1)], -1)
            wide = torch.cat([wide, wide.flip(-2)], -2)
        rows, columns = self._along(wide.shape[-2]), self._along(wide.shape[-1])[: wide.shape[-1] // 2 + 1]
        left = rows.to(x)[:, None] * columns.to(x)
        found: Tensor = torch.fft.irfft2(torch.fft.rfft2(wide) * response(left), s=wide.shape[-2:])
        return found[..., : x.shape[-2], : x.shape[-1]]

    def __call__(self, x: Tensor) -> Tensor:
        return self._filter(x, lambda left: left)

    def adjoint(self, y: Tensor) -> Tensor:
        return self(y)

    def pinv(self, y: Tensor) -> Tensor:
        return self._filter(y, lambda left: torch.where(left > self.threshold, 1 / left, torch.zeros_like(left)))

    def solve(self, v: Tensor, r2: float | Tensor, sigma_y: float) -> Tensor:
        # With noise every frequency has its due weight; without, those beyond the threshold are lost.
        floor = self.threshold if sigma_y == 0 else -math.inf
        return self._filter(v, lambda left: inverse(left**2 * (left > floor), r2, sigma_y, v))


@dataclass(frozen=True, eq=False, repr=False)
class Matrix(Operator):
    """Any matrix (m, d) on flattened images: (B, *shape) -> (B, m), d being the numbers of a shape, (d,) by default.

    For small problems: it keeps its singular value decomposition, in float64. Singular values below the rounding of
    the largest count as zero. Raises ValueError where the shapes differ.
    """

    matrix: Tensor
    shape: tuple[int, ...] | None = None
    _svd: tuple[Tensor, Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or math.prod(self.image_shape) != self.matrix.shape[1]:
            raise ValueError(f"Matrix: {tuple(self.matrix.shape)} does not measure images of shape {self.image_shape}")
        U, S, Vh = torch.linalg.svd(self.matrix.double(), full_matrices=True)
        least = S.max() * max(self.matrix.shape) * torch.finfo(self.matrix.dtype).eps
        S = S.where(least < S, torch.zeros_like(S))
        object.__setattr__(self, "_svd", (U, S, Vh))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self.matrix.shape[1:] if self.shape is None else tuple(self.shape)

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1:] != self.image_shape:
            raise ValueError(f"{self!r} needs images (B, {self.image_shape}), got {tuple(x.shape)}")
        return x.flatten(1) @ self.matrix.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.matrix.to(y)).reshape(-1, *self.image_shape)

    def pinv(self, y: Tensor) -> Tensor:
        U, S, Vh = (part.to(y) for part in self._svd)
        parts = (y @ U)[:, : len(S)] * S * inverse(S**2, 1.0, 0.0, y)
        return (parts @ Vh[: len(S)]).reshape(-1, *self.image_shape)

    def solve(self, v: Tensor, r2: float | Tensor, sigma_y: float) -> Tensor:
        U, S = (part.to(v) for part in self._svd[:2])
        power = F.pad(S**2, (0, len(U) - len(S)))
        return (v @ U * inverse(power, r2, sigma_y, v)) @ U.mT

    def __repr__(self) -> str:
        return f"Matrix({self.matrix.shape[0]}x{self.matrix.shape[1]})"
