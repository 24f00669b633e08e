"""Paths: 1-D float64 lists of noise levels on the CPU. A path says where; `sample` and `ode` say how.

The order of making one: grid -> strength -> `restart` or `resample` -> `ancestral` or `churn` -> `langevin`. A grid
falls from hi to lo and ends in 0; N steps are its N down-moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor


class _Solver(Protocol):
    @property
    def evaluations(self) -> int: ...


def _check(n: int, lo: float, hi: float) -> None:
    if n < 1:
        raise ValueError(f"a path needs at least 1 step, got {n}")
    if not 0 < lo < hi < math.inf:
        raise ValueError(f"a path needs 0 < lo < hi < inf, got lo={lo}, hi={hi}")


def _grid(n: int, lo: float, hi: float, to: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
    """n levels from hi to lo, uniform after `to`, and the last move to 0. One step goes straight from hi to 0."""
    _check(n, lo, hi)
    ends = to(torch.tensor([hi, lo], dtype=torch.float64))
    levels = back(torch.lerp(ends[0], ends[1], torch.linspace(0, 1, n, dtype=torch.float64))) if n > 1 else None
    path = torch.zeros(n + 1, dtype=torch.float64)
    if levels is not None:
        path[:n] = levels
        path[n - 1] = lo
    path[0] = hi
    return path


def karras(n: int, lo: float, hi: float, rho: float = 7.0) -> Tensor:
    """Uniform in sigma^(1/rho) (Karras et al. 2022, eq. 5): (n + 1,) float64, from hi to lo, then 0."""
    return _grid(n, lo, hi, lambda s: s ** (1 / rho), lambda s: s**rho)


def log_snr(n: int, lo: float, hi: float) -> Tensor:
    """Uniform in the log signal-to-noise ratio -2 ln sigma (Lu et al. 2022)."""
    return _grid(n, lo, hi, torch.log, torch.exp)


def flow(n: int, lo: float, hi: float, shift: float = 1.0) -> Tensor:
    """Uniform in flow time t = sigma / (1 + sigma), then shifted: t -> k t / (1 + (k - 1) t), or sigma -> k sigma.

    shift > 1 spends more steps at high noise, as larger pictures want (Esser et al. 2024, eq. 23).
    """
    return _grid(n, lo, hi, lambda s: s / (s + shift), lambda t: shift * t / (1 - t))


def from_alphas(alphas_bar: Tensor | Sequence[float], n: int | None = None) -> Tensor:
    """The noise levels of a discrete-time VP model, sigma = sqrt(1/abar - 1), from the last to the first, then 0.

    n: how many to keep, evenly spaced in the index and ending at the highest noise ("trailing"); None keeps all.
    """
    abar = torch.as_tensor(alphas_bar, dtype=torch.float64)
    sigmas = (1 / abar - 1).sqrt().flip(0)
    if n is not None:
        if not 1 <= n <= len(sigmas):
            raise ValueError(f"the model has {len(sigmas)} noise levels: n must lie in 1..{len(sigmas)}, got {n}")
        sigmas = sigmas[(torch.arange(n, dtype=torch.float64) * len(sigmas) / n).round().long()]
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def default(n: int, lo: float, hi: float, w: float = 1.0) -> Tensor:
    """The path that `generate` takes for n evaluations at guidance weight w, a rule: (n + 1,) float64, falling to 0.

    Uniform in (s / (1 + s / 100))^(1 / rho), rho = 11 / sqrt(max(w, 1)): Karras' grid for levels far below 100, past
    which a picture is noise alone and one level is as good as ten. Guidance decides at high noise, so a larger w puts
    more levels there. The last level before 0 is 0.4 / n, or lo where that is higher: few evaluations are worth more
    above it. Found on random mixtures, for the solver that goes with it (`solvers.default`).
    """
    rho = 11 / math.sqrt(max(w, 1.0))
    _check(n, lo, hi)
    last = max(lo, min(0.4, hi) / n) if n > 1 else lo
    return _grid(n, last, hi, lambda s: (s / (1 + s / 100)) ** (1 / rho), lambda u: u**rho / (1 - u**rho / 100))


FAINTEST = 1e-8
"""No path begins below it: less noise moves no pixel that float32 holds, and solvers divide by what levels differ."""


def start_of(strength: float, lo: float, hi: float) -> float:
    """The noise level of a strength t in (0, 1], read as flow time: t / (1 - t), clamped to hi and to `FAINTEST`.

    Raises ValueError outside (0, 1]; strength 0 is the picture itself and needs no path.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must lie in (0, 1], got {strength}; 0 returns the picture as it is")
    return hi if strength == 1 else min(max(strength / (1 - strength), FAINTEST), hi)


def at_strength(
    n: int, lo: float, hi: float, strength: float, grid: Callable[[int, float, float], Tensor] = karras
) -> Tensor:
    """A grid of exactly n steps rebuilt from the strength's noise level (never sliced).

    A start at or below lo keeps its sigma and takes lo = start / 2; the denoiser clamps what its network sees.
    """
    start = start_of(strength, lo, hi)
    return grid(n, lo if start > lo else start / 2, start)


def _falling(path: Tensor, name: str) -> Tensor:
    path = torch.as_tensor(path, dtype=torch.float64)
    if path.ndim != 1 or len(path) < 2 or bool((path.diff() >= 0).any()) or bool((path < 0).any()):
        raise ValueError(
            f"{name} takes a path that falls at every move (a grid), got {path.tolist()}; "
            "apply it before ancestral or churn"
        )
    return path


def restart(path: Tensor, lo: float, hi: float, times: int = 1) -> Tensor:
    """Go back up from the level nearest lo to the one nearest hi, `times` times, and down again (Xu et al. 2023)."""
    path = _falling(path, "restart")
    low, high = (int((path[:-1] - level).abs().argmin()) for level in (lo, hi))
    if low <= high or times < 0:
        raise ValueError(f"restart needs lo < hi at two levels of the path and times >= 0, got {lo}, {hi}, {times}")
    leg = path[high : low + 1]
    return torch.cat([path[: low + 1], *[leg] * times, path[low + 1 :]])


def resample(path: Tensor, jump: int, times: int) -> Tensor:
    """RePaint's time travel (Lugmayr et al. 2022): every `jump` moves, go back up by `jump`, `times` - 1 times.

    The last move, to 0, is made once.
    """
    path = _falling(path, "resample")
    if jump < 1 or times < 1:
        raise ValueError(f"resample needs jump >= 1 and times >= 1, got {jump}, {times}")
    levels, out = path[:-1], [path[:1]]
    for begin in range(0, len(levels) - 1, jump):
        leg = levels[begin : begin + jump + 1]
        out += [leg[1:], *[leg] * (times - 1)]
    return torch.cat([*out, path[-1:]])


def lcm(path: Tensor) -> Tensor:
    """Down to 0 and up to the next level at every move: sampling for consistency models (Luo et al. 2023).

    Unbiased only for those.
    """
    path = _falling(path, "lcm")
    zeros = torch.zeros(len(path) - 1, dtype=torch.float64)
    woven = torch.stack([path[:-1], zeros], dim=1).flatten()
    return woven if path[-1] == 0 else torch.cat([woven, path[-1:]])


def _once(path: Tensor, name: str) -> Tensor:
    path = torch.as_tensor(path, dtype=torch.float64)
    if path.ndim != 1 or len(path) < 2 or bool((path < 0).any()):
        raise ValueError(f"{name} takes a list of at least two noise levels >= 0, got {path.tolist()}")
    return path


def ancestral(path: Tensor, eta: float = 1.0) -> Tensor:
    """Each falling move overshoots and comes back up, so that Euler's steps on it are DDPM's (eta = 1) or DDIM's.

    eta = 0 returns the same list. The move from s to s' goes down to sqrt(s'^2 - up^2), up = eta s' sqrt(1 - (s'/s)^2).
    """
    path = _once(path, "ancestral")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], got {eta}")
    if eta == 0:
        return path
    out = [float(path[0])]
    for here, there in pairwise(path.tolist()):
        if 0 < there < here:
            out.append(there * math.sqrt(max(0.0, 1 - eta**2 * (1 - (there / here) ** 2))))
        out.append(there)
    return merge(torch.tensor(out, dtype=torch.float64))


def churn(path: Tensor, gamma: float, lo: float = 0.0, hi: float = math.inf) -> Tensor:
    """Before each falling move from s in [lo, hi], first go up to s (1 + gamma) (Karras et al. 2022, algorithm 2).

    The paper's gamma is min(S_churn / N, sqrt(2) - 1). Its S_noise is no noise level: scale `noise=` instead.
    """
    path = _once(path, "churn")
    if gamma < 0:
        raise ValueError(f"gamma must be at least 0, got {gamma}")
    if gamma == 0:
        return path
    out = [float(path[0])]
    for here, there in pairwise(path.tolist()):
        if there < here and lo <= here <= hi:
            out.append(here * (1 + gamma))
        out.append(there)
    return merge(torch.tensor(out, dtype=torch.float64))


def langevin(path: Tensor, snr: float = 0.16, times: int = 1) -> Tensor:
    """After each arrival at a level s > 0, `times` Langevin corrector steps there (Song et al. 2021, algorithm 4).

    A corrector goes down to q s and back up to s, q = 1 - 2 snr^2. With Euler that is the paper's step of size
    e = 2 (snr s)^2: its drift is e (D - x) / s^2 and its noise has the variance 2 e - (e / s)^2, whose last term makes
    N(x0, s^2) stationary exactly and not to first order alone. e is taken at the expected norms of score and noise,
    those of an image depend on its batch. Each corrector costs one step. 0 <= snr < sqrt(1/2); 0 returns the same list.
    """
    path = _once(path, "langevin")
    if not 0 <= snr < math.sqrt(0.5) or times < 0:
        raise ValueError(f"langevin needs 0 <= snr < sqrt(1/2) and times >= 0, got {snr}, {times}")
    if snr == 0:
        return path
    levels = path.tolist()
    out = levels[:1]
    for level, after in zip(levels[1:], [*levels[2:], 0.0], strict=True):
        # A level from which the path goes on up is not where it evaluates.
        arrived = level > 0 and after < level
        out += [level] + [level * (1 - 2 * snr**2), level] * (times if arrived else 0)
    return torch.tensor(out, dtype=torch.float64)


def merge(path: Tensor) -> Tensor:
    """Join adjacent up-moves: two independent draws have the law of one."""
    keep = [i for i in range(len(path)) if not (0 < i < len(path) - 1 and path[i - 1] <= path[i] <= path[i + 1])]
    return path[keep]


def nfe(path: Tensor, solver: _Solver) -> int:
    """How many evaluations `sample` makes on this path: solver.evaluations a down-move, one for a move to 0."""
    return sum(1 if there == 0 else solver.evaluations for here, there in pairwise(path.tolist()) if there < here)
