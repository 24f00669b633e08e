"""A tiny teacher of two classes, its pictures, and settings of a run of seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guided.cond import Cond
from guided.denoiser import EDM, Denoiser
from guided.model import Model
from guided.oracle import GaussianMixture
from guided.tune import Settings
from tests.model import build
from tests.train.tools import CLASSES, pictures


def teacher(**changes: Any) -> Model:
    """A tiny model of the classes of `pictures`, with random weights."""
    return build.model("tiny-class", card={"classes": list(CLASSES), "mean": [0.1, 0.0, -0.1]}, classes=2, **changes)


def data(folder: Path) -> Path:
    return pictures(folder)


def settings(data: Path | None, **changes: Any) -> Settings:
    """From 4 steps to 2 in 64 images, a batch of 8."""
    given: dict[str, Any] = {"guide": "cfg(3)", "method": "progressive", "steps": 2, "teacher_steps": 4, "images": 64}
    given |= {"batch": 8, "pool": 20}
    given |= {"data": None if data is None else str(data), "save_every": 16}
    return Settings(**{**given, **changes})


def mixture() -> GaussianMixture:
    """Three blobs of two classes in the plane."""
    means = torch.tensor([[-0.8, 0.2], [0.7, 0.5], [0.1, -0.8]], dtype=torch.float64)
    return GaussianMixture(means, torch.tensor([0.3, 0.25, 0.35]), torch.tensor([0.3, 0.4, 0.3]), classes=[0, 1, 1])


class Plane(nn.Module):
    """A network of points in the plane that is told a class and a guidance weight."""

    accepts = frozenset({"label", "guidance"})

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2 + 1 + 3 + 1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width),
            nn.SiLU(), nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        label = torch.full((len(x),), -1) if cond.label is None else cond.label
        one_hot = nn.functional.one_hot(label + 1, 3).to(x)
        weight = x.new_ones(len(x)) if cond.guidance is None else cond.guidance.to(x)
        # c_noise is 250 ln sigma.
        found: Tensor = self.body(torch.cat([x, c_noise.to(x)[:, None] / 500, one_hot, weight[:, None] / 2 - 1], 1))
        return found


def plane(seed: int = 0) -> Denoiser:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Denoiser(Plane(), EDM(0.8), 0.02, 10.0)


def told(cond: Cond, w: float | Tensor, n: int) -> Cond:
    weight = torch.as_tensor(w, dtype=torch.float32).expand(n)
    return dataclasses.replace(cond, guidance=weight)
