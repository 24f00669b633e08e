"""What a tuning run will take, before it is begun: minutes from a few updates of the run itself, memory by counting."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from itertools import islice

import torch

from guided import _memory
from guided.model import Model
from guided.train import optimizer
from guided.train.batch import Parts, loader
from guided.train.loss import Objective, objective
from guided.train.processes import Team
from guided.train.recipe import Recipe
from guided.train.setup import Job
from guided.train.state import State
from guided.train.update import update
from guided.train.watch import HeldOut, averaged
from guided.tune import memorised, replay
from guided.tune.counting import counted, free_memory, lighter, refusal
from guided.tune.preparing import prepare_tuning

UPDATES = 20
UNCOUNTED = 4
"""The first updates of a process are slower: memory is taken, kernels are chosen."""
STEPS = 4
"""A picture is drawn in so many steps, and in one, to tell what a step takes and what the call itself takes."""


@dataclass(frozen=True)
class Forecast:
    """seconds, by what they go to; peak: bytes of the process, on a GPU of its memory; free: bytes there are."""

    updates: float
    checks: float
    drawing: float
    peak: int
    free: int

    @property
    def seconds(self) -> float:
        return self.updates + self.checks + self.drawing


def forecast(recipe: Recipe, device: torch.device, limit: int | None = None) -> Forecast:
    """Run a few updates and one check of a run, on stand-ins for the pictures that are yet to be drawn.

    limit: bytes it may take, by default what is free. Writes nothing but the cache of texts. Raises ValueError where it
    would not fit, with what would.
    """
    optimizer.require(recipe.train)
    job = prepare_tuning(recipe, device, stand_in=True)
    assert job.tuning is not None
    count = counted(job, device)
    free = free_memory(device) if limit is None else limit
    if count.peak(recipe) > free:
        raise ValueError(refusal(count, recipe, free, lighter(count, job, device)))
    _memory.watch(device)
    state = State(recipe, job.denoiser, job.tuning)
    team = Team(0, 1, device)
    train = recipe.train
    goal = objective(recipe, job.denoiser.parametrization)
    parts = Parts(0, UPDATES * train.batch_size, train.batch_size, train.accumulate, 0, 1)
    stream = iter(loader(job.samples, parts, 0, False, _idle))
    times = []
    for _ in range(UPDATES):
        begun = time.perf_counter()
        made = update(state, islice(stream, train.accumulate), goal, train.lr * 1e-6, team, False)
        state.advance(made.applied)
        _wait(device)
        times.append(time.perf_counter() - begun)
    each = statistics.median(times[UNCOUNTED:])
    checks = _checks(job, state, goal, device)
    drawn = _drawing(job, recipe)
    peak = max(_memory.peak(device), count.peak(recipe) if device.type == "cpu" else 0)
    made_of = Forecast(each * -(-train.images // train.batch_size), checks, drawn, peak, free)
    del job, state, stream
    gc.collect()
    return made_of


def _idle(worker: int) -> None:
    """A loader without workers has nothing to begin."""


def due(every: int, images: int, batch: int) -> int:
    """How often what is done `every` so many images (0: never), and at the end, is done in a run of so many images."""
    if not every:
        return 0
    every = max(every, batch)  # once an update at most
    at_the_end = images // every > (images - batch) // every
    return images // every + (not at_the_end)


def _checks(job: Job, state: State, goal: Objective, device: torch.device) -> float:
    """Seconds that all checks take: the first loss is that before the run; at the first check the base is heard too."""
    train = job.recipe.train
    count = due(train.held_every, train.images, train.batch_size)
    if not count:
        return 0.0
    begun = time.perf_counter()
    HeldOut(job)(averaged(job, state.emas[0]), goal)
    _wait(device)
    before = time.perf_counter() - begun
    first = _look(job, state, goal, device)
    return before + first + (_look(job, state, goal, device) * (count - 1) if count > 1 else 0.0)


def _look(job: Job, state: State, goal: Objective, device: torch.device) -> float:
    assert job.tuning is not None
    begun = time.perf_counter()
    drawer = averaged(job, state.emas[0])
    state.held = HeldOut(job)(drawer, goal)
    job.tuning.check(job, state, drawer, goal)  # type: ignore[arg-type]
    _wait(device)
    return time.perf_counter() - begun


def _drawing(job: Job, recipe: Recipe) -> float:
    """Seconds that drawing takes: what is replayed, the previews, the panel at the end."""
    tune, train = recipe.tune, recipe.train
    model: Model = job.tuning.model_in_training  # type: ignore[union-attr]
    if job.translation is not None or tune is None:
        return 0.0
    asked = replay.subjects(model, recipe)[: replay.TOGETHER] if tune.replay else [(None, None)]
    texts = [prompt for prompt, _ in asked if prompt] or ([""] if "text" in model.encoders else None)
    labels = [label for _, label in asked if label is not None] or ([0] if model.classes and texts is None else None)
    n = len(asked) if texts is None and labels is None else 1
    count = len(texts or labels or range(n))

    def takes(steps: int) -> float:
        begun = time.perf_counter()
        model.generate(texts, n, labels=labels, steps=steps, batch=min(replay.TOGETHER, train.at_once))
        return time.perf_counter() - begun

    takes(1)  # an encoder is loaded, kernels are chosen
    once = takes(1)
    each = max(0.0, takes(STEPS) - once) / (STEPS - 1) / count
    call = max(0.0, once - each * count)  # what a call takes however many steps it has: captions are read
    default = int((model.card.get("defaults") or {}).get("steps", recipe.sample.steps))
    replayed = tune.replayed if tune.replay else 0
    shown, kept_out = (min(memorised.SHOWN, len(rows)) for rows in (job.split.train, job.held))
    previews = due(train.preview_every, train.images, train.batch_size)
    pictures = replayed * min(replay.STEPS, default) + ((kept_out or shown) * previews + shown + kept_out) * default
    calls = -(-replayed // replay.TOGETHER) + previews + 1 + bool(kept_out)
    return each * pictures + call * calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
