"""From picture to picture, by networks that were taught it: a grey one coloured, a hole filled, a spoilt one restored.

Saharia et al. 2022, Palette (arXiv 2111.05826): the picture that is given is the network's image condition.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guided.cond import Cond
from guided.degrade import Down, Pairs, Task, Translation, named
from guided.guide import project
from guided.model.drawing import Progress
from guided.model.request import Plan, Request, plan
from guided.noise import Noise
from guided.operators import Mask as Known
from guided.tasks import editing, masks, photo
from guided.tasks.editing import Edit
from guided.tasks.stage import Stage

if TYPE_CHECKING:
    from guided.model.model import Model

WINDOW = 256
"""Pixels of the side of a window in which a network without a view of the whole works on large pictures."""


@dataclass(frozen=True, eq=False)
class Translate:
    """The arguments of `Model.translate`, see there; request: what is drawn, without a size."""

    photo: photo.Source | Sequence[photo.Source]
    request: Request
    task: str | None = None
    mask: masks.Mask | None = None
    expand: tuple[int, int, int, int] | None = None


def run(model: Model, asked: Translate) -> Iterator[Progress]:
    """Translate as a generator: yields after every move, and the result last. All is checked before the first."""
    number, task = chosen(model, asked.task)
    if task.holes and asked.mask is None and asked.expand is None:
        raise ValueError(
            f"{task!r} fills what is open: give mask= (--mask), what to paint, or expand= (--expand), how far beyond "
            "the borders"
        )
    if asked.expand is not None and not task.holes:
        raise ValueError(f"expand: {task!r} changes what is there and paints nothing beyond the borders")
    photos = asked.photo if isinstance(asked.photo, list | tuple) else [asked.photo]
    sources = [photo.in_colour(seen_by(model, photo.read(one))) for one in photos]  # type: ignore[arg-type]
    edit = Edit(sources, asked.request, 1.0, asked.mask, asked.expand, task="translate", tiles=local(model, task))
    stage, which, request = editing.opened(model, edit)
    stage = dataclasses.replace(stage, anew=not task.keeps_detail)
    checked = planned(model, stage, which, request, number)
    return _told(editing.moves(model, edit, stage, which, checked), task)


def chosen(model: Model, word: str | None) -> tuple[int, Task]:
    """The task that a word means, or the only one; raises ValueError that lists what the model learnt."""
    taught = learnt(model)
    if word is None and taught.several:
        words = ", ".join(map(repr, taught.tasks))
        raise ValueError(f"{model.name} learnt several tasks: give task= (--task), one of {words}")
    number = 0 if word is None else named(word, taught.tasks)
    if isinstance(taught.tasks[number], Down):
        raise ValueError(f"{taught.tasks[number]!r} makes pictures larger: use model.upscale (guided upscale)")
    return number, taught.tasks[number]


def learnt(model: Model) -> Translation:
    """The tasks of a model; ValueError where it learnt none."""
    if model.translation is None:
        raise ValueError(
            f"{model.name} draws pictures and was not taught to change them: use edit or inpaint, or train a network "
            "with the section `translate` in its recipe"
        )
    return model.translation


def planned(model: Model, stage: Stage, which: Sequence[int], request: Request, number: int) -> Plan:
    """The plan of a translation, the picture that is given as its condition; known pixels come back as they are."""
    taught = learnt(model)
    task, channels = taught.tasks[number], model.channels
    given = stage.seen(channels)
    amount = stage.amount()
    known = None if amount is None else amount[0] == 0
    images = torch.stack([task.seen(picture, known if task.holes else None) for picture in given])
    rows = images[list(which)] if len(stage.photos) > 1 else images
    plain = [number] * len(rows), [0.0] * len(rows)
    found = plan(model, request, taught.told(rows, Cond(), *plain, Noise(range(len(rows)), "translate")))
    if local(model, task):
        found = dataclasses.replace(found, tiles=window(model))
    if known is not None:
        x0 = given[list(which)] if len(stage.photos) > 1 else given
        found = dataclasses.replace(found, guide=editing.joined(found.guide, project(Known(known[None]), x0)))
    return found


def restoring(model: Model, x0: Tensor, seeds: Sequence[int], number: int, request: Request) -> tuple[Plan, Tensor]:
    """The plan that undoes one of a model's tasks on pictures x0 (B, C, H, W), and what it is shown of them.

    Each is spoilt as in training by its seed, without augmentation. Holes are filled around what is known.
    """
    taught = learnt(model)
    cond, known = taught.taught(x0, seeds, Cond(), "restore", number, disturb=False)
    size = x0.shape[2], x0.shape[3]
    found = plan(model, dataclasses.replace(request, size=size), cond)
    there = [place for place in known if place is not None]
    if there:
        found = dataclasses.replace(found, guide=editing.joined(found.guide, project(Known(torch.stack(there)), x0)))
    assert cond.image is not None
    return found, cond.image


def local(model: Model, task: Task) -> bool:
    """Whether large photos are worked on in windows of their own scale; pairs are where the network learnt them so."""
    if not isinstance(task, Pairs):
        return task.local
    data = (model.card.get("recipe") or {}).get("data") or {}
    return bool(data.get("crop", 1.0) == 0)


def seen_by(model: Model, given: photo.Photo) -> photo.Photo:
    """The photo; raises ValueError where it has colours and the model's pictures have none: they would be lost."""
    if model.channels == 1 and bool((given.rgb != given.rgb[..., :1]).any()):
        raise ValueError(f"{given.name or 'the photo'}: {model.name} works on grey pictures: make the photo grey first")
    return given


def window(model: Model) -> tuple[int, int]:
    """The windows of a network in large pictures."""
    return max(WINDOW, model.size[0]), max(WINDOW, model.size[1])


def _told(moves: Iterator[Progress], task: Task) -> Iterator[Progress]:
    """With the task in every record."""
    for progress in moves:
        if progress.result is not None:
            for record in progress.result.records:
                record["translation"] = repr(task)
        yield progress
