"""Enlarging a photo through all stages of a cascade that enlarge."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from guided.model import Progress, Request
from guided.tasks import photo, upscaling
from guided.tasks.upscaling import Upscale

if TYPE_CHECKING:
    from guided.cascade.cascade import Cascade


def run(
    cascade: Cascade, source: photo.Source | Sequence[photo.Source], request: Request, exact: bool = False
) -> Iterator[Progress]:
    """Enlarge photos as a generator: yields after every move, and the result last. All is checked before the first."""
    stages = cascade.stages[1:]
    if not stages:
        raise ValueError(f"{cascade.name} has no stage that enlarges")
    photos = photo.of_one_kind(source)
    upscaling.fitting(photos[0].size, math.prod(upscaling.enlarging(stage).factor for stage in stages))
    if exact:
        for stage in stages:
            upscaling.exactly(upscaling.enlarging(stage))
    return _moves(cascade, Upscale(list(photos), request, exact=exact))


def _moves(cascade: Cascade, asked: Upscale) -> Iterator[Progress]:
    records: list[dict[str, Any] | None] = [None] * len(asked.photo)  # type: ignore[arg-type]
    count, scale = len(cascade.stages) - 1, 1
    last: Progress | None = None
    for number, model in enumerate(cascade.stages[1:], 1):
        # The photo is real; what a stage has drawn is not, and the next one was taught to be told so.
        level = cascade.levels[number - 1] if number > 1 else 0.0
        asked = dataclasses.replace(asked, level=level, stream=f"x/stage{number}")
        for last in upscaling.run(model, asked):
            if last.result is None:
                yield Progress(round(1000 * (number - 1 + last.done / last.total) / count), 1000, last.images)
        assert last is not None and last.result is not None
        pairs = zip(records, last.result.records, strict=True)
        records = [cascade.record(before, after, level) for before, after in pairs]
        scale *= last.result.records[0]["scale"]
        asked = dataclasses.replace(asked, photo=last.result.as_photos)  # type: ignore[attr-defined]
    assert last is not None and last.result is not None
    last.result.records = [{**record, "scale": scale} for record in records if record is not None]
    yield Progress(1000, 1000, len(records), last.result)
