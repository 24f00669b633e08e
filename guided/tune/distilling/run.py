"""`distill`: from a guided teacher to a student, one update at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided import _files
from guided import path as paths
from guided.cond import Cond
from guided.model import Model
from guided.model.card import fitted
from guided.model.request import contrast_of
from guided.nn import UNet
from guided.solvers import Fitted
from guided.train import checkpoint, workplace
from guided.train.log import Lines
from guided.train.run import Speed
from guided.tune.calibration import calibrate
from guided.tune.distilling import pool, record
from guided.tune.distilling.course import Course
from guided.tune.distilling.export import model_of
from guided.tune.distilling.guides import Folded, folded, tried
from guided.tune.distilling.material import Material, Photos, photos
from guided.tune.distilling.rollout import Rollout
from guided.tune.distilling.settings import Settings
from guided.tune.distilling.stages import Stage, stages
from guided.tune.distilling.state import State
from guided.tune.distilling.teaching import AUTOCAST, Lesson, frozen, student_of

FITTED_ON = 32
"""Images that the steps of a student by trajectory are found on."""


@dataclass(frozen=True)
class Step:
    """What one update did.

    images: seen so far, of `total`. stage: its kind and moves, in words. loss: mean over the batch, weighted. saved:
    the checkpoint written. note: what a person should read. model: on the last one.
    """

    images: int
    total: int
    stage: str
    loss: float
    lr: float
    images_per_second: float
    saved: Path | None = None
    note: str | None = None
    model: Model | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """A distillation whose input is checked."""

    teacher: Model
    settings: Settings
    fold: Folded
    course: Course
    stages: tuple[Stage, ...]
    source: Photos | pool.Wanted

    @property
    def facts(self) -> dict[str, Any]:
        """What the folder of this run is a run of: all that decides its bits."""
        guide = None if self.fold.guide is None else repr(self.fold.guide)
        lo_hi = None if self.fold.dial is None else [self.fold.lo, self.fold.hi]
        given = {"teacher": self.teacher.hash, "guide": guide, "w_range": lo_hi, "data": self.source.fingerprint}
        return {**self.settings.facts(), **given}

    def lesson(self, state: State, stage: Stage) -> Lesson:
        """The objective of a stage."""
        teach = state.before if state.before is not None else self.fold.teach(self.teacher.denoiser)
        rollout = None
        if stage.kind == "trajectory":
            solver = fitted(state.calibrated) if state.calibrated else self.unfitted
            rollout = Rollout(teach, solver, self.teacher.denoiser.lo)
        return Lesson(stage, teach, self.fold.guide is None, self.settings.seed, rollout, self.mean)

    @property
    def mean(self) -> Tensor | float:
        """Where the noise that a picture is drawn from is centred."""
        mean = self.teacher.card.get("mean")
        return 0.0 if mean is None else torch.tensor(mean, device=self.teacher.device).reshape(-1, 1, 1)

    @property
    def unfitted(self) -> Fitted:
        """Euler's steps, which cost what the student's will."""
        steps, denoiser = self.settings.steps, self.teacher.denoiser
        levels = paths.default(steps, denoiser.lo, denoiser.hi, contrast_of(self.fold.guide)).tolist()
        return Fitted(tuple(levels), ((),) * steps, (0.0,) * steps)


def distill(
    teacher: Model, out: str | Path, settings: Settings | None = None, *, device: str = "auto"
) -> Iterator[Step]:
    """Train a student that draws like a guided teacher in few evaluations, one a step; yields a `Step` an update.

    The last step holds the `Model`, which also stands in `out`/model: an ordinary model folder, whose `w` is its dial.
    Methods (`settings.method`):
    - "guidance": one evaluation does what the guide does, at every level (Meng et al. 2023, arXiv 2210.03142).
    - "trajectory", the default: that first; then `steps` levels and a multistep solver are fitted to the student
      (`guided.tune.calibrate`), and on its own way from noise each of its steps learns to end where the teacher is.
    - "progressive": guidance first, on the levels of the teacher's path; then stage by stage one step learns where two
      lead (Salimans and Ho 2022, arXiv 2202.00512; Meng et al., algorithm 2), until `steps` are left.
    - "consistency": where the teacher's path ends, from any level (Geng et al. 2024, arXiv 2406.14548: ECT), along the
      guided D, or without a guide along the pictures themselves.
    Of a guide with one plain `cfg` its weight is the dial; another guide is folded in whole. The teacher's weights stay
    as they are; it is moved to the device, and computes in `settings.precision` from then on. The same call in a
    started run goes on from its last checkpoint, bit for bit; in a finished one it yields one step with the model.
    SIGINT and SIGTERM save, then stop. Raises ValueError and FileNotFoundError for bad input, at once;
    FloatingPointError where the loss is no longer finite, OSError where the last save found no room.
    """
    return _run(prepared(teacher, settings or Settings(), device), Path(out))


def prepared(teacher: Model, settings: Settings, device: str = "auto") -> Job:
    """Everything that a distillation takes, checked; nothing is written but texts in the cache of tokens."""
    if not isinstance(teacher.denoiser.network, UNet):
        raise ValueError(f"{teacher.name}: expected a UNet, got {type(teacher.denoiser.network).__name__}")
    if teacher.translation is not None or teacher.denoiser.network.config.image_channels:
        raise ValueError(f"{teacher.name} changes or is shown pictures: only models that draw can be distilled")
    teacher.plain("distill")
    if teacher.distilled is not None:
        raise ValueError(f"{teacher.name} is distilled itself: give its teacher, or ask for fewer --steps there")
    place = "cuda" if torch.cuda.is_available() else "cpu"
    teacher.to(place if device == "auto" else device)
    teacher.compute_in(AUTOCAST[settings.precision])
    fold = folded(teacher, settings)
    denoiser = teacher.denoiser
    long = paths.default(settings.long, denoiser.lo, denoiser.hi, contrast_of(fold.guide))
    parts = stages(settings, fold.guide is not None)
    source = photos(teacher, settings) if settings.data else pool.wanted(teacher, settings, fold.guide)
    _try(teacher, fold)
    return Job(teacher, settings, fold, Course(long), parts, source)


def _try(teacher: Model, fold: Folded) -> None:
    height, width = (side // getattr(teacher.codec, "factor", 1) for side in teacher.size)
    x = torch.zeros(1, teacher.channels, height, width, device=teacher.device)
    weight = None if fold.w is None else torch.full((1,), fold.w, device=teacher.device)
    tried(teacher, fold, x, Cond(guidance=weight))


def _run(job: Job, folder: Path) -> Iterator[Step]:
    with contextlib.ExitStack() as stack:
        record.begun(folder, job.facts)  # refuses before anything is made
        stack.enter_context(workplace.claimed(folder))
        notes = record.tidy(folder)
        total = job.stages[-1].end
        if record.finished(folder, total):
            nothing = float("nan")
            note = f"{folder}: finished at {total} images; for another run choose another out="
            yield Step(total, total, "", nothing, nothing, nothing, note=note, model=Model.open(folder))
            return
        record.remember(folder, job.facts)
        stop = stack.enter_context(workplace.Stop())
        settings, source = job.settings, job.source
        pictures = source if isinstance(source, Photos) else (yield from _drawn(source, folder, total, stop))
        material = Material(pictures, settings.seed, settings.drop, job.teacher.device)
        state = State(student_of(job.teacher, job.fold.dial is not None, settings.seed), settings, job.stages)
        there = checkpoint.listed(folder / "checkpoints")
        if there:
            state.load(there[-1])
            notes.append(f"resuming at {state.counter} images")
        yield from _train(job, state, material, folder, stop, notes)


def _drawn(asked: pool.Wanted, folder: Path, total: int, stop: workplace.Stop) -> Generator[Step, None, pool.Pool]:
    """The teacher's own pictures; a step without images for each chunk that is drawn."""
    chunks = pool.filled(asked, folder / "pool")
    while True:
        try:
            done = next(chunks)
        except StopIteration as end:
            found: pool.Pool = end.value
            return found
        stage, nothing = f"{done} of {asked.settings.pool} pictures drawn by the teacher", math.nan
        yield Step(0, total, stage, nothing, nothing, nothing)
        if stop.asked is not None:
            stop.leave()


def _train(
    job: Job, state: State, material: Material, folder: Path, stop: workplace.Stop, notes: list[str]
) -> Iterator[Step]:
    lines, speed, settings = Lines(folder / "losses.jsonl", state.counter), Speed(), job.settings
    if state.counter >= state.total:  # killed between the last checkpoint and the model
        yield Step(state.counter, state.total, "", math.nan, 0.0, math.nan, model=_finish(job, state, folder))
    while state.counter < state.total:
        stage = state.begin()
        if stage.kind == "trajectory" and state.calibrated is None:
            state.calibrated = fit(job, state, material, stage)
        rate, before, asked = state.rate(stage), state.counter, stop.asked is not None
        loss, norm = update(job, state, stage, material, rate)
        lines.add({"images": state.counter, "stage": stage.told(), "loss": loss, "lr": rate, "grad_norm": norm})
        last = state.counter >= state.total
        due = state.counter // settings.save_every > before // settings.save_every or state.counter == stage.end
        step = Step(state.counter, state.total, stage.told(), loss, rate, speed(settings.batch))
        if due or last or asked:
            lines.sync()
            step = replace(step, saved=record.saved(state, folder, notes, last))
        if notes:
            step, notes = replace(step, note="\n".join(notes)), []
        yield replace(step, model=_finish(job, state, folder)) if last else step
        if asked and not last:
            stop.leave()


def fit(job: Job, state: State, material: Material, stage: Stage) -> dict[str, Any]:
    """The path and the solver of a student by trajectory, found on its first images at the weight it is asked for."""
    part = dataclasses.replace(material, drop=0.0)(range(stage.begin, stage.begin + FITTED_ON))
    w = job.fold.w
    cond = part.cond if w is None else dataclasses.replace(part.cond, guidance=torch.full((FITTED_ON,), w))
    denoiser = job.teacher.denoiser
    found = calibrate(
        frozen(state.student), job.mean + denoiser.hi * part.noise, denoiser.lo, denoiser.hi, job.settings.steps,
        cond.to(material.device), w=contrast_of(job.fold.guide), fitted=True,
    )  # fmt: skip
    entry = found.entry() | {"w": 1.0 if w is None else w}
    return dict(sorted(entry.items()))  # as a checkpoint gives it back


def update(job: Job, state: State, stage: Stage, material: Material, rate: float) -> tuple[float, float]:
    """One update: the mean loss of the batch and the gradient's norm; FloatingPointError where they are not finite."""
    counters = range(state.counter, state.counter + job.settings.batch)
    part = material(counters)
    cond = part.cond
    weights = job.fold.weights(part.chance)
    if weights is not None:
        cond = dataclasses.replace(cond, guidance=weights.to(material.device))
    levels = job.course.drawn(stage, job.settings.seed, counters)
    state.optimizer.zero_grad(set_to_none=True)
    value = 0.0
    for losses in job.lesson(state, stage).losses(state.student, part.x0, part.noise, levels, cond, counters.start):
        loss = losses.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        value += float(loss.detach())
    norm = state.step(rate) if math.isfinite(value) else math.nan
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"loss {value:g} and gradient norm {norm:g} after {state.counter} images ({stage.told()}); the last "
            "checkpoint is sound. Try a lower --lr, or --dtype float32"
        )
    state.counter += len(counters)
    return value, norm


def _finish(job: Job, state: State, folder: Path) -> Model:
    """The model, saved in the run's folder; nothing temporary is left."""
    facts = {"images": state.counter, "seed": job.settings.seed, "data": job.source.fingerprint}
    facts["stages"] = [stage.told() for stage in job.stages]  # type: ignore[assignment]
    model = model_of(job.teacher, state.student, job.settings, job.fold, job.course, facts, state.calibrated)
    model.save(folder / "model")
    for place in (folder, folder / "checkpoints"):
        _files.sweep(place)
    return model


def forecast(job: Job) -> dict[str, float]:
    """Seconds an image takes in each kind of stage, from two updates each on noise; nothing is kept."""
    found: dict[str, float] = {}
    height, width = (side // getattr(job.teacher.codec, "factor", 1) for side in job.teacher.size)
    shape = job.settings.batch, job.teacher.channels, height, width
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(job.teacher.device)
    state = State(student_of(job.teacher, job.fold.dial is not None, 0), job.settings, job.stages)
    weights = job.fold.weights(torch.full((len(noise),), 0.5))
    cond = Cond(guidance=None if weights is None else weights.to(noise.device))
    for stage in {stage.kind: stage for stage in job.stages}.values():
        state.counter = stage.begin
        state.begin()
        levels = job.course.drawn(stage, 0, range(len(noise)))
        for _ in range(2):
            begun = time.perf_counter()
            for losses in job.lesson(state, stage).losses(state.student, noise, noise, levels, cond, stage.begin):
                losses.mean().backward()  # type: ignore[no-untyped-call]
            state.step(0.0)
            found[stage.kind] = (time.perf_counter() - begun) / len(noise)
    return found
