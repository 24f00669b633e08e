"""Small pictures as they come from cameras and the web: what happens to a photograph before one wants it larger."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from guided.degrade.quality import compressed, gaussian
from guided.degrade.scale import Down
from guided.degrade.task import is_number, uniform, whole

MODES = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class Photo(Down):
    """Super-resolution of photographs with a past: blurred, resized, noisy, compressed (Wang et al. 2021, Real-ESRGAN).

    Each of the two rounds (the second in half of the pictures) takes a blur, a change of size, noise and a JPEG file;
    then the picture is brought to 1 / factor of its size. strength: 1 is the full range of each, 0 leaves `down` alone.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel != "area":
            raise ValueError(f"photo: its kernels are drawn, leave the kernel out (got {self.kernel!r})")
        if not is_number(self.strength) or not 0 <= self.strength <= 1:
            raise ValueError(f"photo: expected a strength from 0 to 1, got {self.strength!r}")

    @property
    def of_means(self) -> bool:
        return self.strength == 0

    def __call__(self, x0: Tensor, rng: Generator) -> tuple[Tensor, Tensor | None]:
        size = x0.shape[1] // self.factor, x0.shape[2] // self.factor
        x = x0
        for _ in range(1 + (uniform(rng, 0, 1) < 0.5)):
            x = self._round(x, size, rng)
        return self.condition(_resized(x, size, "area").clamp(-1, 1)), None

    def _round(self, x: Tensor, size: tuple[int, int], rng: Generator) -> Tensor:
        blur = self.strength * uniform(rng, 0, self.factor)
        x = gaussian(x, blur) if blur > 0.2 else x
        # Somewhere between the size it has and the one it ends with, by any of the usual kernels.
        share = uniform(rng, 0, self.strength)
        between = [max(1, round(a + (b - a) * share)) for a, b in zip(x.shape[1:], size, strict=True)]
        x = _resized(x, (between[0], between[1]), MODES[whole(rng, 0, len(MODES) - 1)])
        x = x + self.strength * uniform(rng, 0, 0.15) * torch.randn(x.shape, generator=rng).to(x)
        if len(x) in (1, 3) and uniform(rng, 0, 1) < self.strength:
            x = compressed(x, whole(rng, 30, 95))
        return x

    def __repr__(self) -> str:
        up = "" if self.up == "cubic" else f", up={self.up!r}"
        return f"photo({self.factor}, strength={self.strength:g}{up})"


def _resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if x.shape[1:] == size:
        return x
    if mode == "area":
        return F.adaptive_avg_pool2d(x, size)
    return F.interpolate(x[None], size, mode=mode, antialias=True, align_corners=False)[0]
