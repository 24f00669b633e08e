"""Problems for guides: classes to draw, measurements to meet, whose conditional truth is known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.operators import Blur, BoxDown, Mask, Operator
from guided.oracle import GaussianMixture, Moments
from guided.sampling import NoiseSource

SHAPE, LO, HI, BLUR = (1, 4, 4), 0.01, 80.0, 0.3
F64 = torch.float64
IMAGES = 512
LEAST = 32
"""Images a class, or a measurement, below which 16 numbers have no covariance worth the name."""


@dataclass
class Counting:
    """A denoiser that counts: rows evaluated, and rows differentiated through, of itself and of what shares `rows`."""

    inner: Denoise
    rows: list[int] = field(default_factory=lambda: [0, 0])

    @property
    def accepts(self) -> frozenset[str] | None:
        """What the denoiser inside can see."""
        found: frozenset[str] | None = getattr(self.inner, "accepts", None)
        return found

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        self.rows[0] += len(x)
        D = self.inner(x, sigma, cond)
        if D.requires_grad:
            D.register_hook(self._derived)  # type: ignore[no-untyped-call]
        return D

    def _derived(self, slope: Tensor) -> None:
        self.rows[1] += len(slope)


@dataclass(frozen=True, eq=False)
class _Problem:
    """What all problems have: data, images x (B, *) at the noise level HI, their conditions, noise for rising paths."""

    name: str
    data: GaussianMixture
    x: Tensor
    cond: Cond
    noise: NoiseSource

    @property
    def var(self) -> float:
        """The mean variance of the data's numbers."""
        return float(self.data.moments().cov[0].diagonal().mean())


@dataclass(frozen=True, eq=False)
class Classes(_Problem):
    """Draw each of `count` classes: as many images of each, in their order.

    weak: the exact denoiser of the data blurred by BLUR, for autoguidance. A user's guide may read all of this.
    """

    count: int
    weak: Denoise

    @property
    def following(self) -> Cond:
        """The class after each image's own, the last one's being the first: something to steer away from."""
        assert self.cond.label is not None
        return Cond(label=(self.cond.label + 1) % self.count)

    def classifier(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        """ln p(class | x; sigma), (B, C), exact at any noise level; without one, for clean pictures."""
        return self.data.class_log_prob(x, sigma)


@dataclass(frozen=True, eq=False)
class Inverse(_Problem):
    """Draw x0 given y = operator(x0) + sigma_y m, one y (1, *) for all images; a user's guide may read all of this."""

    operator: Operator
    y: Tensor
    sigma_y: float

    @property
    def matrix(self) -> Tensor:
        """The operator on flattened images, (m, d)."""
        return self.operator(torch.eye(self.data.dim, dtype=F64).reshape(-1, *self.data.shape)).flatten(1).T

    def posterior(self, x: Tensor, sigma: Tensor | float) -> Moments:
        """Of x0 given y and x = x0 + sigma n; where sigma drowns x, of x0 given y alone."""
        y = self.y.flatten(1).expand(len(x), -1)
        return self.data.posterior(x, sigma, self.matrix, y, self.sigma_y)

    @property
    def truth(self) -> Moments:
        """Of x0 given y: mean (1, d), covariance (1, d, d)."""
        return self.posterior(torch.zeros_like(self.x[:1]), 1e8)

    def exact(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        """E[x0 | x, y], the denoiser that every observation approximates."""
        return self.posterior(x, sigma).mean.reshape(x.shape)


Problem = Classes | Inverse


def draw(*shape: int, seed: int) -> Tensor:
    """Unit Gaussian numbers, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def matched(n: int, seed: int, groups: int = 1) -> Tensor:
    """Unit noise (groups n, *SHAPE), of which each group's mean is 0 and covariance I, exactly.

    So where a guide is affine, what it misses is its own and not the draws'. Raises ValueError for n < LEAST.
    """
    if n < LEAST:
        raise ValueError(f"too few images: expected at least {groups * LEAST}, {LEAST} a class, got {groups * n}")
    z = draw(groups, n, math.prod(SHAPE), seed=seed)
    z = z - z.mean(1, keepdim=True)
    root = torch.linalg.cholesky(z.mT @ z / n)
    white: Tensor = torch.linalg.solve_triangular(root, z.mT, upper=False).mT
    return white.reshape(-1, *SHAPE)


def classes(name: str, data: GaussianMixture, images: int, seed: int = 1) -> Classes:
    """The problem of drawing each class of a mixture over SHAPE, images / C times."""
    count = int(torch.as_tensor(data.classes).max()) + 1
    each = images // count
    blurred = (data.stds**2 + BLUR**2).sqrt()
    weak = GaussianMixture(data.means.reshape(-1, *data.shape), blurred, data.log_weights.exp(), data.classes)
    label = torch.arange(count).repeat_interleave(each)
    noise: NoiseSource = lambda index, shape: matched(each, seed + index, count)  # noqa: E731
    return Classes(name, data, HI * noise(0, SHAPE), Cond(label=label), noise, count, weak.denoiser())


def inverse(
    name: str, data: GaussianMixture, operator: Operator, sigma_y: float = 0.2, images: int = IMAGES, seed: int = 2
) -> Inverse:
    """The problem of drawing what one measurement of a draw leaves open."""
    x0 = data.sample(1, torch.Generator().manual_seed(seed))
    y = operator(x0)
    y = y + sigma_y * draw(*y.shape, seed=seed + 1)  # where nothing is known, what y holds is never read
    noise: NoiseSource = lambda index, shape: matched(images, seed + index)  # noqa: E731
    return Inverse(name, data, HI * noise(0, SHAPE), Cond(), noise, operator, y, sigma_y)


def modes(components: int, count: int, std: float, spread: float, seed: int) -> GaussianMixture:
    """Pictures in a three-dimensional family: `components` of them, class by class, of unequal weight and width."""
    family = torch.linalg.qr(draw(math.prod(SHAPE), 3, seed=seed)).Q
    means = spread * draw(components, 3, seed=seed + 1) @ family.T
    stds = std * (1 + 0.3 * torch.linspace(-1, 1, components, dtype=F64))
    weights = 1 + torch.arange(components, dtype=F64) % 3
    return GaussianMixture(means.reshape(-1, *SHAPE), stds, weights, torch.arange(components) % count)


def standard(images: int = IMAGES) -> tuple[list[Classes], list[Inverse]]:
    """The problems of the table; raises ValueError for too few images."""
    drawn = [
        classes("4 classes of 3 modes", modes(12, 4, 0.25, 0.6, 3), images),
        classes("4 classes, a Gaussian each", modes(4, 4, 0.4, 0.8, 5), images),
    ]
    one = GaussianMixture(0.5 * draw(1, *SHAPE, seed=8), torch.tensor([0.6], dtype=F64), torch.ones(1))
    known = draw(*SHAPE[1:], seed=3) > 0
    operators = {"mask": Mask(known), "box-down": BoxDown(2), "blur": Blur(0.7)}
    priors = {"independent": one, "mixture": modes(6, 2, 0.25, 0.6, 3)}
    measured = [
        inverse(f"{prior}, {name}", data, operator, images=images)
        for prior, data in priors.items()
        for name, operator in operators.items()
    ]
    return drawn, measured
