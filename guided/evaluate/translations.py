"""Networks that change pictures: each task undone on pictures that were kept out, beside the trivial answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from guided.degrade import Down, Pairs, Task, box, consistent
from guided.evaluate.distances import frechet, kernel
from guided.evaluate.features import Bands, Features, levels, perceptual, unit
from guided.evaluate.figures import Figure, mean
from guided.evaluate.lpips import Lpips
from guided.evaluate.material import Artist, How, Real, thinned, told
from guided.evaluate.measures import Found
from guided.model import Request, drawing
from guided.model.request import Plan
from guided.noise import key
from guided.tasks import translating

SHOWN = 8
"""Pictures of each task on a sheet, each as it was given, as the baseline, as drawn, and the truth."""
FINE = Bands(16)
"""Where two pictures of the same thing are held against each other."""


def translations(
    artist: Artist,
    real: Real,
    n: int,
    ways: Sequence[How],
    space: Features | None = None,
    crops: float = 1.0,
    lpips: Lpips | None = None,
) -> Found:
    """Each task of a model, guided in each way, on n pictures that were kept out (of training, where none were).

    FD and KID of the results against the truth in `space`, perceptual distance, LPIPS where it is asked for, and PSNR
    to it; of super-resolution also how well the small picture is met, and the mean error of each colour. Beside each
    stands the baseline's figure. Where guides are among the ways, what each costs.
    crops: below 1 random windows of the pictures stand for them, as the recipe's `data.crop`. Raises ValueError for a
    model of pairs.
    """
    space = space or Bands()
    taught = translating.learnt(artist.model)
    if any(isinstance(task, Pairs) for task in taught.tasks):
        raise ValueError(
            f"{artist.model.name} learnt from pairs, which no task makes of a picture: translate those of source/ and "
            "judge the folder that comes of it: guided eval OUT --against target"
        )
    rows = (*real.split.held_bases, *real.split.held_pairs) or real.split.train
    truth, groups = _pictures(real, sorted(rows), n, crops, artist.seed)
    if lpips is not None:
        lpips.check(truth)  # before any of them is drawn
    figures: list[Figure] = []
    one, pairs = unit(truth[:1]), [(number, how) for number in range(len(taught.tasks)) for how in ways]
    for number, how in pairs:  # what cannot be done is refused before long work
        _planned(artist, one, [artist.seed], number, how)
    if any(isinstance(how, str) for how in ways):
        quiet = replace(artist, watch=None)
        figures += [artist.counted(partial(_restored, quiet, one, 0, how), how) for how in ways]
    shown: list[Tensor] = []
    few = thinned(range(len(truth)), SHOWN)
    for number, task in enumerate(taught.tasks):
        results: list[Tensor] = []
        for how in ways:
            drawn, given = _restored(artist, unit(truth), number, how)
            results.append(drawn)
        plain = levels(torch.stack([task.baseline(one) for one in given]))
        for how, drawn in zip(ways, results, strict=True):
            found = judged(task, drawn, plain, truth, space, lpips, groups)
            figures += found if how is None else [replace(f, at=f"{f.at}, {told(how)}") for f in found]
        shown += [part[few] for part in (levels(given.nan_to_num(0.0)), plain, *results, truth)]
    settings = {
        "pictures": f"{len(truth)} of {len(set(groups))} that were kept out"
        if rows != real.split.train
        else f"{len(truth)} of the training pictures: none were kept out",
        "features": space.name,
        "perceptual distance": f"mean square in {FINE.name}",
        **({} if lpips is None else {"LPIPS": lpips.name}),
        "sheet": f"a row each: as given, baseline, drawn{_named(ways)}, truth",
    }
    return Found(figures, settings, torch.cat(shown), [""] * len(torch.cat(shown)), columns=len(few))


def _pictures(real: Real, rows: Sequence[int], n: int, crops: float, seed: int) -> tuple[Tensor, list[int]]:
    """n pictures, uint8 (N, C, H, W), and the record of each; several windows of one where crops are asked for."""
    some = thinned(rows, n)
    if crops == 1:
        return real.read(some)
    sound = real.read(some)[1]
    found, kept = [], []
    for i in range(n if n > len(some) else len(sound)):
        row = sound[i % len(sound)]
        draws = [(key(f"eval/crop/{what}", seed, i) % 2**32) / 2**32 for what in ("size", "down", "right")]
        found.append(real.pictures.piece(row, crops ** draws[0], draws[1], draws[2]))
        kept.append(row)
    return torch.stack(found), kept


def _named(ways: Sequence[How]) -> str:
    """The guides and weights that were asked for."""
    names = [told(how) for how in ways if how is not None]
    return f" ({', '.join(names)})" if names else ""


def _restored(artist: Artist, x0: Tensor, number: int, how: How) -> tuple[Tensor, Tensor]:
    """What the model makes of pictures spoilt by a task, uint8, and the spoilt ones as it was shown them."""
    drawn, given = [], []
    for start in range(0, len(x0), artist.batch):
        part = x0[start : start + artist.batch]
        seeds = range(artist.seed + start, artist.seed + start + len(part))
        plan, image = _planned(artist, part, seeds, number, how)
        for progress in drawing.run(artist.model, plan):
            if progress.result is not None:
                drawn.append(levels(progress.result.tensor))
        given.append(image)
        if artist.watch is not None:
            artist.watch("restoring", start + len(part), len(x0))
    return torch.cat(drawn), torch.cat(given)


def _planned(artist: Artist, x0: Tensor, seeds: Sequence[int], number: int, how: How) -> tuple[Plan, Tensor]:
    """`translating.restoring` in a way; raises ValueError where the model knows no such way."""
    request = Request(
        n=len(x0), steps=artist.steps, solver=artist.solver, seed=seeds[0], batch=artist.batch,
        w=None if isinstance(how, str) else how, guide=how if isinstance(how, str) else None,
    )  # fmt: skip
    return translating.restoring(artist.model, x0, seeds, number, request)


def judged(
    task: Task,
    drawn: Tensor,
    plain: Tensor,
    truth: Tensor,
    space: Features,
    lpips: Lpips | None = None,
    groups: Sequence[int] | None = None,
) -> list[Figure]:
    """The figures of one task: results, the baseline's answers and the truth, all uint8 (N, C, H, W).

    groups: the picture that each is of. Several windows of one hang together, so intervals are over pictures.
    """
    at, average = repr(task), partial(mean, groups=groups)
    features, other, own = space(drawn), space(plain), space(truth)
    figures = []
    if len(truth) >= 2 * own.shape[1]:
        plainly = {"baseline": frechet(other, own, draws=2).value}, {"baseline": kernel(other, own, draws=2).value}
        figures.append(replace(frechet(features, own, at=at, groups=groups), beside=plainly[0]))
        figures.append(replace(kernel(features, own, at=at, groups=groups), beside=plainly[1]))
    far = perceptual(FINE, plain, truth).mean()
    figures.append(average("perceptual distance", perceptual(FINE, drawn, truth), at, {"baseline": float(far)}))
    if lpips is not None:
        figures.append(average("LPIPS", lpips(drawn, truth), at, {"baseline": float(lpips(plain, truth).mean())}))
    figures.append(average("PSNR, dB", _psnr(drawn, truth), at, {"baseline": float(_psnr(plain, truth).mean())}))
    if isinstance(task, Down) and task.of_means:
        figures += _consistency(task, drawn, plain, truth, average)
    return figures


def _consistency(
    task: Down, drawn: Tensor, plain: Tensor, truth: Tensor, average: Callable[..., Figure]
) -> list[Figure]:
    at = repr(task)
    small, again, base = (box(part.double(), task.factor) for part in (truth, drawn, plain))
    exact = levels(consistent(unit(drawn), box(unit(truth), task.factor), task.factor)).double()
    beside = {
        "baseline": float(_psnr(base, small).mean()),
        "exact": float(_psnr(box(exact, task.factor), small).mean()),
    }
    colour = (again - small).mean((2, 3))
    figures = [average("consistency PSNR, dB", _psnr(again, small), at, beside)]
    for channel in range(colour.shape[1]):
        figures.append(average(f"colour error of channel {channel}, in 1/255", colour[:, channel], at))
    return figures


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    """Of each picture with values 0..255, (N,) in dB; at most 80, where two are equal."""
    square = (a.double() - b.double()).square().flatten(1).mean(1)
    return (10 * torch.log10(255**2 / square)).clamp_max(80)
