"""Contrasts: D += (w - 1) (A - B), neutral at w = 1."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from guided.cond import SEMANTIC, Cond
from guided.guide.guide import Linear, Term, Weight
from guided.guide.planner import Branch


@dataclass(frozen=True, eq=False, repr=False)
class Cfg(Term):
    """Classifier-free guidance: D_null + w (D_cond - D_null); see `cfg`."""

    w: Weight
    negative: Cond | None = None
    drop: frozenset[str] = SEMANTIC

    def linear(self, sigma: Tensor, next_sigma: Tensor | None) -> Linear:
        w = self.w(sigma, next_sigma) if callable(self.w) else self.w
        other = Branch(dropped=self.drop) if self.negative is None else Branch(cond=self.negative)
        return [(w - 1.0, Branch()), (1.0 - w, other)]

    def __repr__(self) -> str:
        w = f"{self.w:g}" if isinstance(self.w, float | int) else _describe(self.w)
        negative = "" if self.negative is None else ", negative=..."
        drop = "" if self.drop == SEMANTIC else f", drop={{{', '.join(sorted(self.drop))}}}"
        return f"cfg({w}{negative}{drop}){self.interval()}"


def _describe(weight: object) -> str:
    return f"<{'x'.join(map(str, weight.shape))}>" if isinstance(weight, Tensor) else getattr(weight, "__name__", "f")


def cfg(w: Weight, negative: Cond | None = None, drop: Collection[str] = SEMANTIC) -> Cfg:
    """Classifier-free guidance (Ho & Salimans 2022) with weight w: 1 is the conditional model, 0 the unconditional.

    w: a number, (B,), (B, 1, H, W), or a function of (sigma, next_sigma). negative: a condition to steer away from,
    in place of the null. drop: the fields that the null lacks; image and aug stay unless named.
    Raises ValueError for a tensor weight of another shape.
    """
    if isinstance(w, Tensor) and w.ndim not in (0, 1) and (w.ndim != 4 or w.shape[1] != 1):
        raise ValueError(f"cfg: a tensor weight is (B,) or (B, 1, H, W), got {tuple(w.shape)}")
    return Cfg(w, negative, frozenset(drop))
