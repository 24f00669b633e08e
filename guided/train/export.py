"""The finished run as a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import guided
from guided.codec import Pixels
from guided.denoiser import Denoiser
from guided.model import Model, NoisyClassifier
from guided.model.conditioning import LazyEncoder
from guided.train.setup import Job
from guided.train.state import State
from guided.train.watch import averaged

CAPTIONS = 128


def captions(job: Job) -> list[str]:
    """Some of what the model was trained on, evenly spread: what it must not forget when it is tuned."""
    known = list(dict.fromkeys(c for row in job.split.train if (c := job.source.records[row].caption) is not None))
    return known if len(known) <= CAPTIONS else [known[at * len(known) // CAPTIONS] for at in range(CAPTIONS)]


def model_of(job: Job, state: State, metrics: Mapping[str, Any]) -> Model | NoisyClassifier:
    """The first average's weights, with a card that says how they came about.

    No dates and no paths, but that of a text encoder that the recipe names by its folder.
    """
    tokens = job.conditions.tokens
    recipe = json.loads(job.recipe.model_dump_json(exclude_unset=True))
    recipe.pop("out", None)
    recipe["data"]["path"] = Path(job.recipe.data.path).name
    if job.recipe.estimates is not None:
        recipe["estimates"] = Path(job.recipe.estimates).name
    summary = {**job.source.summary, "path": Path(job.recipe.data.path).name, "fingerprint": job.fingerprint}
    split = {"train": len(job.split.train), "held_bases": len(job.split.held_bases)}
    card: dict[str, Any] = {
        "name": job.recipe.name,
        "size": list(job.recipe.data.size),
        "classes": list(job.source.classes) if job.recipe.data.condition == "class" else None,
        "mean": job.mean(),
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
    if tokens is not None:
        card["captions"] = captions(job)
    if job.estimates is not None:
        card["estimates"] = {"name": job.estimates.name, "sha256": job.estimates.sha256}
    if job.translation is not None:
        card["translate"] = job.translation.card()
    if job.recipe.task == "denoiser":
        card["defaults"] = {"steps": job.recipe.sample.steps, "w": job.recipe.sample.w}
    encoders = {} if tokens is None else {"text": LazyEncoder(tokens.spec)}
    denoiser = averaged(job, state.emas[0])
    denoiser.autocast = None  # as `Model.open` has it: precision is the drawer's choice, not the recipe's
    if not isinstance(denoiser, Denoiser):
        denoiser.card |= card
        return denoiser
    return Model(denoiser, Pixels(), encoders, card, early=state.early)  # type: ignore[arg-type]
