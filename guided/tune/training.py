"""Which weights a method trains: all of them, adapters beside them, or a word of the text encoder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from guided.cond import Cond
from guided.denoiser import Denoiser
from guided.model import Model
from guided.train.batch import Batch
from guided.train.recipe import Recipe
from guided.tune.tuned import Quiet


@dataclass(frozen=True)
class Chosen:
    """adapter: whether the base's own weights stay. quiet: the base within the network in training; None: it is none.

    extras, reader: see `guided.train.tuning.Tuning` and `tuned.Tuned`.
    """

    adapter: bool
    quiet: Quiet | None = None
    extras: Mapping[str, nn.Module] = field(default_factory=dict)
    reader: Callable[[Batch], Cond] | None = None


def chosen(model: Model, recipe: Recipe, changed: bool) -> Chosen:
    """Freeze what the recipe's method leaves alone, and add what it adds. Raises ValueError for what cannot be."""
    tune = recipe.tune
    assert tune is not None
    network = model.denoiser.network
    if tune.method == "full" or (tune.method == "dreambooth" and not tune.rank):
        network.requires_grad_(True)
        return Chosen(adapter=False)
    if changed:
        raise ValueError(f"tune.method: another head is trained with the rest: full, or dreambooth, got {tune.method}")
    from guided.tune import adapters

    network.requires_grad_(False)
    network.to(torch.bfloat16 if tune.frozen == "bf16" else torch.float32)
    targets, seed = tune.targets, recipe.seed
    adapters.fresh(network, tune.rank, tune.alpha, targets, tune.method == "dora", seed)
    return Chosen(adapter=True, quiet=silenced)


@contextlib.contextmanager
def silenced(denoiser: Denoiser) -> Iterator[Denoiser]:
    """The denoiser without its adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in denoiser.network.modules() if isinstance(module, BaseTunerLayer)]
    try:
        for layer in layers:
            layer._disable_adapters = True
        yield denoiser
    finally:
        for layer in layers:
            layer._disable_adapters = False
