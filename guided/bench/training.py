"""`guided bench train`: a whole training step of ours, and the one of diffusers' published training script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from guided.bench import looping, memory, speed
from guided.bench.cases import Case, Group, Made, Side
from guided.bench.networks import Inputs, Pair, Size, inputs, library
from guided.denoiser import Eps, FromVP
from guided.nn import UNet
from guided.train.batch import Batch
from guided.train.loss import objective
from guided.train.processes import Team
from guided.train.recipe import load_recipe
from guided.train.state import State
from guided.train.update import update

LR = 1e-4
CHEAP = "cheap"
"""What `UNet.checkpointing` is set to, to find norms and activations anew and nothing else."""


@dataclass(frozen=True)
class Theirs:
    """How diffusers' training script is run: text_to_image, unconditional; both have these options."""

    autocast: torch.dtype | None = None
    fused: bool = False
    checkpointing: bool = False

    def __str__(self) -> str:
        words = [_words(self.autocast), "gradient_checkpointing" if self.checkpointing else ""]
        words.append("fused AdamW, foreach EMAModel" if self.fused else "AdamW, EMAModel")
        return ", ".join(word for word in words if word)


def groups(
    size: Size, batches: Sequence[int], dtypes: Sequence[torch.dtype], device: str, memory_batch: int = 4
) -> list[Group]:
    """Steps by dtype and batch, then the memory that a step adds."""
    pair = Pair(size, device)
    timed = [_steps(pair, batch, dtype) for dtype in dtypes for batch in batches]
    measures = ["allocated"] if device.startswith("cuda") else list(memory.MEASURES)
    return [*timed, *(memory.group(size.name, memory_batch, device, measure) for measure in measures)]


def checkpointed(network: UNet, mode: bool | str) -> UNet:
    """The network with a mode of checkpointing."""
    network.checkpointing = mode
    return network


def noise(pair: Pair, count: int) -> Tensor:
    """What is added to a batch of so many pictures."""
    shape = (count, pair.size.channels, pair.size.side, pair.size.side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(pair.device)


def _steps(pair: Pair, count: int, dtype: torch.dtype) -> Group:
    batch, autocast = inputs(pair.size, count, pair.device), dtype if dtype != torch.float32 else None
    added = noise(pair, count)
    title = f"train {pair.size.name}, {'autocast ' if autocast else ''}{str(dtype).removeprefix('torch.')}"

    def mine(name: str, mode: bool | str) -> Side:
        said = {False: "", True: ", checkpointing", CHEAP: ", cheap checkpointing"}[mode]
        return Side(
            name,
            f"{_words(autocast)}{said}, fused AdamW, clipping, EMA",
            lambda: ready(our_step(pair, count, autocast, mode)),
        )

    def ready(step: Step) -> Made:
        return Made(lambda: step.run(batch, added))

    def peer(name: str, *settings: Theirs) -> tuple[str, tuple[Side, ...]]:
        return name, tuple(
            Side(name, str(one), lambda one=one: ready(their_step(pair, one)))  # type: ignore[misc]
            for one in settings
        )

    plain, whole, cheap = mine("ours", False), mine("ours, checkpointed", True), mine("ours, cheap mode", CHEAP)
    default = peer("diffusers script's defaults", Theirs(autocast))
    best = peer("diffusers best-tuned", Theirs(autocast, True), Theirs(autocast))
    saved = peer("diffusers checkpointed, best-tuned", Theirs(autocast, True, True))
    listed = [(plain, default), (plain, best), (whole, saved), (cheap, saved), (cheap, ("ours", (plain,)))]
    cases = tuple(
        Case(f"{title}, batch {count}: {side.name} / {name}", side, sides, f"{title}: {side.name} / {name}")
        for side, (name, sides) in listed
    )
    return speed.group(pair, cases, lambda: 3 * speed.flops(pair, batch), dtype)


@dataclass(frozen=True, eq=False)
class Step:
    """A training step of either library. run(batch, noise): makes one and returns its loss; network: what it trains."""

    run: Callable[[Inputs, Tensor], float]
    network: torch.nn.Module
    optimizer: torch.optim.Optimizer


def our_step(pair: Pair, count: int, autocast: torch.dtype | None = None, mode: bool | str = False) -> Step:
    """`guided.train`'s own update, of `count` pictures, to predict the noise."""
    recipe = load_recipe(
        {
            "data": {"path": "none"},
            "loss": {"weight": "eps"},
            "train": {"batch_size": count, "lr": LR, "warmup": 0, "ema": [0.05], "weight_decay": 0.01},
        }
    )
    network = checkpointed(pair.ours().requires_grad_(True).train(), mode)
    denoiser = FromVP(network, looping.PUBLISHED.alphas_bar()).to(pair.device)
    denoiser.autocast = autocast
    state = State(recipe, denoiser)
    team = Team(0, 1, torch.device(pair.device))
    levels = (0.5 * (1 / looping.PUBLISHED.alphas_bar() - 1).log()).to(pair.device)
    aim = objective(recipe, Eps())

    def run(batch: Inputs, noise: Tensor) -> float:
        sigma, rows = levels[batch.t].exp(), range(len(batch.x))
        shown = Batch(tuple(rows), batch.x, noise, sigma, batch.cond, tuple(map(str, rows)))
        found = update(state, iter([shown]), aim, LR, team, False)
        state.advance(found.applied)
        return found.loss

    return Step(run, network, state.optimizer)


def their_step(pair: Pair, setting: Theirs) -> Step:
    """The loop of diffusers' training scripts: add_noise, mean square error, clipping, AdamW, EMAModel."""
    diffusers = library()
    network = pair.copied().requires_grad_(True).train()
    if setting.checkpointing:
        network.enable_gradient_checkpointing()  # type: ignore[operator]
    options: dict[str, Any] = {"fused": True} if setting.fused else {}
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.01, **options)
    average = diffusers.training_utils.EMAModel(network.parameters(), foreach=setting.fused)
    average.to(pair.device)
    betas = looping.scheduler("DDIMScheduler", 1).config.trained_betas
    rule = diffusers.DDPMScheduler(trained_betas=betas)

    def run(batch: Inputs, noise: Tensor) -> float:
        seen = rule.add_noise(batch.x, noise, batch.t)
        with torch.autocast(batch.x.device.type, setting.autocast, enabled=setting.autocast is not None):
            found = network(seen, batch.t, encoder_hidden_states=batch.tokens, return_dict=False)[0]
            loss = F.mse_loss(found.float(), noise)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.step(network.parameters())
        return float(loss.detach())

    return Step(run, network, optimizer)


def _words(autocast: torch.dtype | None) -> str:
    return f"autocast {str(autocast).removeprefix('torch.')}" if autocast else "float32"
