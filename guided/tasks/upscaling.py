"""Photos made larger by networks that were taught it (Saharia et al. 2021, SR3, arXiv 2104.07636), at any size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from guided.cond import Cond
from guided.degrade import Down, box, consistent
from guided.guide import project
from guided.model import drawing
from guided.model.drawing import Progress
from guided.model.request import Plan, Request, plan
from guided.noise import Noise
from guided.operators import BoxDown
from guided.tasks import editing, photo
from guided.tasks.edited import Edited
from guided.tasks.stage import Stage
from guided.tasks.translating import learnt, seen_by, window

if TYPE_CHECKING:
    from guided.model.model import Model

LARGEST = 1 << 27
"""Pixels of an enlarged picture at most."""


@dataclass(frozen=True, eq=False)
class Upscale:
    """The arguments of `Model.upscale`, see there; request: what is drawn, without a size."""

    photo: photo.Source | Sequence[photo.Source]
    request: Request
    scale: int | None = None
    exact: bool = False
    level: float = 0.0
    stream: str = "x"


def run(model: Model, asked: Upscale) -> Iterator[Progress]:
    """Upscale as a generator: yields after every move, and the result last. All is checked before the first."""
    task = enlarging(model)
    scale = task.factor if asked.scale is None else asked.scale
    photos = tuple(seen_by(model, found) for found in photo.of_one_kind(asked.photo))
    size = photos[0].size
    passes = _passes(task.factor, scale, size)
    request, which = editing.spread(asked.request, len(photos))
    stage = Stage(photos, None, (0, 0, *size), size)
    seen = stage.seen(channels_of(model))
    small = seen[list(which)] if len(photos) > 1 else seen
    first = planned(model, small, request, asked.exact, asked.level, asked.stream)
    return _moves(model, asked, (stage, which, small), request, (first, passes, scale))


def enlarging(model: Model) -> Down:
    """The task of a model that enlarges; ValueError for another."""
    task = learnt(model).down
    if task is None:
        words = ", ".join(map(repr, learnt(model).tasks))
        raise ValueError(f"{model.name} makes no pictures larger: it learnt {words}; use model.translate")
    return task


def channels_of(model: Model) -> int:
    """Channels of a model's pictures, whatever those of its latents are."""
    return 3 if getattr(model.codec, "factor", 1) > 1 else model.channels


def _passes(factor: int, scale: int, size: tuple[int, int]) -> int:
    """How often the network runs; ValueError for a scale that it cannot reach or that is too large."""
    if not isinstance(scale, int) or scale < 2:
        raise ValueError(f"scale: expected a whole number from 2 on, got {scale!r}")
    passes = math.ceil(math.log(scale) / math.log(factor) - 1e-9)
    whole = factor**passes
    if whole % scale:
        raise ValueError(f"scale: this network enlarges by {factor}: expected a divisor of {whole}, got {scale}")
    fitting(size, whole)
    return passes


def fitting(size: tuple[int, int], factor: int) -> None:
    """Raise ValueError for a picture (H, W) that is too large to be enlarged by so much."""
    if size[0] * size[1] * factor**2 > LARGEST:
        most = math.isqrt(LARGEST // factor**2)
        raise ValueError(
            f"{size[1]} x {size[0]} pixels enlarged by {factor} are more than {LARGEST >> 20} million: give a picture "
            f"of at most about {most} x {most}"
        )


def planned(
    model: Model, small: Tensor, request: Request, exact: bool = False, level: float = 0.0, stream: str = "x"
) -> Plan:
    """The plan that enlarges small pictures (B, C, h, w) in [-1, 1], or one of them.

    exact: down(result) is the small picture, as `BoxDown` sees it. level: of the augmentation put on the condition.
    stream: of the noise.
    """
    taught, task = learnt(model), enlarging(model)
    if level and taught.augment is None:
        raise ValueError(f"level: {model.name} was trained without augmentation")
    if not 0 <= level <= (taught.augment.most if taught.augment else 0):
        raise ValueError(f"level: expected 0 to {taught.augment.most:g}, got {level}")  # type: ignore[union-attr]
    size = small.shape[2] * task.factor, small.shape[3] * task.factor
    seeds = [request.seed + i for i in range(len(small))]
    images, count, number = task.condition(small), len(small), taught.tasks.index(task)
    shown = taught.told(images, Cond(), [number] * count, [float(level)] * count, Noise(seeds, stream).child("augment"))
    # Windows take a picture of any size: what a model draws at once has a limit, which is not asked about.
    found = dataclasses.replace(plan(model, dataclasses.replace(request, size=None), shown), size=size, stream=stream)
    if size[0] > window(model)[0] or size[1] > window(model)[1]:
        found = dataclasses.replace(found, tiles=window(model))
    if exact:
        exactly(task)
        found = dataclasses.replace(found, guide=editing.joined(found.guide, project(BoxDown(task.factor), small)))
    return found


def exactly(task: Down) -> None:
    """Raise ValueError where down(result) = picture cannot be asked for."""
    if not task.of_means or task.up == "none":
        raise ValueError(f"exact: pictures of {task!r} were not made small by means of squares, which this asks for")


def _moves(
    model: Model,
    asked: Upscale,
    given: tuple[Stage, list[int], Tensor],
    request: Request,
    work: tuple[Plan, int, int],
) -> Iterator[Progress]:
    (stage, which, small), (checked, passes, scale) = given, work
    drawn: Tensor | None = None
    for count in range(passes):
        if drawn is not None:
            checked = planned(model, drawn, request, asked.exact, asked.level, f"{asked.stream}/pass{count + 1}")
        last = None
        for progress in drawing.run(model, checked):
            last = progress
            if progress.result is None:
                done = progress.done + count * progress.total
                yield dataclasses.replace(progress, done=done, total=progress.total * passes)
        assert last is not None and last.result is not None
        before, drawn = drawn, last.result.tensor
        if asked.exact:
            drawn = consistent(drawn, small if before is None else before, enlarging(model).factor)
    assert drawn is not None and last is not None
    factor = drawn.shape[2] // stage.size[0]
    drawn = box(drawn, factor // scale) if factor > scale else drawn
    yield dataclasses.replace(
        last, done=last.total * passes, total=last.total * passes, result=_finished(asked, stage, which, drawn, last)
    )


def _finished(asked: Upscale, stage: Stage, which: list[int], drawn: Tensor, last: Progress) -> Edited:
    """The pictures in the mode and depth of the photos."""
    assert last.result is not None
    size = drawn.shape[2], drawn.shape[3]
    large = [photo.enlarged(one, size) for one in stage.photos]
    after = Stage(tuple(large), None, (0, 0, *size), size)
    pairs = [after.pasted(i, picture, 1.0) for i, picture in zip(which, drawn, strict=True)]
    records = []
    for i, record in zip(which, last.result.records, strict=True):
        source = stage.photos[i]
        facts: dict[str, Any] = {"task": "upscale", "photo": source.name, "photo_sha256": source.sha256}
        facts |= {"scale": size[0] // stage.size[0], "exact": asked.exact or None, "level": asked.level or None}
        records.append({**record, **{name: value for name, value in facts.items() if value is not None}})
    plain = large[0].mode == "RGB" and not large[0].alpha and not large[0].converted and drawn.shape[1] == 3
    photos = [large[i] for i in which]
    return Edited(photos, [pair[0] for pair in pairs], [pair[1] for pair in pairs], records, drawn if plain else None)
