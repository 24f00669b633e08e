"""What a tuning run holds in memory, by counting its tensors; what cannot fit is refused with what would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from guided import _memory
from guided._memory import Living, gigabytes
from guided.train import optimizer
from guided.train.loss import objective
from guided.train.recipe import Recipe
from guided.train.setup import Job

SLACK = 1.1
"""What allocators take beyond what is asked of them."""


@dataclass(frozen=True)
class Count:
    """Bytes.

    before: held before the run. trained: the weights that it changes. moments: of the optimizer. kept: the average of
    the weights, the best state, a base of its own. fixed, picture: of an update, whatever its pictures are, and for
    each that it computes at once; gradients are among them.
    """

    before: int
    trained: int
    moments: int
    kept: int
    fixed: int
    picture: int

    def peak(self, recipe: Recipe, parts: int | None = None) -> int:
        """The most that is held at once."""
        parts = parts or recipe.train.accumulate
        waiting = self.trained if parts > 1 else 0  # the gradients of the part before
        update = self.fixed + self.picture * (recipe.train.batch_size // parts) + waiting
        return self.before + round(SLACK * (self.moments + self.kept + update))


def counted(job: Job, device: torch.device) -> Count:
    """Count what a run holds: its tensors, and what an update of one picture and of two takes."""
    assert job.tuning is not None
    network, recipe = job.denoiser.network, job.recipe
    before = _memory.resident() if device.type == "cpu" else torch.cuda.memory_allocated(device)
    modules = {"network": network, **job.tuning.extras}
    trained = bytes_of(optimizer.named(modules).values())
    averaged = bytes_of(weight for weight in network.parameters() if weight.requires_grad)
    # The best state waits in the CPU's memory.
    best = trained if device.type == "cpu" else 0
    copied = averaged and not job.tuning.adapter and recipe.tune and recipe.tune.replay  # type: ignore[attr-defined]
    base = averaged if copied and device.type == "cpu" else 0
    made = Count(before, trained, optimizer.size(modules, recipe.train), averaged + best + base, 0, 0)
    fixed, picture = taken(job, device)
    return replace(made, fixed=fixed, picture=picture)


def bytes_of(tensors: Any) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def taken(job: Job, device: torch.device) -> tuple[int, int]:
    """What an update takes besides its weights: fixed bytes, and bytes a picture."""
    like = next(p for p in job.denoiser.parameters() if p.requires_grad or p.dtype.is_floating_point)
    tuning: Any = job.tuning
    goal = objective(job.recipe, job.denoiser.parametrization)

    def loss(count: int) -> Tensor:
        batch = job.samples.__getitems__(list(range(count))).to(device, torch.promote_types(like.dtype, torch.float32))
        cond, target = tuning.read(batch), tuning.target(batch, job.denoiser)
        return goal(job.denoiser, batch.x0, batch.noise, batch.sigma, cond, target).sum()

    return of_an_update(loss, list(optimizer.named({"network": job.denoiser.network, **tuning.extras}).values()))


def of_an_update(loss: Callable[[int], Tensor], weights: Sequence[nn.Parameter]) -> tuple[int, int]:
    """Fixed bytes, and bytes a picture, of loss(1), loss(2) and their gradients in the weights.

    Weights that are cast for a forward are among what is fixed, as the gradients are. On a GPU that cannot hold so much
    the answer is a lower bound, but more than there is.
    """
    sizes: list[int] = []
    for count in (1, 2):
        with Living() as living:
            try:
                torch.autograd.grad(loss(count), weights, allow_unused=True)
                sizes.append(living.most)
            except torch.OutOfMemoryError:
                sizes.append(2 * (sizes[0] if sizes else living.most))
    picture = max(0, sizes[1] - sizes[0])
    return max(0, sizes[0] - picture), picture


def lighter(count: Count, job: Job, device: torch.device) -> Count:
    """The count where stages are computed again on the way back."""
    network: Any = job.denoiser.network
    before, network.checkpointing = network.checkpointing, True
    try:
        fixed, picture = taken(job, device)
    finally:
        network.checkpointing = before
    return replace(count, fixed=fixed, picture=picture)


def refusal(count: Count, recipe: Recipe, free: int, light: Count) -> str:
    """Why a run cannot be, and what would fit; light: the count with checkpointing."""
    batch = recipe.train.batch_size
    ways = []
    for parts in (p for p in range(2, batch + 1) if batch % p == 0):
        if count.peak(recipe, parts) <= free:
            ways.append(f"--accumulate {parts}, train.accumulate={parts} ({gigabytes(count.peak(recipe, parts))})")
            break
    for parts in (p for p in range(1, batch + 1) if batch % p == 0):
        if light.peak(recipe, parts) <= free:
            flag, more = ("", "") if parts == 1 else (f" --accumulate {parts}", f" train.accumulate={parts}")
            took = gigabytes(light.peak(recipe, parts))
            ways.append(f"--checkpointing{flag}, train.checkpointing=true{more} ({took}, a third more time)")
            break
    # Adapters on small layers have next to no gradients, moments and averages; the rest remains.
    bare = light.before + round(SLACK * (max(0, light.fixed - light.trained) + light.picture))
    whole = recipe.tune is not None and recipe.tune.method in ("full", "dreambooth") and not recipe.tune.rank
    if whole and bare <= free:
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
