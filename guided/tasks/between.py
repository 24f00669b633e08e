"""Photos as points on the sphere of noise: inversion, and the way from one photo to another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guided import ode
from guided.cond import Cond
from guided.model import conditioning
from guided.model.drawing import record
from guided.model.request import Request, plan
from guided.model.result import Result
from guided.sampling import sample
from guided.solvers import Solver
from guided.tasks import photo
from guided.tasks.editing import encoded, spread
from guided.tasks.methods import check_levels
from guided.tasks.stage import staged

if TYPE_CHECKING:
    from guided.model.model import Model


@dataclass(frozen=True, eq=False)
class Inverted:
    """Photos as noise: x (B, C, h, w) at path[0], from which the solver, told cond and unguided, comes back to them.

    `guided.sample(model.denoiser, x, path, cond, solver=solver)` is that way back; x / path[0] is of about unit noise.
    """

    x: Tensor
    path: Tensor
    cond: Cond
    solver: Solver | str
    facts: dict[str, Any]


def invert(model: Model, sources: Sequence[photo.Source], request: Request, refinements: int) -> Inverted:
    """The noise of photos of one size, see `ode.invert`; raises ValueError for what cannot be inverted."""
    photos = tuple(photo.read(source) for source in sources)
    sizes = [f"{found.size[1]} x {found.size[0]}" for found in photos]
    if len(set(sizes)) != 1:
        raise ValueError(f"photos of one call are of one size, got {' and '.join(sizes) or 'none'}")
    stage = staged(model, photos, None)
    request, which = spread(dataclasses.replace(request, size=stage.size), len(photos))
    found = plan(model, request)
    check_levels(found)
    x0 = encoded(model, stage)[which].to(model.device)
    cond = conditioning.trimmed(conditioning.condition(model, found.images)).to(model.device)
    x = ode.invert(model.denoiser, x0, found.path, cond, found.solver, refinements=refinements)
    return Inverted(x, found.path, cond, found.solver, record(model, found, found.images[0], len(photos)))


def check(n: int) -> None:
    """Raise ValueError for a number of pictures that cannot hold both photos."""
    if not isinstance(n, int) or n < 2:
        raise ValueError(f"n: expected a whole number, at least the two photos themselves, got {n!r}")


def interpolate(model: Model, ends: Inverted, n: int) -> Result:
    """n pictures from the first photo to the second, both among them, along the great circle between their noises."""
    check(n)
    pictures, records = [], []
    for i in range(n):
        share = i / (n - 1)
        x, cond = slerp(ends.x[:1], ends.x[1:], share), ends.cond.index([round(share)])
        x = sample(model.denoiser, x, ends.path, cond, solver=ends.solver)
        with torch.no_grad():
            pictures.append(model.codec.decode(x).float().cpu())
        records.append({**ends.facts, "task": "interpolate", "share": round(share, 6)})
    return Result(torch.cat(pictures), records)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """From a to b (1, *) along the great circle, lengths between theirs (Shoemake 1985); straight where parallel."""
    sizes = a.double().norm(), b.double().norm()
    angle = torch.arccos(((a.double() * b.double()).sum() / (sizes[0] * sizes[1])).clamp(-1, 1))
    if float(angle.sin()) < 1e-6:
        return torch.lerp(a, b, share)
    ways = torch.sin((1 - share) * angle) * a / sizes[0] + torch.sin(share * angle) * b / sizes[1]
    found: Tensor = ways / angle.sin() * ((1 - share) * sizes[0] + share * sizes[1])
    return found.to(a)
