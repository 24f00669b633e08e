"""What every operator offers, and conjugate gradients for those without a closed form."""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
from torch import Tensor


class Operator(abc.ABC):
    """A linear measurement: x (B, *) -> y (B, *)."""

    @abc.abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x; ValueError where x has no shape that A measures."""

    @abc.abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, so that <A x, y> = <x, A^T y>."""

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y, the smallest x among those that come nearest to A x = y (Moore & Penrose)."""
        return conjugate_gradient(lambda x: self.adjoint(self(x)), self.adjoint(y))

    def solve(self, v: Tensor, r2: float | Tensor, sigma_y: float) -> Tensor:
        """(r2 A A^T + sigma_y^2 I)^-1 v for v (B, *) in the measurement's space; r2 a number, () or (B,).

        Where sigma_y = 0 meets a singular A A^T it is the pseudo-inverse. Without a closed form it is found by
        conjugate gradients, which want sigma_y > 0: ValueError else.
        """
        if sigma_y <= 0:
            raise ValueError(f"{self!r} is solved by conjugate gradients, which need sigma_y > 0, got {sigma_y}")
        level = per_image(r2, v)
        return conjugate_gradient(lambda u: level * self(self.adjoint(u)) + sigma_y**2 * u, v)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """y - A x; ValueError unless y is (B, *), or (1, *) for the whole batch, of A x's shape."""
        found = self(x)
        return self.fitting(y, found) - found

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """x + A^+ (y - A x), the image nearest to x that is measured as y (Wang et al. 2023, algorithm 1)."""
        return x + self.pinv(self.residual(x, y))

    def at(self, x: Tensor) -> Operator:
        """The operator linearised at x (B, *): itself where it is linear."""
        return self

    def fitting(self, y: Tensor, like: Tensor) -> Tensor:
        """y with `like`'s dtype and device; ValueError where its shape is another."""
        if y.ndim != like.ndim or y.shape[1:] != like.shape[1:] or len(y) not in (1, len(like)):
            raise ValueError(
                f"{self!r}: the measurement y is {tuple(y.shape)}, but A x is {tuple(like.shape)}; "
                "give one per image, or one for all of the batch"
            )
        return y.to(like)


def per_image(value: float | Tensor, x: Tensor) -> float | Tensor:
    """A number, () or (B,) as a factor of x (B, *), in its dtype and on its device."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(x)
    return value.reshape(-1, *[1] * (x.ndim - 1)) if value.ndim else value


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor], b: Tensor, iterations: int = 100, tolerance: float | None = None
) -> Tensor:
    """Solve apply(x) = b, apply linear, symmetric and positive on each image of b (B, *) by itself.

    At most `iterations` steps; an image stands still once its residual is `tolerance` times |b| (None: what the dtype
    can resolve), or where a step finds no curvature, so what one image gets never depends on its batch.
    """
    tolerance = 8 * torch.finfo(b.dtype).eps if tolerance is None else tolerance
    x, r, p = torch.zeros_like(b), b, b
    square = _dot(r, r)
    goal = tolerance**2 * square
    for _ in range(iterations):
        if not bool((square > goal).any()):
            break
        q = apply(p)
        curvature = _dot(p, q)
        moves = (square > goal) & (curvature > 0)
        step = torch.where(moves, square / curvature.where(moves, torch.ones_like(square)), 0.0)
        x, r = x + step * p, r - step * q
        after = _dot(r, r)
        p = r + torch.where(moves, after / square.where(moves, torch.ones_like(square)), 0.0) * p
        square = torch.where(moves, after, 0.0)
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each image, (B, 1, ...)."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


def inverse(power: Tensor, r2: float | Tensor, sigma_y: float, like: Tensor) -> Tensor:
    """1 / (r2 power + sigma_y^2) in a basis where A A^T is `power`, and 0 where that is 1 / 0."""
    total = per_image(r2, like) * power + sigma_y**2
    return torch.where(total > 0, 1 / total.where(total > 0, torch.ones_like(total)), torch.zeros_like(total))
