"""What the bench says of guides whose results are known in closed form, and what `guided bench guides` prints."""

from __future__ import annotations

import functools
import json
import math
import pathlib

import pytest
import torch
from torch import Tensor

from guided import path
from guided.bench import guides, judged, presets, steered
from guided.bench.presets import PRESETS, UNGUIDED, Entry
from guided.bench.steered import BLUR, F64, HI, LO, Classes, Inverse
from guided.cli import main
from guided.guide import Guide, Term, between, cfg, cfgpp, mmps, pigdm
from guided.operators import Mask
from guided.oracle import GaussianMixture
from guided.solvers import by_name

STEPS, EAB3 = 48, by_name("eab3")
BAYES = "blind + exact classifier of x"


@functools.cache
def problems() -> tuple[list[Classes], list[Inverse]]:
    return steered.standard(256)


def found(
    problem: Classes | Inverse, guide: Guide | Term | Entry, solver: str = "eab3", steps: int = STEPS
) -> guides.Run:
    """The run of a guide, off the unguided model's."""
    entry = guide if isinstance(guide, Entry) else Entry(lambda problem: guide)
    usual = guides.run(problem, PRESETS[UNGUIDED], by_name(solver), steps)
    run = guides.run(problem, entry, by_name(solver), steps, usual)
    assert run is not None
    return run


def figures(problem: Classes | Inverse, guide: Guide | Term | Entry) -> dict[str, float]:
    return {name: float(value) for name, value in judged.figures(problem, found(problem, guide).moves[-1]).items()}


def exact(problem: Classes, each: int) -> Tensor:
    """Independent draws of each class."""
    draw = torch.Generator().manual_seed(4)
    return torch.cat([problem.data.sample(each, draw, label) for label in range(problem.count)])


@pytest.mark.parametrize("w", [1.0, 2.0, 4.0])
def test_cfg_narrows_a_gaussian_within_another_as_the_formula_has_it(w: float) -> None:
    """N(0, s^2) from the null N(0, S^2): the ODE is linear, and the std at its end s (s / S)^(w - 1)."""
    s, S = 0.4, 0.5
    # The first class is so rare that the null is the second one alone.
    data = GaussianMixture(
        torch.zeros(2, *steered.SHAPE, dtype=F64), torch.tensor([s, S]), torch.tensor([1e-12, 1]), [0, 1]
    )
    problem = steered.classes("one within another", data, 64)
    x = found(problem, cfg(w), steps=64).moves[-1]
    spread = x.reshape(2, -1).square().mean(1)
    assert torch.allclose(spread, torch.tensor([s * s * (s / S) ** (2 * w - 2), S * S], dtype=F64), rtol=5e-3)
    told = float(judged.figures(problem, x)["variance"])
    assert told == pytest.approx(((s / S) ** (2 * w - 2) + 1) / 2, rel=5e-3)


def test_autoguidance_narrows_each_gaussian_as_the_formula_has_it() -> None:
    problem = problems()[0][1]
    stds = problem.data.stds.square()
    for w in (1.0, 2.0, 3.0):
        wanted = (stds / (stds + BLUR**2)) ** (w - 1)
        told = figures(problem, Entry(lambda problem, w=w: between(problem.weak, w)))
        assert told["variance"] == pytest.approx(float(wanted.mean()), rel=0.02)
        assert told["bias"] < 0.02


def test_the_conditional_model_draws_the_truth() -> None:
    for problem in problems()[0]:
        many = exact(problem, 5000)
        label = torch.arange(problem.count).repeat_interleave(5000)
        truth = float((problem.classifier(many).argmax(1) == label).double().mean())
        told = figures(problem, cfg(1))
        n = len(problem.x)
        assert abs(told["accuracy"] - truth) < 3 * math.sqrt(truth * (1 - truth) / n)
        assert told["bias"] < 3 / math.sqrt(n / problem.count) and abs(told["variance"] - 1) < 0.05
        assert told["distance"] < float(judged.figures(problem, exact(problem, n // problem.count))["distance"])


def test_more_guidance_is_surer_of_the_class_and_farther_from_it() -> None:
    problem = problems()[0][0]
    told = [figures(problem, cfg(w)) for w in (0, 1, 3)]
    assert told[0]["accuracy"] < 0.4 < 0.8 < told[1]["accuracy"] < told[2]["accuracy"]
    assert told[1]["distance"] < 0.5 * told[2]["distance"] and told[2]["variance"] < 0.95
    assert told[1]["distance"] < 0.5 * told[0]["distance"] and told[0]["variance"] > 1.2


def test_bayes_rule_is_the_conditional_model_along_the_whole_path() -> None:
    for problem in problems()[0]:
        run, usual = found(problem, PRESETS[BAYES]), found(problem, cfg(1))
        assert run.off < 1e-5 and torch.allclose(run.moves[-1], usual.moves[-1], atol=1e-5)
        assert found(problem, PRESETS["blind + 3 exact classifier of x"]).off > 0.1
        assert usual.off == 0


def test_observations_of_independent_gaussian_numbers_have_the_posteriors_moments() -> None:
    for problem in problems()[1][:3]:
        for term in (pigdm(problem.operator, problem.y, 0.2, 0.36), mmps(problem.operator, problem.y, 0.2, 16)):
            told = figures(problem, term)
            assert told["mean"] < 0.05 and told["covariance"] < 0.15
        told = figures(problem, cfg(1))
        assert told["mean"] > 0.3 and told["covariance"] > 0.3
        # The truth, from precisions: prior, measurement.
        A = problem.matrix
        precision = torch.eye(16, dtype=F64) / 0.36 + A.T @ A / 0.04
        cov = torch.linalg.inv(precision)
        mean = cov @ (problem.data.means[0] / 0.36 + A.T @ problem.y.flatten() / 0.04)
        torch.testing.assert_close(problem.truth.cov[0], cov, rtol=0, atol=1e-9)
        torch.testing.assert_close(problem.truth.mean[0], mean, rtol=0, atol=1e-6)


def test_moments_of_a_posterior_are_judged_as_shares() -> None:
    problem = problems()[1][0]
    mean, cov = (part[0] for part in problem.truth)
    root = torch.linalg.cholesky(cov)
    x = mean + steered.matched(256, 3).flatten(1) @ root.T
    told = judged.figures(problem, x)
    assert float(told["mean"]) < 1e-9 and float(told["covariance"]) < 1e-9
    told = judged.figures(problem, mean + 1.1 * (x - mean) + 0.3 * mean)
    assert float(told["mean"]) == pytest.approx(0.3) and float(told["covariance"]) == pytest.approx(0.21)


def test_images_of_classes_are_judged_as_was_derived_by_hand() -> None:
    problem = problems()[0][1]
    means, stds = problem.data.means, problem.data.stds
    white = steered.matched(64, 3, 4).reshape(4, 64, 16)
    there = means[:, None] + 1.5 * stds[:, None, None] * white
    told = judged.figures(problem, there.reshape(-1, *steered.SHAPE))
    assert float(told["variance"]) == pytest.approx(2.25) and float(told["bias"]) == pytest.approx(0, abs=1e-9)
    assert float(told["distance"]) == pytest.approx(0.5, rel=0.15), "of two widths, W2 is the difference"
    away = there + 1e3 * stds[:, None, None]
    told = judged.figures(problem, away.reshape(-1, *steered.SHAPE))
    assert float(told["bias"]) == pytest.approx(1e3) and float(told["beyond"]) == 1.0
    two = torch.tensor([1.0, -1.0], dtype=F64)[:, None, None, None].expand(2, *steered.SHAPE)
    apart = steered.classes("far apart", GaussianMixture(two, torch.full((2,), 0.1), torch.ones(2), [0, 1]), 128)
    drawn = two.repeat_interleave(64, 0)
    drawn = torch.where(torch.arange(128)[:, None, None, None] < 96, drawn, -drawn)  # half of the second class
    assert float(judged.figures(apart, drawn)["accuracy"]) == 0.75


def test_quantiles_are_where_the_mixture_has_that_much_below() -> None:
    data, levels = problems()[0][0].data, torch.tensor([0.0005, 0.3, 0.9995], dtype=F64)
    way = torch.nn.functional.normalize(steered.draw(16, 2, seed=1), dim=0)
    for label in (None, 2):
        chosen = torch.ones(12, dtype=torch.bool) if label is None else torch.arange(12) % 4 == label
        weights = (1 + torch.arange(12) % 3).double()[chosen]
        told = judged.quantiles(data, way, levels, label)
        z = (told[..., None] - (data.means[chosen] @ way).T) / data.stds[chosen]
        below = (0.5 * (1 + torch.erf(z / math.sqrt(2))) * weights).sum(-1) / weights.sum()
        assert torch.allclose(below, levels[:, None].expand(3, 2), atol=1e-9)
    share = float(judged.figures(problems()[0][0], exact(problems()[0][0], 1024))["beyond"])
    assert share == pytest.approx(0.001, abs=5e-4)


def test_evaluations_are_counted_an_image() -> None:
    problem, measured = problems()[0][0], problems()[1][0]
    grid = path.karras(10, LO, HI)
    inside = int(((grid[:-1] > 0.2) & (grid[:-1] <= 2)).sum())
    costs = {
        10: (problem, cfg(1), "eab3"),
        20: (problem, cfg(3), "eab3"),
        10 + inside: (problem, cfg(3).during(0.2, 2), "eab3"),
        19: (problem, cfg(1), "heun"),
    }
    for wanted, (where, guide, solver) in costs.items():
        run = found(where, guide, solver, 10)
        assert (run.evaluations, run.derivatives) == (wanted, 0)
    weak = found(problem, PRESETS["between(early, 2)"], steps=10)
    assert (weak.evaluations, weak.derivatives) == (20, 0)
    known = Mask(torch.ones(4, 4, dtype=torch.bool))
    pulled = found(measured, pigdm(known, measured.y, 0.2, 0.36), steps=10)
    assert (pulled.evaluations, pulled.derivatives) == (10, 10)
    # Where A = I and the data one Gaussian, one step solves the system of mmps: a derivative, and one of the push.
    asked = found(measured, mmps(known, measured.y, 0.2, 1), steps=10)
    assert (asked.evaluations, asked.derivatives) == (10, 20)


def test_what_a_guide_refuses_or_cannot_have_is_said_in_its_row() -> None:
    problem = problems()[0][0]
    assert "one evaluation a step" in found(problem, cfgpp(0.6), "heun", 4).why
    assert found(problem, PRESETS["perturbed('identity')"], steps=4).why == "needs a network with attention"
    assert "finite" in found(problem, cfg(1e300), steps=4).why


def test_a_wrong_guide_of_the_users_is_told_apart_and_every_row_is_a_ratio_within_its_interval() -> None:
    def wrong(problem: Classes | Inverse) -> Guide | Term:
        if isinstance(problem, Inverse):
            return pigdm(problem.operator, -problem.y, problem.sigma_y, problem.var)
        return cfg(-1)

    listed = [problems()[0][1], problems()[1][0]]
    table = guides.compare(listed, {"wrong": Entry(wrong)}, EAB3, 16)
    rows = {row.name: row for row in guides.rows(table)}
    drawn, measured = (problem.name for problem in listed)
    assert rows[f"{drawn}: wrong: distance"].low > 3 and rows[f"{drawn}: wrong: accuracy"].high < 0.2
    assert rows[f"{drawn}: {BAYES}: distance"].ratio == pytest.approx(1)
    assert rows[f"{measured}: wrong: mean"].ratio > 1 > 0.1 > rows[f"{measured}: pigdm: mean"].high
    assert rows[f"{drawn}: cfg(3): evaluations"].ratio == 2
    assert math.isnan(rows[f"{drawn}: perturbed('identity'): accuracy"].ours)
    for row in rows.values():
        if math.isfinite(row.low):
            assert row.ratio == pytest.approx(row.ours / row.peer)
            assert row.low <= row.ratio * 1.0001 and row.ratio <= row.high * 1.0001, row
    wide = rows[f"{drawn}: cfg(3): distance"]
    assert 0.02 < (wide.high - wide.low) / wide.ratio < 1


MINE = """
from guided.bench.steered import Inverse
from guided.guide import cfg, pigdm
two, three, LIST = cfg(2), 3, {"a": cfg(2), "b": lambda p: None if isinstance(p, Inverse) else cfg(4)}
def seen(p): return pigdm(p.operator, p.y, p.sigma_y, p.var) if isinstance(p, Inverse) else None
def careless(p): return pigdm(p.operator, p.y, p.sigma_y, p.var)
def nothing(p): return None
def number(p): return 5
"""


@pytest.fixture
def mine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_guides.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    few = {name: PRESETS[name] for name in (UNGUIDED, "cfg(3)", "perturbed('identity')", "pigdm")}
    monkeypatch.setattr(guides, "PRESETS", few)


def test_bench_guides_prints_tables_and_only_rows_as_json(mine: None, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["bench", "guides", "--images", "128", "--steps", "6"]
    own = [
        "cfg(2, negative='1') >> rescale(0.7)",
        "between(early, 2)",
        *(f"my_guides:{n}" for n in ("two", "LIST", "seen")),
    ]
    assert main([*short, *(word for text in own for word in ("--guide", text))]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 120
    assert "needs a network with attention" in shown and "exact posterior" in shown and "128 images" in shown
    lines = [line for line in shown.splitlines() if "my_guides:" in line]
    of_classes = ["my_guides:two", "a (my_guides:LIST)", "b (my_guides:LIST)"]
    assert [line.split("  ")[0] for line in lines] == [*of_classes, *of_classes, "my_guides:seen"]
    assert lines[0].split()[1:] == lines[1].split()[2:] != lines[2].split()[2:]
    pigdms = [line.split()[1:] for line in shown.splitlines() if line.startswith(("pigdm", "my_guides:seen"))]
    assert pigdms[0] == pigdms[1]
    assert main([*short, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert len(rows) == 2 * 3 * 8 + 6 * 2 * 5
    assert all(set(row) == {"name", "ours", "peer", "ratio", "low", "high"} for row in rows)
    assert {row["ours"] for row in rows if "perturbed" in row["name"]} == {None}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("my_guides:gone", "no attribute 'gone'"),
        ("no_such_module:guide", "No module named"),
        ("my_guides:three", "expected a Guide or Term"),
        ("my_guides:number", "it returned 5"),
        ("my_guides:nothing", "None for every problem"),
        ("my_guides:careless", "let it return None"),
        ("cfg(2", "never closed"),
        ("cfg(2, negative='dog')", "a class from 0 to 3"),
        ("cfg", "expected an expression"),
    ],
)
def test_what_is_no_guide_is_refused(mine: None, capsys: pytest.CaptureFixture[str], given: str, said: str) -> None:
    assert main(["bench", "guides", "--images", "128", "--steps", "4", "--guide", given]) == 2
    assert said in capsys.readouterr().err


def test_too_few_images_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "guides", "--images", "64"]) == 2
    assert "at least 128" in capsys.readouterr().err


def test_the_list_is_one_of_names_like_a_users() -> None:
    assert list(presets.contestants("guided.bench.presets:PRESETS")) == [
        f"{name} (guided.bench.presets:PRESETS)" for name in PRESETS
    ]
