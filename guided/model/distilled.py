"""What the card of a distilled model says of it, and what guidance and paths become for such a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guided import path as paths
from guided.cond import SEMANTIC
from guided.guide import Cfg, Dial, Guide, Term, dial

METHODS = ("trajectory", "progressive", "guidance", "consistency")


@dataclass(frozen=True)
class Distilled:
    """A network that learnt what a guided teacher does, to draw with one evaluation a step; see `guided.tune.distill`.

    method: "guidance", the teacher's D at every level; "trajectory" and "progressive", the steps of its own path;
    "consistency", where the teacher's path ends. guide: the teacher's, as it is written; None without one. steps:
    evaluations of a picture. w: the weights that it learnt, from and to; None where it has no dial.
    """

    method: str
    guide: str | None
    steps: int
    w: tuple[float, float] | None

    @classmethod
    def of(cls, values: Any) -> Distilled:
        """Read the card's entry `distilled`; raises ValueError naming the part that is wrong."""
        if not isinstance(values, Mapping):
            raise ValueError(f"distilled: expected a mapping, got {values!r:.80}")
        method, guide, steps, w = (values.get(name) for name in ("method", "guide", "steps", "w"))
        if method not in METHODS:
            raise ValueError(f"distilled.method: expected one of {', '.join(METHODS)}, got {method!r:.80}")
        if guide is not None and not isinstance(guide, str):
            raise ValueError(f"distilled.guide: expected a text or null, got {guide!r:.80}")
        if type(steps) is not int or steps < 1:
            raise ValueError(f"distilled.steps: expected a whole number >= 1, got {steps!r:.80}")
        return cls(method, guide, steps, None if w is None else _range(w))

    def card(self) -> dict[str, Any]:
        """The entry that `of` reads."""
        return {**dataclasses.asdict(self), "w": None if self.w is None else list(self.w)}

    @property
    def jumps(self) -> bool:
        """Whether its D is good for steps of its own path alone, at any weight."""
        return self.method != "guidance"

    def told(self, guide: Guide | Term, name: str) -> Guide | Term:
        """The guide with every plain `cfg` as the dial of this network; other terms act on it as on any model.

        Raises ValueError for a weight it did not learn, for a negative prompt, and for any weight where it has no dial.
        """
        if isinstance(guide, Term):
            return self._term(guide, name)
        return dataclasses.replace(guide, terms=tuple(self._term(term, name) for term in guide.terms))

    def _term(self, term: Term, name: str) -> Term:
        if not isinstance(term, Cfg | Dial):
            return term
        if self.w is None:
            raise ValueError(
                f"{name} has the guide {self.guide} folded in, which leaves it no dial: leave out w=, negative= and "
                f"{term!r}, or ask its teacher"
            )
        if isinstance(term, Cfg) and (term.negative is not None or term.drop != SEMANTIC):
            raise ValueError(
                f"{name} is distilled: its one evaluation leads away from what its teacher's guide did. {term!r} is "
                "for its teacher; here leave out negative= (--negative) and drop="
            )
        lo, hi = self.w
        if not callable(term.w):
            given = torch.as_tensor(term.w, dtype=torch.float64)
            if not bool(((given >= lo) & (given <= hi)).all()):
                worst = float(given.min() if bool((given < lo).any()) else given.max())
                raise ValueError(
                    f"w: {name} learnt guidance weights from {lo:g} to {hi:g}, got {worst:g}; ask for one of these, or "
                    f"distil again with --w-range {min(lo, worst):g},{max(hi, worst):g}"
                )
        return term if isinstance(term, Dial) else dial(term.w).during(term.lo, term.hi)

    def woven(self, path: Tensor) -> Tensor:
        """The path (n + 1,) that it draws on, of falling levels: a consistency model is noised anew at every level."""
        return paths.lcm(path) if self.method == "consistency" else path


def _range(value: Any) -> tuple[float, float]:
    numbers = isinstance(value, list | tuple) and all(type(part) in (int, float) for part in value)
    if not numbers or len(value) != 2 or not -math.inf < value[0] <= value[1] < math.inf:
        raise ValueError(f"distilled.w: expected the least and the largest weight, or null, got {value!r:.80}")
    return float(value[0]), float(value[1])


def falling(path: Tensor) -> Tensor:
    """The levels of a path without the rises between them, for walks that make their own."""
    if not bool((path.diff() > 0).any()):
        return path
    return torch.cat([path[path > 0], path.new_zeros(1)])


def refuse_dial(guide: Guide | Term, name: str) -> None:
    """Raise ValueError where a guide turns the dial of a model that has none."""
    for term in guide.terms if isinstance(guide, Guide) else (guide,):
        if isinstance(term, Dial):
            raise ValueError(f"{term!r}: {name} is not distilled, it has no dial; write cfg({term.w}) in its place")
