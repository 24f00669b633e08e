"""Small pictures, and what they look like at the size of large ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from guided.data.resize import weights
from guided.degrade.task import Task

KERNELS = ("area", "bicubic", "bilinear", "nearest")
ROUNDS = 30
"""Halvings: of a range of 4 they leave what float32 does."""
UPS = ("cubic", "linear", "none")


def box(x: Tensor, factor: int) -> Tensor:
    """(..., H, W) by the means of squares of factor x factor; ValueError where the factor does not divide H and W."""
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"down: {height} x {width} is not divisible by {factor}: crop or pad the picture")
    parts = x.reshape(*x.shape[:-2], height // factor, factor, width // factor, factor)
    return parts.mean((-3, -1))


def consistent(x: Tensor, small: Tensor, factor: int) -> Tensor:
    """The pictures (..., C, H, W) in [-1, 1] nearest to x among those whose squares have the means `small`.

    Each square moves by one number and is cut: the number by which its mean is right is found by halving an interval.
    """

    def moved(by: Tensor) -> Tensor:
        return (x + by.repeat_interleave(factor, -2).repeat_interleave(factor, -1)).clamp(-1, 1)

    # By image, so that what one becomes never depends on its batch.
    low, high = ((end - part((-3, -2, -1), keepdim=True)).expand_as(small) for end, part in ((-1, x.amax), (1, x.amin)))
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        below = box(moved(middle), factor) < small
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return moved((low + high) / 2)


def shrink(x: Tensor, factor: int, kernel: str = "area") -> Tensor:
    """(C, H, W) at 1 / factor of its size: by `box`, by a kernel with antialiasing, or "nearest", without."""
    if kernel == "area":
        return box(x, factor)
    size = tuple(max(1, side // factor) for side in x.shape[1:])
    if kernel == "nearest":
        return F.interpolate(x[None], size, mode="nearest-exact")[0]
    return F.interpolate(x[None], size, mode=kernel, antialias=True, align_corners=False)[0]


def enlarge(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., h, w) at a larger size by Catmull and Rom's cubic; it may leave the range of x a little."""
    rows, columns = (torch.from_numpy(weights(old, new)).to(x) for old, new in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ columns.mT


@dataclass(frozen=True)
class Down(Task):
    """Super-resolution by a whole factor (Saharia et al. 2021, SR3); the condition is the small picture, `enlarge`d.

    kernel: what the picture was made small by, "area" (so that down(SR(x)) = x can be asked for), "bicubic", "bilinear"
    or "nearest". up: how it is brought to the size of the large one: "cubic", "linear" with the corners on each other,
    or "none", for networks that work on latents of its own size.
    """

    factor: int = 4
    kernel: str = "area"
    up: str = "cubic"

    def __post_init__(self) -> None:
        if not isinstance(self.factor, int) or not 2 <= self.factor <= 64:
            raise ValueError(f"down: expected a whole factor from 2 to 64, got {self.factor!r}")
        if self.kernel not in KERNELS:
            raise ValueError(f"down: expected one of {', '.join(KERNELS)}, got {self.kernel!r}")
        if self.up not in UPS:
            raise ValueError(f"down: up: expected one of {', '.join(UPS)}, got {self.up!r}")

    def __call__(self, x0: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        return self.condition(shrink(x0, self.factor, self.kernel)), None

    def check(self, channels: int, size: tuple[int, int]) -> None:
        if self.up == "none":
            raise ValueError(f"{self!r}: up='none' is for networks of latents, which are opened and not trained")
        if size[0] % self.factor or size[1] % self.factor:
            raise ValueError(f"{self!r}: {size[0]} x {size[1]} is not divisible by {self.factor}")

    def condition(self, small: Tensor) -> Tensor:
        """What the network sees of small pictures (B, C, h, w) or (C, h, w), at factor times their size."""
        size = small.shape[-2] * self.factor, small.shape[-1] * self.factor
        if self.up == "none":
            return small
        if self.up == "cubic":
            return enlarge(small, size)
        many = small if small.ndim == 4 else small[None]
        return F.interpolate(many, size, mode="bilinear", align_corners=True).reshape(*small.shape[:-2], *size)

    @property
    def of_means(self) -> bool:
        """Whether the small picture is the means of squares, so that down(SR(x)) = x can be asked for."""
        return self.kernel == "area"

    def baseline(self, condition: Tensor) -> Tensor:
        return condition.clamp(-1, 1)

    def __repr__(self) -> str:
        rest = [] if self.kernel == "area" else [repr(self.kernel)]
        rest += [] if self.up == "cubic" else [f"up={self.up!r}"]
        return f"down({', '.join([str(self.factor), *rest])})"
