"""Error at equal numbers of evaluations, as a ratio to the best that any peer reached in hindsight."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from guided import path as paths
from guided.bench.problems import Problem
from guided.sampling import sample
from guided.solvers import Solver
from guided.tune import calibrate

CALIBRATED_ON = 271828
"""The seed of the noise that calibration sees."""
NFE = (5, 8, 10, 15, 20, 30, 50)
Contestant = Callable[[Problem, int], Tensor | None]
"""(problem, evaluations) -> the x it ends at, (B, d), by at most so many; None where it cannot."""
Watch = Callable[[int, int], None]


def ours(problem: Problem, evaluations: int) -> Tensor | None:
    """The library's one rule: the default path, and the solver that follows from it."""
    path = paths.default(evaluations, problem.lo, problem.hi, problem.w)
    return sample(problem.denoise, problem.x, path, problem.cond)


def calibrated(problem: Problem, evaluations: int) -> Tensor | None:
    """What calibration finds for the problem from other starting noise than it is measured on."""
    other = problem.again(CALIBRATED_ON)
    levels = (problem.lo, problem.hi, evaluations)
    found = calibrate(other.denoise, other.x, *levels, other.cond, w=problem.w, batch=len(other.x))
    return sample(problem.denoise, problem.x, found.levels, problem.cond, solver=found.solver)


def on_karras(solver: Solver) -> Contestant:
    """A solver on Karras' grid, with as many steps as its evaluations allow."""

    def run(problem: Problem, evaluations: int) -> Tensor | None:
        steps = 1 + (evaluations - 1) // solver.evaluations
        path = paths.karras(steps, problem.lo, problem.hi)
        return sample(problem.denoise, problem.x, path, problem.cond, solver=solver)

    return run


class Row(NamedTuple):
    """One comparison: our error, the peer's, their ratio and its 95 % interval over images."""

    name: str
    ours: float
    peer: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Table:
    """Squared errors (B,) by contestant, problem and number of evaluations; None where a contestant broke."""

    problems: tuple[str, ...]
    evaluations: tuple[int, ...]
    squares: Mapping[str, Mapping[tuple[str, int], Tensor | None]]
    peers: tuple[str, ...]

    @property
    def contestants(self) -> tuple[str, ...]:
        """Whoever is no peer."""
        return tuple(name for name in self.squares if name not in self.peers)

    def error(self, name: str, problem: str, n: int) -> float:
        """Root mean square error in units of the data's std; infinite where the contestant broke."""
        found = self.squares[name][problem, n]
        return math.inf if found is None else float(found.mean().sqrt())

    def best(self, problem: str, n: int) -> tuple[float, str]:
        """The hindsight envelope: the least error of all peers, and whose it is."""
        return min((self.error(peer, problem, n), peer) for peer in self.peers)

    def ratio(self, name: str, problem: str, n: int) -> float:
        """The contestant's error over the envelope."""
        return self.error(name, problem, n) / self.best(problem, n)[0]

    def mean(self, name: str, n: int | None = None, problems: Sequence[str] = ()) -> float:
        """Geometric mean of the ratio over problems, at n evaluations or over all numbers of them."""
        ratios = [
            self.ratio(name, problem, k)
            for problem in problems or self.problems
            for k in ([n] if n is not None else self.evaluations)
        ]
        return _mean(ratios)

    def row(self, name: str, title: str, cells: Sequence[tuple[str, int]]) -> Row:
        """Geometric means over cells (problem, evaluations) beside the envelope's."""
        mine = _mean([self.error(name, *cell) for cell in cells])
        peer = _mean([self.best(*cell)[0] for cell in cells])
        drawn = [
            self._drawn(self.squares[name][cell], self.squares[self.best(*cell)[1]][cell], place)
            for place, cell in enumerate(cells)
        ]
        low, high = torch.stack(drawn).log().mean(0).exp().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
        return Row(title, mine, peer, mine / peer, low, high)

    def rows(self, name: str) -> list[Row]:
        """Every cell of one contestant beside the envelope, by problem and number of evaluations."""
        return [
            self.row(name, f"{problem}, NFE {n}: {name} / {self.best(problem, n)[1]}", [(problem, n)])
            for problem in self.problems
            for n in self.evaluations
        ]

    @staticmethod
    def _drawn(mine: Tensor | None, theirs: Tensor | None, seed: int, draws: int = 200) -> Tensor:
        """Ratios of errors (draws,) over images drawn again with replacement, the same for both sides."""
        if mine is None or theirs is None:
            return torch.full((draws,), math.inf, dtype=torch.float64)
        rows = torch.randint(len(mine), (draws, len(mine)), generator=torch.Generator().manual_seed(seed))
        return (mine[rows].mean(1) / theirs[rows].mean(1)).sqrt().cpu()


def _mean(values: Sequence[float]) -> float:
    """Geometric mean."""
    return math.exp(math.fsum(math.log(max(value, 1e-300)) for value in values) / len(values))


def measure(
    problems: Sequence[Problem],
    contestants: Mapping[str, Contestant],
    peers: Mapping[str, Contestant],
    evaluations: Sequence[int] = NFE,
    watch: Watch = lambda done, total: None,
) -> Table:
    """Run every contestant and every peer on every problem; `watch(done, total)` is called now and then.

    Raises ValueError where there is no peer to compare with.
    """
    if not peers:
        raise ValueError("nothing to compare with: pip install diffusers")
    everyone = {**peers, **contestants}
    squares: dict[str, dict[tuple[str, int], Tensor | None]] = {name: {} for name in everyone}
    for number, problem in enumerate(problems):
        for place, (name, run) in enumerate(everyone.items()):
            watch(number * len(everyone) + place, len(problems) * len(everyone))
            for n in evaluations:
                x = run(problem, n)
                sound = x is not None and bool(x.isfinite().all())
                squares[name][problem.name, n] = problem.squares(x) if x is not None and sound else None
    return Table(tuple(problem.name for problem in problems), tuple(evaluations), squares, tuple(peers))
