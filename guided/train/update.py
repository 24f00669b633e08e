"""One update: gradients of a batch in parts, summed over processes, checked, clipped, applied."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from guided.noise import key
from guided.train.batch import Batch, Broken
from guided.train.loss import Objective
from guided.train.processes import Team
from guided.train.state import State


@dataclass(frozen=True)
class Update:
    """What an update found.

    loss: mean over the batch, weighted. grad_norm: before clipping. applied: False where one of them is not finite.
    stop: whether any process was asked to. broken: pictures that were replaced. suspects: names of this process's
    pictures with a loss that is not finite.
    """

    loss: float
    grad_norm: float
    applied: bool
    stop: bool
    broken: tuple[Broken, ...]
    suspects: tuple[str, ...]


def update(state: State, parts: Iterator[Batch], objective: Objective, lr: float, team: Team, stop: bool) -> Update:
    """Make one update from the parts of a batch; it is not applied where loss or gradient are not finite.

    The gradient is that of the mean over the whole batch, whatever it was cut into.
    """
    total = state.recipe.train.batch_size
    state.optimizer.zero_grad(set_to_none=True)
    seen: list[tuple[Batch, Tensor]] = []
    for part in parts:
        batch = part.to(team.device, state.weights[0].dtype)
        with counted_dropout(state, batch.counters[0]):
            cond = batch.cond if state.tuning is None else state.tuning.read(batch)
            target = None if state.tuning is None else state.tuning.target(batch, state.denoiser)  # type: ignore[arg-type]
            each = objective(state.denoiser, batch.x0, batch.noise, batch.sigma, cond, target)
            aim = each if state.head is None else state.head.objective(each, batch.sigma)
            weight = None if state.tuning is None else state.tuning.weigh(batch, state)
            aim = aim if weight is None else aim * weight
            state.scaler.scale(aim.sum() / total).backward()  # type: ignore[no-untyped-call]
        seen.append((batch, each.detach()))
    mean = torch.stack([each.double().sum() for _, each in seen]).sum() / total
    figures = torch.stack([mean, mean.new_tensor(float(stop))])
    gradients = [weight.grad for weight in state.weights if weight.grad is not None]
    team.add([*gradients, figures])
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.get_total_norm(gradients)
    # The only wait for the device in an update.
    value, stopping, length = torch.cat([figures, norm.double().reshape(1)]).tolist()
    sound = math.isfinite(value) and math.isfinite(length)
    if sound:
        _apply(state, norm, lr)
    elif state.scaler.is_enabled():
        state.scaler.update(state.scaler.get_scale() / 2)
    return Update(
        value,
        length,
        sound,
        stopping > 0,
        tuple(fault for batch, _ in seen for fault in batch.broken),
        () if sound else tuple(name for batch, each in seen for name in _not_finite(batch, each)),
    )


def _apply(state: State, norm: Tensor, lr: float) -> None:
    if state.recipe.train.clip is not None:
        torch.nn.utils.clip_grads_with_norm_(state.weights, state.recipe.train.clip, norm)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    state.scaler.step(state.optimizer)
    state.scaler.update()


def _not_finite(batch: Batch, each: Tensor) -> list[str]:
    return [name for name, value in zip(batch.names, each.tolist(), strict=True) if not math.isfinite(value)]


@contextlib.contextmanager
def counted_dropout(state: State, counter: int) -> Iterator[None]:
    """Torch's generators seeded by (seed, counter) for the network's own dropout, and left as they were."""
    if not state.drops:
        yield
        return
    device = state.weights[0].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key("train/dropout", state.recipe.seed, counter))
        yield
