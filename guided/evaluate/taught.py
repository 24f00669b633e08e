"""What stages of a cascade were taught, by their denoising loss on real pictures under pairs made in several ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guided.cond import Cond
from guided.degrade import Augment, Down
from guided.degrade.scale import KERNELS, shrink
from guided.denoiser import Denoiser
from guided.model import Model
from guided.noise import Noise, generator

SURE = 4.0
"""Standard errors that a difference has to exceed."""
LINEAR, PLAIN, DETAIL, EARLY = 0.75, 0.5, 0.5, 0.97
"""Shares of an error from which on a stage counts as under-trained: of a linear filter's, of plain enlarging's, of a
linear filter's of the detail that is to be added, of its own early snapshot's."""
KERNEL, HEARD = 0.99, 0.995
"""Shares of a loss below which another kernel suits a network better, or the level it is told helps it."""


@dataclass(frozen=True)
class Finding:
    """What is wrong with a stage (counted from 1): a kind, the evidence in words, and what to do."""

    stage: int
    kind: str
    evidence: str
    remedy: str


def drawing(model: Model, images: Tensor, words: Mapping[str, Any], seed: int, batch: int) -> list[Finding]:
    """Whether a first stage denoises real pictures (n, C, H, W) better than the best linear filter of them.

    words: what they show, as a request says it.
    """
    x0 = _encoded(model, images)
    sigma = model.denoiser.lo + 0.5
    cond = _cond(model, words)
    noise = Noise(range(seed, seed + len(x0)), "doctor")(0, x0.shape[1:])
    own = _loss(model.denoiser, x0, noise, sigma, cond, batch)
    linear = _wiener(x0, x0 + sigma * noise, sigma)
    share = float((own / linear).mean())
    if share > LINEAR:
        return [_untrained(0, f"at sigma {sigma:.2g} its error is {share:.2f} of a linear filter's")]
    early = model.early()
    if early is None:
        return []
    return _grown(0, own, _loss(early, x0, noise, sigma, cond, batch))


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


@torch.no_grad()
def _encoded(model: Model, images: Tensor) -> Tensor:
    """Pictures in the space that the model works in, on the CPU."""
    found: Tensor = model.codec.encode(images.to(model.device)).float().cpu()
    return found


def _cond(model: Model, words: Mapping[str, Any]) -> Cond:
    if "prompts" in words and "text" in model.encoders:
        told = model.encoders["text"](words["prompts"])
        return Cond(tokens=told.tokens, mask=told.mask, vector=told.vector).only(_accepts(model))
    if "labels" in words and model.classes:
        return Cond(label=torch.tensor(words["labels"]))
    return Cond()


def _accepts(model: Model) -> frozenset[str]:
    found: frozenset[str] = model.denoiser.network.accepts  # type: ignore[assignment]
    return found


def enlarging(stage: Model, number: int, images: Tensor, seed: int, batch: int) -> list[Finding]:
    """What stage `number` (from 0) was taught, by its loss on windows of real pictures under several kinds of pairs."""
    taught = stage.translation
    assert taught is not None and taught.down is not None
    task, windows = taught.down, _windows(stage, images, taught.down.factor)
    seeds, x0 = range(seed, seed + len(windows)), _encoded(stage, windows)
    which = torch.full((len(x0),), taught.tasks.index(task)) if taught.several else None
    noise = Noise(seeds, "doctor")(0, x0.shape[1:])
    # Above the detail's own size, where the condition decides; and just below it.
    high = min(0.9 * stage.denoiser.hi, 2.0)
    sigmas = [high, *(level for level in (0.3, 0.1) if stage.denoiser.lo < level < high)]

    def loss(image: Tensor, level: float = 0.0, at: Sequence[float] = sigmas, by: Denoiser = stage.denoiser) -> Tensor:
        cond = Cond(label=which, image=image, aug=None if taught.augment is None else torch.full((len(x0),), level))
        return sum(_loss(by, x0, noise, s, cond, batch) for s in at)  # type: ignore[return-value]

    declared = torch.stack(
        [task(one, generator("doctor/pairs", own, 0))[0] for one, own in zip(windows, seeds, strict=True)]
    )
    own = loss(declared)
    findings = _kernel(number, task, own, lambda kernel, up: loss(_conditioned(windows, task, kernel, up)))
    if findings:
        return findings
    if task.up != "none":
        trivial = (declared - x0).double().square().flatten(1).mean(1)
        share = float(loss(declared, at=[0.9 * stage.denoiser.hi]).sum() / trivial.sum())
        if share > PLAIN:
            return [_untrained(number, f"its best guess has {share:.2f} of the error of plain enlarging")]
        detail, last = x0 - declared, sigmas[-1]
        share = float(loss(declared, at=[last]).sum() / _wiener(detail, detail + last * noise, last).sum())
        if share > DETAIL:
            return [_untrained(number, f"at sigma {last:.2g} its error is {share:.2f} of a linear filter's")]
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
    if task.up == "none" or type(task) is not Down:  # the latter draws its kernels
        return []
    ways = [(kernel, task.up) for kernel in KERNELS if kernel != task.kernel]
    ways += [(task.kernel, up) for up in ("cubic", "linear") if up != task.up]
    best = min(((float(loss(*way).mean()), way) for way in ways), key=lambda pair: pair[0])
    difference = own - loss(*best[1])
    if best[0] > KERNEL * float(own.mean()) or errors(difference) < SURE:
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
    if float(told.mean()) < HEARD * float(untold.mean()) and errors(untold - told) > SURE:
        return []
    share = float(told.mean() / untold.mean())
    said = f"told of {augment.kind} {level:.2g} on its picture, its loss is {share:.2f} of that untold"
    return [Finding(number + 1, "augmentation not learnt", said, "train it with translate.augment, or say it has none")]


def errors(difference: Tensor) -> float:
    """How many standard errors the mean of independent differences lies above 0."""
    error = float(difference.std()) / math.sqrt(len(difference))
    return float(difference.mean()) / error if error > 0 else math.copysign(math.inf, float(difference.mean()))
