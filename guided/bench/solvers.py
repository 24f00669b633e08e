"""`guided bench solvers`: orders of convergence and error at equal evaluations, of any solver."""

from __future__ import annotations

import functools
import importlib
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from guided.bench import table
from guided.bench.peers import peers
from guided.bench.problems import Problem, integrate, problem, scaled_linear, scattered
from guided.bench.table import Contestant, Row, Table, Watch
from guided.sampling import sample
from guided.solvers import Solver, by_name

DEFAULT = "default"
"""The name of our one rule among the contestants."""
_END = 0.3


def named(text: str) -> Any:
    """What `module:name` names, modules of the current folder included; raises ValueError where there is no such."""
    module, _, name = text.partition(":")
    if not module or not name:
        raise ValueError(f"expected module:name, got {text!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{text}: {error}") from None
    return found


def solver(text: str) -> Solver:
    """A solver by its name, or the user's own by module:name; raises ValueError for what is no solver."""
    found = by_name(text) if ":" not in text else named(text)
    if not callable(found) or not isinstance(getattr(found, "evaluations", None), int):
        raise ValueError(f"{text}: a solver is a callable with .evaluations, see guided.solvers; got {found!r:.80}")
    step: Solver = found
    return step


def order(step: Solver, coarse: int = 64) -> float:
    """The order of convergence, from the errors on `coarse` and twice as many steps; math.nan where it fails.

    The path ends well above 0, where the truth is known to 1e-9. A multistep solver starts by itself; the moves in
    ln sigma grow from next to nothing, so that its start does not hide its order.
    """
    problem, truth = _smooth()
    errors = []
    for n in (coarse, 2 * coarse):
        t = torch.linspace(0, 1, n + 1, dtype=torch.float64)
        path = problem.hi * (_END / problem.hi) ** t.square()
        found = sample(problem.denoise, problem.x, path, problem.cond, solver=step)
        errors.append(float((found - truth).square().mean().sqrt()))
    return math.log2(errors[0] / errors[1]) if errors[1] > 0 and math.isfinite(errors[0]) else math.nan


@functools.cache
def _smooth() -> tuple[Problem, Tensor]:
    """A problem without narrow places, and where its ODE stands at _END."""
    smooth = problem("smooth", scattered(0, 0.5), 1.0, scaled_linear(), 0, images=32)
    return smooth, integrate(smooth.denoise, smooth.x, smooth.hi, smooth.cond, lo=_END)


def compare(
    problems: Sequence[Problem], solvers: Mapping[str, Solver], evaluations: Sequence[int], watch: Watch
) -> Table:
    """Our rule, calibration, and each solver on Karras' grid, beside every peer; ValueError without diffusers."""
    contestants: dict[str, Contestant] = {DEFAULT: table.ours, "calibrated": table.calibrated}
    contestants |= {name: table.on_karras(step) for name, step in solvers.items()}
    return table.measure(problems, contestants, {peer.name: peer for peer in peers()}, evaluations, watch)


def rows(found: Table) -> list[Row]:
    """Every cell of our rule, then one row a contestant and group of problems: the geometric mean."""
    listed = found.rows(DEFAULT)
    for name in found.contestants:
        for title, problems in groups(found):
            cells = [(problem, n) for problem in problems for n in found.evaluations]
            listed.append(found.row(name, f"{title}: {name} / envelope", cells))
    return listed


def groups(found: Table) -> list[tuple[str, list[str]]]:
    """The problems on Stable Diffusion's schedule, and those on the cosine schedule, where there are any."""
    cosine = [name for name in found.problems if "cosine" in name]
    rest = [name for name in found.problems if name not in cosine]
    return [(title, names) for title, names in (("SD range", rest), ("cosine", cosine)) if names]


def text(found: Table, orders: Mapping[str, float], most: int = 8) -> str:
    """The table for a person: ratio to the envelope by evaluations, our cells, and the best fixed peers."""
    (_, main), *others = groups(found)
    heads = "".join(f"{n:>7}" for n in found.evaluations)
    lines = ["Error as a ratio to the best that any peer reached in hindsight (geometric mean over problems)", ""]
    lines.append(f"{'':26}order{heads}    all" + "".join(f"{title:>8}" for title, _ in others))
    ranked = sorted(found.peers, key=lambda name: found.mean(name, problems=main))[:most]
    for name in (*found.contestants, *ranked):
        cells = "".join(f"{found.mean(name, n, main):7.2f}" for n in found.evaluations)
        rest = "".join(f"{found.mean(name, problems=names):8.2f}" for _, names in others)
        known = f"{orders[name]:5.2f}" if name in orders else "     "
        lines.append(f"{name:26}{known}{cells}{found.mean(name, problems=main):7.2f}{rest}")
    lines += ["", f"{'each cell of the default':31}{heads}"]
    for problem_ in found.problems:
        cells = "".join(f"{found.ratio(DEFAULT, problem_, n):7.2f}" for n in found.evaluations)
        lines.append(f"{problem_:31}{cells}")
    lines += ["", "the envelope: least root mean square error / std of the data, and whose"]
    for problem_ in found.problems:
        bests = [f"{n}: {found.best(problem_, n)[0]:.1e} {found.best(problem_, n)[1]}" for n in found.evaluations]
        lines.append(f"{problem_:31}" + "; ".join(bests))
    return "\n".join(lines)
