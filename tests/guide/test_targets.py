"""Each method moves what it is for, on a trained model of shapes: the exact parser sees colour, shape, size and place.

Give a run of recipes/shapes32.yaml in $GUIDED_SHAPES_MODEL, and one of recipes/classifier-shapes32.yaml in
$GUIDED_SHAPES_CLASSIFIER for what needs it.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import guided
from guided import guide as g
from guided import path
from guided.cond import Cond
from guided.data.shapes import COLOURS, SHAPES, ShapesSource, read, score
from guided.guide import Guide, Term
from guided.model import Model, NoisyClassifier, conditioning
from guided.noise import Noise
from guided.operators import BoxDown, Mask
from guided.sampling import sample

pytestmark = pytest.mark.slow
N, STEPS, STRONG = 96, 16, 12.0
NULL = Cond()


@functools.cache
def model() -> Model:
    folder = os.environ.get("GUIDED_SHAPES_MODEL")
    if not folder:
        pytest.skip("needs a trained model: set GUIDED_SHAPES_MODEL to a run of recipes/shapes32.yaml")
    found = guided.load(folder)
    assert isinstance(found, Model)
    return found


@functools.cache
def judge() -> NoisyClassifier:
    folder = os.environ.get("GUIDED_SHAPES_CLASSIFIER")
    if not folder:
        pytest.skip("needs a classifier: set GUIDED_SHAPES_CLASSIFIER to a run of recipes/classifier-shapes32.yaml")
    found = guided.load(folder)
    assert isinstance(found, NoisyClassifier)
    return found


@functools.cache
def captions() -> tuple[str, ...]:
    source = ShapesSource(N, seed=11, hold_out=0.0)
    return tuple(str(source.records[i].caption) for i in range(N))


def prompts(texts: tuple[str, ...]) -> Cond:
    return conditioning.trimmed(conditioning.read(model().encoders["text"], list(texts))[0])


@functools.cache
def renders() -> Tensor:
    """True pictures of the captions, (N, 3, 32, 32) in [-1, 1]."""
    source = ShapesSource(N, seed=11, hold_out=0.0)
    return torch.stack([torch.from_numpy(source.image(i, (32, 32))).permute(2, 0, 1) for i in range(N)]) / 127.5 - 1


def draw(
    guide: Guide | Term | None,
    cond: Cond | None = None,
    route: Callable[[Tensor], Tensor] = lambda levels: levels,
    solver: str | None = None,
) -> Tensor:
    """N pictures, not yet cut to the range of a picture; of the captions where no condition is given."""
    m, noise = model(), Noise(range(N))
    given = prompts(captions()) if cond is None else cond
    levels = route(path.default(STEPS, m.denoiser.lo, m.denoiser.hi))
    mean = torch.tensor(m.card["mean"]).reshape(-1, 1, 1)
    x = mean + float(levels[0]) * noise(0, (3, 32, 32))
    denoise = m.denoiser if guide is None else guide(m.denoiser)
    return sample(denoise, x, levels, given, solver=solver, noise=noise)


@functools.cache
def unguided() -> Tensor:
    return draw(None)


@functools.cache
def blind() -> Tensor:
    return draw(None, NULL)


@functools.cache
def cfg(w: float) -> Tensor:
    return draw(g.cfg(w))


def bytes_of(x: Tensor) -> Tensor:
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def right(x: Tensor, texts: tuple[str, ...] | None = None, *names: str) -> float:
    """The share of pictures that show all of their caption, or the attributes named."""
    rows = [score(picture.numpy(), read(text)) for picture, text in zip(bytes_of(x), texts or captions(), strict=True)]
    return sum(all(row[name] for name in names or row) for row in rows) / len(rows)


def beyond(x: Tensor) -> float:
    """The share of numbers outside the range of a picture."""
    return float((x.abs() > 1.02).float().mean())


NEGATED = ("a large red circle in the center",) * N


# Contrasts: more of what was asked for


@pytest.mark.parametrize(
    "guide",
    [
        g.cfg(3),
        g.cfg(3).during(0.3, 10),
        g.cfg(lambda sigma, next_sigma: 1 + 2 * (sigma > 0.5)),
        g.cfgpp(0.3),
        g.cfg(6) >> g.apg(0.0, -0.5, 15.0),
        g.cfg(6) >> g.frequency(),
        g.cfg(6) >> g.rescale(0.7),
    ],
    ids=lambda guide: repr(guide)[:60],
)
def test_contrasts_draw_more_of_the_caption(guide: Guide | Term) -> None:
    before, after = right(unguided()), right(draw(guide))
    print(f"{guide!r}: all of the caption {before:.3f} -> {after:.3f}")
    assert after > before
