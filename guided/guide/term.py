"""The kinds of term, and what their weights may be."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise, spread
from guided.guide.planner import Branch

if TYPE_CHECKING:
    from guided.guide.guide import Guide, Guided
    from guided.guide.shaping import Shaping

Number = float | Tensor
Weight = Number | Callable[[Tensor, Tensor | None], Number]
"""A number, one per image (B,), a map (B, 1, H, W), or a function of (sigma, next_sigma) that gives one of these."""

Linear = list[tuple[Number, Branch]]
Found = Mapping[Branch, Tensor]


@dataclass(frozen=True, eq=False)
class Term(abc.ABC):
    """One way of guiding; `lo < sigma <= hi` is where it acts.

    A term is one of the four kinds below: `Contrast` and `Curve` combine evaluations of networks, `Push` moves the
    estimate by something computed from it, `Exact` puts in what is known.
    """

    lo: float = dataclasses.field(default=0.0, kw_only=True)
    hi: float = dataclasses.field(default=math.inf, kw_only=True)

    def during(self, lo: float, hi: float = math.inf) -> Self:
        """The same term, acting only where lo < sigma <= hi (Kynkaanniemi et al. 2024); ValueError unless lo < hi."""
        if not 0 <= lo < hi:
            raise ValueError(f"during needs 0 <= lo < hi, got lo={lo}, hi={hi}")
        return dataclasses.replace(self, lo=lo, hi=hi)

    def __add__(self, other: Term | Guide) -> Guide:
        from guided.guide.guide import Guide

        return Guide((self,)) + other

    def __rshift__(self, shaping: Shaping) -> Guide:
        from guided.guide.guide import Guide

        return Guide((self,)) >> shaping

    def __mul__(self, number: float) -> Self:
        """A push times a number; TypeError for a contrast, whose neutral weight is 1: give it another w."""
        scale = getattr(self, "scale", None)
        if scale is None or not isinstance(number, int | float):
            raise TypeError(f"only a push (neutral 0) may be multiplied, and by a number: {number!r} * {self!r}")
        if callable(scale):
            return dataclasses.replace(self, scale=lambda s, t: number * scale(s, t))  # type: ignore[call-arg]
        return dataclasses.replace(self, scale=number * scale)  # type: ignore[call-arg]

    __rmul__ = __mul__

    def __call__(self, denoise: Denoise) -> Guided:
        from guided.guide.guide import Guide

        return Guide((self,))(denoise)

    def gate(self, sigma: Tensor) -> Number:
        """1 where the term acts and 0 elsewhere, in the precision of sigma; a number, or (B,) for a (B,) sigma."""
        acts = (sigma > self.lo) & (sigma <= self.hi)
        return float(acts) if acts.ndim == 0 else acts.double()

    def __repr__(self) -> str:
        interval = "" if (self.lo, self.hi) == (0.0, math.inf) else f".during({written(self.lo)}, {written(self.hi)})"
        return f"{self.describe()}{interval}"

    @abc.abstractmethod
    def describe(self) -> str:
        """The call that makes the term, as the experiment reads it."""


class Contrast(Term):
    """A sum of branches: the term adds coefficient times branch for each pair."""

    @property
    def steady(self) -> bool:
        """Whether these pairs are the same at every noise level, numbers all: then they are found once in a run."""
        return False

    @abc.abstractmethod
    def linear(self, sigma: Tensor, next_sigma: Tensor | None) -> Linear:
        """What the term adds to D at this noise level, as (coefficient, branch) pairs before gating."""


class Curve(Term):
    """A combination of branches that is not linear in them."""

    @abc.abstractmethod
    def branches(self, sigma: Tensor, next_sigma: Tensor | None) -> tuple[Branch, ...]:
        """The evaluations it reads; none where it changes nothing at this noise level."""

    @abc.abstractmethod
    def change(self, found: tuple[Tensor, ...], sigma: Tensor, next_sigma: Tensor | None) -> Tensor:
        """What it adds to D (B, *), given its branches in their order."""


@dataclass(frozen=True, eq=False)
class Point:
    """Where a push stands: the conditional base D at (x, sigma), never the guided sum (which stands in unread).

    For a push that differentiates the network, D hangs on x by its graph; it may be read as often as is needed.
    """

    x: Tensor
    D: Tensor
    sigma: Tensor
    next_sigma: Tensor | None
    cond: Cond
    differentiable: bool = False  # whether what a push finds is to be differentiated in turn

    def vjp(self, v: Tensor) -> Tensor:
        """(dD / dx)^T v, (B, *): v and the result are shaped like x. sigma^2 dD/dx is the posterior covariance."""
        v = v.to(self.D)
        return torch.autograd.grad(self.D, self.x, v, retain_graph=True, create_graph=self.differentiable)[0]

    def grad(self, log_prob: Tensor) -> Tensor:
        """The gradient of each image's log probability (B,) with respect to its x, (B, *)."""
        found = torch.autograd.grad(log_prob.sum(), self.x, retain_graph=True, create_graph=self.differentiable)
        return found[0]

    @property
    def level(self) -> Tensor:
        """sigma, shaped to multiply x."""
        return spread(self.sigma, self.x)


class Push(Term):
    """The term adds scale times `change` to D; neutral at scale 0, where nothing is evaluated for it."""

    base: ClassVar[bool] = True  # whether `change` reads D
    graph: ClassVar[bool] = True  # whether it differentiates D
    scale: Weight

    @abc.abstractmethod
    def change(self, at: Point) -> Tensor:
        """What scale 1 adds to D, (B, *)."""


class Exact(Term):
    """What is known for certain, put in last."""

    @abc.abstractmethod
    def put(self, D: Tensor, sigma: Tensor) -> Tensor:
        """D with what is known in it."""


def value(weight: Weight, sigma: Tensor, next_sigma: Tensor | None) -> Number:
    """A weight at this noise level."""
    return weight(sigma, next_sigma) if callable(weight) else weight


def checked(name: str, weight: Weight) -> Weight:
    """The weight itself; TypeError for what is no weight, ValueError for a tensor not (), (B,) or (B, 1, H, W)."""
    if not isinstance(weight, int | float | Tensor) and not callable(weight):
        raise TypeError(f"{name}: a weight is a number, a tensor or a function of (sigma, next_sigma), got {weight!r}")
    if isinstance(weight, Tensor) and weight.ndim not in (0, 1) and (weight.ndim != 4 or weight.shape[1] != 1):
        raise ValueError(f"{name}: a tensor weight is (B,) or (B, 1, H, W), got {tuple(weight.shape)}")
    return weight


def written(weight: object) -> str:
    """A weight, a condition or another argument as the experiment reads it."""
    if isinstance(weight, bool) or weight is None or isinstance(weight, str):
        return repr(weight)
    if isinstance(weight, int | float):
        short = f"{weight:g}"
        return short if float(short) == weight else repr(weight)  # what is read back is the same number
    if isinstance(weight, Tensor):
        return written(float(weight)) if weight.ndim == 0 else f"<{'x'.join(map(str, weight.shape))}>"
    if isinstance(weight, frozenset | set):
        return f"{{{', '.join(map(repr, sorted(weight)))}}}"
    if isinstance(weight, Cond):
        return "..."
    if hasattr(weight, "describe"):
        return str(weight.describe())
    return getattr(weight, "__name__", type(weight).__name__)


def is_value(weight: Number, number: float) -> bool:
    """Whether a weight is this number for every image."""
    return bool((weight == number).all()) if isinstance(weight, Tensor) else weight == number


def factor(weight: Number, x: Tensor) -> Number:
    """The weight as a factor of x, in x's dtype and on its device: D never takes the weight's.

    Raises ValueError where it is neither one number nor fits the images x (B, *).
    """
    if not isinstance(weight, Tensor):
        return weight
    weight = spread(weight, x) if weight.ndim < 2 else weight.to(x)
    sizes = zip(weight.shape, x.shape, strict=False)
    if weight.ndim not in (0, x.ndim) or any(size not in (1, n) for size, n in sizes):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} does not fit images of shape {tuple(x.shape)}")
    return weight


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product image by image, shaped to multiply them."""
    return (a * b).flatten(1).sum(1).reshape(-1, *[1] * (a.ndim - 1))


def _lift(weight: Number, other: Number) -> Number:
    """A (B,) weight beside a (B, 1, H, W) one grows the missing axes: it counts images, never columns."""
    if isinstance(weight, Tensor) and isinstance(other, Tensor) and weight.ndim < other.ndim:
        return weight.reshape(*weight.shape, *[1] * (other.ndim - weight.ndim))
    return weight


def plus(a: Number, b: Number) -> Number:
    """a + b of two weights."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        b = b.to(a.device)
    return _lift(a, b) + _lift(b, a)


def times(a: Number, b: Number) -> Number:
    """a * b of two weights."""
    a, b = _lift(a, b), _lift(b, a)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a * b.to(a.device)
    return a * b
