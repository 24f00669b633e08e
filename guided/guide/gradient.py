"""Pushes along the gradient of a function: a classifier's, CLIP's, or any other of the picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guided.guide.term import Point, Push, Weight, checked, factor, value, written
from guided.noise import generator

LogProb = Callable[..., Tensor]
"""ln p of what is wanted, one number an image (B,): f(D, cond) where it reads D, f(x, sigma, cond) where it reads x."""


@dataclass(frozen=True, eq=False, repr=False)
class Gradient(Push):
    """See `gradient`."""

    f: LogProb
    reads: str = "D"
    scale: Weight = 1.0

    @property
    def base(self) -> bool:  # type: ignore[override]
        return self.reads == "D"

    @property
    def graph(self) -> bool:  # type: ignore[override]
        return self.reads == "D"

    def change(self, at: Point) -> Tensor:
        found = self.f(at.D, at.cond) if self.reads == "D" else self.f(at.x, at.sigma, at.cond)
        return at.level**2 * at.grad(_one_each(found, at.x, self.f))

    def describe(self) -> str:
        return f"gradient({written(self.f)}, reads={self.reads!r}, scale={written(self.scale)})"


def gradient(f: LogProb, reads: str = "D", scale: Weight = 1.0) -> Gradient:
    """A push along a gradient: D += scale sigma^2 grad_x ln p, which at scale 1 is Bayes' rule where ln p is exact.

    f: differentiable, ln p of what is wanted as (B,). reads "x": f(x, sigma, cond) judges the noisy picture (ADM-G,
    Dhariwal and Nichol 2021, arXiv 2105.05233, algorithm 2); the network is not differentiated. reads "D":
    f(D, cond) judges the denoised estimate, and the gradient goes through the network (Bansal et al. 2023, arXiv
    2302.07121, forward guidance). scale: as w in `cfg`, neutral at 0. On a base that has the same condition, scale 1
    counts it twice: `cfg(0) + gradient(...)` starts from the unconditional model.
    Raises ValueError for another `reads`.
    """
    if reads not in ("x", "D"):
        raise ValueError(f'gradient: reads is "x" (noisy) or "D" (denoised), got {reads!r}')
    return Gradient(f, reads, checked("gradient", scale))


def _one_each(found: Tensor, x: Tensor, f: object) -> Tensor:
    if found.shape != x.shape[:1]:
        raise ValueError(f"{written(f)} must give one ln p an image, {tuple(x.shape[:1])}; got {tuple(found.shape)}")
    if not found.requires_grad:
        raise ValueError(f"{written(f)} is not differentiable: its numbers have lost the graph of the picture")
    return found


@dataclass(frozen=True, eq=False)
class ClassLogProb:
    """See `class_log_prob`."""

    classifier: Callable[..., Tensor]
    label: Tensor | int | None = None

    def __call__(self, picture: Tensor, *rest: Any) -> Tensor:
        *sigma, cond = rest
        label = cond.label if self.label is None else self.label
        if label is None:
            raise ValueError("class_log_prob: no class to steer to: give label=, or a condition that has labels")
        scores = self.classifier(picture, *sigma).log_softmax(1)
        index = torch.as_tensor(label, device=scores.device).expand(len(scores))
        found = scores.gather(1, index.clamp_min(0)[:, None]).squeeze(1)
        return torch.where(index < 0, torch.zeros_like(found), found)

    def describe(self) -> str:
        """The call that makes it."""
        label = "" if self.label is None else f", {written(self.label)}"
        return f"class_log_prob({written(self.classifier)}{label})"


def class_log_prob(classifier: Callable[..., Tensor], label: Tensor | int | None = None) -> ClassLogProb:
    """ln p(class) of a classifier, for `gradient`.

    classifier: logits (B, C) of a picture, `classifier(D)` or, of a noisy one, `classifier(x, sigma)`. label: a class,
    one an image (B,), or None for those of the call's condition; -1 steers nowhere.
    """
    return ClassLogProb(classifier, label)


@dataclass(frozen=True, eq=False, repr=False)
class Tfg(Push):
    """See `tfg`."""

    f: LogProb
    rho: Weight = 1.0
    mu: Weight = 0.0
    gamma: float = 0.0
    iterations: int = 1
    samples: int = 4
    seed: int = 0
    scale: Weight = 1.0

    @property
    def graph(self) -> bool:  # type: ignore[override]
        return not isinstance(self.rho, float | int) or self.rho != 0

    def change(self, at: Point) -> Tensor:
        total = torch.zeros_like(at.x)
        if self.graph:
            rho = factor(value(self.rho, at.sigma, at.next_sigma), at.x)
            total = total + rho * at.level**2 * at.grad(self._smoothed(at.D, at))
        mu = value(self.mu, at.sigma, at.next_sigma)
        moved = at.D if at.differentiable else at.D.detach()
        start = moved
        for _ in range(self.iterations if isinstance(mu, Tensor) or mu != 0 else 0):
            moved = moved if at.differentiable else moved.detach().requires_grad_()
            step = torch.autograd.grad(self._smoothed(moved, at).sum(), moved, create_graph=at.differentiable)[0]
            moved = moved + factor(mu, at.x) * step
        return total + (moved - start)

    def _smoothed(self, D: Tensor, at: Point) -> Tensor:
        """ln of the mean of p over D + gamma sigma noise; the noise is a function of (seed, sigma), one for all."""
        if self.gamma == 0:
            return _one_each(self.f(D, at.cond), D, self.f)
        levels = at.sigma.reshape(-1).expand(len(D)).tolist()
        found = []
        for k in range(self.samples):
            draws = {level: self._draw(level, k, D) for level in set(levels)}
            noise = torch.stack([draws[level] for level in levels])
            found.append(_one_each(self.f(D + self.gamma * at.level * noise, at.cond), D, self.f))
        return torch.stack(found).logsumexp(0) - math.log(self.samples)

    def _draw(self, level: float, k: int, D: Tensor) -> Tensor:
        return torch.randn(D.shape[1:], generator=generator(f"guide/tfg/{level.hex()}", self.seed, k)).to(D)

    def describe(self) -> str:
        said = {name: written(getattr(self, name)) for name in ("rho", "mu", "gamma", "iterations", "samples", "seed")}
        usual = {name: written(getattr(Tfg, name)) for name in said}
        rest = [f", {name}={text}" for name, text in said.items() if text != usual[name]]
        scale = "" if written(self.scale) == "1" else f"{written(self.scale)} * "
        return f"{scale}tfg({written(self.f)}{''.join(rest)})"


def tfg(
    f: LogProb,
    rho: Weight = 1.0,
    mu: Weight = 0.0,
    gamma: float = 0.0,
    iterations: int = 1,
    samples: int = 4,
    seed: int = 0,
) -> Tfg:
    """Training-free guidance (Ye et al. 2024, arXiv 2409.15761, algorithm 1), the frame of its kin, as a push on D.

    f(D, cond) -> (B,): ln p of what is wanted, of clean pictures. rho: of the gradient through the network, in units of
    sigma^2 ("variance guidance"). mu: of each of `iterations` steps on D itself, without the network ("mean guidance").
    gamma: f is smoothed over `samples` draws D + gamma sigma n. Recurrence is the path's: `path.resample`.
    Corners: rho alone is forward universal guidance and, on a resampled path, FreeDoM (2303.09833), with
    f = -|y - A D| DPS; mu alone is MPGD (2311.16424); both are universal guidance (2302.07121); gamma makes it LGD.
    Neutral at rho = mu = 0. Raises ValueError for gamma < 0 or counts below 1.
    """
    if gamma < 0 or iterations < 1 or samples < 1:
        raise ValueError(f"tfg: expected gamma >= 0, iterations and samples >= 1, got {gamma}, {iterations}, {samples}")
    return Tfg(f, checked("tfg", rho), checked("tfg", mu), gamma, iterations, samples, seed)
