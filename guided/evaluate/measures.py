"""What is measured on each kind of model: of captions, of shapes, of classes; and of any folder of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guided import data
from guided import path as paths
from guided.cond import Cond
from guided.data.shapes import ShapesSource
from guided.evaluate import retrieval
from guided.evaluate.accuracy import cas, class_accuracy, prompt_accuracy
from guided.evaluate.classifier import Schedule, cached_classifier
from guided.evaluate.distances import MOST, coverage, density, enough, frechet, kernel, precision, recall
from guided.evaluate.features import Blur, Features, Thumbnail, nearest, unit
from guided.evaluate.figures import Figure, mean
from guided.evaluate.likelihood import elbo
from guided.evaluate.lpips import Lpips
from guided.evaluate.material import Artist, How, Real, Watch, by_name, thinned, told
from guided.evaluate.network import Classifier
from guided.evaluate.towers import Towers, clip_score
from guided.model import Model
from guided.noise import Noise

TEST = 0.125
"""The share of labelled pictures that the classifier never sees; what a model's split keeps out is among them."""


@dataclass(frozen=True, eq=False)
class Lot:
    """All pictures drawn in one way, uint8 (N, C, H, W), what each was asked to be, and the features they live in."""

    pictures: Tensor
    asked: Sequence[str]
    space: Features
    at: str = ""


@dataclass(frozen=True, eq=False)
class Found:
    """The figures of one measurement, what was assumed, pictures for a sheet with their captions, and a whole lot.

    columns: how many pictures stand in a row of the sheet.
    """

    figures: list[Figure]
    settings: dict[str, str]
    shown: Tensor | None = None
    captions: Sequence[str] = ()
    lot: Lot | None = None
    columns: int = 8


@dataclass(frozen=True, eq=False)
class Extra:
    """What is measured only where it is asked for.

    space: the features of all distances, in place of our own. clip: both towers, for CLIPScore. taught: how a
    classifier is trained on pictures drawn of classes, for their CAS. lpips: how far what a model makes of pictures it
    is given looks from the truth.
    """

    space: Features | None = None
    clip: Towers | None = None
    taught: Schedule | None = None
    lpips: Lpips | None = None


def captions(artist: Artist, real: Real, ways: Sequence[How], n: int, extra: Extra | None = None) -> Found:
    """A captioned set: retrieval of n training captions in each way, then what was kept out in the best of them.

    Of the extras, those asked for: CLIPScore, and all distances in a feature space.
    """
    extra = extra or Extra()
    space, plain = Thumbnail(), Blur()
    gallery = _gallery(real)
    rows = retrieval.training_rows(gallery, n)
    sides = None if extra.space is None else _sides(real, extra.space, len(rows))
    figures: list[Figure] = []
    drawn: dict[How, Tensor] = {}
    right: dict[How, float] = {}
    own = gallery.pictures[rows]
    for how in ways:
        at = told(how)
        drawn[how] = artist.pictures(how, [gallery.caption(row) for row in rows])
        found = retrieval.of_training(space, gallery, drawn[how], rows, at)
        figures += [*found, _renamed(retrieval.of_training(plain, gallery, drawn[how], rows, at)[0])]
        figures += looks(drawn[how], own, at)
        if extra.space is not None and sides is not None:
            figures += distances(extra.space(drawn[how]), *sides, at)
        if extra.clip is not None:
            figures += clip_score(extra.clip, drawn[how], [gallery.caption(row) for row in rows], at, own)
        right[how] = found[0].value
    best = max(ways, key=lambda how: right[how])
    at = told(best)
    pairs = list(gallery.split.held_pairs)
    if pairs:
        figures += retrieval.of_pairs(space, gallery, artist.pictures(best, [gallery.caption(r) for r in pairs]), at)
    held = retrieval.held_rows(gallery, n)
    if len({gallery.base(row) for row in held}) > 1:
        pictures = artist.pictures(best, [gallery.caption(row) for row in held])
        figures.append(retrieval.of_held_bases(space, gallery, pictures, held, at))
    settings = {
        "nearest picture in": space.name,
        "captions": f"{len(rows)} of training by hash; {len(pairs)} held-out pairs, {len(held)} of held-out bases",
        "best": at,
        **({} if extra.space is None or sides is None else _told_distances(extra.space, *sides)),
        **_told_clip(extra.clip, [gallery.caption(row) for row in rows]),
    }
    some = thinned(range(len(rows)), 64)
    shown = drawn[best][some]
    lot = Lot(drawn[best], [gallery.caption(row) for row in rows], extra.space or space, at)
    return Found(figures, settings, shown, _told(gallery, space, shown, [rows[i] for i in some]), lot)


def _renamed(figure: Figure) -> Figure:
    name = figure.name.replace("base right: all", "base right: all, by plain 16 px means")
    return Figure(**{**figure.__dict__, "name": name})


def _told(gallery: retrieval.Gallery, space: Features, shown: Tensor, rows: Sequence[int]) -> list[str]:
    """Captions for a sheet; where the nearest training picture has another base, what that one is."""
    train = gallery.train
    found = [train[i] for i in nearest(space(shown), space(gallery.pictures[train])).tolist()]
    return [
        gallery.caption(a) + ("" if gallery.base(a) == gallery.base(b) else f" (like: {gallery.caption(b)})")
        for a, b in zip(rows, found, strict=True)
    ]


def _gallery(real: Real) -> retrieval.Gallery:
    """All pictures at their rows; those that cannot be read belong to no part of the split."""
    read, kept = real.read(range(len(real.records)))
    pictures = read.new_zeros(len(real.records), *read.shape[1:])
    pictures[torch.tensor(kept)] = read
    sound = set(kept)
    train, bases, pairs = (
        tuple(row for row in part if row in sound)
        for part in (real.split.train, real.split.held_bases, real.split.held_pairs)
    )
    return retrieval.Gallery(pictures, real.records, data.Split(train, bases, pairs))


def looks(pictures: Tensor, own: Tensor, at: str) -> list[Figure]:
    """What else is to be seen of pictures uint8 (N, C, H, W) beside those of the same captions.

    The share of numbers at the limits, and the distance of the two sets in 8 px means, where they are many enough.
    """
    saturated = mean("saturation", _saturation(pictures), at, {"real": float(_saturation(own).mean())})
    figures = [replace(saturated, percent=True)]
    space = Blur(8)
    features = space(pictures)
    if min(len(pictures), len(own)) >= 2 * features.shape[1]:
        figures.append(replace(frechet(features, space(own), at=at), name="FD in 8 px means"))
    return figures


def _saturation(pictures: Tensor) -> Tensor:
    """Of each picture uint8, the share of its numbers that are 0 or 255."""
    return ((pictures == 0) | (pictures == 255)).flatten(1).double().mean(1)


def _told_clip(clip: Towers | None, texts: Sequence[str]) -> dict[str, str]:
    if clip is None:
        return {}
    _, full = clip.read(texts)
    return {"CLIPScore": f"{clip.name}; captions as they are, {full} of {len(texts)} fill all its tokens"}


def shapes(artist: Artist, ways: Sequence[How], n: int, extra: Extra | None = None) -> Found:
    """Shapes: the exact parser's verdict on n captions of colour-shape pairs that were never in training.

    Of the extras, those asked for: CLIPScore, and all distances to renders of the same captions.
    """
    extra = extra or Extra()
    recipe: dict[str, Any] = artist.model.card.get("recipe") or {}
    section = recipe.get("data", {}).get("shapes", {})
    source = ShapesSource(
        n,
        seed=int(recipe.get("seed", 0)),
        objects=int(section.get("objects", 1)),
        hold_out=float(section.get("hold_out", 0.2)),
        held=True,
    )
    texts = [str(record.caption) for record in source.records]
    figures: list[Figure] = []
    shown = None
    own = torch.stack([torch.from_numpy(source.image(i, artist.model.size)).permute(2, 0, 1) for i in range(n)])
    reference = None if extra.space is None else extra.space(own)
    if reference is not None:
        enough(n, n, reference.shape[1])
    for how in ways:
        shown = artist.pictures(how, texts)
        figures += [*prompt_accuracy(shown, texts, told(how)), *looks(shown, own, told(how))]
        if extra.space is not None and reference is not None:
            figures += distances(extra.space(shown), reference, None, told(how))
        if extra.clip is not None:
            figures += clip_score(extra.clip, shown, texts, told(how), own)
    pairs = ", ".join(" ".join(pair) for pair in source.held_pairs())
    settings = {"captions": f"{n}, all of pairs never in training: {pairs}", **_told_clip(extra.clip, texts)}
    if extra.space is not None:
        settings |= {"features": extra.space.name, "reference": f"{n} renders of the same captions"}
    return Found(figures, settings, None if shown is None else shown[:64], texts[:64])


def classes(
    artist: Artist, real: Real, ways: Sequence[How], n: int, judge: Classifier, extra: Extra | None = None
) -> Found:
    """A set of classes: class accuracy, and distances to the training pictures, of n pictures, all classes as many.

    Of the extras, those asked for: CAS, and the features of the distances in place of the judge's.
    """
    extra = extra or Extra()
    space, taught = extra.space or judge.space, extra.taught
    if list(artist.model.classes) != list(judge.names):
        raise ValueError(f"the model draws {list(artist.model.classes)}, the classifier knows {list(judge.names)}")
    reference, floor = _sides(real, space, n)
    exam = None if taught is None else _exam(real, judge, n, taught)
    labels = [i % len(judge.names) for i in range(n)]
    held, rows = real.read(real.split.held_bases) if real.split.held_bases else (None, [])
    beside = {}
    if held is not None:
        beside["real, held out"] = class_accuracy(judge, held, real.labels(rows)).value
    figures: list[Figure] = []
    shown = None
    for how in ways:
        shown = artist.pictures(how, labels=labels)
        at = told(how)
        figures.append(class_accuracy(judge, shown, labels, at, beside))
        if exam is not None:
            device = artist.model.device
            score = cas(shown, labels, judge.names, exam.test, taught, at=at, beside=exam.beside, device=device)
            figures.append(score)
        figures += distances(space(shown), reference, floor, at)
    settings = _told_distances(space, reference, floor) | ({} if exam is None else {"CAS": exam.told})
    asked = [judge.names[i] for i in labels]
    assert shown is not None
    return Found(figures, settings, shown[:64], asked[:64], Lot(shown, asked, space, told(ways[-1])))


def folder(pictures: Tensor, real: Real, space: Features | None) -> Found:
    """A folder of pictures uint8 (N, C, H, W): distances to the real ones for training, by default in 8 px means."""
    space = space or Blur(8)
    reference, floor = _sides(real, space, len(pictures))
    figures = distances(space(pictures), reference, floor)
    return Found(figures, _told_distances(space, reference, floor), lot=Lot(pictures, (), space))


def distances(features: Tensor, reference: Tensor, floor: Tensor | None, at: str = "") -> list[Figure]:
    """FD, KID, precision, recall, coverage and density of features against a reference; ValueError below their n.

    Each but density has its floor beside it, the same of real pictures that were kept out.
    """
    return [
        frechet(features, reference, floor=floor, at=at),
        kernel(features, reference, floor=floor, at=at),
        precision(features, reference, floor=floor, at=at),
        recall(features, reference, floor=floor, at=at),
        coverage(features, reference, floor=floor, at=at),
        density(features, reference, at=at),
    ]


def _sides(real: Real, space: Features, n: int) -> tuple[Tensor, Tensor | None]:
    """Features of the training pictures, at most 20,000 of them, and of those kept out.

    Raises ValueError where they or n pictures are too few for the distances.
    """
    blank = torch.zeros(1, real.pictures.channels, *real.pictures.size, dtype=torch.uint8)
    enough(n, len(real.split.train), space(blank).shape[1])
    reference = space(real.read(thinned(real.split.train, MOST))[0])
    held = real.split.held_bases
    return reference, space(real.read(thinned(held, MOST))[0]) if held else None


def _told_distances(space: Features, reference: Tensor, floor: Tensor | None) -> dict[str, str]:
    return {
        "features": space.name,
        "reference": f"{len(reference)} training pictures; floor: {0 if floor is None else len(floor)} kept out",
        "distances": "FD in float64, biased by n; KID unbiased, degree 3; precision and recall with k = 3, "
        "coverage and density with k = 5",
    }


def classified(real: Real) -> tuple[tuple[Tensor, list[int]], tuple[Tensor, list[int]]]:
    """Pictures and labels for a classifier: to train on, and the 12.5 % to test on, by a hash of their names."""
    split = data.split(real.records, share=TEST, pairs=0, key=by_name)
    read, rows = real.read(split.train)
    test, kept = real.read(split.held_bases) if split.held_bases else (read[:0], [])
    return (read, real.labels(rows)), (test, real.labels(kept))


@dataclass(frozen=True, eq=False)
class _Exam:
    """Real pictures and labels to test classifiers on, what to hold the result against, and which pictures they are."""

    test: tuple[Tensor, list[int]]
    beside: dict[str, float]
    told: str


def _exam(real: Real, judge: Classifier, n: int, schedule: Schedule) -> _Exam:
    """The test of classifiers taught by n drawn pictures, with what the judge and n real pictures reach in it.

    The pictures are those that neither the model nor the judge was trained on; the judge's own test pictures, where
    the model was trained on everything.
    """
    if list(real.source.classes) != list(judge.names):
        raise ValueError(f"the data has classes {list(real.source.classes)}, the classifier {list(judge.names)}")
    split = data.split(real.records, share=TEST, pairs=0, key=by_name)
    unseen = set(real.split.held_bases) & set(split.held_bases)
    read, rows = real.read(sorted(unseen) or split.held_bases)
    test = (read, real.labels(rows))
    some, taught = real.read(thinned(split.train, n))
    same = cas(some, real.labels(taught), judge.names, test, schedule)
    own = class_accuracy(judge, *test)
    who = (
        "neither the model nor the judge was trained on"
        if unseen
        else "the judge was not trained on, but the model was"
    )
    return _Exam(
        test,
        {f"of {len(taught)} real": same.value, "judge": own.value},
        f"classifiers of {schedule.epochs:g} passes, tested on {len(rows)} real pictures that {who}",
    )


def title(real: Real) -> str:
    """The last part of the data's path."""
    return str(real.source.summary.get("path", "pictures")).rstrip("/").rpartition("/")[2]


def judge_of(real: Real, schedule: Schedule | None = None, watch: Watch | None = None) -> Classifier:
    """The classifier of a labelled set, from the cache or trained now."""
    train, test = classified(real)

    def seen(step: int, steps: int, loss: float) -> None:
        if watch is not None:
            watch("training the classifier", step, steps)

    card = {"data": title(real)}
    return cached_classifier(*train, real.source.classes, schedule, test=test, card=card, watch=seen)


def likelihood(artist: Artist, real: Real, n: int, steps: int) -> list[Figure]:
    """The variational bound in bits/dim on n training and n held-out pictures, each under its own condition."""
    model = artist.model
    parts = {"training": real.split.train, "held-out": (*real.split.held_bases, *real.split.held_pairs)}
    path = paths.log_snr(steps, model.denoiser.lo, model.denoiser.hi)
    found: dict[str, Tensor] = {}
    for name, part in parts.items():
        read, rows = real.read(thinned(part, n)) if part else (torch.empty(0), [])
        if len(rows) < 2:
            continue
        bits = []
        for start in range(0, len(rows), artist.batch):
            some = slice(start, start + artist.batch)
            x0 = model.codec.encode(unit(read[some])).to(model.device)
            cond = _condition(model, real, rows[some])
            bits.append(elbo(model.denoiser, x0, path, Noise(rows[some], "elbo"), cond).bits_per_dim.cpu())
            if artist.watch is not None:
                artist.watch(f"bound on {name} pictures", min(start + artist.batch, len(rows)), len(rows))
        found[name] = torch.cat(bits)
    return [mean(f"ELBO, bits/dim: {name} pictures", bits, f"T = {steps}") for name, bits in found.items()]


def _condition(model: Model, real: Real, rows: Sequence[int]) -> Cond:
    """Each record's own caption or label, as the model takes it."""
    cond = Cond()
    if "text" in model.encoders:
        captions = [real.records[row].caption for row in rows]
        found = model.encoders["text"]([caption or "" for caption in captions])
        absent = torch.tensor([caption is None for caption in captions])
        cond = Cond(tokens=found.tokens, mask=found.mask, vector=found.vector).drop(absent)
    if model.classes:
        cond = replace(cond, label=torch.tensor(real.labels(rows)))
    return cond.to(model.device)
