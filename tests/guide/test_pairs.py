"""Any two methods together: what they make of D, and that every solver runs them."""

from __future__ import annotations

import pytest
import torch

from guided import solvers
from tests.guide.methods import METHODS, formula, joined
from tests.guide.pairs import PAIRS, refused, table
from tests.guide.problem import F64, At, Net, batch

KINDS = {"one step": "euler", "two evaluations": "heun", "data and corrector": "unipc2", "noise": "eab3"}
FIRST = list(dict.fromkeys(first for first, _ in PAIRS))
AT = At(Net(), batch(1)[0], 1.3, 0.8, batch(1)[1])


@pytest.mark.parametrize("first", FIRST)
def test_two_methods_are_the_formulas_of_both_in_the_canonical_order(first: str) -> None:
    s, t = torch.tensor(1.3, dtype=F64), torch.tensor(0.8, dtype=F64)
    for pair in PAIRS:
        if pair[0] == first:
            methods = [METHODS[name] for name in pair]
            found = joined(*methods)(AT.net).evaluate(AT.x, s, AT.cond, t, None)[0]
            assert torch.allclose(found, formula(AT, *methods), rtol=1e-8, atol=1e-8), pair


def check(first: str, names: list[str]) -> None:
    """All pairs that begin with this method run; but those that want the next level, with several evaluations."""
    mine = [pair for pair in PAIRS if pair[0] == first]
    found = refused(mine, names)
    several = [name for name in names if solvers.by_name(name).evaluations > 1]
    wanted = {(pair, name) for pair in mine for name in several if any(METHODS[m].next for m in pair)}
    assert {(each.pair, each.solver) for each in found} == wanted
    for each in found:
        assert isinstance(each.error, ValueError) and "take euler or a multistep solver" in str(each.error)


@pytest.mark.parametrize("first", FIRST)
def test_every_pair_runs_under_four_kinds_of_solver(first: str) -> None:
    check(first, list(KINDS.values()))


@pytest.mark.slow
@pytest.mark.parametrize("first", FIRST)
def test_every_pair_runs_under_every_solver(first: str) -> None:
    check(first, [name for name in solvers.NAMES if name not in KINDS.values()])


def test_the_table_of_exceptions_is_made_by_running() -> None:
    few = [pair for pair in PAIRS if pair[0] in ("cfg++", "cfg") and pair[1] in ("cfg++", "pag")]
    text = table(refused(few, ["euler", "heun"]), 6)
    assert text.startswith("2 exceptions of 6 runs (33.33%)\n    2  cfg++  under  heun\n       ValueError: cfgpp is")
    next_ones = sum(any(METHODS[name].next for name in pair) for pair in PAIRS)
    several = sum(solver.evaluations > 1 for solver in solvers.NAMES.values())
    assert next_ones * several / (len(PAIRS) * len(solvers.NAMES)) <= 0.05
