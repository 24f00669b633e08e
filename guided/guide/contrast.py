"""Terms made of evaluations of networks: contrasts, the perturbed push, and Perp-Neg."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guided.cond import FIELDS, SEMANTIC, Cond
from guided.denoiser import Denoise
from guided.guide.planner import BASE, Branch
from guided.guide.term import (
    Contrast,
    Curve,
    Linear,
    Number,
    Weight,
    checked,
    factor,
    inner,
    is_value,
    plus,
    times,
    value,
    written,
)
from guided.noise import key
from guided.perturbation import Perturbation

NULL = Branch(dropped=SEMANTIC)


@dataclass(frozen=True, eq=False, repr=False)
class Cfg(Contrast):
    """See `cfg`."""

    w: Weight
    negative: Cond | None = None
    drop: frozenset[str] = SEMANTIC

    @property
    def steady(self) -> bool:
        return isinstance(self.w, int | float)

    def linear(self, sigma: Tensor, next_sigma: Tensor | None) -> Linear:
        other = Branch(dropped=self.drop) if self.negative is None else Branch(cond=self.negative)
        return _apart(value(self.w, sigma, next_sigma), other)

    def describe(self) -> str:
        negative = "" if self.negative is None else ", negative=..."
        drop = "" if self.drop == SEMANTIC else f", drop={written(self.drop)}"
        return f"cfg({written(self.w)}{negative}{drop})"


def _fields(name: str, fields: Collection[str]) -> frozenset[str]:
    """The fields themselves; ValueError for one that `Cond` does not have."""
    if isinstance(fields, str) or not set(fields) <= set(FIELDS):
        raise ValueError(f"{name}: expected a set of fields among {', '.join(FIELDS)}, got {fields!r}")
    return frozenset(fields)


def _condition(name: str, cond: Cond) -> Cond:
    if not isinstance(cond, Cond):
        raise TypeError(f"{name}: a condition is a Cond, as the model's encoders make it of a text; got {cond!r}")
    return cond


def _apart(w: float | Tensor, other: Branch) -> Linear:
    """(w - 1) (base - other)."""
    return [(w - 1.0, BASE), (1.0 - w, other)]


def cfg(w: Weight, negative: Cond | None = None, drop: Collection[str] = SEMANTIC) -> Cfg:
    """Classifier-free guidance (Ho & Salimans 2022) with weight w: 1 is the conditional model, 0 the unconditional.

    w: a number, (B,), (B, 1, H, W), or a function of (sigma, next_sigma). negative: a condition to steer away from,
    in place of the null. drop: the fields that the null lacks; image and aug stay unless named.
    Raises ValueError for a tensor weight of another shape and for an unknown field.
    """
    return Cfg(checked("cfg", w), None if negative is None else _condition("cfg", negative), _fields("cfg", drop))


@dataclass(frozen=True, eq=False, repr=False)
class Between(Contrast):
    """See `between`."""

    weak: Denoise
    w: Weight

    @property
    def steady(self) -> bool:
        return isinstance(self.w, int | float)

    def linear(self, sigma: Tensor, next_sigma: Tensor | None) -> Linear:
        return _apart(value(self.w, sigma, next_sigma), Branch(denoise=self.weak))

    def describe(self) -> str:
        return f"between({written(self.weak)}, {written(self.w)})"


def between(weak: Denoise, w: Weight) -> Between:
    """Autoguidance (Karras et al. 2024, arXiv 2406.02507): away from a weaker denoiser, D = weak + w (D - weak).

    weak: another `Denoise` under the same condition: a smaller network, or an early snapshot (`Model.early`). w as in
    `cfg`, neutral at 1. Raises TypeError for a weak denoiser under a guide with a state, which stands outermost.
    """
    from guided.guide.guide import Guided

    if isinstance(weak, Guided) and weak.guide.stateful:
        raise TypeError(f"between: {weak.guide!r} carries a state and must stand outermost; leave it off the weak one")
    return Between(weak, checked("between", w))


@dataclass(frozen=True, eq=False, repr=False)
class Nested(Contrast):
    """See `nested`."""

    levels: tuple[tuple[Weight, frozenset[str]], ...]

    @property
    def steady(self) -> bool:
        return all(isinstance(w, int | float) for w, _ in self.levels)

    def linear(self, sigma: Tensor, next_sigma: Tensor | None) -> Linear:
        pairs: Linear = []
        dropped: frozenset[str] = frozenset()
        for w, fields in self.levels:
            w = value(w, sigma, next_sigma)
            pairs.append((w - 1.0, Branch(dropped=dropped)))
            dropped = dropped | fields
            pairs.append((1.0 - w, Branch(dropped=dropped)))
        return pairs

    def describe(self) -> str:
        return f"nested({', '.join(f'({written(w)}, {written(fields)})' for w, fields in self.levels)})"


def nested(*levels: tuple[Weight, Collection[str]]) -> Nested:
    """A weight for each of several conditions (Brooks et al. 2023, arXiv 2211.09800, eq. 3: InstructPix2Pix).

    levels: (w, fields) each; the fields are dropped in addition to those before them. `nested((7.5, {"tokens"}),
    (1.5, {"image"}))` weighs the text given the picture by 7.5, and the picture by 1.5; 1 is neutral.
    Raises ValueError for no level, or an unknown field.
    """
    if not levels:
        raise ValueError("nested: expected at least one (w, fields)")
    return Nested(tuple((checked("nested", w), _fields("nested", fields)) for w, fields in levels))


@dataclass(frozen=True, eq=False, repr=False)
class Compose(Contrast):
    """See `compose`."""

    parts: tuple[tuple[Cond, Weight], ...]

    @property
    def steady(self) -> bool:
        return all(isinstance(w, int | float) for _, w in self.parts)

    def linear(self, sigma: Tensor, next_sigma: Tensor | None) -> Linear:
        rest: float | Tensor = 1.0
        pairs: Linear = [(-1.0, BASE)]
        for cond, w in self.parts:
            w = value(w, sigma, next_sigma)
            pairs.append((w, Branch(cond=cond)))
            rest = plus(rest, times(-1.0, w))
        return [*pairs, (rest, NULL)]

    def describe(self) -> str:
        return f"compose({', '.join(f'({written(cond)}, {written(w)})' for cond, w in self.parts)})"


def compose(parts: Sequence[tuple[Cond, Weight]]) -> Compose:
    """Several conditions at once (Liu et al. 2022, arXiv 2206.01714): D_null + sum of w (D_cond - D_null).

    parts: (condition, weight) pairs; a weight below 0 steers away. The call's own condition gives way to them.
    Raises ValueError for none.
    """
    if not parts:
        raise ValueError("compose: expected at least one (condition, weight)")
    return Compose(tuple((_condition("compose", cond), checked("compose", w)) for cond, w in parts))


@dataclass(frozen=True, eq=False, repr=False)
class CfgPp(Contrast):
    """See `cfgpp`."""

    strength: float
    drop: frozenset[str] = SEMANTIC

    def linear(self, sigma: Tensor, next_sigma: Tensor | None) -> Linear:
        if next_sigma is None:
            raise ValueError(
                "cfgpp is defined for solvers with one evaluation a step, within `sample` and in its outermost guide: "
                "take euler or a multistep solver, or cfg in its place"
            )
        # In the frame's x0-form a step is x' = D + (s'/s) (x - D): noise from the null alone is this weight of CFG.
        w = self.strength / (1.0 - float(next_sigma) / sigma.double())
        return _apart(float(w) if w.ndim == 0 else w, Branch(dropped=self.drop))

    def describe(self) -> str:
        drop = "" if self.drop == SEMANTIC else f", drop={written(self.drop)}"
        return f"cfgpp({written(self.strength)}{drop})"


def cfgpp(strength: float, drop: Collection[str] = SEMANTIC) -> CfgPp:
    """CFG++ (Chung et al. 2024, arXiv 2406.08070, alg. 2): signal guided by strength in [0, 1], noise from the null.

    It is CFG of weight strength / (1 - next_sigma / sigma) on a first-order step, exactly. A step wants to know where
    it goes: outside `sample`, and on the second evaluation of a step, it raises ValueError. 0.6 is about w = 7.5.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"cfgpp: expected a strength in [0, 1], got {strength}")
    return CfgPp(strength, _fields("cfgpp", drop))


@dataclass(frozen=True, eq=False, repr=False)
class Independent(Contrast):
    """See `independent`."""

    w: Weight
    bank: Bank
    seed: int = 0

    def linear(self, sigma: Tensor, next_sigma: Tensor | None) -> Linear:
        levels = sigma.reshape(-1).tolist()
        rows = [key(f"guide/independent/{level.hex()}", self.seed, 0) % self.bank.size for level in levels]
        return _apart(value(self.w, sigma, next_sigma), Branch(cond=self.bank.cond.index(rows)))

    def describe(self) -> str:
        seed = "" if self.seed == 0 else f", seed={self.seed}"
        return f"independent({written(self.w)}, ...{seed})"


@dataclass(frozen=True, eq=False)
class Bank:
    """Conditions to draw from: they belong to no image of the batch."""

    cond: Cond
    size: int


def independent(w: Weight, bank: Cond, seed: int = 0) -> Independent:
    """Independent-condition guidance (Sadat et al. 2024, arXiv 2407.02687): a random other condition is the null.

    For networks that were trained without one. bank: K conditions, of which each noise level takes one; which is a
    function of (seed, sigma). w as in `cfg`, neutral at 1. Raises ValueError for an empty bank.
    """
    if not bank.size:
        raise ValueError("independent: expected a bank of at least one condition")
    return Independent(checked("independent", w), Bank(bank, bank.size), seed)


@dataclass(frozen=True, eq=False, repr=False)
class Perturbed(Contrast):
    """See `perturbed`."""

    perturbation: Perturbation
    scale: Weight

    def linear(self, sigma: Tensor, next_sigma: Tensor | None) -> Linear:
        scale = value(self.scale, sigma, next_sigma)
        return [(scale, BASE), (times(-1.0, scale), Branch(perturbation=self.perturbation))]

    def describe(self) -> str:
        p = self.perturbation
        sigma = "" if math.isinf(p.sigma) else f", sigma={written(p.sigma)}"
        layers = "" if p.layers is None else f", layers={p.layers!r}"
        return f"perturbed({p.kind!r}, {written(self.scale)}{sigma}{layers})"


def perturbed(
    kind: str, scale: Weight = 3.0, *, sigma: float = math.inf, layers: str | Sequence[str] | None = None
) -> Perturbed:
    """A push away from the same network with its self-attention disturbed: D += scale (D - D_disturbed), neutral at 0.

    kind: "identity" (PAG, Ahn et al. 2024, arXiv 2403.17377), "blur" with the queries blurred by sigma (SEG, Hong 2024,
    arXiv 2408.00760), or "skip" (skip-layer guidance). layers: by default those of the middle; see `Perturbation`,
    whose errors are raised. scale: as w in `cfg`.
    """
    return Perturbed(Perturbation(kind, sigma, layers), checked("perturbed", scale))


@dataclass(frozen=True, eq=False, repr=False)
class PerpNeg(Curve):
    """See `perp_neg`."""

    w: Weight
    negative: tuple[tuple[Cond, Weight], ...]

    def branches(self, sigma: Tensor, next_sigma: Tensor | None) -> tuple[Branch, ...]:
        acting = self._acting(sigma, next_sigma)
        if not acting and is_value(value(self.w, sigma, next_sigma), 1.0):
            return ()
        return (BASE, NULL, *(Branch(cond=cond) for cond, _ in acting))

    def change(self, found: tuple[Tensor, ...], sigma: Tensor, next_sigma: Tensor | None) -> Tensor:
        base, null, *others = found
        towards = base - null
        square = inner(towards, towards).clamp_min(torch.finfo(base.dtype).tiny)
        moved = towards
        for D, (_, weight) in zip(others, self._acting(sigma, next_sigma), strict=True):
            away = D - null
            across = away - inner(away, towards) / square * towards
            moved = moved - factor(weight, base) * across
        return null - base + factor(value(self.w, sigma, next_sigma), base) * moved

    def _acting(self, sigma: Tensor, next_sigma: Tensor | None) -> list[tuple[Cond, Number]]:
        weighed = ((cond, value(weight, sigma, next_sigma)) for cond, weight in self.negative)
        return [(cond, weight) for cond, weight in weighed if not is_value(weight, 0.0)]

    def describe(self) -> str:
        negative = ", ".join(f"({written(cond)}, {written(w)})" for cond, w in self.negative)
        return f"perp_neg({written(self.w)}, {negative})"


def perp_neg(w: Weight, *negative: tuple[Cond, Weight]) -> PerpNeg:
    """Perp-Neg (Armandpour et al. 2023, arXiv 2304.04968, eq. 6): of each negative only what is not the prompt's own.

    D_null + w (d - sum of weight * (d_i without its part along d)), with d = D - D_null for the prompt and d_i for each
    negative condition. Weights above 0 steer away, w as in `cfg`. Raises ValueError without a negative.
    """
    if not negative:
        raise ValueError("perp_neg: expected at least one (condition, weight) to steer away from")
    pairs = ((_condition("perp_neg", cond), checked("perp_neg", weight)) for cond, weight in negative)
    return PerpNeg(checked("perp_neg", w), tuple(pairs))
