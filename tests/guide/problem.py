"""A small problem on which every term of the algebra has something to do, and what papers' formulas read of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from guided.cond import Cond
from guided.oracle import GaussianMixture
from guided.perturbation import active

F64 = torch.float64
SHAPE = (2, 4, 4)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Unit Gaussian numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Net:
    """An exact denoiser of labelled pictures beside other pictures, with a little attention that may be disturbed."""

    accepts = frozenset({"label", "image"})

    def __init__(self, seed: int = 0, dtype: torch.dtype = F64) -> None:
        means, stds = draw(6, *SHAPE, seed=seed).to(dtype), torch.tensor([0.3, 0.5, 0.4, 0.3, 0.6, 0.4])
        self.data = GaussianMixture(means, stds, torch.tensor([0.1, 0.4, 0.2, 0.3, 0.2, 0.2]), [0, 1, 1, 2, 3, 4])
        self.q, self.k, self.v = draw(3, 2, 2, seed=seed + 1).to(dtype)

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        found = active()
        return self.at(x, sigma, cond.label, cond.image, found.kind if found else "")

    def at(self, x: Tensor, sigma: Tensor, label: Tensor | None, image: Tensor | None, kind: str) -> Tensor:
        """E[x0 | x, label, image] where x0 is a draw of the mixture plus 0.4 image, and 0.2 times the attention."""
        beside = 0.4 * image.to(x).nan_to_num() if image is not None else torch.zeros_like(x)
        return self.data.denoise(x - beside, sigma, label) + beside + 0.2 * self.attention(x, sigma, kind)

    def attention(self, x: Tensor, sigma: Tensor, kind: str = "") -> Tensor:
        """Softmax attention between the pixels; disturbed as PAG, SEG and SLG have it."""
        level = sigma.to(x).reshape(-1, *[1] * (x.ndim - 1))
        rows = (x / (1 + level**2).sqrt()).flatten(2).mT
        q, k, v = rows @ self.q.to(x), rows @ self.k.to(x), rows @ self.v.to(x)
        if kind == "blur":
            q = q.mean(1, keepdim=True).expand_as(q)
        out = v if kind == "identity" else (q @ k.mT / math.sqrt(2)).softmax(-1) @ v
        return torch.zeros_like(x) if kind == "skip" else out.mT.reshape(x.shape)


@dataclass
class Counting:
    """A denoiser that notes the rows of every call, and whether it was to be differentiated."""

    inner: Callable[..., Tensor]
    rows: list[int] = field(default_factory=list)
    graphs: list[bool] = field(default_factory=list)

    @property
    def accepts(self) -> frozenset[str]:
        return self.inner.accepts

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        self.rows.append(len(x))
        self.graphs.append(torch.is_grad_enabled() and x.requires_grad)
        assert torch.is_grad_enabled() == x.requires_grad, "autograd opens only where it is needed"
        return self.inner(x, sigma, cond)


def batch(n: int = 3, dtype: torch.dtype = F64, seed: int = 5) -> tuple[Tensor, Cond]:
    """Noisy pictures and their conditions; the first images of a larger batch are those of a smaller one."""
    x, image = (torch.stack([draw(*SHAPE, seed=k + i) for i in range(n)]) for k in (100 * seed, 100 * seed + 50))
    return 2 * x.to(dtype), Cond(label=torch.arange(n) % 3, image=image.to(dtype))


@dataclass
class At:
    """Where a paper's formula is read: eps, and the variance-preserving z = a x with noise of std `b`."""

    net: Net
    x: Tensor
    s: float
    t: float
    cond: Cond
    found: list[Tensor] = field(default_factory=list)

    @property
    def a(self) -> float:
        return 1 / math.sqrt(1 + self.s**2)

    @property
    def b(self) -> float:
        return self.s * self.a

    def eps(self, kind: str = "", **cond: Tensor | int | None) -> Tensor:
        """The noise predicted under the condition, or another: label=..., image=..., None for an absent one."""
        return (self.x - self.D(kind, **cond)) / self.s

    def D(self, kind: str = "", x: Tensor | None = None, **cond: Tensor | int | None) -> Tensor:
        label, image = cond.get("label", self.cond.label), cond.get("image", self.cond.image)
        label = torch.full((len(self.x),), label) if isinstance(label, int) else label
        return self.net.at(self.x if x is None else x, torch.tensor(self.s, dtype=F64), label, image, kind)

    def x0(self, eps: Tensor) -> Tensor:
        """(z - b eps) / a."""
        return (self.a * self.x - self.b * eps) / self.a

    def step(self, eps: Tensor) -> Tensor:
        """DDIM from z at s to z' at t with this noise."""
        a, b = 1 / math.sqrt(1 + self.t**2), self.t / math.sqrt(1 + self.t**2)
        return a * self.x0(eps) + b * eps

    def back(self, z: Tensor) -> Tensor:
        """The D with which Euler's step from s to t ends in z / a(t)."""
        ratio = self.t / self.s
        return (z * math.sqrt(1 + self.t**2) - ratio * self.x) / (1 - ratio)

    def jacobian(self) -> Tensor:
        """dD / dx of each image, (B, d, d), found once."""
        if not self.found:
            x = self.x.detach().requires_grad_()
            with torch.enable_grad():
                D = self.D(x=x).flatten(1)
            rows = (torch.autograd.grad(D[:, i].sum(), x, retain_graph=True)[0] for i in range(D.shape[1]))
            self.found.append(torch.stack([row.flatten(1) for row in rows], 1))
        return self.found[0]

    def pulled(self, v: Tensor) -> Tensor:
        """J^T v, by the dense Jacobian."""
        return (v.flatten(1)[:, None] @ self.jacobian())[:, 0].reshape(v.shape)
