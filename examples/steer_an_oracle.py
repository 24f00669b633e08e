"""The whole idea without a network: a denoiser, a guide, a path and a solver on data known in closed form.

python examples/steer_an_oracle.py
"""

from __future__ import annotations

import torch

import guided
from guided.guide import cfg
from guided.oracle import GaussianMixture


def main(n: int = 500, steps: int = 20) -> dict[float, float]:
    """Draw class 0 at several weights; returns the mean chance of class 0 for each, by the exact classifier."""
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]], dtype=torch.float64)
    data = GaussianMixture(means, torch.full((3,), 0.6), torch.ones(3), classes=[0, 1, 1])

    path = guided.path.karras(steps, lo=0.02, hi=20.0)
    noise = guided.Noise(seeds=range(n))
    start = path[0] * noise(0, (2,)).double()
    cond = guided.Cond(label=torch.zeros(n, dtype=torch.long))

    found = {}
    for w in (0.0, 1.0, 3.0):
        guide = cfg(w).during(0.1, 10.0)
        x = guided.sample(guide(data.denoiser()), start, path, cond)
        found[w] = float(data.class_log_prob(x, 0.02)[:, 0].exp().mean())
        print(f"{guide!r:28} chance of class 0: {found[w]:.3f}, spread {x.std(0).mean():.3f}")
    return found


if __name__ == "__main__":
    main()
