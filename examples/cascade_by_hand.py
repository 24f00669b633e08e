"""A cascade is a fold: draw small, enlarge, with noise of its own for each stage; then all of it as one object.

It takes two models that were trained apart, here the shipped ones. What the second is given is drawn, not real, so a
little noise is put on it (conditioning augmentation, Ho et al. 2022), and the network is told how much.
"""

from __future__ import annotations

import torch

import guided
from guided import Cascade, Cond, Noise, sample
from guided import path as paths
from guided.degrade import enlarge


def main(base: str = "emoji", up: str = "emoji-up", prompt: str | None = "red apple", steps: int = 24) -> torch.Tensor:
    """Draw one picture both ways; returns the largest difference."""
    small, large = guided.load(base), guided.load(up)
    level = 0.05

    first = small.generate(prompt, seed=0, steps=steps).tensor
    size = first.shape[2] * 4, first.shape[3] * 4
    noise = Noise([0], "x/stage1")
    shown = enlarge(first, size) + level * noise.child("augment")(0, (3, *size))
    path = paths.default(8, large.denoiser.lo, large.denoiser.hi, 1.0)
    x = shown + path[0] * noise(0, (3, *size))  # this network estimates the difference from what it is shown
    by_hand = sample(large.denoiser, x.float(), path, Cond(image=shown, aug=torch.tensor([level]))).clamp(-1, 1)

    cascade = Cascade([small, large], [level])
    drawn = cascade.generate(prompt, seed=0, steps=steps)
    print(f"{cascade.sizes}: {drawn.records[0]['nfe']} evaluations")
    return (drawn.tensor - by_hand).abs().max()


if __name__ == "__main__":
    print(f"largest difference: {main():.2g}")
