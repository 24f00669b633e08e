"""The trainer: `fit` turns a recipe into a model, one update at a time."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from guided.model import Model, NoisyClassifier, opened
from guided.train import keeping, loss, processes, setup, workplace
from guided.train.batch import Parts, loader
from guided.train.optimizer import learning_rate, require
from guided.train.processes import Team
from guided.train.recipe import Recipe, load_recipe
from guided.train.setup import Job
from guided.train.state import State
from guided.train.update import Update, update

SKIPS = 10
"""fp16 overflows in a row that are taken for a fault."""


@dataclass(frozen=True)
class Step:
    """What one update did.

    images: seen so far, of `total`. loss: mean over the batch, weighted. grad_norm: before clipping. held: held-out
    loss by sigma, where it was measured. saved: the checkpoint written. note: what a person should read. model: on
    the last one; of a recipe whose task is a classifier, the classifier.
    """

    images: int
    total: int
    loss: float
    lr: float
    images_per_second: float
    grad_norm: float
    held: Mapping[str, float] | None = None
    saved: Path | None = None
    note: str | None = None
    model: Model | NoisyClassifier | None = None


def fit(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    *,
    device: str = "auto",
) -> Iterator[Step]:
    """Train, yielding a `Step` an update; the last one holds the `Model`, which also stands in `out`/model.

    recipe: a YAML or TOML file, a mapping or a `Recipe`; overrides: {"train.images": 20000} or ["train.images=20000"].
    The same call in a started run goes on from its last checkpoint, bit for bit; in a finished one it yields one step
    with the model. SIGINT and SIGTERM save, then stop. Raises ValueError and FileNotFoundError for bad input (the
    recipe's at once, the rest with the first step), FloatingPointError where the loss is no longer finite, OSError
    where the last save found no room.
    """
    return _run(load_recipe(recipe, overrides), device)


def _run(recipe: Recipe, device: str) -> Iterator[Step]:
    team = processes.start(device)
    folder = Path(recipe.out)
    if recipe.train.batch_size % (recipe.train.accumulate * team.count):
        raise ValueError(
            f"train.batch_size: {recipe.train.batch_size} cannot be cut into {recipe.train.accumulate} parts for each "
            f"of {team.count} processes"
        )
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(workplace.claimed(folder)) if team.main else -1
        notes = workplace.tidy(folder, recipe) if team.main else []
        team.wait()
        facts = workplace.begun(folder, recipe)
        done = keeping.finished(folder, recipe.train.images)
        if done is not None:
            yield _finished(folder, done, opened(folder / "model") if recipe.tune is None else _tuned(folder / "model"))
            return
        require(recipe.train)
        job = team.main_first(lambda: setup.prepare(recipe, team.device, facts))
        if team.main:
            workplace.remember(folder, recipe, job.facts)
        state = State(recipe, job.denoiser, job.tuning)
        notes += keeping.resume(state, folder)
        keeper = keeping.Keeper(job, state, folder, notes) if team.main else None
        if keeper is not None:
            stack.callback(keeper.close)
        begin = functools.partial(workplace.in_worker, folder, lock)
        yield from _train(job, state, team, keeper, stack.enter_context(workplace.Stop()), begin)


def _train(
    job: Job,
    state: State,
    team: Team,
    keeper: keeping.Keeper | None,
    stop: workplace.Stop,
    begin: Callable[[int], None],
) -> Iterator[Step]:
    recipe, train = job.recipe, job.recipe.train
    objective = loss.objective(recipe, job.denoiser.parametrization, job.estimates)
    parts = Parts(state.counter, train.images, train.batch_size, train.accumulate, team.rank, team.count)
    stream = iter(loader(job.samples, parts, recipe.data.workers, team.device.type == "cuda", begin))
    speed = Speed()
    if state.counter >= train.images or state.ended:  # killed between the last checkpoint and the model
        yield _finished(Path(recipe.out), state.counter, None if keeper is None else keeper.finish())
    while state.counter < train.images and not state.ended:
        before, lr = state.counter, learning_rate(train, state.counter)
        made = update(state, islice(stream, train.accumulate), objective, lr, team, stop.asked is not None)
        if not made.applied and (not state.scaler.is_enabled() or state.skipped >= SKIPS):
            raise FloatingPointError(_diverged(made, state, lr, Path(recipe.out)))
        state.advance(made.applied)
        last = state.counter >= train.images
        step = Step(state.counter, train.images, made.loss, lr, speed(train.batch_size), made.grad_norm)
        if keeper is not None:
            keeper.log(made, lr)
            kept = keeper.after(before, last, made.stop)
            step = replace(step, held=kept.held, saved=kept.saved, note=kept.note, model=kept.model)
        if job.tuning is not None:
            state.ended = team.told(state.ended)
        yield step
        if made.stop and not last and not state.ended:
            stop.leave()
    team.wait()


class Speed:
    """Images a second over the last updates."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque([time.perf_counter()], maxlen=21)

    def __call__(self, images: int) -> float:
        self._ends.append(time.perf_counter())
        return images * (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-9)


def _tuned(folder: Path) -> Model:
    """A tuned model may be an adapter beside its base, which may be anybody's: the zoo opens it."""
    from guided.zoo import load_model

    return load_model(folder)


def _finished(folder: Path, images: int, model: Model | NoisyClassifier | None) -> Step:
    note = f"{folder}: finished at {images} images; ask for more with train.images=, or for another run with out="
    nothing = float("nan")
    return Step(images, images, nothing, nothing, nothing, nothing, note=note, model=model)


def _diverged(made: Update, state: State, lr: float, folder: Path) -> str:
    names = ", ".join(made.suspects[:8]) or "none by itself"
    return (
        f"loss {made.loss:g} and gradient norm {made.grad_norm:g} after {state.counter} images at a learning rate of "
        f"{lr:g} ({state.recipe.train.precision}); this update was not applied. Pictures whose loss is not finite: "
        f"{names}. {keeping.last_good(folder)}. Try a lower train.lr, a longer train.warmup, or train.precision=float32"
    )
