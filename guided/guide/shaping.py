"""Shaping: what is done to the sum of a guide's terms. Each image is shaped by itself."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from guided.guide.term import inner, written


class Shaping(abc.ABC):
    """A map of the guided estimate D (B, *), which may read the conditional base and carry a state, batch first.

    `stage` is its place in the canonical order: below 2 it comes before the pushes, from 2 on after them. `contrasts`:
    it acts on what guidance adds to the base, and is left out where nothing is added.
    """

    stage: ClassVar[int]
    contrasts: ClassVar[bool] = True

    @property
    def stateful(self) -> bool:
        """Whether it carries something from one noise level to the next."""
        return False

    @abc.abstractmethod
    def __call__(self, D: Tensor, base: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The shaped D, and the state of the next noise level."""


@dataclass(frozen=True)
class Frequency(Shaping):
    """See `frequency`."""

    low: float = 0.5
    high: float = 1.0
    levels: int = 1
    stage: ClassVar[int] = 0

    def __call__(self, D: Tensor, base: Tensor, state: Any) -> tuple[Tensor, Any]:
        if self.low == self.high == 1:
            return D, state
        delta = D - base
        coarse = _blurred(delta, self.levels)
        return base + self.high * (delta - coarse) + self.low * coarse, state

    def __repr__(self) -> str:
        levels = "" if self.levels == 1 else f", levels={self.levels}"
        return f"frequency(low={written(self.low)}, high={written(self.high)}{levels})"


def frequency(low: float = 0.5, high: float = 1.0, levels: int = 1) -> Frequency:
    """Frequency-decoupled guidance (Sadat et al. 2025, arXiv 2506.19713): the bands of the guidance weigh differently.

    low, high: factors of what guidance adds below and above the top `levels` of a Laplacian pyramid, neutral at 1, 1.
    The paper's weights (w_low, w_high) are cfg(w) with the factors (w_low - 1) / (w - 1) and (w_high - 1) / (w - 1);
    half of the low band at the whole high one is about its (5, 10). Images (B, C, H, W) of any size.
    Raises ValueError for levels < 1.
    """
    if levels < 1:
        raise ValueError(f"frequency: expected levels >= 1, got {levels}")
    return Frequency(low, high, levels)


_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def _blurred(x: Tensor, levels: int) -> Tensor:
    """x without the finest `levels` of its Laplacian pyramid (Burt and Adelson 1983), of the same size."""
    if levels == 0:
        return x
    small = _smooth(x)[..., ::2, ::2]
    small = _blurred(small, levels - 1)
    large = x.new_zeros(x.shape)
    large[..., ::2, ::2] = small
    weight = x.new_zeros(1, 1, *x.shape[-2:])
    weight[..., ::2, ::2] = 1
    return _smooth(large) / _smooth(weight)


def _smooth(x: Tensor) -> Tensor:
    """Each channel filtered by the binomial kernel, the border repeated."""
    kernel = x.new_tensor(_BINOMIAL)
    c = x.shape[1]
    x = F.conv2d(F.pad(x, (2, 2, 0, 0), "replicate"), kernel.view(1, 1, 1, 5).expand(c, 1, 1, 5), groups=c)
    return F.conv2d(F.pad(x, (0, 0, 2, 2), "replicate"), kernel.view(1, 1, 5, 1).expand(c, 1, 5, 1), groups=c)


@dataclass(frozen=True)
class Apg(Shaping):
    """See `apg`; the state is the running sum of what guidance added."""

    eta: float = 0.0
    beta: float = -0.5
    r: float | None = None
    stage: ClassVar[int] = 1

    @property
    def stateful(self) -> bool:
        return self.beta != 0

    def __call__(self, D: Tensor, base: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.eta == 1 and self.beta == 0 and self.r is None:
            return D, state
        delta = D - base
        if self.stateful:
            # An image that nothing is added to is left alone, as it would be in a batch of its own.
            acts = (delta != 0).flatten(1).any(1).reshape(-1, *[1] * (D.ndim - 1))
            before = torch.zeros_like(delta) if state is None else state
            state = torch.where(acts, delta + self.beta * before, before)
            delta = torch.where(acts, state, delta)
        if self.r is not None:
            size = (inner(delta, delta) / delta[0].numel()).sqrt()
            delta = delta * (self.r / size.clamp_min(torch.finfo(size.dtype).tiny)).clamp(max=1)
        along = inner(delta, base) / inner(base, base).clamp_min(torch.finfo(base.dtype).tiny) * base
        return base + delta + (self.eta - 1) * along, state

    def __repr__(self) -> str:
        r = "" if self.r is None else f", r={written(self.r)}"
        return f"apg(eta={written(self.eta)}, beta={written(self.beta)}{r})"


def apg(eta: float = 0.0, beta: float = -0.5, r: float | None = None) -> Apg:
    """Adaptive projected guidance (Sadat et al. 2024, arXiv 2410.02416, algorithm 1): high weights without saturation.

    What guidance adds is summed with momentum beta, shortened to a root mean square per number of at most r (None: not
    shortened), and its part along the conditional estimate is multiplied by eta. Neutral at eta 1, beta 0, r None.
    The paper's radius is a norm and applies before the weight: r = (w - 1) radius / sqrt(numbers an image).
    Raises ValueError for |beta| >= 1 or r <= 0.
    """
    if not -1 < beta < 1 or (r is not None and r <= 0):
        raise ValueError(f"apg: expected -1 < beta < 1 and r > 0 or None, got beta={beta}, r={r}")
    return Apg(eta, beta, r)


AFTER_PUSHES = 2


@dataclass(frozen=True)
class Rescale(Shaping):
    """See `rescale`."""

    phi: float = 0.7
    stage: ClassVar[int] = 2

    def __call__(self, D: Tensor, base: Tensor, state: Any) -> tuple[Tensor, Any]:
        before, after = _std(base), _std(D)
        ratio = torch.where(after > 0, before / after, torch.ones_like(after))  # nothing to rescale in a flat picture
        return D * (1 + self.phi * (ratio - 1)), state

    def __repr__(self) -> str:
        return f"rescale({written(self.phi)})"


def _std(x: Tensor) -> Tensor:
    return x.flatten(1).std(1, correction=0).reshape(-1, *[1] * (x.ndim - 1))


def rescale(phi: float = 0.7) -> Rescale:
    """Bring the standard deviation of each image's D back to the conditional estimate's (Lin et al. 2023, eq. 15, 16).

    phi: how far, from 0 (neutral) to 1 (arXiv 2305.08891; the paper does it to the network's output).
    Raises ValueError outside [0, 1].
    """
    if not 0 <= phi <= 1:
        raise ValueError(f"rescale: expected phi in [0, 1], got {phi}")
    return Rescale(phi)


@dataclass(frozen=True)
class Threshold(Shaping):
    """See `threshold`."""

    p: float = 0.995
    limit: float | None = None
    stage: ClassVar[int] = 3
    contrasts: ClassVar[bool] = False

    def __call__(self, D: Tensor, base: Tensor, state: Any) -> tuple[Tensor, Any]:
        limit = 1.0 if self.limit is None else self.limit
        q = D.abs().flatten(1).quantile(self.p, dim=1).clamp(min=limit)
        q = q.reshape(-1, *[1] * (D.ndim - 1))
        return D.clamp(-q, q) * (limit / q), state

    def __repr__(self) -> str:
        limit = "" if self.limit is None else f", {written(self.limit)}"
        return f"threshold({written(self.p)}{limit})"


def threshold(p: float = 0.995, limit: float | None = None) -> Threshold:
    """Dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, section 2.3): keeps D within the data's range.

    q is the p-quantile of |D| of an image, at least `limit`: D is clipped to [-q, q] and multiplied by limit / q.
    limit: the largest value the data takes; None is that of pixels, 1, which a model of latents refuses.
    Raises ValueError for p outside (0, 1] or limit <= 0.
    """
    if not 0 < p <= 1 or (limit is not None and limit <= 0):
        raise ValueError(f"threshold: expected 0 < p <= 1 and limit > 0, got p={p}, limit={limit}")
    return Threshold(p, limit)


@dataclass(frozen=True)
class Clip(Shaping):
    """See `clip`."""

    limit: float | None = None
    stage: ClassVar[int] = 4
    contrasts: ClassVar[bool] = False

    def __call__(self, D: Tensor, base: Tensor, state: Any) -> tuple[Tensor, Any]:
        limit = 1.0 if self.limit is None else self.limit
        return D.clamp(-limit, limit), state

    def __repr__(self) -> str:
        return "clip()" if self.limit is None else f"clip({written(self.limit)})"


def clip(limit: float | None = None) -> Clip:
    """Static thresholding: D clipped to [-limit, limit] (Saharia et al. 2022, section 2.3); `limit` as in `threshold`.

    Raises ValueError for limit <= 0.
    """
    if limit is not None and limit <= 0:
        raise ValueError(f"clip: expected limit > 0, got {limit}")
    return Clip(limit)
