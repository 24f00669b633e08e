"""A guide term and a solver of one's own, from outside the library: they run with all the others.

python examples/own_guide.py
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

import guided
from guided.guide import Point, Push, cfg, rescale
from guided.oracle import GaussianMixture


@dataclass(frozen=True, eq=False, repr=False)
class Brighter(Push):
    """Pull the mean of each picture towards a target."""

    target: float
    scale: float = 1.0
    graph = False  # reads D, but does not differentiate the network

    def change(self, at: Point) -> torch.Tensor:
        return (self.target - at.D.flatten(1).mean(1)).reshape(-1, *[1] * (at.D.ndim - 1)).expand_as(at.D)

    def describe(self) -> str:
        return f"Brighter({self.target:g}, {self.scale:g})"


class Nudge:
    """Euler's step, written out."""

    evaluations = 1

    def __call__(self, denoise, x, sigma, next_sigma, cond, memory, level):
        return x + (x - denoise(x, sigma, cond)) * float(next_sigma / sigma - 1), None


def main(n: int = 200, steps: int = 12) -> dict[str, float]:
    """The mean brightness under the term alone, beside others, and with each solver."""
    means = torch.tensor([[[-0.5, 0.5], [-1, -1]], [[0.5, -0.5], [1, 1]]], dtype=torch.float64)[:, None]
    data = GaussianMixture(means, torch.full((2,), 0.3), torch.ones(2), classes=[0, 1])
    path = guided.path.karras(steps, lo=0.02, hi=20.0)
    x = path[0] * guided.Noise(range(n))(0, (1, 2, 2)).double()
    cond = guided.Cond(label=torch.zeros(n, dtype=torch.long))
    found = {}
    for guide in (cfg(1), cfg(1) + Brighter(0.4, 0.5), cfg(2) + 0.5 * Brighter(0.4).during(0.1, 5) >> rescale(0.5)):
        for solver in ("euler", "heun", "dpmpp_2m", Nudge()):
            bright = float(guided.sample(guide(data.denoiser()), x, path, cond, solver=solver).mean())
            name = solver if isinstance(solver, str) else type(solver).__name__
            found[f"{guide!r}, {name}"] = bright
            print(f"{guide!r:62} {name:9} mean {bright:+.3f}")
    return found


if __name__ == "__main__":
    main()
