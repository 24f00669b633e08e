"""Edits exactly as strong as asked: the strength at which a target is met, found by cheap trials on the same noise."""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from guided.model.drawing import Progress

if TYPE_CHECKING:
    from guided.tasks.editing import Edit

Run = Callable[["Edit"], Iterator[Progress]]
TRIALS = ((8, 3), (4, 1), (8 / 3, 1))
"""Three trials of an eighth of the steps, one of a quarter, one of three eighths: together the cost of the edit itself.

The nearer to the target, the more steps: few change a picture more than many, and the edit would miss by as much.
"""
FIRST = 0.3
"""The strength tried first: most targets are met below a half."""
POWER = 1.5
"""Of the noise level, that an edit's change is at first expected to grow as."""
LEAST = 1e-4
"""What stands for a strength, a rest of strength or a change of 0, none of which has a logarithm."""


class Target(Protocol):
    """What an edit is to reach; `found` is a number that rises with the strength, from 0 on."""

    @property
    def wanted(self) -> float: ...

    @property
    def near(self) -> float:
        """How far from it an edit may stay and still be called the target's."""
        ...

    def found(self, record: Mapping[str, Any]) -> float: ...

    def scale(self, found: float) -> float:
        """What is nearly straight in ln sigma."""
        ...

    def told(self, found: float) -> str: ...


@dataclass(frozen=True)
class Changed:
    """A share of the photo's pixels that change by more than 8 of 255; raises ValueError outside (0, 1)."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"faithful: expected a share of the pixels between 0 and 1, got {self.share!r}")

    @property
    def wanted(self) -> float:
        return self.share

    @property
    def near(self) -> float:
        return 0.03

    def found(self, record: Mapping[str, Any]) -> float:
        """The share that changed."""
        return float(record["changed"])

    def scale(self, found: float) -> float:
        """A share, which has two ends, by its logit."""
        return _logit(found)

    def told(self, found: float) -> str:
        """The number for a person."""
        return f"{100 * found:.1f} % of the pixels changed"


@dataclass(frozen=True)
class Psnr:
    """A peak signal-to-noise ratio to the photo in dB; raises ValueError outside (0, 100)."""

    db: float

    def __post_init__(self) -> None:
        if not 0 < self.db < 100:
            raise ValueError(f"faithful: expected a PSNR between 0 and 100 dB, got {self.db!r}")

    @property
    def wanted(self) -> float:
        return float(10 ** (-self.db / 20))

    @property
    def near(self) -> float:
        return self.wanted * (10 ** (0.5 / 20) - 1)

    def found(self, record: Mapping[str, Any]) -> float:
        """The root mean square difference, as a share of the full range."""
        return 0.0 if record["psnr"] is None else float(10 ** (-record["psnr"] / 20))

    def scale(self, found: float) -> float:
        """A difference, which grows about as a power of the noise level, by its logarithm."""
        return math.log(max(found, LEAST))

    def told(self, found: float) -> str:
        """The number for a person."""
        return f"{-20 * math.log10(found):.1f} dB" if found > 0 else "endless dB"


def parse(text: str) -> Changed | Psnr:
    """ "10%" or "28dB"; raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(%|db)\s*", text.lower())
    if match is None:
        raise ValueError(f'faithful: expected a share of changed pixels, "10%", or a PSNR, "28dB"; got {text!r}')
    return Changed(float(match[1]) / 100) if match[2] == "%" else Psnr(float(match[1]))


@dataclass
class _Search:
    """The trials between which the target lies, each as (ln sigma, what it missed by), sigma = s / (1 - s).

    Misses are differences on the target's own scale, on which what an edit changes is nearly straight in ln sigma. The
    next one lies on the line between the two, by the Illinois rule: where one end stays twice, what it missed by counts
    half, so that both ends come nearer. While there is one end only, the line's slope is taken for `POWER`.
    """

    target: Target
    low: tuple[float, float] | None = None
    high: tuple[float, float] | None = None
    side: int = 0

    def guess(self) -> float:
        """The strength at which the target is expected."""
        if self.low and self.high:
            (a, f), (b, g) = self.low, self.high
            level = b if g == 0 else a + min(max(f / (f - g), 0.05), 0.95) * (b - a)
        elif self.high:
            level = self.high[0] - self.high[1] / POWER
        elif self.low:
            level = self.low[0] - min(self.low[1], -math.log(2)) / POWER
        else:
            return FIRST
        return 1 / (1 + math.exp(-level))

    def add(self, strength: float, found: float) -> None:
        """Take a trial in. A later one, of more steps, overrules an earlier one that it contradicts."""
        level, miss = _logit(strength), self.target.scale(found) - self.target.scale(self.target.wanted)
        side = 1 if miss >= 0 else -1
        if side > 0:
            self.high = (level, miss)
            if self.low is not None:
                self.low = (self.low[0], self.low[1] / 2) if self.side == side else self.low
                self.low = self.low if self.low[0] < level else None
        else:
            self.low = (level, miss)
            if self.high is not None:
                self.high = (self.high[0], self.high[1] / 2) if self.side == side else self.high
                self.high = self.high if self.high[0] > level else None
        self.side = side


def _logit(share: float) -> float:
    """ln (s / (1 - s)), of a strength the ln of its noise level; its ends count as `LEAST` away from them."""
    return math.log(max(share, LEAST)) - math.log(max(1 - share, LEAST))


def searched(edit: Edit, count: int, steps: int, run: Run) -> Iterator[Progress]:
    """The edit, of so many steps, at the strength that meets its target; raises ValueError if it is out of reach.

    All trials share the edit's noise, so that what they find changes smoothly with the strength. Together they cost at
    most what the edit does; where no trial goes far enough, drawing anew is tried in full, and costs as much again.
    """
    target = edit.faithful
    assert target is not None
    if edit.strength is not None:
        raise ValueError("give strength= or faithful=, not both")
    if count != 1:
        raise ValueError(f"faithful: one picture has one strength; this call makes {count}")
    search, trials = _Search(target), _Trials(edit, run, target)
    spent = 0
    for share, times in TRIALS:
        few = max(3, round(steps / share))
        for _ in range(times):
            if spent + few <= steps:
                strength = search.guess()
                search.add(strength, trials(strength, few))
                spent += few
                yield Progress(spent, 2 * steps, 0)
    if search.high is None:
        most = trials(1.0, steps)
        if most < target.wanted - target.near:
            raise ValueError(
                f"faithful: {target.told(target.wanted)} is out of reach: at strength 1 it is {target.told(most)}, "
                "and the less the strength, the less is changed"
            )
        search.add(1.0, max(most, target.wanted))
    for progress in run(trials.at(search.guess(), steps)):
        result = progress.result
        if result is not None:
            (record,) = result.records
            reached = target.found(record)
            found = {"wanted": target.told(target.wanted), "reached": target.told(reached)}
            record["faithful"] = {**found, "trials_nfe": trials.nfe}
            if abs(reached - target.wanted) > target.near:
                warnings.warn(f"faithful: {_missed(found, steps)}", stacklevel=2)
        yield dataclasses.replace(progress, done=spent + progress.done, total=spent + progress.total)


def _missed(found: Mapping[str, str], steps: int) -> str:
    """What to say of an edit that is not as near to its target as it should be; few steps leave few trials."""
    few = sum(times for _, times in TRIALS) > steps // 3
    return f"{found['wanted']} asked for, {found['reached']}" + ("; more steps come nearer" if few else "")


@dataclass
class _Trials:
    """Runs the edit at some strength and number of steps, and counts what it costs."""

    edit: Edit
    run: Run
    target: Target
    nfe: int = 0

    def at(self, strength: float, steps: int) -> Edit:
        """The edit of one trial."""
        request = dataclasses.replace(self.edit.request, steps=steps)
        return dataclasses.replace(self.edit, strength=strength, request=request, faithful=None)

    def __call__(self, strength: float, steps: int) -> float:
        """What a trial finds."""
        found = next(p.result for p in self.run(self.at(strength, steps)) if p.result is not None)
        (record,) = found.records
        self.nfe += int(record["nfe"])
        return self.target.found(record)
