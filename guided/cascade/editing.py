"""Editing through a cascade: every stage begins from the photo at its own size, and knows what the mask keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from guided import path as paths
from guided.model import Progress, Request, drawing
from guided.model.request import Plan, contrast_of, solver_of
from guided.tasks import editing, masks, photo
from guided.tasks.editing import Edit
from guided.tasks.stage import Stage

if TYPE_CHECKING:
    from guided.cascade.cascade import Cascade


@dataclass(frozen=True)
class _Whole:
    """A cascade where a stage of photos is chosen: its size, and the factor that every side has to be divisible by."""

    size: tuple[int, int]
    factor: int

    @property
    def codec(self) -> _Whole:
        return self


def run(
    cascade: Cascade,
    source: photo.Source,
    request: Request,
    strength: float,
    mask: masks.Mask | None,
    task: str = "edit",
) -> Iterator[Progress]:
    """Edit a photo as a generator: yields after every move, and the result last. All is checked before the first."""
    edit = Edit(source, request, strength, mask, task=task)
    base = cascade.stages[0]
    least = cascade.size[0] // cascade.sizes[0][0] * int(getattr(base.codec, "factor", 1))
    whole = _Whole(cascade.size, least)
    last, which, request = editing.opened(cast(Any, whole), edit)
    factors = [cascade.size[0] // size[0] for size in cascade.sizes]
    stages = [dataclasses.replace(last, size=(last.size[0] // k, last.size[1] // k)) for k in factors]
    first = editing.planned(base, edit, stages[0], which, dataclasses.replace(request, size=stages[0].size))
    return _moves(cascade, edit, stages, which, (first, request))


def _moves(
    cascade: Cascade, edit: Edit, stages: list[Stage], which: list[int], work: tuple[Plan, Request]
) -> Iterator[Progress]:
    checked, request = work
    if len(checked.path) == 1:
        yield from editing.moves(cascade.stages[0], edit, stages[-1], which, checked)
        return
    drawn: Tensor | None = None
    records: list[dict[str, Any]] = []
    for number, (model, stage) in enumerate(zip(cascade.stages, stages, strict=True)):
        if number:
            assert drawn is not None
            checked = _from_photo(cascade, number, edit, stage, cascade.enlarging(number, drawn, request))
        for progress in drawing.run(model, checked):
            share = (number + progress.done / progress.total) / len(stages)
            if progress.result is not None:
                drawn = progress.result.tensor
                after = progress.result.records
                pairs = zip(records, after, strict=True) if number else ()
                records = [cascade.record(a, b, cascade.levels[number - 1]) for a, b in pairs] if number else after
            yield Progress(round(1000 * share), 1001, progress.images)
    assert drawn is not None
    yield Progress(1001, 1001, len(which), editing.finished(edit, stages[-1], which, drawn, records))


def _from_photo(cascade: Cascade, number: int, edit: Edit, stage: Stage, found: Plan) -> Plan:
    """The plan of an enlarging stage that begins from the photo at its size, at the strength of the edit."""
    model = cascade.stages[number]
    x0 = editing.encoded(model, stage)
    known = editing.held(model, edit, stage, x0)
    if known is not None:
        found = dataclasses.replace(found, guide=editing.joined(found.guide, known))
    if edit.dial == 1:
        return found
    assert found.steps is not None
    lo, hi, w = model.denoiser.lo, model.denoiser.hi, contrast_of(found.guide)
    path = paths.at_strength(found.steps, lo, hi, edit.dial, lambda n, lo, hi: paths.default(n, lo, hi, w))
    return dataclasses.replace(found, path=path, solver=solver_of(model, None, path), x0=x0)
