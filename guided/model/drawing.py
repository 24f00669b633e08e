"""Drawing: from a checked plan to pictures, batch after batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import guided
from guided import path as paths
from guided import solvers
from guided.cond import Cond
from guided.denoiser import Around, Denoise, middle_of
from guided.model.autoencoder import AutoencoderKL
from guided.model.conditioning import trimmed, understood
from guided.model.request import Plan, Wanted, guide_rows
from guided.model.result import Result
from guided.noise import Noise
from guided.sampling import trajectory
from guided.tiles import Tiled

if TYPE_CHECKING:
    from guided.model.model import Model


@dataclass(frozen=True, eq=False)
class Progress:
    """How far a call has come: `done` of `total` moves, `images` finished; the last one holds the result."""

    done: int
    total: int
    images: int
    result: Result | None = None


def run(model: Model, plan: Plan) -> Iterator[Progress]:
    """Draw a plan; yields after every move, and the result last."""
    total = len(plan.images)
    cond, cuts = understood(model, plan.images)
    moves = len(plan.path) - 1 if plan.walk is None else plan.walk.moves(plan.path)
    starts = range(0, total, plan.batch)
    drawn: list[Tensor] = []
    records: list[dict[str, Any]] = []
    for count, start in enumerate(starts):
        rows = slice(start, min(start + plan.batch, total))
        part = trimmed(cond.index(rows)).to(model.device)
        if plan.shown is not None:
            # Of one picture the rows are all there is; a list of them would copy what may be the largest thing here.
            many = plan.shown.size == 1 and rows.stop - rows.start > 1
            place = [0] * (rows.stop - rows.start) if many else slice(0, 1) if plan.shown.size == 1 else rows
            shown = plan.shown.index(place).to(model.device)
            fields = {name: getattr(shown, name) for name in ("image", "aug", "label")}
            part = dataclasses.replace(part, **{name: value for name, value in fields.items() if value is not None})
        last = None
        for move, x in enumerate(_moves(model, plan, rows, part), 1):
            last = x
            yield Progress(count * moves + move, moves * len(starts), start)
        assert last is not None
        drawn.append(_finished(model, plan.images[rows], last))
        for image, cut in zip(plan.images[rows], cuts[rows], strict=True):
            records.append(record(model, plan, image, len(drawn[-1])) | ({"not_read": cut} if cut else {}))
    result = Result(torch.cat(drawn), records)
    yield Progress(moves * len(starts), moves * len(starts), total, result)


def begin(model: Model, plan: Plan, rows: slice, noise: Noise, cond: Cond | None = None) -> tuple[Denoise, Tensor]:
    """The guided denoiser of some of a plan's images, and their x at the top of its path."""
    denoise = guided_by(model, plan, rows)(base(model, plan))
    factor = getattr(model.codec, "factor", 1)
    shape = (model.channels, plan.size[0] // factor, plan.size[1] // factor)
    x = float(plan.path[0]) * noise(0, shape).to(model.device)
    mean = model.card.get("mean")
    if plan.x0 is not None:
        x = x + (plan.x0 if len(plan.x0) == 1 else plan.x0[rows]).to(x)
    elif isinstance(model.denoiser, Around) and cond is not None:
        x = x + middle_of(cond, x)
    elif mean is not None:
        x = x + torch.tensor(mean, dtype=x.dtype, device=x.device).reshape(-1, 1, 1)
    return denoise, x


def base(model: Model, plan: Plan) -> Denoise:
    """The model's denoiser, in tiles where the plan says so."""
    if plan.tiles is None:
        return model.denoiser
    return Tiled(model.denoiser, plan.tiles, (-(-plan.tiles[0] * 3 // 4), -(-plan.tiles[1] * 3 // 4)))


def guided_by(model: Model, plan: Plan, rows: slice) -> Callable[[Denoise], Denoise]:
    """What the plan's guide makes of a denoiser, for some of its images."""
    guide = guide_rows(plan.guide, rows, len(plan.images), model.device)
    return (lambda denoise: denoise) if guide is None else guide


def _moves(model: Model, plan: Plan, rows: slice, cond: Cond) -> Iterator[Tensor]:
    """x after every move of one batch."""
    noise = Noise([image.seed for image in plan.images[rows]], plan.stream)
    if plan.walk is not None:
        yield from plan.walk(model, plan, rows, cond)
        return
    denoise, x = begin(model, plan, rows, noise, cond)
    path = trajectory(denoise, x, plan.path, cond, solver=plan.solver, noise=noise)
    yield from (after for _, after, _ in path)


@torch.no_grad()
def _finished(model: Model, images: tuple[Wanted, ...], x: Tensor) -> Tensor:
    # One by one: the decoder of latents holds half a thousand times what it is given.
    alone = [row[None] for row in x] if isinstance(model.codec, AutoencoderKL) else [x]
    pictures = torch.cat([model.codec.decode(part).float().cpu() for part in alone])
    for image, picture in zip(images, pictures, strict=True):
        if not bool(picture.isfinite().all()):
            hint = "; try --dtype float32" if model.denoiser.autocast else ""
            raise FloatingPointError(f"the picture of seed {image.seed} holds NaN or infinity{hint}")
    return pictures


def record(model: Model, plan: Plan, image: Wanted, batch: int) -> dict[str, Any]:
    """How one picture was made, with how many at once, as JSON; `guided inspect` makes the command of it."""
    solver = plan.solver
    step = solvers.by_name(solver) if isinstance(solver, str) else solver
    autocast = model.denoiser.autocast
    values = {
        "guided": guided.__version__,
        "torch": torch.__version__,
        "name": model.name,
        "model": model.source,
        "model_sha256": model.hash,
        "adapters": model.worn() or None,
        "prompt": image.prompt,
        "label": image.label,
        "class": None if image.label is None else model.classes[image.label],
        "negative": plan.negative,
        "seed": image.seed,
        "size": list(plan.size),
        "steps": plan.steps,
        "w": plan.w,
        "guide": None if plan.guide is None else repr(plan.guide),
        "expression": plan.expression,
        "solver": solver if isinstance(solver, str) else getattr(solver, "name", repr(solver)),
        "path": plan.path.tolist(),
        "nfe": paths.nfe(plan.path, step) if plan.walk is None else plan.walk.nfe(plan.path, step),
        "device": model.device.type,
        "dtype": "float32" if autocast is None else str(autocast).removeprefix("torch."),
        "batch": batch,
    }
    return {name: value for name, value in values.items() if value is not None}
