"""What the strength of an edit trades: near to the source where it is low, near to real pictures where it is high."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from guided.evaluate.distances import MOST, frechet
from guided.evaluate.features import Bands
from guided.evaluate.figures import Figure, Z
from guided.evaluate.material import How, Real, Watch, real, thinned, told
from guided.evaluate.report import Options, Report
from guided.model import Model

STEPS = 20
"""Strengths, evenly spaced from 1 / STEPS to 1."""
PICTURES = 64
TILES = 8
"""A source is painted in so many strokes a side."""
SPACE = Bands(2)
"""FD is taken in 24 numbers, colours and detail: 48 pictures are enough for it, and it sees what strokes lack."""
DISTANCE, REALISM = "distance to the source", "FD"


def strength_curve(
    model: Model, against: str | os.PathLike[str], options: Options | None = None, *, watch: Watch | None = None
) -> Report:
    """Edit the same pictures at 20 strengths, with the same noise: the mean distance to the source, and FD, at each.

    The sources are real pictures as strokes (Meng et al. 2022, SDEdit, figure 3): flat tiles, an eighth of a side each;
    what is asked is the picture's own caption or class. Distance: the root mean square difference to the source as a
    share of the whole range, the mean of n pictures (64 by default). FD: to the training pictures. The one rises with
    the strength, the other falls. options: n, one w or guide, steps, solver, seed, batch. Raises ValueError where the
    model does not edit, or the pictures do not tell what to ask for.
    """
    options = options or Options()
    ways: tuple[How, ...] = (*options.w, *options.guide)
    if len(ways) > 1:
        raise ValueError(f"strengths: one curve has one guide, got {', '.join(map(told, ways))}")
    if model.translation is not None:
        raise ValueError(f"strengths: {model.name} changes pictures as it was taught, at no strength")
    if os.fspath(against).split(":")[0] == "shapes":
        raise ValueError("strengths: needs a folder, a file or a dataset of pictures, scenes are rendered without end")
    pictures = real(os.fspath(against), model.size, model.card.get("recipe") or {})
    rows, prompts, labels = _asked(model, pictures, thinned(pictures.split.train, options.n or PICTURES))
    sources, kept = pictures.read(rows)
    places = [rows.index(row) for row in kept]  # of those that could be read
    prompts = None if prompts is None else [prompts[place] for place in places]
    labels = None if labels is None else [labels[place] for place in places]
    reference = SPACE(pictures.read(thinned(pictures.split.train, MOST))[0])
    painted = strokes(sources)
    how = ways[0] if ways else None
    figures = [frechet(SPACE(painted), reference, at="strength 0, the strokes")]  # refuses too few before long work
    photos = [_photo(picture) for picture in painted]
    for number in range(1, STEPS + 1):
        strength = number / STEPS
        if watch is not None:
            watch(f"editing at strength {strength:g}", number - 1, STEPS)
        edited = model.edit(
            photos,
            prompts,
            labels=labels,
            strength=strength,
            steps=options.steps,
            solver=options.solver,
            w=None if isinstance(how, str) else how,
            guide=how if isinstance(how, str) else None,
            seed=options.seed,
            batch=options.batch,
        )
        after = torch.stack([torch.from_numpy(array).permute(2, 0, 1) for array in edited.arrays])
        at = f"strength {strength:g}"
        figures += [distance(painted, after, at), frechet(SPACE(after), reference, at=at)]
    settings = {
        "model": f"{model.name}, {model.hash[:12]}",
        "sources": f"{len(kept)} training pictures as {TILES} x {TILES} strokes, {pictures.preprocessing}",
        "edited": f"steps {options.steps or 'of the card'}, {told(how) or 'guidance of the card'}, one noise a picture",
        "FD": f"{SPACE.name}; to {len(reference)} training pictures",
    }
    return Report(model.name, os.fspath(against), settings, tuple(figures))


def _asked(
    model: Model, pictures: Real, rows: Sequence[int]
) -> tuple[list[int], list[str] | None, list[str | int] | None]:
    """The rows that say what to ask for, and their captions or classes; raises ValueError where none does."""
    if "text" in model.encoders:
        captioned = [row for row in rows if pictures.records[row].caption is not None]
        if not captioned:
            raise ValueError(f"{model.name} draws captions, but the data has none; give captioned pictures")
        return captioned, [str(pictures.records[row].caption) for row in captioned], None
    if not model.classes:
        return list(rows), None, None
    names = list(pictures.source.classes)
    if names != list(model.classes):
        raise ValueError(f"{model.name} draws {list(model.classes)}, the data has {names or 'no classes'}")
    return list(rows), None, list(pictures.labels(rows))


def strokes(pictures: Tensor) -> Tensor:
    """uint8 (N, C, H, W) as flat tiles, `TILES` a side, each of its mean colour."""
    height, width = pictures.shape[-2:]
    means = F.adaptive_avg_pool2d(pictures.double(), (min(TILES, height), min(TILES, width)))
    return F.interpolate(means.round(), (height, width), mode="nearest").to(torch.uint8)


def _photo(picture: Tensor) -> NDArray[np.uint8]:
    found: NDArray[np.uint8] = picture.permute(1, 2, 0).contiguous().numpy()
    return found


def distance(before: Tensor, after: Tensor, at: str = "") -> Figure:
    """The root mean square difference of pictures uint8 (N, C, H, W) as a share of 255: the mean, its interval."""
    each = (after.double() - before.double()).square().flatten(1).mean(1).sqrt() / 255
    half = Z * float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    mean = float(each.mean())
    return Figure(DISTANCE, mean, mean - half, mean + half, len(each), at)


def curves(report: Report) -> dict[str, list[tuple[float, float]]]:
    """The points of both curves, each as a share of its largest, by a name that says how much that is."""
    found = {}
    for name in (DISTANCE, REALISM):
        points = [(float(f.at.split()[1].rstrip(",")), f.value) for f in report.figures if f.name == name]
        most = max(max(value for _, value in points), 1e-12)
        found[f"{name}, at most {most:.3g}"] = [(at, value / most) for at, value in points]
    return found
