"""Each solver's own steps against the formula of its paper, in float64, with integrals taken numerically."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.interpolate import lagrange

from guided import solvers
from guided.cond import Cond
from guided.noise import Noise
from guided.sampling import sample

F64 = torch.float64
LEVELS = [9.0, 5.5, 3.9, 2.2, 1.7, 0.8]
VALUES = [0.7, -1.1, 0.4, 1.9, -0.3, 0.9]
START = 6.3


def run(solver: object, levels: Sequence[float] = LEVELS, noise: Noise | None = None) -> float:
    """One number along the path; the denoiser's answers are given in advance, whatever it is asked."""
    answers = iter(VALUES)
    scripted = lambda x, sigma, cond: torch.full_like(x, next(answers))  # noqa: E731
    path = torch.tensor(levels, dtype=F64)
    return sample(scripted, torch.full((1, 1), START, dtype=F64), path, Cond(), solver=solver, noise=noise).item()


def polynomial(at: Sequence[float], values: Sequence[float]) -> Callable[[float], float]:
    """The polynomial through the given points, newest first, as the papers count them."""
    return lagrange(np.array(at), np.array(values))


def integral(f: Callable[[float], float], a: float, b: float) -> float:
    return quad(f, a, b, epsabs=1e-13, epsrel=1e-13)[0]


def newest(values: Sequence[float], i: int, order: int) -> list[float]:
    """Up to `order` values, the i-th first."""
    return list(values[max(0, i - order + 1) : i + 1])[::-1]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_eab_in_the_data(order: int) -> None:
    """Lu et al. 2022b, eq. 8: x' = (s'/s) x + s' * integral of e^l D(l) dl, l = -ln sigma."""
    x, at = START, [-math.log(level) for level in LEVELS]
    for i in range(len(LEVELS) - 1):
        D = polynomial(newest(at, i, order), newest(VALUES, i, order))
        part = integral(lambda t, D=D: math.exp(t) * D(t), at[i], at[i + 1])
        x = LEVELS[i + 1] / LEVELS[i] * x + LEVELS[i + 1] * part
    assert math.isclose(run(solvers.eab(order, "data")), x, rel_tol=1e-10)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("variable", ["ln sigma", "sigma"])
def test_eab_in_the_noise_and_lms(order: int, variable: str) -> None:
    """Zhang & Chen 2022, eq. 14-15 with rho = sigma: x' = x + integral of n(sigma) d sigma."""
    of = math.log if variable == "ln sigma" else float
    x, noises, at = START, [], [of(level) for level in LEVELS]
    for i in range(len(LEVELS) - 1):
        noises.append((x - VALUES[i]) / LEVELS[i])
        n = polynomial(newest(at, i, order), newest(noises, i, order))
        x = x + integral(lambda s, n=n: n(of(s)), LEVELS[i], LEVELS[i + 1])
    solver = solvers.eab(order) if variable == "ln sigma" else solvers.LMS(order)
    assert math.isclose(run(solver), x, rel_tol=1e-10)


def vp(level: float) -> tuple[float, float, float]:
    """alpha, sigma and lambda of the variance-preserving frame in which the papers write."""
    alpha = 1 / math.sqrt(1 + level**2)
    return alpha, level * alpha, -math.log(level)


@pytest.mark.parametrize("order", [2, 3])
def test_dpmpp_multistep(order: int) -> None:
    """Lu et al. 2022b, algorithm 2 (2M) and the third-order update of their code, in their frame."""
    x = START * vp(LEVELS[0])[0]
    for i in range(len(LEVELS) - 1):
        (_, s0, l0), (alpha, s1, l1) = vp(LEVELS[i]), vp(LEVELS[i + 1])
        h = l1 - l0
        x = s1 / s0 * x - alpha * math.expm1(-h) * VALUES[i]
        if i == 0:
            continue
        r0 = (l0 - vp(LEVELS[i - 1])[2]) / h
        first = (VALUES[i] - VALUES[i - 1]) / r0
        if order == 2 or i == 1:
            x -= alpha * math.expm1(-h) * first / 2
            continue
        r1 = (vp(LEVELS[i - 1])[2] - vp(LEVELS[i - 2])[2]) / h
        before = (VALUES[i - 1] - VALUES[i - 2]) / r1
        slope = first + r0 / (r0 + r1) * (first - before)
        bend = (first - before) / (r0 + r1)
        phi2 = math.expm1(-h) / h + 1
        x += alpha * phi2 * slope - alpha * (phi2 / h - 0.5) * bend
    assert math.isclose(run(solvers.DPMpp(order)), x / vp(LEVELS[-1])[0], rel_tol=1e-12)


def test_one_step_methods() -> None:
    s, t, x, D, E = 5.5, 2.2, START, VALUES[0], VALUES[1]
    (a0, s0, l0), (a1, s1, l1) = vp(s), vp(t)
    # Song et al. 2021a, eq. 12 with eta = 0
    ddim = a1 * D + s1 * (x * a0 - a0 * D) / s0
    assert math.isclose(run(solvers.euler, [s, t]), ddim / a1, rel_tol=1e-12)
    # Karras et al. 2022, algorithm 1
    d = (x - D) / s
    there = x + (t - s) * d
    heun = x + (t - s) * (d / 2 + (there - E) / t / 2)
    assert math.isclose(run(solvers.heun, [s, t]), heun, rel_tol=1e-12)
    # Lu et al. 2022a, algorithm 1, r = 1/2: u at the middle of lambda, then its noise for the whole step
    middle = math.exp(-(l0 + l1) / 2)
    am, sm, _ = vp(middle)
    h = l1 - l0
    noise = (x * a0 - a0 * D) / s0
    u = am / a0 * x * a0 - sm * math.expm1(h / 2) * noise
    second = a1 / a0 * x * a0 - s1 * math.expm1(h) * (u - am * E) / sm
    assert math.isclose(run(solvers.dpm2, [s, t]), second / a1, rel_tol=1e-12)
    # Lu et al. 2022b, algorithm 1, r = 1/2: D at the middle of lambda
    plus = s1 / s0 * x * a0 - a1 * math.expm1(-h) * E
    assert math.isclose(run(solvers.dpmpp_2s, [s, t]), plus / a1, rel_tol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(order: int) -> None:
    """Zhao et al. 2023, algorithms 1 and 2 in data form with B(h) = e^h - 1: a from R(h) a B(h) = phi(h)."""

    def update(x: float, i: int, others: list[tuple[float, float]]) -> float:
        """The step from LEVELS[i] through D there and the others (r, D)."""
        (_, s0, l0), (alpha, s1, l1) = vp(LEVELS[i]), vp(LEVELS[i + 1])
        h = l1 - l0
        B = math.expm1(-h)
        phi, right = math.expm1(-h) / -h - 1, []
        for k in range(1, len(others) + 1):
            right.append(phi * math.factorial(k) / B)
            phi = phi / -h - 1 / math.factorial(k + 1)
        R = np.array([[r ** (k - 1) for r, _ in others] for k in range(1, len(others) + 1)])
        a = [0.5] if len(others) == 1 else np.linalg.solve(R, np.array(right)) if others else []
        part = sum(weight * (D - VALUES[i]) / r for weight, (r, D) in zip(a, others, strict=True))
        return s1 / s0 * x - alpha * B * VALUES[i] - alpha * B * part

    x, guess = START * vp(LEVELS[0])[0], 0.0
    for i in range(len(LEVELS) - 1):
        count = min(order, i + 1)
        lag = lambda k, i=i: (vp(LEVELS[k])[2] - vp(LEVELS[i])[2]) / (vp(LEVELS[i + 1])[2] - vp(LEVELS[i])[2])  # noqa: E731
        older = [(lag(i - k), VALUES[i - k]) for k in range(1, count)]
        guess = update(x, i, older)
        x = update(x, i, [*older, (1.0, VALUES[i + 1])])
    # The last step has no evaluation after it: it stays as predicted.
    assert math.isclose(run(solvers.UniPC(order)), guess / vp(LEVELS[-1])[0], rel_tol=1e-10)


@pytest.mark.parametrize("tau", [0.4, 1.0])
@pytest.mark.parametrize("order", [1, 3])
def test_the_data_form_on_a_path_that_rises_is_the_reverse_sde(order: int, tau: float) -> None:
    """Xue et al. 2023, data prediction, with the path going down to s' e^(-tau^2 h) and back up to s':
    x' = (s'/s) e^(-tau^2 h) x + integral of (1 + tau^2) e^(-(1 + tau^2)(l' - l)) D(l) dl + s' (1 - e^(-2 tau^2 h))^.5 z
    """
    noise, route, x = Noise([7]), LEVELS[:1], START
    at = [-math.log(level) for level in LEVELS]
    for i in range(len(LEVELS) - 1):
        h, s = at[i + 1] - at[i], LEVELS[i + 1]
        route = [*route, s * math.exp(-(tau**2) * h), s]
        D = polynomial(newest(at, i, order), newest(VALUES, i, order))
        weight = lambda t, D=D, i=i: (1 + tau**2) * math.exp(-(1 + tau**2) * (at[i + 1] - t)) * D(t)  # noqa: E731
        z = noise(2 * i + 2, (1,)).item()
        x = s / LEVELS[i] * math.exp(-(tau**2) * h) * x + integral(weight, at[i], at[i + 1])
        x += s * math.sqrt(1 - math.exp(-2 * tau**2 * h)) * z
    assert math.isclose(run(solvers.eab(order, "data"), route, noise), x, rel_tol=1e-10)


@pytest.mark.parametrize("name", ["eab1", "eab3", "eab4", "eab2_data", "lms4"])
def test_the_step_to_0_extrapolates_d_as_a_parabola_in_sigma(name: str) -> None:
    """Through (s^2, D) and (s_prev^2, D_prev), read at 0: exact where D = a + b sigma^2, at no evaluation."""
    line = polynomial([LEVELS[-1] ** 2, LEVELS[-2] ** 2], [VALUES[-1], VALUES[-2]])
    assert math.isclose(run(solvers.by_name(name), [*LEVELS, 0.0]), line(0.0), rel_tol=1e-12)
    assert run(solvers.by_name(name), [LEVELS[-1], 0.0]) == VALUES[0]
    # Levels so close that the parabola would weigh the difference 50-fold: 4-fold is the most.
    near = run(solvers.by_name(name), [1.01, 1.0, 0.0])
    assert math.isclose(near, VALUES[1] + 4 * (VALUES[1] - VALUES[0]), rel_tol=1e-12)
