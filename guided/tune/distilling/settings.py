"""What a distillation is asked to be; whatever decides its bits stands here."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from guided.guide import Guide, Term
from guided.model.distilled import METHODS

FEWEST = 32
"""The least number of steps that halving begins with."""
PRECISIONS = ("float32", "bf16")
OPTIMIZERS = ("muon", "adamw")


@dataclass(frozen=True)
class Settings:
    """How to distil a teacher.

    guide: the teacher's, as text or as it is; None: the cfg of its card's weight, or none where it is unconditional.
    steps: evaluations of a picture by the student. method: see `guided.tune.distill`. w_range: the guidance weights it
    learns; None: from 1 to the guide's. data: pictures to learn on, whatever `guided.data.open` takes; None: `pool`
    pictures that the teacher draws, of `prompts` or of those on its card. images: seen in all, shared among the stages.
    teacher_steps: of the path that halving begins with, steps times a power of two; None: the least such from 32 on.
    lr: at the beginning of a stage, from where it falls to 0; an eighth for a halving, half for a trajectory. drop: the
    share that has no cond.
    Raises ValueError naming the entry.
    """

    guide: str | Guide | Term | None = None
    steps: int = 4
    method: str = "trajectory"
    w_range: tuple[float, float] | None = None
    data: str | None = None
    images: int = 24_000
    batch: int = 32
    optimizer: str = "muon"
    lr: float = 1e-3
    teacher_steps: int | None = None
    drop: float = 0.1
    pool: int = 1024
    prompts: tuple[str, ...] = ()
    precision: str = "float32"
    seed: int = 0
    save_every: int = 4000
    name: str | None = None

    def __post_init__(self) -> None:
        for name, choices in (("method", METHODS), ("precision", PRECISIONS), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("steps", "images", "batch", "pool", "save_every"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}: expected a whole number >= 1, got {value!r}")
        if self.method == "trajectory" and self.steps < 2:
            raise ValueError("steps: a trajectory has at least 2, got 1; for one step ask for method consistency")
        if not (isinstance(self.lr, int | float) and 0 < self.lr < math.inf):
            raise ValueError(f"lr: expected a number above 0, got {self.lr!r}")
        if not (isinstance(self.drop, int | float) and 0 <= self.drop < 1):
            raise ValueError(f"drop: expected a share in [0, 1), got {self.drop!r}")
        if self.w_range is not None and not -math.inf < self.w_range[0] < self.w_range[1] < math.inf:
            lo, hi = self.w_range
            raise ValueError(f"w_range: expected a lower and a higher weight, such as 1,6, got {lo:g},{hi:g}")
        self._halvings()

    def _halvings(self) -> None:
        if self.teacher_steps is None:
            return
        times = self.teacher_steps / self.steps
        if type(self.teacher_steps) is not int or times < 1 or not math.log2(times).is_integer():
            raise ValueError(
                f"teacher_steps: expected {self.steps} steps times a power of two, such as {self.begun}, "
                f"got {self.teacher_steps!r}"
            )

    @property
    def begun(self) -> int:
        """The steps of the path that halving begins with, as they are chosen without `teacher_steps`."""
        found = self.steps
        while found < FEWEST:
            found *= 2
        return found

    @property
    def long(self) -> int:
        """The steps of the teacher's path."""
        return self.begun if self.teacher_steps is None else self.teacher_steps

    def facts(self) -> dict[str, Any]:
        """What may not change while a run goes on, as JSON."""
        kept = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for free in ("data", "save_every", "name"):
            del kept[free]
        kept["teacher_steps"] = self.long
        kept["prompts"] = list(self.prompts)
        return kept
