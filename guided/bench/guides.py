"""`guided bench guides`: what guides draw, beside the conditional truth they aim at or are meant to sharpen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from guided.bench import judged
from guided.bench.presets import PRESETS, UNGUIDED, Entry, falling
from guided.bench.steered import Classes, Counting, Inverse, Problem
from guided.bench.table import Row, Watch
from guided.cond import Cond
from guided.guide import Guide
from guided.guide.contrast import Perturbed
from guided.sampling import sample, trajectory
from guided.solvers import Solver

TRUTH = "(the truth itself)"
DRAWS = 100
_COSTS = ("evaluations", "derivatives")


@dataclass(frozen=True, eq=False)
class Run:
    """What a guide drew on a problem, x (B, *) after every move, and what it cost; or why there is nothing.

    evaluations, derivatives: rows of networks evaluated, and differentiated through, an image. off: the largest
    distance of a number, at any level, from where the unguided conditional model had it; nan on a route of its own.
    """

    moves: Sequence[Tensor] = ()
    evaluations: float = math.nan
    derivatives: float = math.nan
    off: float = math.nan
    why: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """The run of every guide on every problem that it has something for, by (guide, problem)."""

    problems: tuple[Problem, ...]
    guides: tuple[str, ...]
    runs: Mapping[tuple[str, str], Run]

    def figures(self, guide: str, problem: Problem, rows: Tensor | None = None) -> dict[str, Tensor]:
        """What is measured of a run, (draws,) each, see `judged.figures`; nothing where there is no run."""
        run = self.runs.get((guide, problem.name), Run())
        if not run.moves:
            return {}
        cost = {name: torch.tensor([getattr(run, name)]) for name in ("off", *_COSTS)}
        return {**judged.figures(problem, run.moves[-1], rows), **cost}


def run(problem: Problem, entry: Entry, solver: Solver, steps: int, usual: Run | None = None) -> Run | None:
    """A guide on a problem, None where it has none for it; `usual` is the unguided model's run."""
    counter = Counting(problem.data.denoiser())
    seen = problem
    if isinstance(problem, Classes):
        seen = dataclasses.replace(problem, weak=Counting(problem.weak, counter.rows))
    guide = entry.make(seen)
    if guide is None:
        return None
    if any(isinstance(term, Perturbed) for term in (guide.terms if isinstance(guide, Guide) else (guide,))):
        return Run(why="needs a network with attention")
    path, step = entry.route(solver, steps)
    cond = Cond() if entry.blind else problem.cond
    try:
        found = trajectory(guide(counter), problem.x, path, cond, solver=step, noise=problem.noise)
        moves = [x for _, x, _ in found]
    except ValueError as error:
        return Run(why=str(error))
    if not bool(moves[-1].isfinite().all()):
        return Run(why="diverged: its numbers are not finite")
    there = usual.moves if usual is not None and entry.route is falling else []
    off = max((float((x - y).abs().max()) for x, y in zip(moves, there, strict=False)), default=math.nan)
    evaluations, derivatives = (count / len(problem.x) for count in counter.rows)
    return Run(moves, evaluations, derivatives, off)


def _truth(problem: Problem, solver: Solver, steps: int) -> Run:
    """As many draws of each class; or, given y, what the exact denoiser ends at, by the same steps."""
    if isinstance(problem, Classes):
        draw = torch.Generator().manual_seed(0)
        each = len(problem.x) // problem.count
        return Run([torch.cat([problem.data.sample(each, draw, label) for label in range(problem.count)])])
    return Run([sample(problem.exact, problem.x, falling(solver, steps)[0], solver=solver)])


def compare(
    problems: Sequence[Problem],
    own: Mapping[str, Entry],
    solver: Solver,
    steps: int,
    watch: Watch = lambda done, total: None,
) -> Table:
    """The bench's guides and the user's `own` on every problem; raises ValueError where one has none for any."""
    for name, entry in own.items():
        if all(entry.make(problem) is None for problem in problems):
            raise ValueError(f"{name}: it returned None for every problem, so there is nothing to measure")
    entries = {**PRESETS, **own}
    runs: dict[tuple[str, str], Run] = {}
    for number, problem in enumerate(problems):
        runs[TRUTH, problem.name] = _truth(problem, solver, steps)
        for place, (name, entry) in enumerate(entries.items()):
            watch(number * len(entries) + place, len(problems) * len(entries))
            found = run(problem, entry, solver, steps, runs.get((UNGUIDED, problem.name)))
            if found is not None:
                runs[name, problem.name] = found
    return Table(tuple(problems), (TRUTH, *entries), runs)


def rows(found: Table) -> list[Row]:
    """Every figure of every guide beside the unguided model's; math.nan where one of the two has none."""
    listed = []
    for problem in found.problems:
        n = len(problem.x) // (problem.count if isinstance(problem, Classes) else 1)
        again = torch.randint(n, (DRAWS, n), generator=torch.Generator().manual_seed(0))
        peer, peers = found.figures(UNGUIDED, problem), found.figures(UNGUIDED, problem, again)
        for guide in found.guides:
            if guide == TRUTH or (guide, problem.name) not in found.runs:
                continue
            mine, others = found.figures(guide, problem), found.figures(guide, problem, again)
            for figure in peer:
                row = _beside(mine[figure], others[figure], peer[figure], peers[figure]) if mine else [math.nan] * 5
                listed.append(Row(f"{problem.name}: {guide}: {figure}", *row))
    return listed


def _beside(mine: Tensor, others: Tensor, peer: Tensor, peers: Tensor) -> list[float]:
    """Ours, the peer's, their ratio and its 95 % interval over images drawn again, the same for both sides."""
    ratio = mine / peer if peer else mine * math.nan
    drawn = others / peers
    # Drawing again adds noise of its own to a distance: the interval is brought back to the ratio.
    ends = (drawn * ratio / drawn.mean()).quantile(torch.tensor([0.025, 0.975]).to(drawn))
    return [float(number) for number in (mine, peer, ratio, *ends)]


_CLASSES = {
    "accuracy": ("class %", 100.0, ".1f"),
    "distance": ("distance", 1.0, ".3f"),
    "bias": ("bias", 1.0, ".3f"),
    "variance": ("variance", 1.0, ".3f"),
    "beyond": ("beyond %", 100.0, ".2f"),
    "off": ("off", 1.0, ".1e"),
    "evaluations": ("NFE", 1.0, ".0f"),
    "derivatives": ("deriv.", 1.0, ".0f"),
}
_ABOUT_CLASSES = """\
{images} images, equally many of each class, {steps} steps of Karras' grid; each class starts from noise of exact mean
and covariance. The truth itself: independent draws, so what chance leaves. blind: the model is told no class.
early: the exact model of the data blurred by 0.3.
class %: images whose likeliest class, by the exact p(class | x0), is theirs. distance: sliced Wasserstein-2 to the
class itself, in its stds (32 directions, exact quantiles). bias: of the mean, in stds. variance: within classes, as a
share of the truth's. beyond %: numbers outside the middle 99.9 % of the data. off: largest distance of a number, at any
level, from the unguided path. NFE, deriv.: network rows evaluated, and differentiated through, an image."""
_ABOUT_MEASURED = """\
Observations y = A x0 + 0.2 n: error of the mean / covariance of x0 given y, as shares of the exact posterior's norms.
The truth itself: the exact E[x0 | x, y] as denoiser, by the same steps. ancestral: four times as many steps, by Euler.
repaint: every 5 steps back up, 9 times, by Euler."""


def text(found: Table, steps: int) -> str:
    """The tables for a person, at most 120 columns wide."""
    drawn = [problem for problem in found.problems if isinstance(problem, Classes)]
    measured = [problem for problem in found.problems if isinstance(problem, Inverse)]
    lines = [_ABOUT_CLASSES.format(images=len(drawn[0].x), steps=steps)] if drawn else []
    for problem in drawn:
        lines += ["", f"{problem.name:36}" + "".join(f"{head:>10}" for head, _, _ in _CLASSES.values())]
        lines += [line for guide in found.guides for line in _class_line(found, guide, problem)]
    return "\n".join([*lines, *_measured_lines(found, measured)])


def _class_line(found: Table, guide: str, problem: Problem) -> list[str]:
    if (guide, problem.name) not in found.runs:
        return []
    figures = found.figures(guide, problem)
    cells = [_cell(float(figures[name]) * factor, form, 10) for name, (_, factor, form) in _CLASSES.items() if figures]
    return [f"{guide:36.36}" + ("".join(cells).rstrip() or f"  {found.runs[guide, problem.name].why:.80}")]


def _cell(number: float, form: str, width: int) -> str:
    shown = "" if math.isnan(number) else f"{number:{form}}"
    return f"{shown if len(shown) < width else f'{number:.0e}':>{width}}"


def _measured_lines(found: Table, problems: Sequence[Problem]) -> list[str]:
    if not problems:
        return []
    lines = ["", _ABOUT_MEASURED, ""]
    priors, operators = zip(*(problem.name.split(", ") for problem in problems), strict=True)
    lines.append(" " * 24 + "".join(f"{prior:>14}" for prior in priors))
    lines.append(" " * 24 + "".join(f"{operator:>14}" for operator in operators) + "  NFE deriv.")
    for guide in found.guides:
        runs = [found.runs[guide, problem.name] for problem in problems if (guide, problem.name) in found.runs]
        listed = [found.figures(guide, problem) for problem in problems]
        cells = [
            f"{_cell(float(figures['mean']), '.3f', 6)} /{_cell(float(figures['covariance']), '.3f', 6)}"
            if figures
            else f"{'-':>14}"
            for figures in listed
        ]
        if any(listed):
            costs = (fmean(float(figures[name]) for figures in listed if figures) for name in _COSTS)
            cells += [_cell(cost, ".0f", width) for cost, width in zip(costs, (5, 7), strict=True)]
            lines.append(f"{guide:24.24}" + "".join(cells).rstrip())
        elif runs:
            lines.append(f"{guide:24.24}  {runs[0].why:.90}")
    return lines
