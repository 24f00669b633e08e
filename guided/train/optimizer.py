"""AdamW, AdamW in 8 bits or Muon, and a learning rate that is a function of the counter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guided.train import eightbit, muon
from guided.train.recipe import TrainSection

LAST = 0.05
"""The share of the learning rate that the last update gets."""
MOMENTS = ("exp_avg", "exp_avg_sq", *eightbit.MOMENTS)


def learning_rate(train: TrainSection, counter: int) -> float:
    """The rate of the update that begins at `counter`: linear rise, constant, linear fall to 5 % over the last part."""
    after = counter + train.batch_size
    rise = min(1.0, after / train.warmup) if train.warmup else 1.0
    tail = train.decay * train.images
    left = min(1.0, max(0.0, (train.images - after) / tail)) if tail else 1.0
    return train.lr * rise * (LAST + (1 - LAST) * left)


def require(train: TrainSection) -> None:
    """ImportError that says what to install where the recipe's optimizer is not to be had."""
    if train.optimizer == "adamw8bit":
        eightbit.require()


def make(modules: Mapping[str, nn.Module], train: TrainSection) -> torch.optim.Optimizer:
    """The recipe's optimizer over all the modules' weights; what has one dimension (norms, biases) never decays."""
    weights = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    taken = muon.hidden(modules) if train.optimizer == "muon" else set()
    others = [p for p in weights if p not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if train.optimizer == "adamw8bit":
        return eightbit.make(groups, train.lr, train.betas)
    if not taken:
        return torch.optim.AdamW(groups, lr=train.lr, betas=train.betas, fused=True)
    dtype = torch.bfloat16 if train.precision == "bf16" else None
    matrices = [p for p in weights if p in taken]
    return muon.Muon(matrices, groups, train.lr, train.betas, train.weight_decay, dtype)


def size(modules: Mapping[str, nn.Module], train: TrainSection) -> int:
    """Bytes of the moments that the recipe's optimizer keeps of all the modules' weights."""
    taken = muon.hidden(modules) if train.optimizer == "muon" else set()
    if train.optimizer == "adamw8bit":
        return sum(eightbit.size(weight) for weight in named(modules).values())
    return sum((1 if p in taken else 2) * p.numel() * p.element_size() for p in named(modules).values())


def named(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    """Every trained weight by its module's name and its own."""
    return {
        f"{prefix}.{name}": weight
        for prefix, module in modules.items()
        for name, weight in module.named_parameters()
        if weight.requires_grad
    }


def moments(optimizer: torch.optim.Optimizer, modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The optimizer's moments as plain tensors, `exp_avg/NAME` and, of AdamW, `exp_avg_sq/NAME`; or `eightbit`'s."""
    out: dict[str, Tensor] = {}
    for name, weight in named(modules).items():
        for moment in MOMENTS:
            if moment in optimizer.state.get(weight, {}):
                out[f"{moment}/{name}"] = optimizer.state[weight][moment]
    return out


def restore(
    optimizer: torch.optim.Optimizer, modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], updates: int
) -> None:
    """Put saved moments back; `updates` is how many were applied."""
    optimizer.state.clear()
    for name, weight in named(modules).items():
        found = {moment: tensors[f"{moment}/{name}"] for moment in MOMENTS if f"{moment}/{name}" in tensors}
        if not found:
            continue
        if "state1" in found:
            eightbit.restore(optimizer, weight, found, updates)
            continue
        state = optimizer.state[weight]
        if "exp_avg_sq" in found:
            state["step"] = torch.tensor(float(updates), dtype=torch.float32, device=weight.device)
        for moment, tensor in found.items():
            # In the weight's own memory layout, which the fused step wants alike.
            state[moment] = torch.empty_like(weight).copy_(tensor)
