"""Looking at a run from outside, without touching its state: held-out loss by noise level, and preview grids."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from guided import _files, path, sampling
from guided.cond import SEMANTIC, Cond
from guided.data import BadPicture
from guided.denoiser import Around, Denoiser, middle_of
from guided.guide import cfg
from guided.model import NoisyClassifier
from guided.noise import Noise
from guided.train.batch import values
from guided.train.ema import PowerEMA
from guided.train.loss import Objective
from guided.train.setup import Job

LEVELS = 8
PICTURES = 64
LEAST = 16
"""Fewer pictures are each looked at with several draws of the noise, so that as many are judged."""
COLUMNS = 8
PREVIEWED = 16


def averaged(job: Job, ema: PowerEMA) -> Denoiser | NoisyClassifier:
    """The denoiser (or classifier) with an average's weights; it shares their memory."""
    own = job.denoiser
    if isinstance(own, Denoiser):
        return own.with_network(ema.network).eval()
    classifier = type(own)(ema.network, own.parametrization, own.lo, own.hi)
    classifier.autocast = own.autocast
    return classifier.eval()


def in_parts(denoiser: Any, size: int) -> Any:
    """The denoiser of so many pictures at a time: to look takes no more memory than an update does."""

    def parted(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        rows = [slice(start, start + size) for start in range(0, len(x), size)]
        return torch.cat([denoiser(x[some], sigma[some], cond.index(some)) for some in rows])

    return parted


class HeldOut:
    """Fixed pictures of the held-out part, at fixed noise levels with fixed noise: what changes is the network."""

    def __init__(self, job: Job) -> None:
        self.job = job
        rows = self._sound(job)
        self.rows = [rows[at * len(rows) // PICTURES] for at in range(PICTURES)] if len(rows) > PICTURES else list(rows)
        u = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
        self.sigmas = job.law.quantile(u).tolist()

    @staticmethod
    def _sound(job: Job) -> Sequence[int]:
        """What was kept out; a run that tunes is judged by its own pictures where none of that can be read."""
        if job.tuning is None or any(readable(job, row) is not None for row in job.held):
            return job.held
        return job.split.train

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser | NoisyClassifier, objective: Objective) -> dict[str, float]:
        """The loss at each sigma (by its four digits), and their mean under `mean`; empty without held-out pictures."""
        weights = next(denoiser.parameters())
        found = [(row, picture) for row in self.rows if (picture := readable(self.job, row)) is not None]
        if not found:
            return {}
        draws = -(-LEAST // len(found)) if self.job.tuning is not None else 1
        found = [pair for pair in found for _ in range(draws)]
        dtype = torch.promote_types(weights.dtype, torch.float32)  # frozen weights may lie in less; x never does
        x0 = values(torch.stack([picture for _, picture in found]).to(weights.device), dtype)
        rows = [row for row, _ in found]
        said = self.job.conditions(rows) if self.job.tuning is None else self.job.tuning.now(self.job, rows)
        cond = self.job.shown(rows, x0, said).to(weights.device, dtype)
        seeds = [self.job.recipe.seed + row + (at % draws << 20) for at, row in enumerate(rows)]
        noise = Noise(seeds, "held")(0, x0.shape[1:]).to(x0)
        out: dict[str, float] = {}
        if isinstance(denoiser, Denoiser):
            denoiser = in_parts(denoiser, self.job.recipe.train.at_once)
        for sigma in self.sigmas:
            levels = torch.full((len(x0),), sigma, dtype=torch.float64, device=weights.device)
            out[f"{sigma:.4g}"] = float(objective(denoiser, x0, noise, levels, cond).mean())
        return {**out, "mean": math.fsum(out.values()) / len(out)}


def readable(job: Job, row: int) -> Tensor | None:
    """The picture of a record, None where it or its partner cannot be read."""
    try:
        return job.looked_at(row)[: job.pictures.channels]
    except BadPicture:
        return None


def preview(job: Job, denoiser: Denoiser, file: Path) -> None:
    """Draw the recipe's prompts (its classes, or 16 pictures without condition) as one PNG; picture i has seed i.

    A network that changes pictures is shown pictures that were kept out of training, each with its caption or class.
    """
    weights = next(denoiser.parameters())
    section = job.recipe.sample
    cond, n = _asked(job)
    noise = Noise(range(n))
    shape = (job.recipe.data.channels, *job.recipe.data.size)
    levels = path.default(section.steps, denoiser.lo, denoiser.hi, section.w)
    drop = SEMANTIC if job.translation is None else job.translation.dropped
    known = cond.only(denoiser.network.accepts & drop)  # type: ignore[operator, arg-type]
    guided = denoiser if known.size is None else cfg(section.w, drop=drop)(denoiser)
    dtype = torch.promote_types(weights.dtype, torch.float32)
    middle = (
        middle_of(cond, noise(0, shape)) if isinstance(denoiser, Around) else torch.tensor(job.mean())[:, None, None]
    )
    x = (levels[0] * noise(0, shape) + middle).to(weights.device, dtype)
    drawn = sampling.sample(guided, x, levels, cond.to(weights.device, dtype))
    grid(drawn.float().cpu(), file)


def _asked(job: Job) -> tuple[Cond, int]:
    if job.translation is not None:
        sound = _sound(job, job.held) or _sound(job, job.split.train)
        rows = [row for row, _ in sound]
        x0 = torch.stack([picture for _, picture in sound]).float() / 127.5 - 1
        return job.shown(rows, x0, job.conditions(rows)), len(rows)
    prompts = job.recipe.sample.prompts
    if job.conditions.tokens is not None:
        if not prompts:
            held = job.held or job.split.train
            texts = [job.source.records[row].caption or "" for row in held]
            prompts = tuple(texts[at * len(texts) // 16] for at in range(min(16, len(texts))))
        return job.conditions.of(prompts), len(prompts)
    if job.source.classes and job.recipe.data.condition == "class":
        names = list(prompts) or list(job.source.classes[:16])
        known = {name: at for at, name in enumerate(job.source.classes)}
        return Cond(label=torch.tensor([known.get(name, -1) for name in names])), len(names)
    return Cond(), 16


def _sound(job: Job, rows: Sequence[int]) -> list[tuple[int, Tensor]]:
    """The first of some records that can be read, with their pictures."""
    found = ((row, readable(job, row)) for row in rows)
    return list(islice(((row, picture) for row, picture in found if picture is not None), PREVIEWED))


def grid(images: Tensor, file: Path) -> None:
    """Images (B, C, H, W) in [-1, 1] as one PNG, eight in a row, on white."""
    b, c, h, w = images.shape
    columns = min(COLUMNS, b)
    rows = -(-b // columns)
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    levels = levels[:, :1].expand(-1, 3, -1, -1) if c < 3 else levels[:, :3]
    sheet = np.full((rows * (h + 2) + 2, columns * (w + 2) + 2, 3), 255, np.uint8)
    for at, image in enumerate(levels.permute(0, 2, 3, 1).numpy()):
        top, left = 2 + at // columns * (h + 2), 2 + at % columns * (w + 2)
        sheet[top : top + h, left : left + w] = image
    with _files.writing(file) as aside:
        Image.fromarray(sheet).save(aside, "PNG")
