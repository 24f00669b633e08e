"""Calibration on a mixture in closed form: better on other noise than it was found on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from guided import path
from guided.bench.problems import Problem, problem, scaled_linear, spectral
from guided.cond import Cond
from guided.model import card as cards
from guided.sampling import sample
from guided.solvers import Fitted
from guided.tune import calibrate, fitting, schedule
from guided.tune.calibration import FEWEST, Found


def mixture(seed: int, images: int = 64) -> Problem:
    return problem("spectrum", spectral(0), 3.0, scaled_linear(), seed, images)


def found(n: int, **options: int) -> Found:
    p = mixture(1)
    return calibrate(p.denoise, p.x, p.lo, p.hi, n, p.cond, w=p.w, batch=64, **options)


def error(p: Problem, levels: Tensor, solver: Fitted | str) -> float:
    return float(p.squares(sample(p.denoise, p.x, levels, p.cond, solver=solver)).mean().sqrt())


@pytest.mark.parametrize(("n", "of_default", "of_karras"), [(5, 0.95, 0.6), (10, 0.8, 0.3)])
def test_better_on_other_noise_than_it_was_found_on(n: int, of_default: float, of_karras: float) -> None:
    p, best = mixture(2, images=256), found(n)
    default, grid = path.default(n, p.lo, p.hi, p.w), path.karras(n, p.lo, p.hi)
    assert len(best.levels) == n + 1 and bool((best.levels.diff() < 0).all()) and float(best.levels[-1]) == 0
    mine = error(p, best.levels, best.solver)
    assert mine < of_default * error(p, default, "adams")
    assert mine < of_karras * error(p, grid, "dpmpp_2m")


def test_its_errors_are_distances_to_the_truth() -> None:
    """The reference is long enough that the errors are those against the exact solution."""
    p, best = mixture(1), found(8)
    unit = p.data.std
    assert best.error / unit == pytest.approx(error(p, best.levels, best.solver), rel=0.05)
    assert best.default / unit == pytest.approx(error(p, path.default(8, p.lo, p.hi, p.w), "adams"), rel=0.05)
    grid = path.karras(8, p.lo, p.hi)
    assert best.karras / unit == pytest.approx(min(error(p, grid, "adams"), error(p, grid, "dpmpp_2m")), rel=0.05)


def test_more_trials_are_never_worse_and_no_more_are_made_than_asked() -> None:
    p, calls = mixture(1, images=8), 0

    def counted(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        nonlocal calls
        calls += 1
        return p.denoise(x, sigma, cond)

    errors = []
    for trials in (FEWEST, 20, 40):
        calls = 0
        told: list[tuple[int, int]] = []
        best = calibrate(
            counted, p.x, p.lo, p.hi, 6, p.cond, w=p.w, trials=trials, watch=lambda *done, told=told: told.append(done)
        )
        assert calls == 64 + 6 * trials
        assert told[-1] == (calls, calls)
        errors.append(best.error)
        assert best.error <= min(best.default, best.karras)
    assert errors[0] >= errors[1] >= errors[2] and errors[2] < errors[0]


def test_batches_make_no_difference() -> None:
    p = mixture(1, images=12)
    first, second = (
        calibrate(p.denoise, p.x, p.lo, p.hi, 5, p.cond, w=p.w, trials=FEWEST + 4, batch=batch) for batch in (12, 5)
    )
    torch.testing.assert_close(first.levels, second.levels)
    assert first.error == pytest.approx(second.error)


def test_what_makes_no_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="steps: expected at least 2"):
        found(1)
    with pytest.raises(ValueError, match=f"trials: expected at least {FEWEST}, got 3"):
        found(5, trials=3)


def test_the_cards_entry_is_plain() -> None:
    best = found(5, trials=FEWEST)
    entry = best.entry()
    assert entry["levels"] == best.levels.tolist()
    assert (
        set(entry) - {"weights", "limits"} == {"levels", "solver", "w", "error", "default", "karras"}
        and entry["w"] == 3.0
    )
    assert isinstance(best.solver, Fitted) and entry["solver"] == "fitted"
    assert cards.fitted(json.loads(json.dumps(entry))) == best.solver


def test_a_fitted_step_lands_as_near_to_the_reference_as_three_weights_can() -> None:
    """By numpy's least squares, step by step, on the states that the steps before led to."""
    p, levels = mixture(1, images=6), torch.tensor([14.0, 6.0, 2.5, 1.0, 0.3, 0.0], dtype=torch.float64)
    reference = schedule.follow(p.denoise, p.x, path.default(64, p.lo, 14.0, p.w), p.cond)
    parts = [(p.x[:4], p.cond.index(slice(0, 4))), (p.x[4:], p.cond.index(slice(4, 6)))]
    solver, ends = fitting.fit(p.denoise, parts, reference, levels)
    x, seen = p.x, []
    for i, row in enumerate(solver.weights):
        here, there = float(levels[i]), float(levels[i + 1])
        D = p.denoise(x, levels[i], p.cond)
        plain = D + there / here * (x - D)
        if seen:
            away = np.stack([(past - D).double().numpy().ravel() for past in reversed(seen[-3:])], 1)
            rest = (reference.at(there) - plain.double()).numpy().ravel()
            best = np.linalg.lstsq(away, rest, rcond=None)[0]
            np.testing.assert_allclose(away @ np.array(row), away @ best, atol=2e-3 * np.abs(rest).max())
            plain = plain + torch.from_numpy((away @ np.array(row)).reshape(plain.shape)).to(plain)
        x = plain
        seen.append(D)
    torch.testing.assert_close(ends, x, rtol=1e-4, atol=1e-4)
    assert solver.limits[0] == 0 and all(limit > 0 for limit in solver.limits[1:])
    torch.testing.assert_close(sample(p.denoise, p.x, levels, p.cond, solver=solver), ends, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n", [5, 10])
def test_fitting_leaves_less_than_the_path_alone_on_other_noise(n: int) -> None:
    p, best = mixture(2, images=256), found(n)
    unfitted = min(error(p, best.levels, name) for name in ("adams", "dpmpp_2m", "eab3"))
    assert isinstance(best.solver, Fitted) and error(p, best.levels, best.solver) < 0.8 * unfitted
