"""The teacher's guide, and which of its numbers becomes the student's dial."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.guide import Cfg, Dial, Exact, Guide, Term, cfg
from guided.model import Model
from guided.model.request import guide_rows, parsed, plain_weight, within
from guided.tune.distilling.settings import Settings


@dataclass(frozen=True, eq=False)
class Folded:
    """A guide that a student takes in.

    dial: which term's weight the student is told, the only plain `cfg` among them; None where there is none, or
    several: then the guide is folded in as it is written, and the student has no dial. w: the weight as it is written.
    lo, hi: the weights that are learnt.
    """

    guide: Guide | None
    dial: int | None = None
    w: float | None = None
    lo: float = 1.0
    hi: float = 1.0

    def __repr__(self) -> str:
        return repr(self.guide)

    @property
    def plain(self) -> bool:
        """Whether it is no guide, or a `cfg` and nothing more."""
        terms = () if self.guide is None else self.guide.terms
        return not terms or (len(terms) == 1 and plain_weight(terms[0]) is not None and not self.guide.shaping)  # type: ignore[union-attr]

    def weights(self, u: Tensor) -> Tensor | None:
        """The guidance weights of images by a number in (0, 1) each, float32; None without a dial."""
        return None if self.dial is None else (self.lo + (self.hi - self.lo) * u).float()

    def teach(self, base: Denoise) -> Denoise:
        """The guided teacher: the weight of an image is what its condition says."""

        def guided(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            if self.guide is None:
                return base(x, sigma, cond)
            guide = self.guide
            if self.dial is not None:
                terms = list(guide.terms)
                terms[self.dial] = dataclasses.replace(terms[self.dial], w=cond.guidance)  # type: ignore[call-arg]
                guide = dataclasses.replace(guide, terms=tuple(terms))
            return guide(base)(x, sigma, cond)

        return guided


def folded(teacher: Model, settings: Settings) -> Folded:
    """The guide of a distillation; raises ValueError for one that no single evaluation can stand for."""
    written = settings.guide
    if written is None:
        written = cfg(float((teacher.card.get("defaults") or {}).get("w", 1.0))) if teacher.conditional else None
    if written is None:
        if settings.w_range is not None:
            raise ValueError("w_range: there is no guide whose weight could be learnt; give --guide, or leave it out")
        return Folded(None)
    guide = parsed(teacher, written) if isinstance(written, str) else written
    whole = guide if isinstance(guide, Guide) else Guide((guide,))
    _refuse(teacher, whole)
    whole = _placed(teacher, within(whole, teacher.codec.limit, teacher.name))
    numbered = [i for i, term in enumerate(whole.terms) if isinstance(term, Cfg) and isinstance(term.w, int | float)]
    if len(numbered) != 1:
        if settings.w_range is not None:
            raise ValueError(
                f"w_range: {whole!r} has {len(numbered)} plain cfg terms; a dial is the weight of the only one: leave "
                "w_range (--w-range) out, and the guide is folded in as it is"
            )
        return Folded(whole)
    w = float(whole.terms[numbered[0]].w)  # type: ignore[attr-defined]
    lo, hi = settings.w_range or (min(1.0, w), max(1.0, w))
    if not lo <= w <= hi:
        raise ValueError(f"w_range: {lo:g} to {hi:g} leaves out {w:g}, the weight of {whole!r}; widen it")
    if lo == hi:  # cfg(1): nothing to turn
        return Folded(whole)
    return Folded(whole, numbered[0], w, lo, hi)


def _placed(teacher: Model, guide: Guide | Term) -> Guide:
    """The guide with what it holds on the teacher's device."""
    found = guide_rows(guide, slice(0, 1), 1, teacher.device)
    assert isinstance(found, Guide)
    return found


def _refuse(teacher: Model, guide: Guide) -> None:
    if guide.stateful:
        raise ValueError(
            f"guide: {guide!r} carries something from step to step, which one evaluation cannot; distil it without "
            "(apg: momentum=0)"
        )
    for term in guide.terms:
        if isinstance(term, Dial):
            raise ValueError(f"guide: {term!r} turns a student's dial; the teacher's guide is cfg(...) or any other")
        if isinstance(term, Exact):
            raise ValueError(f"guide: {term!r} belongs to one picture; it cannot be learnt")
        if isinstance(term, Cfg) and not teacher.conditional:
            raise ValueError(f"guide: {teacher.name} is unconditional: there is nothing for {term!r} to guide")


@torch.no_grad()
def tried(teacher: Model, fold: Folded, x: Tensor, cond: Cond) -> None:
    """Evaluate the guided teacher once; ValueError where its guide wants more than one noise level."""
    if fold.guide is None:
        return
    try:
        found = fold.teach(teacher.denoiser)(x, torch.full((len(x),), float(teacher.denoiser.hi)), cond)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"guide: {fold!r} cannot be distilled: {error}") from None
    if not bool(found.isfinite().all()):
        raise ValueError(f"guide: {fold!r} gives numbers that are not finite")
