"""The cascade doctor: each stage's input swapped between real, generated and augmented, and what that says of it.

Two kinds of evidence. What a network was taught shows in its denoising loss on real pictures, under pairs made in this
way and in that: paired differences, which need few pictures. What a cascade draws is compared with real pictures in FD.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guided.cascade import Cascade
from guided.cond import Cond
from guided.degrade import Augment, Down, box
from guided.degrade.scale import KERNELS, shrink
from guided.denoiser import Denoiser
from guided.evaluate.distances import frechet
from guided.evaluate.features import Bands, levels, unit
from guided.evaluate.figures import Figure
from guided.evaluate.material import Real, real
from guided.model import Model, Request, drawing
from guided.noise import Noise
from guided.tasks import upscaling

CELLS = 2
"""FD is taken in `Bands` of so many places a side: 24 numbers, which 48 pictures are enough for."""
SURE = 4.0
"""Standard errors that a difference has to exceed."""
LINEAR, PLAIN, EARLY = 0.75, 0.5, 0.97
"""Shares of an error from which on a stage counts as under-trained: of a linear filter's, of plain enlarging's, of its
own early snapshot's."""
KERNEL, HEARD = 0.99, 0.995
"""Shares of a loss below which another kernel suits a network better, or the level it is told helps it."""
FIRST_COLOUR, COLOUR = 0.08, 0.016
"""Errors of the mean colour, of a range of 2, that are no accident: of what is drawn, and of what is enlarged."""
Watch = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """What is wrong with a stage (counted from 1): a kind, the evidence in words, and what to do."""

    stage: int
    kind: str
    evidence: str
    remedy: str


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What the doctor found; sound where there are no findings."""

    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...]
    advice: tuple[str, ...]
    levels: tuple[float, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def json(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "sound": self.sound,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "figures": [figure.json() for figure in self.figures],
            "advice": list(self.advice),
            "levels": list(self.levels),
        }


@dataclass(frozen=True)
class Doctor:
    """How to examine: n pictures, of the first stage's steps and the others' (None: their cards'), from a seed on."""

    n: int = 64
    steps: int | None = None
    later: int | None = None
    seed: int = 0
    batch: int = 16

    def __post_init__(self) -> None:
        least = 2 * 6 * CELLS**2
        if self.n < least:
            raise ValueError(f"n: FD in {6 * CELLS**2} features needs at least {least} pictures, got {self.n}")


def examine(cascade: Cascade, against: str, how: Doctor | None = None, watch: Watch | None = None) -> Diagnosis:
    """Examine a cascade by real pictures (whatever `data.open` opens); raises ValueError where they do not serve."""
    how, watch = how or Doctor(), watch or (lambda _: None)
    findings: list[Finding] = []
    figures: list[Figure] = []
    pictures = [_real(cascade, against, number, how) for number in range(len(cascade.stages))]
    watch("the first stage's loss")
    findings += _first(cascade.stages[0], pictures[0], how)
    for number in range(1, len(cascade.stages)):
        watch(f"stage {number + 1}: its loss on pairs made in several ways")
        findings += _taught(cascade, number, pictures[number].images, how)
    watch("drawing")
    drawn = _drawn(cascade, pictures[0], how)
    findings += _colours(1, pictures[0].images, drawn, FIRST_COLOUR)
    chosen: list[float] = []
    for number in range(1, len(cascade.stages)):
        watch(f"stage {number + 1}: drawing from real and from generated pictures")
        found, figure, level = _swapped(cascade, number, pictures, drawn, how)
        findings += found
        figures += figure
        chosen.append(level)
        if number + 1 < len(cascade.stages):
            drawn = _enlarged(cascade, number, drawn, level, how)
    return Diagnosis(tuple(findings), tuple(figures), tuple(_advice(cascade, figures)), tuple(chosen))


@dataclass(frozen=True, eq=False)
class Sample:
    """Real pictures (n, C, H, W) in [-1, 1] of a stage's size, and what they show, as a request says it."""

    images: Tensor
    words: dict[str, Any]


def _real(cascade: Cascade, against: str, number: int, how: Doctor) -> Sample:
    """The same n records for every stage, those that were kept out of training first."""
    first = cascade.stages[0]
    found: Real = real(against, cascade.sizes[number], first.card.get("recipe"))
    held = (*found.split.held_bases, *found.split.held_pairs)
    pool = held if len(held) >= how.n else (*held, *found.split.train)
    if len(pool) < how.n:
        raise ValueError(f"{against}: {how.n} pictures are asked for, there are {len(pool)}: give a smaller --n")
    read, rows = found.read([pool[(7 * how.seed + i * len(pool) // how.n) % len(pool)] for i in range(how.n)])
    if len(rows) < how.n:
        raise ValueError(f"{against}: {how.n} pictures are asked for, {len(rows)} of them can be read")
    words: dict[str, Any] = {}
    if "text" in first.encoders:
        words = {"prompts": [found.records[row].caption or "" for row in rows]}
    elif first.classes:
        words = {"labels": found.labels(rows)}
    return Sample(unit(read), words if words else {"n": len(rows)})


def _first(model: Model, sample: Sample, how: Doctor) -> list[Finding]:
    """Whether the first stage denoises real pictures better than the best linear filter of them."""
    x0 = sample.images
    sigma = model.denoiser.lo + 0.5
    cond = _cond(model, sample.words)
    noise = Noise(range(how.seed, how.seed + len(x0)), "doctor")(0, x0.shape[1:])
    own = _loss(model.denoiser, x0, noise, sigma, cond, how.batch)
    linear = _wiener(x0, x0 + sigma * noise, sigma)
    share = float((own / linear).mean())
    if share > LINEAR:
        return [_untrained(0, f"at sigma {sigma:.2g} its error is {share:.2f} of a linear filter's")]
    early = model.early()
    if early is None:
        return []
    return _grown(0, own, _loss(early, x0, noise, sigma, cond, how.batch))


def _untrained(number: int, said: str) -> Finding:
    return Finding(number + 1, "under-trained", said, "train it longer")


def _grown(number: int, own: Tensor, early: Tensor) -> list[Finding]:
    """Whether a stage has learnt anything since its early snapshot."""
    share = float(own.sum() / early.sum())
    return [_untrained(number, f"its error is {share:.2f} of its early snapshot's")] if share > EARLY else []


def _wiener(x0: Tensor, x: Tensor, sigma: float) -> Tensor:
    """The error (n,) of each picture under the linear filter that knows the spectrum of these very pictures.

    In the basis of the discrete cosine transform, where natural pictures are nearly uncorrelated: gain
    p / (p + sigma^2), p the mean power of each frequency. It is told the answer's power, so it is no weak opponent.
    """
    rows, columns = (_cosines(side) for side in x0.shape[-2:])
    clean, noisy = (rows @ part.double() @ columns.mT for part in (x0, x))
    power = clean.square().mean(0)
    return ((power / (power + sigma**2)) * noisy - clean).square().flatten(1).mean(1)


def _cosines(n: int) -> Tensor:
    """(n, n): the orthonormal discrete cosine transform."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)[None]
    found = (math.pi * (i + 0.5) * k / n).cos() * math.sqrt(2 / n)
    found[0] /= math.sqrt(2)
    return found


@torch.no_grad()
def _loss(denoise: Denoiser, x0: Tensor, noise: Tensor, sigma: float, cond: Cond, batch: int) -> Tensor:
    """mean (D - x0)^2 of each picture, (n,) float64."""
    found = []
    for start in range(0, len(x0), batch):
        rows = slice(start, start + batch)
        part = cond if cond.size is None else cond.index(rows)
        x, where = x0[rows] + sigma * noise[rows], next(denoise.parameters()).device
        D = denoise(x.to(where), torch.tensor(sigma, dtype=torch.float64), part.to(where)).cpu()
        found.append((D.double() - x0[rows].double()).square().flatten(1).mean(1))
    return torch.cat(found)


def _cond(model: Model, words: dict[str, Any]) -> Cond:
    if "prompts" in words and "text" in model.encoders:
        told = model.encoders["text"](words["prompts"])
        return Cond(tokens=told.tokens, mask=told.mask, vector=told.vector).only(_accepts(model))
    if "labels" in words and model.classes:
        return Cond(label=torch.tensor(words["labels"]))
    return Cond()


def _accepts(model: Model) -> frozenset[str]:
    found: frozenset[str] = model.denoiser.network.accepts  # type: ignore[assignment]
    return found


def _taught(cascade: Cascade, number: int, images: Tensor, how: Doctor) -> list[Finding]:
    """What an enlarging stage was taught, by its loss on windows of real pictures under several kinds of pairs."""
    stage = cascade.stages[number]
    taught = stage.translation
    assert taught is not None and taught.down is not None
    task, x0 = taught.down, _windows(stage, images, taught.down.factor)
    seeds = range(how.seed, how.seed + len(x0))
    noise = Noise(seeds, "doctor")(0, x0.shape[1:])
    # Above the detail's own size, where the condition decides; and just below it.
    high = min(0.9 * stage.denoiser.hi, 2.0)
    sigmas = [high, *(level for level in (0.3, 0.1) if stage.denoiser.lo < level < high)]

    def loss(image: Tensor, level: float = 0.0, at: Sequence[float] = sigmas, by: Denoiser = stage.denoiser) -> Tensor:
        cond = Cond(image=image, aug=None if taught.augment is None else torch.full((len(x0),), level))
        return sum(_loss(by, x0, noise, s, cond, how.batch) for s in at)  # type: ignore[return-value]

    declared = _conditioned(x0, task, task.kernel, task.up)
    own = loss(declared)
    findings = _kernel(number, task, own, lambda kernel, up: loss(_conditioned(x0, task, kernel, up)))
    if findings:
        return findings
    trivial = (declared - x0).double().square().flatten(1).mean(1)
    share = float(loss(declared, at=[0.9 * stage.denoiser.hi]).sum() / trivial.sum())
    if share > PLAIN and task.up != "none":
        return [_untrained(number, f"its best guess has {share:.2f} of the error of plain enlarging")]
    early = stage.early()
    findings = [] if early is None else _grown(number, own, loss(declared, by=early))
    if taught.augment is None or findings:
        return findings
    return _hearing(number, taught.augment, declared, seeds, lambda image, level: loss(image, level, [high]))


def _windows(stage: Model, images: Tensor, factor: int) -> Tensor:
    """The middle of each picture, of the size that the stage was trained on."""
    whole = zip(stage.size, images.shape[2:], strict=True)
    sides = [min(own - own % factor, side - side % factor) for own, side in whole]
    starts = [(side - own) // 2 // factor * factor for own, side in zip(sides, images.shape[2:], strict=True)]
    return images[:, :, starts[0] : starts[0] + sides[0], starts[1] : starts[1] + sides[1]]


def _conditioned(x0: Tensor, task: Down, kernel: str, up: str) -> Tensor:
    small = torch.stack([shrink(one, task.factor, kernel) for one in x0])
    return Down(task.factor, kernel, up).condition(small)


def _kernel(number: int, task: Down, own: Tensor, loss: Callable[[str, str], Tensor]) -> list[Finding]:
    """Whether pairs made in another way suit the network better than those that its card names."""
    if task.up == "none":
        return []
    ways = [(kernel, task.up) for kernel in KERNELS if kernel != task.kernel]
    ways += [(task.kernel, up) for up in ("cubic", "linear") if up != task.up]
    best = min(((float(loss(*way).mean()), way) for way in ways), key=lambda pair: pair[0])
    difference = own - loss(*best[1])
    if best[0] > KERNEL * float(own.mean()) or _z(difference) < SURE:
        return []
    kernel, up = best[1]
    share = best[0] / float(own.mean())
    said = f"its loss falls to {share:.2f} when pictures are made small by {kernel} and enlarged by {up}"
    meant = f"its card says {task!r}; it was taught {Down(task.factor, kernel, up)!r}"
    return [Finding(number + 1, "wrong kernel", said, meant)]


def _hearing(
    number: int, augment: Augment, image: Tensor, seeds: Sequence[int], loss: Callable[[Tensor, float], Tensor]
) -> list[Finding]:
    """Whether it makes more of a disturbed picture where it is told how much that is."""
    level = augment.most
    put = augment(image, torch.full((len(image),), level), Noise(seeds, "doctor/augment")(0, image.shape[1:]))
    told, untold = loss(put, level), loss(put, 0.0)
    if float(told.mean()) < HEARD * float(untold.mean()) and _z(untold - told) > SURE:
        return []
    share = float(told.mean() / untold.mean())
    said = f"told of {augment.kind} {level:.2g} on its picture, its loss is {share:.2f} of that untold"
    return [Finding(number + 1, "augmentation not learnt", said, "train it with translate.augment, or say it has none")]


def _z(difference: Tensor) -> float:
    """How many standard errors the mean of independent differences lies above 0."""
    error = float(difference.std()) / math.sqrt(len(difference))
    return float(difference.mean()) / error if error > 0 else math.copysign(math.inf, float(difference.mean()))


def _drawn(cascade: Cascade, sample: Sample, how: Doctor) -> Tensor:
    """What the first stage draws of what the real pictures show."""
    request = Request(**sample.words, steps=how.steps, seed=how.seed, batch=how.batch)
    result = None
    for progress in cascade.stages[0].drawing(request):
        result = progress.result
    assert result is not None
    return result.tensor


def _enlarged(cascade: Cascade, number: int, small: Tensor, level: float, how: Doctor) -> Tensor:
    stage = cascade.stages[number]
    request = Request(n=len(small), steps=how.later, seed=how.seed, batch=how.batch)
    found = upscaling.planned(stage, small, request, level=level, stream=f"x/stage{number}")
    result = None
    for progress in drawing.run(stage, found):
        result = progress.result
    assert result is not None
    return result.tensor


def _colours(stage: int, truth: Tensor, drawn: Tensor, most: float) -> list[Finding]:
    """Whether the mean colour of what is drawn is off, channel by channel."""
    difference = (drawn - truth).double().mean((2, 3))
    off = [
        f"channel {c} by {float(part.mean()):+.3f}"
        for c, part in enumerate(difference.T)
        if abs(float(part.mean())) > most and abs(_z(part)) > SURE
    ]
    if not off:
        return []
    said = f"its mean colour is off: {', '.join(off)} (of a range of 2)"
    return [Finding(stage, "colour bias", said, "look at its data and its last layer; train it on")]


def _swapped(
    cascade: Cascade, number: int, pictures: Sequence[Sample], drawn: Tensor, how: Doctor
) -> tuple[list[Finding], list[Figure], float]:
    """The stage on real, on generated and on augmented pictures; the findings, the figures and the best level."""
    stage, declared = cascade.stages[number], cascade.levels[number - 1]
    taught = stage.translation
    assert taught is not None and taught.down is not None
    small = pictures[number - 1].images
    if taught.down.kernel == "area":
        small = box(pictures[number].images, taught.down.factor)
    space, truth = Bands(CELLS), levels(pictures[number].images)
    reference = space(truth)
    on_real = _enlarged(cascade, number, small, 0.0, how)
    findings = _colours(number + 1, small, box(on_real, taught.down.factor), COLOUR)
    name = f"stage {number + 1}: FD"
    figures = [dataclasses.replace(frechet(space(levels(on_real)), reference), name=name, at="real")]
    tried = sorted({declared, *(_grid(taught.augment) if taught.augment else ())})
    scores: dict[float, Figure] = {}
    for level in tried:
        made = space(levels(_enlarged(cascade, number, drawn, level, how)))
        scores[level] = frechet(made, reference)
        told = f"generated, level {level:g}" + (" (declared)" if level == declared else "")
        figures.append(dataclasses.replace(scores[level], name=name, at=told))
    best = min(scores, key=lambda level: scores[level].value)
    if scores[declared].low <= scores[best].high:
        best = declared  # not told apart
    else:
        said = f"FD {scores[declared].value:.2f} at level {declared:g}, {scores[best].value:.2f} at {best:g}"
        findings.append(Finding(number + 1, "wrong augmentation level", said, f"join the stages with --level {best:g}"))
    return findings, figures, best


def _grid(augment: Augment) -> list[float]:
    return [0.0, augment.most / 4, augment.most / 2]


def _advice(cascade: Cascade, figures: Sequence[Figure]) -> list[str]:
    """Each stage's share of the loss of quality, in FD, and what follows."""
    lines = []
    shares: dict[int, float] = {}
    for number in range(1, len(cascade.stages)):
        own = [figure for figure in figures if figure.name.startswith(f"stage {number + 1}:")]
        real_input = next(figure for figure in own if figure.at == "real")
        generated = next(figure for figure in own if figure.at.endswith("(declared)"))
        shares[number + 1] = real_input.value
        shares[number] = shares.get(number, 0.0) if number > 1 else generated.value - real_input.value
        best = min((figure for figure in own if figure.at != "real"), key=lambda figure: figure.value)
        if not best.at.endswith("(declared)"):
            lines.append(f"stage {number + 1}: the lowest FD is at {best.at.removeprefix('generated, ')}")
    total = sum(max(value, 0.0) for value in shares.values()) or 1.0
    for stage, value in sorted(shares.items()):
        name = cascade.stages[stage - 1].name
        lines.append(f"stage {stage} ({name}): {value:.3g} of FD, {100 * max(value, 0.0) / total:.0f} % of the loss")
    return lines
