"""Problems with a known posterior: priors, operators as matrices, and the moments of what is sampled."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from guided.cond import Cond
from guided.oracle import GaussianMixture

F64 = torch.float64
IMAGE = (2, 4, 4)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Unit Gaussian numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def dense(function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The matrix of a linear function of images of this shape, column by column."""
    columns = [function(e.reshape(1, *shape)).flatten() for e in torch.eye(math.prod(shape), dtype=F64)]
    return torch.stack(columns, 1)


def mixture(std: float = 0.4, shape: tuple[int, ...] = IMAGE) -> GaussianMixture:
    """Four pictures in two classes, blurred by std."""
    return GaussianMixture(draw(4, *shape, seed=7), torch.full((4,), std), torch.ones(4), [0, 0, 1, 1])


class Gaussian:
    """Pictures from a Gaussian whose pixels hang together, each as wide as it likes."""

    accepts: frozenset[str] = frozenset()

    def __init__(self, shape: tuple[int, ...] = IMAGE) -> None:
        d = math.prod(shape)
        root = draw(d, d, seed=9) / math.sqrt(2 * d)
        self.shape, self.mean, self.cov = shape, 0.5 * draw(d, seed=10), root @ root.T + 0.02 * torch.eye(d, dtype=F64)

    @property
    def var(self) -> float:
        """The total variance per number."""
        return float(self.cov.diagonal().mean())

    def denoiser(self) -> Gaussian:
        """Itself."""
        return self

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        gain = self.cov @ torch.linalg.inv(self.cov + sigma**2 * torch.eye(len(self.mean), dtype=F64))
        return (self.mean + (x.flatten(1) - self.mean) @ gain.T).reshape(x.shape)

    def posterior(self, x: Tensor, sigma: Tensor, A: Tensor, y: Tensor, sigma_y: float) -> Tensor:
        """E[x0 | x, y] from precisions: prior, noise, measurement."""
        prior = torch.linalg.inv(self.cov)
        precision = prior + torch.eye(len(self.mean), dtype=F64) / sigma**2 + A.T @ A / sigma_y**2
        pull = prior @ self.mean + x.flatten(1) / sigma**2 + y @ A / sigma_y**2
        return torch.linalg.solve(precision, pull.T).T.reshape(x.shape)


class Linear:
    """A codec whose decoder is an invertible matrix."""

    limit = None

    def __init__(self) -> None:
        d = math.prod(IMAGE)
        self.matrix = torch.eye(d, dtype=F64) + draw(d, d, seed=11) / 12

    def decode(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.T).reshape(-1, *IMAGE)

    def encode(self, images: Tensor) -> Tensor:
        return (images.flatten(1) @ torch.linalg.inv(self.matrix).T).reshape(-1, *IMAGE)


def moments(run: Callable[[Tensor], Tensor], shape: tuple[int, ...], sigma: float) -> tuple[Tensor, Tensor]:
    """Exact mean (d,) and covariance (d, d) of run(x) for x ~ N(0, sigma^2 I), where run is affine: no draws."""
    d = math.prod(shape)
    ends = run(sigma * torch.cat([torch.zeros(1, d, dtype=F64), torch.eye(d, dtype=F64)]).reshape(-1, *shape))
    mean, columns = ends[0].flatten(), ends[1:].flatten(1) - ends[0].flatten()
    return mean, columns.T @ columns


def misses(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Error of a mean and of a covariance, as shares of the exact ones' norms."""
    mean, cov = (float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
    return mean, cov
