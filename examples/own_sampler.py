"""A solver of one's own, and noisy paths: anything callable with `.evaluations` is a solver.

python examples/own_sampler.py
"""

from __future__ import annotations

import torch
from torch import Tensor

import guided
from guided.oracle import GaussianMixture


class Midpoint:
    """Two evaluations a step, second order: the slope is taken halfway in ln sigma."""

    evaluations = 2

    def __call__(self, denoise, x, sigma, next_sigma, cond, memory, level) -> tuple[Tensor, None]:
        D = denoise(x, sigma, cond)
        if next_sigma == 0:
            return D, None
        middle = (sigma * next_sigma).sqrt()
        half = D + (x - D) * float(middle / sigma)
        slope = (half - denoise(half, middle, cond)) / float(middle)
        return x + float(next_sigma - sigma) * slope, None


def main(n: int = 2000) -> dict[str, float]:
    """How far the variance of the samples is off, for each solver on a plain and on a noisy path."""
    data = GaussianMixture(torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0.5]), torch.ones(1))
    noise = guided.Noise(range(n))
    grid = guided.path.karras(12, lo=0.02, hi=10.0)
    found = {}
    for name, path in (("plain", grid), ("ancestral", guided.path.ancestral(grid))):
        for solver in ("euler", "dpmpp_2m", Midpoint()):
            x = path[0] * noise(0, (1,)).double()
            x = guided.sample(data.denoiser(), x, path, solver=solver, noise=noise)
            label = solver if isinstance(solver, str) else type(solver).__name__
            found[f"{label}, {name}"] = abs(float(x.var()) / 0.25 - 1)
            evaluations = guided.path.nfe(
                path, solver if not isinstance(solver, str) else guided.solvers.by_name(solver)
            )
            print(f"{label:10} {name:10} {evaluations:3} evaluations: variance off by {found[f'{label}, {name}']:.1%}")
    return found


if __name__ == "__main__":
    main()
