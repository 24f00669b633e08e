"""Editing: from a call on photos to `Edited` pictures, by the same plan and the same loop as drawing.

SDEdit (Meng et al. 2022): x = x0 + path[0] n on a path rebuilt at the strength. A mask adds what is known as a term.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from guided import path as paths
from guided.cond import Cond
from guided.guide import Guide, Term, project
from guided.model import drawing, edge
from guided.model.distilled import falling
from guided.model.drawing import Progress
from guided.model.request import Plan, Request, contrast_of, plan, solver_of
from guided.operators import Mask as Known
from guided.operators import Operator
from guided.tasks import masks, metrics, photo, soft
from guided.tasks.edited import Edited
from guided.tasks.faithful import Target, searched
from guided.tasks.methods import By, Method
from guided.tasks.stage import Stage, staged

if TYPE_CHECKING:
    from guided.model.model import Model

STRENGTH = 0.6
JUMP = 3
"""RePaint goes back up by this many moves."""
Observe = Callable[[Operator, Tensor], Term]


@dataclass(frozen=True, eq=False)
class Edit:
    """The arguments of `Model.edit`, `inpaint` and `outpaint`, see there; request: what is drawn, without a size."""

    photo: photo.Source | Sequence[photo.Source]
    request: Request
    strength: float | None = None
    mask: masks.Mask | None = None
    expand: tuple[int, int, int, int] | None = None
    resample: int = 1
    observe: Observe = project
    task: str = "edit"
    by: Method | None = None
    faithful: Target | None = None
    tiles: bool = False

    @property
    def dial(self) -> float:
        """The strength, by default the method's own."""
        if self.strength is None:
            return STRENGTH if self.by is None else self.by.strength
        return float(self.strength) if isinstance(self.strength, np.floating) else self.strength


def run(model: Model, edit: Edit) -> Iterator[Progress]:
    """Edit as a generator: yields after every move, and the result last. Everything is checked before the first."""
    stage, which, request = opened(model, edit)
    if edit.faithful is not None:
        steps = planned(model, edit, stage, which, request).steps
        assert steps is not None
        return searched(edit, len(which), steps, lambda trial: _at(model, trial, stage, which, request))
    return _at(model, edit, stage, which, request)


def _at(model: Model, edit: Edit, stage: Stage, which: list[int], request: Request) -> Iterator[Progress]:
    """The edit of photos that are opened, at its own strength and number of steps."""
    request = dataclasses.replace(request, steps=edit.request.steps)
    return moves(model, edit, stage, which, planned(model, edit, stage, which, request))


def opened(model: Model, edit: Edit) -> tuple[Stage, list[int], Request]:
    """The stage of an edit, the photo that each picture is made of, and what is drawn; raises ValueError."""
    if not isinstance(edit.dial, int | float) or not 0 <= edit.dial <= 1:
        raise ValueError(f"strength: expected a number from 0 (the photo itself) to 1 (drawn anew), got {edit.dial!r}")
    photos = photo.of_one_kind(edit.photo)
    filled = isinstance(edit.mask, str) and edit.mask == masks.ALPHA
    mask = None if edit.mask is None else masks.of(edit.mask, photos[0])
    if filled and any(mask is None or not np.array_equal(mask, masks.of(masks.ALPHA, found)) for found in photos[1:]):
        raise ValueError('mask="alpha": the photos are transparent at different places: edit them one by one')
    if edit.expand is not None:
        inside = photos[0].size
        photo.check_room(edit.expand, inside)
        left, top, right, bottom = edit.expand
        photos = tuple(found.padded(edit.expand) for found in photos)
        inner = np.zeros(inside, np.float32) if mask is None else mask
        mask = np.pad(inner, ((top, bottom), (left, right)), constant_values=1)
    stage = staged(model, photos, mask, filled, edit.tiles)
    request, which = spread(edit.request, len(photos))
    return stage, which, dataclasses.replace(request, size=stage.size)


def spread(request: Request, count: int) -> tuple[Request, list[int]]:
    """A request over several photos, photos outer, n inner: one prompt for all of them, or one each."""
    asked = request.prompts if request.prompts is not None else request.labels
    several = isinstance(asked, Sequence) and not isinstance(asked, str)
    given = len(cast(Sequence[Any], asked)) if several else 1
    if count > 1 and given not in (1, count):
        raise ValueError(f"{count} photos take one prompt, or {count} of them, got {given}")
    rows = max(count, given)
    if rows > given and asked is not None:
        one = cast(Sequence[Any], asked)[0] if several else asked
        if request.prompts is not None:
            request = dataclasses.replace(request, prompts=[cast(str, one)] * rows)
        else:
            request = dataclasses.replace(request, labels=[cast("str | int", one)] * rows)
    if asked is None and count > 1:
        return dataclasses.replace(request, n=request.n * count), [i for i in range(count) for _ in range(request.n)]
    return request, [i if count > 1 else 0 for i in range(rows) for _ in range(request.n)]


def planned(model: Model, edit: Edit, stage: Stage, which: Sequence[int], request: Request) -> Plan:
    """The plan of an edit: always exactly as many steps as asked, from the strength's own noise level."""
    found = plan(model, request)
    if edit.tiles:
        factor = int(getattr(model.codec, "factor", 1))
        found = dataclasses.replace(found, tiles=(model.size[0] // factor, model.size[1] // factor))
    n, lo, hi, w = found.steps, model.denoiser.lo, model.denoiser.hi, contrast_of(found.guide)
    assert n is not None
    if not isinstance(edit.resample, int) or edit.resample < 1:
        raise ValueError(
            f"resample: expected how often each part of the path is walked, at least 1, got {edit.resample!r}"
        )
    strength = edit.dial
    if strength == 0 or (stage.mask is not None and not stage.mask.any()):
        return dataclasses.replace(found, path=torch.zeros(1, dtype=torch.float64))
    path = found.path
    if strength < 1:
        path = paths.at_strength(n, lo, hi, strength, lambda n, lo, hi: paths.default(n, lo, hi, w))
        path = path if model.distilled is None else model.distilled.woven(path)
    if edit.by is not None or edit.resample > 1:
        path = falling(path)
    if edit.by is not None:
        return _inverted(model, edit, stage, which, found, path)
    if edit.resample > 1:
        path = paths.ancestral(paths.resample(path, JUMP, edit.resample))
    if path is not found.path:
        found = dataclasses.replace(found, path=path, solver=solver_of(model, request.solver, path))
    if strength == 1 and stage.mask is None:
        return found
    x0 = _rows(model, stage, which)
    if stage.mask is not None and model.card.get("edge", {}).get("paint"):
        # A network trained to paint is shown what is kept; the picture it paints on is pasted, as always.
        image = _painting(model, stage)[list(which)] if len(stage.photos) > 1 else _painting(model, stage)
        return dataclasses.replace(found, shown=Cond(image=image), x0=x0 if strength < 1 else None)
    known = held(model, edit, stage, x0)
    if known is not None:
        found = dataclasses.replace(found, guide=joined(found.guide, known))
    return dataclasses.replace(found, x0=x0 if strength < 1 else None)


def joined(guide: Guide | Term | None, term: Term) -> Guide:
    """A guide with one term more."""
    if isinstance(guide, Guide):
        return Guide((*guide.terms, term), guide.shaping)
    return Guide((term,) if guide is None else (guide, term))


def _inverted(model: Model, edit: Edit, stage: Stage, which: Sequence[int], found: Plan, path: Tensor) -> Plan:
    """The plan of an edit by inversion."""
    assert edit.by is not None
    if edit.resample > 1:
        raise ValueError("resample: RePaint is no edit by inversion; give by= or resample=, not both")
    solver = solver_of(model, edit.request.solver or edit.by.solver, path)
    found = dataclasses.replace(found, path=path, solver=solver)
    edit.by.check(model, found)
    walk = By(edit.by, _amount(model, stage))
    return dataclasses.replace(found, x0=_rows(model, stage, which), walk=walk)


def _rows(model: Model, stage: Stage, which: Sequence[int]) -> Tensor:
    """The photo of each picture in the codec's space, or the only one of all."""
    found = encoded(model, stage)
    return found[list(which)] if len(stage.photos) > 1 else found


@torch.no_grad()
def encoded(model: Model, stage: Stage) -> Tensor:
    """The photos in the codec's space, (B, C, h, w) on the CPU."""
    channels = 3 if getattr(model.codec, "factor", 1) > 1 else model.channels
    if channels not in (1, 3):
        raise ValueError(f"{model.name} draws pictures of {channels} channels: photos have 1 or 3")
    return model.codec.encode(stage.seen(channels).to(model.device)).float().cpu()


@torch.no_grad()
def _painting(model: Model, stage: Stage) -> Tensor:
    """The image condition of a network trained to paint, on the CPU."""
    amount = stage.amount()
    assert amount is not None
    shown = edge.painting(model.codec, stage.seen(3).to(model.device), (amount > 0).float())
    return shown.float().cpu()


def held(model: Model, edit: Edit, stage: Stage, x0: Tensor) -> Term | None:
    """What a mask says is known, as a term; None without one."""
    amount = _amount(model, stage)
    if amount is None:
        return None
    if bool(((amount == 0) | (amount == 1)).all()):
        return edit.observe(Known(amount == 0), x0)
    return soft.Held(x0, soft.levels(amount, edit.dial))


def _amount(model: Model, stage: Stage) -> Tensor | None:
    """How much of each place may change, in the codec's space; a cell of latents is known where all its pixels are."""
    amount, factor = stage.amount(), int(getattr(model.codec, "factor", 1))
    return amount if amount is None or factor == 1 else F.max_pool2d(amount, factor)


def moves(model: Model, edit: Edit, stage: Stage, which: list[int], checked: Plan) -> Iterator[Progress]:
    if len(checked.path) == 1:
        if edit.dial > 0:
            warnings.warn("mask: it is black, so that nothing may change: the photo comes back as it is", stacklevel=2)
        records = [drawing.record(model, checked, image, len(which)) for image in checked.images]
        stored, colours = ([getattr(stage.photos[i], name).copy() for i in which] for name in ("stored", "rgb"))
        yield Progress(1, 1, len(which), _edited(edit, stage, which, stored, colours, records, None))
        return
    last = None
    for progress in drawing.run(model, checked):
        last = progress
        if progress.result is None:
            yield progress
    assert last is not None and last.result is not None
    result = finished(edit, stage, which, last.result.tensor, last.result.records)
    yield dataclasses.replace(last, result=result)


def finished(
    edit: Edit, stage: Stage, which: Sequence[int], drawn: Tensor, records: Sequence[dict[str, Any]]
) -> Edited:
    """The photos with what was drawn (B, C, h, w) in its place, and what that did in their records."""
    pairs = [stage.pasted(i, picture, edit.dial) for i, picture in zip(which, drawn, strict=True)]
    stored, colours = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return _edited(edit, stage, which, stored, colours, records, _exact(stage, which, drawn))


def _exact(stage: Stage, which: Sequence[int], drawn: Tensor) -> Tensor | None:
    """The pictures unrounded, where the model worked on the photo's very pixels and colours."""
    first = stage.photos[0]
    if not stage.whole or first.mode != "RGB" or first.alpha or first.converted or drawn.shape[1] != 3:
        return None
    if stage.mask is None:
        return drawn
    return torch.where(torch.from_numpy(stage.mask > 0), drawn, stage.seen(3)[list(which)])


def _edited(
    edit: Edit,
    stage: Stage,
    which: Sequence[int],
    stored: Sequence[NDArray[Any]],
    colours: Sequence[NDArray[Any]],
    records: Sequence[dict[str, Any]],
    exact: Tensor | None,
) -> Edited:
    """The result, with what each edit did in its record."""
    told = []
    for i, colour, record in zip(which, colours, records, strict=True):
        source = stage.photos[i]
        facts: dict[str, Any] = {
            "task": edit.task,
            "photo": source.name,
            "photo_sha256": source.sha256,
            "by": None if edit.by is None else repr(edit.by),
            "strength": float(edit.dial),
            "mask": _said(edit.mask),
            "expand": None if edit.expand is None else list(edit.expand),
            "resample": edit.resample if edit.resample > 1 else None,
            "tiles": edit.tiles or None,
            "window": None if stage.whole else list(stage.window),
            "notes": list(source.notes) or None,
        }
        facts = {name: value for name, value in facts.items() if value is not None}
        told.append({**record, **facts, **metrics.report(source.rgb, colour, stage.mask)})
    return Edited([stage.photos[i] for i in which], stored, colours, told, exact)


def _said(mask: masks.Mask | None) -> Any:
    """A mask as JSON says it: its file, its corners, or that it was given in Python."""
    if mask is None or isinstance(mask, str):
        return mask
    if isinstance(mask, os.PathLike):
        return os.fspath(mask)
    return (
        "a picture"
        if isinstance(mask, Image.Image | np.ndarray | Tensor)
        else [list(p) if isinstance(p, Sequence) else p for p in mask]
    )
