"""The finished run as a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import guided
from guided.codec import Pixels
from guided.data import BadPicture
from guided.model import Model
from guided.model.conditioning import LazyEncoder
from guided.train.setup import Job
from guided.train.state import State
from guided.train.watch import averaged

MEAN_OF = 2048


def model_of(job: Job, state: State, metrics: Mapping[str, Any]) -> Model:
    """The first average's weights, with a card that says how they came about; no dates, no paths of this machine."""
    tokens = job.conditions.tokens
    recipe = json.loads(job.recipe.model_dump_json(exclude_unset=True))
    recipe.pop("out", None)
    recipe["data"]["path"] = Path(job.recipe.data.path).name
    summary = {**job.source.summary, "path": Path(job.recipe.data.path).name, "fingerprint": job.fingerprint}
    split = {"train": len(job.split.train), "held_bases": len(job.split.held_bases)}
    card: dict[str, Any] = {
        "name": job.recipe.name,
        "size": list(job.recipe.data.size),
        "classes": list(job.source.classes) if job.recipe.data.condition == "class" else None,
        "mean": mean(job),
        "defaults": {"steps": job.recipe.sample.steps, "w": job.recipe.sample.w},
        "recipe": recipe,
        "data": {**summary, **split, "held_pairs": len(job.split.held_pairs)},
        "metrics": dict(metrics),
        "provenance": {
            "guided": guided.__version__,
            "torch": str(torch.__version__),
            "images": state.counter,
            "ema": job.recipe.train.ema[0],
            "early_images": state.early_at,
        },
    }
    encoders = {} if tokens is None else {"text": LazyEncoder(tokens.spec)}
    denoiser = averaged(job, state.emas[0])
    return Model(denoiser, Pixels(), encoders, card, early=state.early)  # type: ignore[arg-type]


def mean(job: Job) -> list[float]:
    """The mean of the training pictures, one number a channel in [-1, 1], from at most 2,048 of them."""
    rows = job.split.train
    chosen = rows if len(rows) <= MEAN_OF else [rows[at * len(rows) // MEAN_OF] for at in range(MEAN_OF)]
    total, count = torch.zeros(job.recipe.data.channels, dtype=torch.float64), 0
    for row in chosen:
        try:
            total += job.pictures[row].double().mean((1, 2))
            count += 1
        except BadPicture:
            continue
    return [round(value, 6) for value in (total / max(count, 1) / 127.5 - 1).tolist()]
