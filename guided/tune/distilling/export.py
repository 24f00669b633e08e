"""The finished student as a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

import guided
from guided.denoiser import Denoiser
from guided.model import Model
from guided.model.distilled import Distilled
from guided.tune.distilling.course import Course
from guided.tune.distilling.guides import Folded
from guided.tune.distilling.settings import Settings

KEPT = ("size", "classes", "mean", "recipe", "data", "license", "edge", "variance")
"""What a student's card has from its teacher's."""


def model_of(
    teacher: Model,
    student: Denoiser,
    settings: Settings,
    fold: Folded,
    course: Course,
    facts: Mapping[str, Any],
    calibrated: Mapping[str, Any] | None = None,
) -> Model:
    """A model that draws in `settings.steps` evaluations by default; facts: further provenance, no dates, no paths.

    calibrated: the steps of a student by trajectory.
    """
    said = Distilled(
        settings.method,
        None if fold.guide is None else repr(fold.guide),
        settings.steps,
        None if fold.dial is None else (fold.lo, fold.hi),
    )
    card = {name: teacher.card[name] for name in KEPT if teacher.card.get(name) is not None}
    w = 1.0 if fold.w is None else fold.w
    defaults: dict[str, Any] = {"steps": settings.steps} | ({} if fold.dial is None else {"w": w})
    if calibrated is not None:
        card["calibrated"] = {str(settings.steps): dict(calibrated)}
    elif said.jumps:
        counts = {settings.steps} if settings.method == "progressive" else {1, 2, 4, settings.steps}
        fitting = sorted(count for count in counts if settings.long % count == 0)
        card["calibrated"] = {
            str(count): {"levels": course.levels(count).tolist(), "solver": "euler", "w": w} for count in fitting
        }
        defaults["solver"] = "euler"
    elif teacher.card.get("calibrated") and fold.plain:  # found for the teacher at the weight of a plain cfg
        card["calibrated"] = teacher.card["calibrated"]
    card |= {
        "name": settings.name or f"{teacher.card.get('name') or 'model'}-{settings.steps}",
        "defaults": defaults,
        "distilled": said.card(),
        "metrics": {},
        "provenance": {
            "guided": guided.__version__,
            "torch": str(torch.__version__),
            "teacher": {"name": str(teacher.card.get("name") or ""), "sha256": teacher.hash},
            **facts,
        },
    }
    student.autocast = None  # as `Model.open` has it: precision is the drawer's choice
    return Model(student.requires_grad_(False), teacher.codec, teacher.encoders, card)
