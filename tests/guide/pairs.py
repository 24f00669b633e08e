"""Every pair of methods under every solver: which do not go together, and what the error says fits.

`python -m tests.guide.pairs [SOLVER ...]` prints the table of exceptions; it is made by running, not written down.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from guided import path, solvers
from guided.noise import Noise
from guided.sampling import sample
from tests.guide.methods import METHODS, free_dom, joined
from tests.guide.problem import F64, Net, batch

GRID = torch.tensor([4.0, 1.3, 0.0], dtype=F64)
PAIRS = list(itertools.combinations([name for name in METHODS if name not in ("interval", "map", "function")], 2))
"""Of all methods, less those that differ from cfg in their weight alone."""


class Refused(NamedTuple):
    """Two methods that a solver cannot run, and the error."""

    pair: tuple[str, str]
    solver: str
    error: Exception


def run(pair: tuple[str, str], solver: str) -> Tensor:
    """One picture of both methods at once; Euler's way is noisy, with time travel where a method has it."""
    methods = [METHODS[name] for name in pair]
    noisy = free_dom if free_dom in [method.route for method in methods] else path.ancestral
    route = noisy(GRID) if solver == "euler" else GRID
    x, cond = batch(1)
    return sample(joined(*methods)(Net()), x, route, cond, solver=solver, noise=Noise([0]))


def refused(pairs: Iterable[tuple[str, str]], names: Iterable[str]) -> list[Refused]:
    """The exceptions among these pairs and solvers; AssertionError for a result that is no picture."""
    found = []
    for pair, name in itertools.product(pairs, list(names)):
        try:
            assert run(pair, name).isfinite().all(), (pair, name)
        except (TypeError, ValueError, RuntimeError) as error:
            found.append(Refused(pair, name, error))
    return found


def table(found: list[Refused], total: int) -> str:
    """The exceptions by their cause: how many, under which solvers, with which methods, and the error."""
    causes: dict[str, list[Refused]] = {}
    for each in found:
        causes.setdefault(f"{type(each.error).__name__}: {each.error}", []).append(each)
    lines = [f"{len(found)} exceptions of {total} runs ({len(found) / total:.2%})"]
    for cause, each in causes.items():
        names = [name for refusal in each for name in refusal.pair]
        common = [name for name in METHODS if names.count(name) == max(map(names.count, names))]
        lines.append(f"{len(each):5d}  {', '.join(common)}  under  {', '.join(sorted({e.solver for e in each}))}")
        lines.append(f"       {cause}")
    return "\n".join(lines)


if __name__ == "__main__":
    asked = sys.argv[1:] or list(solvers.NAMES)
    print(table(refused(PAIRS, asked), len(PAIRS) * len(asked)))
