"""Noise levels chosen by dynamic programming on a reference trajectory (GITS, Chen et al. 2024, arXiv 2405.11326).

A long trajectory tells, for any two of its levels, how far a single step between them would go astray: all that the
step would look at was recorded. The path of N steps whose errors add up to least is then found exactly.

Beyond GITS, an error counts for what is left of it at the end, and a step may be of second order, as those of the
solvers in use are: its error then depends on the level before it too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.sampling import trajectory


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A reference solution: levels (K + 1,) float64 from hi to 0; x (K + 1, B, *) at each; D (K, B, *) at all but 0."""

    levels: Tensor
    x: Tensor
    D: Tensor

    @property
    def end(self) -> Tensor:
        """Where it leads, (B, *)."""
        return self.x[-1]

    def at(self, sigma: float) -> Tensor:
        """x (B, *) float64 at any level, by the cubic in ln sigma of its values and slopes, dx / d ln sigma = x - D."""
        k = min(int((self.levels >= sigma).sum()), len(self.D)) - 1
        high, low = float(self.levels[k]), float(self.levels[k + 1])
        x, slope = self.x[k].double(), self.x[k].double() - self.D[k].double()
        if sigma == high or sigma == 0:
            return x if sigma == high else self.end.double()
        if low == 0:
            return x + (sigma / high - 1) * slope
        length = math.log(low / high)
        u = math.log(sigma / high) / length
        after, lean = self.x[k + 1].double(), self.x[k + 1].double() - self.D[k + 1].double()
        bend = u * (1 - u) * ((1 - u) * (length * slope - (after - x)) + u * ((after - x) - length * lean))
        return x + u * (after - x) + bend


def follow(denoise: Denoise, x: Tensor, levels: Tensor, cond: Cond) -> Trajectory:
    """The trajectory of x (B, *) through levels, which fall to 0, by the default solver; kept on the CPU."""
    states, estimates = [x.cpu()], []
    for _, state, D in trajectory(denoise, x, levels, cond):
        assert D is not None
        states.append(state.cpu())
        estimates.append(D.cpu())
    return Trajectory(levels, torch.stack(states), torch.stack(estimates))


def joined(parts: Iterable[Trajectory]) -> Trajectory:
    """Trajectories of several batches through the same levels as one."""
    first, *rest = parts
    every = (first, *rest)
    return Trajectory(first.levels, torch.cat([part.x for part in every], 1), torch.cat([part.D for part in every], 1))


def errors(found: Trajectory, order: int) -> Tensor:
    """The root mean square error of a step from level i to level j after one from h to i: (h, i, j), K x K x (K + 1).

    Order 1 is Euler's step; order 2 DPM-Solver++ 2M's, whose first, with nothing to remember, stands at h = i = 0.
    Infinite where the levels do not fall.
    """
    count, sigma = len(found.D), found.levels
    h, i, j = torch.meshgrid(torch.arange(count), torch.arange(count), torch.arange(count + 1), indexing="ij")
    keep = sigma[j] / sigma[i]
    lean = torch.zeros_like(keep) if order == 1 else (1 - keep) * _lean(sigma, h, i, j)
    # The error is a weighted sum of what was recorded, so that inner products of the records tell its length.
    at_j, at_i, D_i, D_h = j, i, count + 1 + i, count + 1 + h
    parts = ((at_j, torch.ones_like(keep)), (at_i, -keep), (D_i, keep - 1 - lean), (D_h, lean))
    products = _products(found)
    square = torch.zeros_like(keep)
    for a, p in parts:
        for b, q in parts:
            square += p * q * products[a, b]
    falls = ((h < i) | ((h == i) & (i == 0))) & (i < j)
    return torch.where(falls, square.clamp(min=0.0).sqrt(), math.inf)


def _lean(sigma: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """How many times its change from h to i D is carried on: half the move's length over the last one's, in ln sigma.

    The step to 0, of endless length, carries it on as `solvers.base.at_zero` does.
    """
    last = (sigma[h] / sigma[i]).log().clamp(min=1e-30)
    inside = 0.5 * (sigma[i] / sigma[j].clamp(min=1e-30)).log() / last
    to_end = (sigma[i] ** 2 / (sigma[h] ** 2 - sigma[i] ** 2).clamp(min=1e-30)).clamp(max=4.0)
    return torch.where(h == i, 0.0, torch.where(sigma[j] == 0, to_end, inside))


def _products(found: Trajectory) -> Tensor:
    """Inner products of all x, then all D, each a mean over images and numbers: (2 K + 1, 2 K + 1) float64."""
    total = found.x.new_zeros((), dtype=torch.float64)
    for image in range(found.x.shape[1]):
        # One image at a time: in float64 the records of all may not fit.
        records = torch.cat([found.x[:, image], found.D[:, image]]).double().flatten(1)
        total = total + records @ records.T
    return total / found.x[0].numel()


def shortest(errors: Tensor, levels: Tensor, n: int, variance: float) -> Tensor:
    """The path of n steps through levels, from the first to 0, whose errors add up to least: (n + 1,) float64.

    Of data of this variance, the share sqrt(v / (v + sigma^2)) of an error at sigma is left at the end.
    """
    step = errors * (variance / (variance + levels**2)).sqrt()
    count = len(levels) - 1
    # least[h, i]: of the paths that end with a move from h to i. Every path begins as if it had stood at 0 before.
    least = torch.full((count, count), math.inf, dtype=torch.float64)
    least[0, 0] = 0.0
    before = []
    for _ in range(n - 1):
        least, came = (least[:, :, None] + step[:, :, :count]).min(0)
        before.append(came)
    h, i = divmod(int((least + step[:, :, count]).argmin()), count)
    chosen = [i]
    for came in reversed(before):
        chosen.append(h)
        h, i = int(came[h, i]), h
    return torch.cat([levels[chosen[::-1]], levels.new_zeros(1)])
