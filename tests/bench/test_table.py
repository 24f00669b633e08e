"""Errors beside an envelope of peers, and what `guided bench solvers` prints."""

from __future__ import annotations

import json
import math
import pathlib
import re

import pytest
import torch
from torch import Tensor

from guided import path, solvers
from guided.bench import peers, problems, table
from guided.bench import solvers as judging
from guided.bench.problems import Problem
from guided.cli import main
from guided.sampling import sample


def off(by: float, unless: int | None = None) -> table.Contestant:
    """A contestant whose root mean square error is `by`, in units of the data's std; it breaks at n = unless."""

    def run(problem: Problem, n: int) -> Tensor | None:
        return None if n == unless else problem.truth + by * problem.data.std

    return run


def test_ratios_are_to_the_best_peer_of_each_cell_and_what_breaks_is_no_peer() -> None:
    drawn = problems.standard(8)[:2]
    found = table.measure(drawn, {"ours": off(0.3)}, {"a": off(0.2), "b": off(0.1, unless=8)}, (5, 8))
    first, second = found.problems
    assert found.best(first, 5) == (pytest.approx(0.1), "b") and found.best(first, 8) == (pytest.approx(0.2), "a")
    assert found.ratio("ours", second, 5) == pytest.approx(3.0)
    assert found.mean("ours") == pytest.approx(math.sqrt(3.0 * 1.5))
    assert found.mean("ours", 8) == pytest.approx(1.5) and found.error("b", first, 8) == math.inf
    rows = found.rows("ours")
    assert len(rows) == 4 and rows[0].name == f"{first}, NFE 5: ours / b"
    for row in rows:
        assert row.ratio == pytest.approx(row.ours / row.peer) and row.low <= row.ratio * 1.0001 <= row.high * 1.0002
    assert found.row("ours", "all", [(first, 5), (first, 8)]).ratio == pytest.approx(math.sqrt(4.5))


def test_intervals_hold_the_ratio_of_unequal_images() -> None:
    drawn = problems.standard(64)[:1]
    uneven = torch.linspace(0, 0.2, 64, dtype=torch.float64)[:, None]
    run: table.Contestant = lambda problem, n: problem.truth + uneven * problem.data.std  # noqa: E731
    row = table.measure(drawn, {"ours": run}, {"a": off(0.1)}, (5,)).rows("ours")[0]
    assert row.low < row.ratio < row.high and 0.05 < row.high - row.low < 0.4


def test_a_peer_is_diffusers_own_arithmetic_on_our_problem() -> None:
    pytest.importorskip("diffusers")
    known = {peer.name: peer for peer in peers.peers()}
    assert {"LMS karras", "DPM++2M linspace", "DPM++3M lu", "DEIS3 trailing", "UniPC3 karras"} <= set(known)
    problem = problems.standard(16)[2]
    route = path.from_alphas(problem.alphas_bar, 8)
    ours = sample(problem.denoise, problem.x, route, problem.cond, solver="ddim")
    ddim = known["DDIM trailing"](problem, 8)
    assert ddim is not None and float((ddim - ours).abs().max()) < 1e-3 * float(ours.abs().max())
    # The ends agree with other hands' numbers: Karras' grid with LMS solves the ring to about a percent in 15 steps.
    ring = problems.standard(32)[0]
    lms = known["LMS karras"](ring, 15)
    assert lms is not None and 0.002 < float(ring.squares(lms).mean().sqrt()) < 0.03
    heun = known["Heun karras"](ring, 50)
    assert heun is not None and float(ring.squares(heun).mean().sqrt()) < 0.03


def test_a_scheduler_that_runs_off_its_list_is_left_out() -> None:
    pytest.importorskip("diffusers")
    cosine = problems.standard(4)[5]
    broken = next(peer for peer in peers.peers() if peer.name == "DPM++2M karras")
    assert broken(cosine, 10) is None


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("eab3", 3)])
def test_orders_are_measured(name: str, order: int) -> None:
    assert abs(judging.order(solvers.by_name(name)) - order) < 0.2


def test_bench_solvers_prints_a_table_and_only_rows_as_json(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    (tmp_path / "my_steps.py").write_text("from guided.solvers import DPMpp2S\nslow = DPMpp2S()\nno = 3\n")
    monkeypatch.chdir(tmp_path)
    some = [peer for peer in peers.peers() if peer.name in ("LMS karras", "DDIM trailing")]
    monkeypatch.setattr("guided.bench.solvers.peers", lambda: some)
    short = ["bench", "solvers", "--images", "4", "--nfe", "5,8", "--solver", "my_steps:slow"]
    assert main(short) == 0
    shown = capsys.readouterr().out
    assert (
        "my_steps:slow" in shown
        and re.search(r"default .*\d\.\d\d", shown)
        and "order" in shown
        and "calibrated" in shown
    )
    assert main([*short, "--random", "2", "--seed", "7", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    # Two problems at two counts, then a mean for the rule, for calibration and for the solver.
    assert len(rows) == 2 * 2 + 3 and all(set(row) == {"name", "ours", "peer", "ratio", "low", "high"} for row in rows)
    assert main(["bench", "solvers", "--solver", "my_steps:no"]) == 2
    assert "evaluations" in capsys.readouterr().err
    assert main(["bench", "solvers", "--solver", "my_steps:gone"]) == 2 == main(["bench", "solvers", "--nfe", "5,x"])
