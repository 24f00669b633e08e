"""What a student is taught: the targets and weights of guidance, progressive and consistency distillation.

All in the frame x = x0 + sigma n, where a step of Euler's (DDIM) from s to s' is x' = D + (s'/s) (x - D).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise, spread

DOUBLING = 2.0
"""q of ECT: the gap between the two levels shrinks by this factor at every tick."""
SLOPE = 8.0
"""k of ECT: how much wider the gap stands at low noise."""
HUBER = 0.00054
"""c of the pseudo-Huber loss, in square roots of the number of values (Song and Dhariwal 2024, section 3.3)."""


def jump(denoise: Denoise, x: Tensor, levels: Tensor, cond: Cond) -> Tensor:
    """The D (B, *) whose one Euler step from levels[0] to levels[-1] lands where a step between each two of them does.

    levels: (k + 1, B) float64, falling. With one level between, it is Salimans and Ho's target (2022, arXiv 2202.00512,
    appendix G), D = (x'' - (s''/s) x) / (1 - s''/s): the mean of the D along the way, each with the share of the way
    that it decides, written as such because the quotient cancels where s''/s is near 1.
    """
    # After all moves x'' = x times all ratios + the sum of (1 - ratio) D times the ratios of the moves that follow.
    total = torch.zeros_like(x)
    left = torch.ones_like(levels[0])
    for here, there in pairwise(levels):
        ratio = there / here
        D = denoise(x, here, cond)
        total = spread(ratio, x) * total + spread(1 - ratio, x) * D
        x = D + spread(ratio, x) * (x - D)
        left = left * ratio
    return total / spread(1 - left, x)


def weight(sigma: Tensor) -> Tensor:
    """max(SNR, 1) of an error of D, SNR = 1 / sigma^2 (Salimans and Ho 2022, section 4): (B,)."""
    return sigma.pow(-2).clamp(min=1.0)


def squared(found: Tensor, target: Tensor, sigma: Tensor) -> Tensor:
    """The weighted mean square of an error, image by image: (B,)."""
    return weight(sigma).to(found) * (found - target).square().flatten(1).mean(1)


def nearer(t: Tensor, tick: int) -> Tensor:
    """r(t) < t, the level at which the student is its own teacher, at tick 0, 1, ... (Geng et al. 2024, 2406.14548).

    r = t max(0, 1 - (1 + 8 sigmoid(-t)) / 2^(tick + 1)): 0 at first for low noise, where it is plain denoising; then
    ever nearer t.
    """
    gap = (1 + SLOPE * torch.sigmoid(-t)) / DOUBLING ** (tick + 1)
    return t * (1 - gap).clamp(min=0.0)


def huber(found: Tensor, target: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """ECT's loss: the length of the error, blunted near 0, over t - r: (B,)."""
    square = (found - target).square().flatten(1).sum(1)
    blunt = HUBER * found[0].numel() ** 0.5
    # The mean, not the sum, of what an image holds: a learning rate then serves every size.
    length: Tensor = (square + blunt**2).sqrt() - blunt
    loss: Tensor = length / ((t - r).to(square) * found[0].numel() ** 0.5)
    return loss
