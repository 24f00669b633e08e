"""Which weights a method trains: all of them, adapters beside them, or a word of the text encoder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from guided.cond import Cond
from guided.denoiser import Denoiser
from guided.model import Model
from guided.train.recipe import Recipe, Tune
from guided.tune.tuned import Quiet


@dataclass(frozen=True)
class Chosen:
    """adapter: whether the base's own weights stay. quiet: the base within the network in training; None: it is none.

    extras, reader: see `guided.train.tuning.Tuning` and `tuned.Tuned`.
    """

    adapter: bool
    quiet: Quiet | None = None
    extras: Mapping[str, nn.Module] = field(default_factory=dict)
    reader: Reader | None = None


def freezes(tune: Tune) -> bool:
    """Whether a method leaves the network's own weights as they are."""
    return tune.method != "full" and not (tune.method == "dreambooth" and not tune.rank)


def reads(tune: Tune) -> bool:
    """Whether texts are read anew in every update, by an encoder that is trained."""
    return tune.method == "textual-inversion" or (freezes(tune) and tune.text_rank > 0)


def laid_down(network: nn.Module, tune: Tune) -> None:
    """Freeze a network, in the dtype in which what is frozen lies."""
    network.requires_grad_(False)
    network.to(torch.bfloat16 if tune.frozen == "bf16" else torch.float32)


def chosen(model: Model, recipe: Recipe, changed: bool) -> Chosen:
    """Freeze what the recipe's method leaves alone, and add what it adds. Raises ValueError for what cannot be."""
    tune = recipe.tune
    assert tune is not None
    network = model.denoiser.network
    if not freezes(tune):
        network.requires_grad_(True)
        return Chosen(adapter=False)
    if changed:
        raise ValueError(f"tune.method: another head is trained with the rest: full, or dreambooth, got {tune.method}")
    laid_down(network, tune)
    from guided.tune import adapters

    encoder = model.encoders.get("text")
    if tune.method == "textual-inversion":
        assert tune.word is not None
        if encoder is None:
            raise ValueError(f"tune.method: textual-inversion: {model.name} reads no words")
        adapters.fresh_words(encoder, {tune.word: tune.vectors}, seed=recipe.seed)
        return Chosen(True, None, adapters.towers(encoder), Reader(encoder, model.denoiser.accepts))
    dora = tune.method == "dora"
    made = adapters.fresh(network, tune.rank, tune.alpha, tune.targets, dora, recipe.seed)
    for weight in made.values():  # whatever the frozen weights lie in
        weight.data = weight.data.float()
    if not tune.text_rank:
        return Chosen(True, silenced)
    if encoder is None:
        raise ValueError(f"tune.text_rank: {model.name} reads no texts; leave it at 0")
    adapters.fresh_text(encoder, tune.text_rank, tune.alpha, "attention", dora, recipe.seed)
    return Chosen(True, silenced, adapters.towers(encoder), Reader(encoder, model.denoiser.accepts))


@dataclass(frozen=True, eq=False)
class Reader:
    """Captions read anew in every update, with gradient, by an encoder that is in training."""

    encoder: Any
    accepts: frozenset[str]

    def __call__(self, captions: Sequence[str | None]) -> Cond:
        from guided.tune import adapters

        read = adapters.live(self.encoder, [caption or "" for caption in captions])
        cond = Cond(tokens=read.tokens, mask=read.mask, vector=read.vector).only(self.accepts)
        return cond.drop(torch.tensor([caption is None for caption in captions]))


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
