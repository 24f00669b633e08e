"""What a tuning run will take, before it is begun: minutes from a few updates of the run itself, memory by counting."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from guided import _memory
from guided._memory import gigabytes
from guided.model import Model
from guided.train.batch import Parts, loader
from guided.train.loss import Objective, objective
from guided.train.processes import Team
from guided.train.recipe import Recipe
from guided.train.setup import Job
from guided.train.state import State
from guided.train.update import update
from guided.train.watch import HeldOut, averaged
from guided.tune import memorised, replay
from guided.tune.preparing import prepare_tuning

UPDATES = 20
UNCOUNTED = 4
"""The first updates of a process are slower: memory is taken, kernels are chosen."""
STEPS = 4
"""A picture is drawn in so many steps, and in one, to tell what a step takes and what the call itself takes."""
SLACK = 1.1
"""What allocators take beyond what is asked of them."""


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
    job = prepare_tuning(recipe, device, stand_in=True)
    assert job.tuning is not None
    count = counted(job, device)
    free = free_memory(device) if limit is None else limit
    if count.peak(recipe) > free:
        raise ValueError(refusal(count, recipe, free, _lighter(job, device)))
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
    """Seconds that all checks take: at the first the base is heard too, and no later one costs what the first does."""
    train = job.recipe.train
    count = due(train.held_every, train.images, train.batch_size)
    if not count:
        return 0.0
    first = _look(job, state, goal, device)
    return first + (_look(job, state, goal, device) * (count - 1) if count > 1 else 0.0)


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
        model.generate(texts, n, labels=labels, steps=steps, batch=replay.TOGETHER)
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


@dataclass(frozen=True)
class Count:
    """Bytes: of the process before the run, of weights and what is kept of them, of one picture's activations."""

    before: int
    trained: int
    kept: int
    picture: int

    def peak(self, recipe: Recipe, parts: int | None = None) -> int:
        """The most that is held at once."""
        part = recipe.train.batch_size // (parts or recipe.train.accumulate)
        states = {"adamw": 2, "muon": 1}[recipe.train.optimizer]
        # A gradient, the optimizer's moments, the average, and the best state that is kept.
        return self.before + round(SLACK * (self.trained * (2 + states + 1) + self.kept + self.picture * part))


def counted(job: Job, device: torch.device) -> Count:
    """Count what a run holds: its tensors, and the activations that one picture leaves for the way back."""
    network = job.denoiser.network
    trained = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    copied = any(p.requires_grad for p in network.parameters()) and not job.tuning.adapter  # type: ignore[union-attr]
    kept = trained if copied and job.recipe.tune and job.recipe.tune.replay else 0
    before = _memory.resident() if device.type == "cpu" else torch.cuda.memory_allocated(device)
    return Count(before, trained, kept, activations(job, device))


def activations(job: Job, device: torch.device) -> int:
    """Bytes that autograd keeps of one picture: those of a batch of two less those of one."""
    sizes = [_saved(job, device, count) for count in (1, 2)]
    return max(0, sizes[1] - sizes[0])


def _saved(job: Job, device: torch.device, count: int) -> int:
    weights = {p.untyped_storage().data_ptr() for p in job.denoiser.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    like = next(p for p in job.denoiser.parameters() if p.requires_grad or p.dtype.is_floating_point)
    batch = job.samples.__getitems__(list(range(count))).to(device, torch.promote_types(like.dtype, torch.float32))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        goal = objective(job.recipe, job.denoiser.parametrization)
        cond = batch.cond if job.tuning is None else job.tuning.read(batch)
        loss = goal(job.denoiser, batch.x0, batch.noise, batch.sigma, cond).sum()
    del loss
    return sum(seen.values())


def _lighter(job: Job, device: torch.device) -> int:
    """One picture's activations where blocks are computed again on the way back."""
    network: Any = job.denoiser.network
    before, network.checkpointing = network.checkpointing, True
    try:
        return activations(job, device)
    finally:
        network.checkpointing = before


def refusal(count: Count, recipe: Recipe, free: int, lighter: int) -> str:
    """Why a run cannot be, and what would fit."""
    batch = recipe.train.batch_size
    light = Count(count.before, count.trained, count.kept, lighter)
    ways = []
    for parts in (p for p in range(2, batch + 1) if batch % p == 0):
        if count.peak(recipe, parts) <= free:
            ways.append(f"train.accumulate={parts} ({gigabytes(count.peak(recipe, parts))})")
            break
    for parts in (p for p in range(1, batch + 1) if batch % p == 0):
        if light.peak(recipe, parts) <= free:
            more = "" if parts == 1 else f" train.accumulate={parts}"
            ways.append(f"train.checkpointing=true{more} ({gigabytes(light.peak(recipe, parts))}, a third more time)")
            break
    if recipe.tune is not None and recipe.tune.method in ("full", "dreambooth") and not recipe.tune.rank:
        ways.append("--method lora, which trains a few per cent of the weights")
    would = "; ".join(ways) or "a machine with more memory, or a smaller model"
    return (
        f"this run would take about {gigabytes(count.peak(recipe))}, and {gigabytes(free)} are free. What would fit: "
        f"{would}"
    )


def free_memory(device: torch.device) -> int:
    """Bytes that this process may come to hold: what it holds, and what is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    free = _memory.available()
    return free if free == 1 << 62 else free + _memory.resident()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
