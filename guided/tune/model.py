"""Calibrate a `Model`, for its card to keep what was found."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from guided.model import Model, Request, conditioning, drawing
from guided.model import request as requests
from guided.noise import Noise
from guided.tune import calibration
from guided.tune.calibration import Found, Watch

IMAGES = 32


def calibrate_model(
    model: Model,
    steps: int,
    *,
    w: float | None = None,
    prompts: Sequence[str] | None = None,
    images: int = IMAGES,
    trials: int = calibration.TRIALS,
    batch: int = calibration.BATCH,
    watch: Watch = lambda done, total: None,
) -> Found:
    """Find the path of so many steps for a model at guidance weight w, on noise that `generate` never draws.

    prompts: what is drawn meanwhile; those of the model's recipe by default; a model of classes takes its classes.
    images: how many are drawn. Raises ValueError for a model of prompts without any, and as `calibration.calibrate`.
    """
    if images < 1:
        raise ValueError(f"images: expected at least 1, got {images}")
    if model.distilled is not None and model.distilled.jumps:
        raise ValueError(f"{model.name} is distilled: its steps are those of its own path; calibrate its teacher")
    texts, labels = subjects(model, prompts, images)
    n = 1 if texts or labels else images
    plan = requests.plan(model, Request(texts, n, labels, steps=steps, w=w))
    noise = Noise([image.seed for image in plan.images], stream="calibrate")
    denoise, x = drawing.begin(model, plan, slice(0, images), noise)
    cond = conditioning.trimmed(conditioning.condition(model, plan.images)).to(model.device)
    levels = (model.denoiser.lo, float(plan.path[0]))
    weight = 1.0 if plan.w is None else plan.w
    return calibration.calibrate(denoise, x, *levels, steps, cond, w=weight, trials=trials, batch=batch, watch=watch)


def subjects(model: Model, prompts: Sequence[str] | None, images: int) -> tuple[list[str] | None, list[int] | None]:
    """A prompt or a class for each image, in turn."""
    if "text" in model.encoders:
        known = prompts or (model.card.get("recipe") or {}).get("sample", {}).get("prompts")
        if not known:
            raise ValueError(f"{model.name} draws prompts, and its card knows none: give some (--prompts FILE)")
        return list(islice(cycle(known), images)), None
    if prompts:
        raise ValueError(f"{model.name} draws no prompts: leave them out")
    return None, list(islice(cycle(range(len(model.classes))), images)) if model.classes else None
