"""Data whose denoiser, score, density, class posterior and linear-Gaussian posterior are known in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from guided.cond import Cond


class Moments(NamedTuple):
    """Mean (B, d) and covariance (B, d, d) of flattened images."""

    mean: Tensor
    cov: Tensor


class GaussianMixture:
    """A mixture of K isotropic Gaussians over images of any shape.

    means: (K, *); stds, weights: (K,), weights positive (they are normalised); classes: (K,) int, the class of each
    component, or None. Everything is computed in the dtype of `means`; float64 is meant.
    Raises ValueError where the lengths differ, or a std is negative.
    """

    def __init__(
        self, means: Tensor, stds: Tensor, weights: Tensor, classes: Tensor | Sequence[int] | None = None
    ) -> None:
        if not len(means) == len(stds) == len(weights) or (classes is not None and len(classes) != len(means)):
            raise ValueError("GaussianMixture: means, stds, weights and classes must have one entry a component")
        if bool((stds < 0).any()) or bool((weights <= 0).any()):
            raise ValueError("GaussianMixture: stds must be at least 0 and weights positive")
        self.shape = means.shape[1:]
        self.means = means.reshape(len(means), -1)
        self.stds = stds.to(self.means)
        self.log_weights = (weights / weights.sum()).to(self.means).log()
        self.classes = None if classes is None else torch.as_tensor(classes)

    @property
    def dim(self) -> int:
        """Numbers per image."""
        return self.means.shape[1]

    def denoiser(self) -> OracleDenoiser:
        """E[x0 | x, cond] as a `Denoise`; with classes it depends on cond.label, -1 being unconditional."""
        return OracleDenoiser(self)

    def sample(self, n: int, generator: torch.Generator, label: int | None = None) -> Tensor:
        """n exact draws (n, *), of one class if `label` is given."""
        weights = self.log_weights.exp()
        if label is not None:
            weights = weights * (self._classes() == label)
        k = torch.multinomial(weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=self.means.dtype)
        return (self.means[k] + self.stds[k, None] * noise).reshape(n, *self.shape)

    def log_prob(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """ln p(x; sigma) of the data blurred by noise of std sigma: (B,), in nats."""
        return self._joint(x, sigma).logsumexp(1)

    def class_log_prob(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """ln p(class | x; sigma): (B, C) with C one more than the largest class."""
        joint, classes = self._joint(x, sigma), self._classes()
        found = [joint[:, classes == c].logsumexp(1) for c in range(int(classes.max()) + 1)]
        return torch.stack(found, 1) - joint.logsumexp(1, keepdim=True)

    def score(self, x: Tensor, sigma: Tensor | float, label: Tensor | None = None) -> Tensor:
        """grad_x ln p(x; sigma), (B, *)."""
        level = self._level(x, sigma)
        D = self.denoise(x, sigma, label)
        return (D - x) / level.reshape(-1, *[1] * (x.ndim - 1)) ** 2

    def denoise(self, x: Tensor, sigma: Tensor | float, label: Tensor | None = None) -> Tensor:
        """E[x0 | x, label] = sum over components of p(k | x) times the mean of x0 given k and x (Tweedie)."""
        flat, level = x.reshape(len(x), -1).to(self.means), self._level(x, sigma)
        chance = self._joint(x, sigma, label).softmax(1)
        gain = self.stds**2 / (self.stds**2 + level[:, None] ** 2)
        mean = (chance * (1 - gain)) @ self.means + (chance * gain).sum(1, keepdim=True) * flat
        return mean.reshape(x.shape).to(x.dtype)

    def posterior(
        self,
        x: Tensor,
        sigma: Tensor | float,
        A: Tensor,
        y: Tensor,
        sigma_y: float,
        label: Tensor | None = None,
    ) -> Moments:
        """Mean and covariance of x0 given x = x0 + sigma n and y = A x0 + sigma_y m.

        A: (m, d) on flattened images; y: (B, m); sigma_y > 0. Each component is Gaussian: its precision is
        I / std^2 + I / sigma^2 + A^T A / sigma_y^2, and its weight the evidence of (x, y).
        """
        flat, level = x.reshape(len(x), -1).to(self.means), self._level(x, sigma)
        y, A = y.to(self.means), A.to(self.means)
        eye = torch.eye(self.dim).to(self.means)
        chances, means, covs = [], [], []
        joint = self._joint(x, sigma, label)
        for k in range(len(self.means)):
            variance = self.stds[k] ** 2 * level**2 / (self.stds[k] ** 2 + level**2)
            before = self.means[k] + (variance / level**2)[:, None] * (flat - self.means[k])
            spread = variance[:, None, None] * (A @ A.T) + sigma_y**2 * torch.eye(len(A)).to(A)
            gap = y - before @ A.T
            gain = variance[:, None, None] * torch.linalg.solve(spread, A.expand(len(x), -1, -1)).mT
            means.append(before + (gain @ gap[..., None])[..., 0])
            covs.append(variance[:, None, None] * (eye - gain @ A))
            chances.append(joint[:, k] + _log_normal(gap, spread))
        chance = torch.stack(chances, 1).softmax(1)
        stacked = torch.stack(means, 1)
        mean = (chance[..., None] * stacked).sum(1)
        off = stacked - mean[:, None]
        cov = (chance[..., None, None] * (torch.stack(covs, 1) + off[..., None] * off[..., None, :])).sum(1)
        return Moments(mean, cov)

    def moments(self, label: int | None = None) -> Moments:
        """Mean (1, d) and covariance (1, d, d) of the data itself."""
        weights = self.log_weights.exp()
        if label is not None:
            weights = weights * (self._classes() == label)
        weights = weights / weights.sum()
        mean = weights @ self.means
        off = self.means - mean
        inner = (weights * self.stds**2).sum() * torch.eye(self.dim).to(self.means)
        return Moments(mean[None], (inner + (weights[:, None] * off).T @ off)[None])

    def _classes(self) -> Tensor:
        if self.classes is None:
            raise ValueError("this mixture has no classes: pass classes= when it is made")
        return self.classes

    def _level(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return torch.as_tensor(sigma, dtype=self.means.dtype, device=self.means.device).expand(len(x))

    def _joint(self, x: Tensor, sigma: Tensor | float, label: Tensor | None = None) -> Tensor:
        """ln p(x, k): (B, K); components of another class than the image's label are ruled out."""
        flat, level = x.reshape(len(x), -1).to(self.means), self._level(x, sigma)
        variance = self.stds**2 + level[:, None] ** 2
        joint = self.log_weights - 0.5 * (
            _squares(flat, self.means) / variance + self.dim * (2 * math.pi * variance).log()
        )
        if label is None or self.classes is None:
            return joint
        wrong = (label[:, None] >= 0) & (self.classes[None].to(label) != label[:, None])
        return joint.masked_fill(wrong, -math.inf)


def _squares(x: Tensor, means: Tensor) -> Tensor:
    """|x - mean|^2, (B, K)."""
    if torch.is_grad_enabled() and x.requires_grad:
        return (x[:, None] - means).square().sum(2)  # cdist, faster, is differentiable only once
    return torch.cdist(x, means, compute_mode="donot_use_mm_for_euclid_dist") ** 2


def _log_normal(gap: Tensor, cov: Tensor) -> Tensor:
    """ln N(gap; 0, cov), (B,)."""
    root = torch.linalg.cholesky(cov)
    white = torch.linalg.solve_triangular(root, gap[..., None], upper=False)[..., 0]
    volume: Tensor = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    exponent: Tensor = -0.5 * white.square().sum(-1)
    return exponent - volume - 0.5 * gap.shape[-1] * math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class OracleDenoiser:
    """The exact denoiser of a mixture."""

    data: GaussianMixture
    accepts: ClassVar[frozenset[str]] = frozenset({"label"})

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return self.data.denoise(x, sigma, cond.label)
