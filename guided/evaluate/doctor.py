"""The cascade doctor: each stage's input swapped between real, generated and augmented, and what that says of it.

Two kinds of evidence. What a network was taught shows in its denoising loss on real pictures, under pairs made in this
way and in that: paired differences, which need few pictures. What a cascade draws is compared with real pictures in FD.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from guided.cascade import Cascade
from guided.degrade import Augment, box
from guided.evaluate import taught
from guided.evaluate.distances import farther, frechet
from guided.evaluate.features import Bands, levels, unit
from guided.evaluate.figures import Figure, Z
from guided.evaluate.material import Real, real
from guided.evaluate.taught import SURE, Finding, errors
from guided.model import Request, drawing
from guided.tasks import upscaling

CELLS = 2
"""FD is taken in `Bands` of so many places a side: 24 numbers, which 48 pictures are enough for."""
LEAST = 2 * 6 * CELLS**2
FIRST_COLOUR, COLOUR = 0.08, 0.016
"""Errors of the mean colour, of a range of 2, that are no accident: of what is drawn, and of what is enlarged."""
TOLD, LEVEL = 3.0, 0.05
"""Another level of augmentation is better where FD falls by so many standard errors, and by such a share of it."""
Watch = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Sample:
    """Real pictures (n, C, H, W) in [-1, 1] of a stage's size, and what they show, as a request says it."""

    images: Tensor
    words: dict[str, Any]


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
        if self.n < LEAST:
            raise ValueError(f"n: FD in {6 * CELLS**2} features needs at least {LEAST} pictures, got {self.n}")


def examine(cascade: Cascade, against: str, how: Doctor | None = None, watch: Watch | None = None) -> Diagnosis:
    """Examine a cascade by real pictures (whatever `data.open` opens); raises ValueError where they do not serve."""
    how, watch = how or Doctor(), watch or (lambda _: None)
    findings: list[Finding] = []
    figures: list[Figure] = []
    pictures = [_real(cascade, against, number, how) for number in range(len(cascade.stages))]
    watch("the first stage's loss")
    first = pictures[0]
    findings += taught.drawing(cascade.stages[0], first.images, first.words, how.seed, how.batch)
    for number in range(1, len(cascade.stages)):
        watch(f"stage {number + 1}: its loss on pairs made in several ways")
        findings += taught.enlarging(cascade.stages[number], number, pictures[number].images, how.seed, how.batch)
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


def _real(cascade: Cascade, against: str, number: int, how: Doctor) -> Sample:
    """The same n records for every stage, those that were kept out of training first."""
    first = cascade.stages[0]
    found: Real = real(against, cascade.sizes[number], first.card.get("recipe"))
    held = (*found.split.held_bases, *found.split.held_pairs)
    pool = held if len(held) >= how.n else (*held, *found.split.train)
    if len(pool) < how.n:
        hint = "give a smaller --n" if len(pool) >= LEAST else f"it needs at least {LEAST}"
        raise ValueError(f"{against}: {how.n} pictures are asked for, there are {len(pool)}: {hint}")
    read, rows = found.read([pool[(7 * how.seed + i * len(pool) // how.n) % len(pool)] for i in range(how.n)])
    if len(rows) < how.n:
        raise ValueError(f"{against}: {how.n} pictures are asked for, {len(rows)} of them can be read")
    height, width = cascade.sizes[number]
    shapes = [found.pictures.shape(row) for row in rows]
    small = [shape for shape in shapes if shape[0] < height or shape[1] < width]
    if 2 * len(small) > len(rows):
        raise ValueError(
            f"{against}: most pictures are smaller than stage {number + 1} draws them (one has {small[0][1]} x "
            f"{small[0][0]} pixels, it draws {width} x {height}): give real pictures that are as large"
        )
    words: dict[str, Any] = {}
    if "text" in first.encoders:
        words = {"prompts": [found.records[row].caption or "" for row in rows]}
    elif first.classes:
        words = {"labels": found.labels(rows)}
    return Sample(unit(read), words if words else {"n": len(rows)})


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
        if abs(float(part.mean())) > most and abs(errors(part)) > SURE
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
    learnt = stage.translation
    assert learnt is not None and learnt.down is not None
    small = pictures[number - 1].images
    if learnt.down.of_means:
        small = box(pictures[number].images, learnt.down.factor)
    space, truth = Bands(CELLS), levels(pictures[number].images)
    reference = space(truth)
    on_real = _enlarged(cascade, number, small, 0.0, how)
    findings = _colours(number + 1, small, box(on_real, learnt.down.factor), COLOUR)
    name = f"stage {number + 1}: FD"
    figures = [dataclasses.replace(frechet(space(levels(on_real)), reference), name=name, at="real")]
    tried = sorted({declared, *(_grid(learnt.augment) if learnt.augment else ())})
    scores: dict[float, Figure] = {}
    made: dict[float, Tensor] = {}
    for level in tried:
        made[level] = space(levels(_enlarged(cascade, number, drawn, level, how)))
        scores[level] = frechet(made[level], reference)
        told = f"generated, level {level:g}" + (" (declared)" if level == declared else "")
        figures.append(dataclasses.replace(scores[level], name=name, at=told))
    best = min(scores, key=lambda level: scores[level].value)
    # The same pictures at two levels: their difference is told where the intervals of both distances overlap by far.
    more = farther(made[declared], made[best], reference)
    error = (more.high - more.value) / Z
    if more.value <= max(TOLD * error, LEVEL * scores[declared].value):
        return findings, figures, declared
    said = (
        f"FD {scores[declared].value:.3g} at level {declared:g}, {scores[best].value:.3g} at {best:g}, on the same "
        f"pictures {more.value / error:.1f} standard errors less"
    )
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
    total = sum(max(value, 0.0) for value in shares.values()) or 1.0
    for stage, value in sorted(shares.items()):
        name = cascade.stages[stage - 1].name
        lines.append(f"stage {stage} ({name}): {value:.3g} of FD, {100 * max(value, 0.0) / total:.0f} % of the loss")
    return lines
