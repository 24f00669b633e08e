"""Calibration: the noise levels and the solver that serve one model best at a number of steps.

Every trial solves the same images and is judged by where it ends, against a long reference solution. First the paths
that dynamic programming proposes are tried, beside the default one and Karras', by Adams' method and by one whose
weights are fitted to the path; then the best is polished level by level.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from guided import path as paths
from guided import reuse
from guided.cond import Cond
from guided.denoiser import Denoise
from guided.sampling import sample
from guided.solvers import Fitted
from guided.tune import fitting, schedule

TRIALS = 40
REFERENCE = 64
"""Steps of the reference solution; four times the steps that are calibrated where that is more."""
BATCH = 16
VARIANCES = (0.01, 0.1, 1.0)
FEWEST = 4 + 4 * len(VARIANCES)
"""Trials that the plans alone take, by either solver."""
FIRST, LAST = 0.3, 0.02
"""By which share of the gap to its neighbour a level is moved, at first and at the end."""
Watch = Callable[[int, int], None]
"""Called with (evaluations done, all of them)."""


@dataclass(frozen=True, eq=False)
class Found:
    """levels (n + 1,) float64, falling to 0; the solver, or its name; errors are root mean squares over all numbers."""

    levels: Tensor
    solver: Fitted | str
    w: float
    error: float
    default: float
    """The error of the default path and solver."""
    karras: float
    """The error of Karras' grid with DPM-Solver++ 2M or with the default solver, whichever is less."""

    def entry(self) -> dict[str, Any]:
        """What a model's card keeps, under "calibrated" and the number of steps."""
        entry = {**dataclasses.asdict(self), "levels": self.levels.tolist(), "solver": self.name}
        if isinstance(self.solver, Fitted):
            entry |= {"weights": [list(row) for row in self.solver.weights], "limits": list(self.solver.limits)}
        return entry

    @property
    def name(self) -> str:
        """Of the solver."""
        return self.solver if isinstance(self.solver, str) else self.solver.name


@dataclass(frozen=True, eq=False)
class _Trial:
    levels: Tensor
    solver: Fitted | str
    error: float


@dataclass
class _Bench:
    """The images that every trial solves, and how many trials there were."""

    denoise: Denoise
    x: Tensor
    cond: Cond
    n: int
    trials: int
    watch: Watch
    batch: int
    reference: schedule.Trajectory = field(init=False)
    done: int = 0

    @property
    def length(self) -> int:
        """Steps of the reference solution."""
        return max(REFERENCE, 4 * self.n)

    @property
    def left(self) -> int:
        """Trials that may still be made."""
        return self.trials - self.done

    def parts(self) -> list[tuple[Tensor, Cond]]:
        """x and cond in batches."""
        cuts = [slice(start, start + self.batch) for start in range(0, len(self.x), self.batch)]
        return [(self.x[cut], self.cond.index(cut)) for cut in cuts]

    def follow(self, levels: Tensor) -> None:
        """Make the reference solution."""
        self.reference = schedule.joined(schedule.follow(self.denoise, x, levels, cond) for x, cond in self.parts())
        self._tell()

    def solve(self, levels: Tensor, solver: Fitted | str) -> _Trial:
        """One trial; a fitted solver is fitted anew to the levels."""
        if isinstance(solver, str) and solver != Fitted.name:
            ends = torch.cat([sample(self.denoise, x, levels, cond, solver=solver).cpu() for x, cond in self.parts()])
        else:
            with torch.no_grad(), reuse.running():
                solver, ends = fitting.fit(self.denoise, self.parts(), self.reference, levels)
        error = float((ends.double() - self.reference.end).square().mean().sqrt())
        self.done += 1
        self._tell()
        return _Trial(levels, solver, error if math.isfinite(error) else math.inf)

    def _tell(self) -> None:
        self.watch(self.length + self.done * self.n, self.length + self.trials * self.n)


def calibrate(
    denoise: Denoise,
    x: Tensor,
    lo: float,
    hi: float,
    n: int,
    cond: Cond | None = None,
    *,
    w: float = 1.0,
    trials: int = TRIALS,
    batch: int = BATCH,
    fitted: bool = False,
    watch: Watch = lambda done, total: None,
) -> Found:
    """Find n steps from hi to 0 for a (guided) denoiser; x (B, *) = mean + hi n are the images to find them on.

    w: the guidance weight, for the default path. trials: of n evaluations an image each, the plans included, at least
    16. fitted: whether a fitted solver alone will do. Deterministic. Raises ValueError for fewer trials or steps than
    that takes.
    """
    if trials < FEWEST:
        raise ValueError(f"trials: expected at least {FEWEST}, got {trials}")
    if n < 2:
        raise ValueError(f"steps: expected at least 2, whose path there is a choice of, got {n}")
    bench = _Bench(denoise, x, cond if cond is not None else Cond(), n, trials, watch, batch)
    bench.follow(paths.default(bench.length, lo, hi, w))
    default = bench.solve(paths.default(n, lo, hi, w), "adams")
    grid = paths.karras(n, lo, hi)
    karras = [bench.solve(grid, solver) for solver in ("adams", "dpmpp_2m")]
    proposed = [bench.solve(plan, "adams") for plan in _plans(bench)]
    others = [default, *karras, *proposed]
    own = [bench.solve(trial.levels, Fitted.name) for trial in (default, *proposed)]
    best = _polished(bench, min(own if fitted else [*others, *own], key=_error))
    return Found(best.levels, best.solver, w, best.error, default.error, min(karras, key=_error).error)


def _error(trial: _Trial) -> float:
    return trial.error


def _plans(bench: _Bench) -> list[Tensor]:
    """What dynamic programming proposes."""
    found = []
    for order in (1, 2):
        errors = schedule.errors(bench.reference, order)
        found += [schedule.shortest(errors, bench.reference.levels, bench.n, variance) for variance in VARIANCES]
    return found


def _polished(bench: _Bench, best: _Trial) -> _Trial:
    """The best path, each of its levels but the first moved up or down while that brings the error down."""
    share = FIRST
    while share > LAST and bench.left > 0:
        before = best.error
        for k in range(1, bench.n):
            for up in (True, False):
                if bench.left <= 0:
                    return best
                trial = bench.solve(_moved(best.levels, k, up, share), best.solver)
                if trial.error < best.error:
                    best = trial
                    break
        if best.error == before:
            share /= 2
    return best


def _moved(levels: Tensor, k: int, up: bool, share: float) -> Tensor:
    """The levels with the k-th moved by a share of the way to its neighbour, in ln sigma."""
    below = levels[k + 1] if levels[k + 1] > 0 else levels[k] ** 2 / levels[k - 1]  # as far down as the last move
    towards = levels[k - 1] if up else below
    moved = levels.clone()
    moved[k] = levels[k] * (towards / levels[k]) ** share
    return moved
