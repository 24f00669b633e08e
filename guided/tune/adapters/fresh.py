"""New adapters, to be trained: they change nothing until they are."""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from guided.nn.attention import AddedBlock, CrossAttention, SelfAttention
from guided.tune.adapters import surgery
from guided.tune.adapters.lowrank import LowRank
from guided.tune.adapters.places import plain_modules
from guided.tune.adapters.towers import tag, towers
from guided.tune.adapters.words import Extended

KINDS = ("attention", "convolutions", "all")
_TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "q", "k", "v", "o", "query", "key", "value")
Targets = str | Sequence[str]


def fresh(
    network: nn.Module,
    rank: int,
    alpha: float | None = None,
    targets: Targets = "attention",
    dora: bool = False,
    seed: int = 0,
    name: str = "default",
) -> dict[str, nn.Parameter]:
    """Put a new adapter on a network, which changes nothing yet; returns what is to be trained, by name.

    rank, alpha: of each layer's change up @ down * alpha / rank; alpha is rank by default. targets: "attention" (the
    projections of attention), "convolutions", "all" (every matrix and convolution), or a list of these and of patterns
    of names, as in "down.*.conv1". down is drawn from the seed and the layer's name alone. Nothing else in the network
    requires gradient then. Raises ValueError where there is an adapter already, for a pattern that fits no layer, and
    for a DoRA of a layer with a row of zeros, which has no direction.
    """
    if type(rank) is not int or rank < 1:
        raise ValueError(f"rank: expected a whole number >= 1, got {rank!r}")
    chosen = targeted(network, targets)
    scale = 1.0 if alpha is None else float(alpha) / rank
    if not math.isfinite(scale) or scale == 0:
        raise ValueError(f"alpha: expected a number other than 0, got {alpha!r}")
    norms = surgery.norms(network, chosen) if dora else {}
    changes = {}
    for place, layer in chosen.items():
        if dora and not bool((norms[place] > 0).all()):
            raise ValueError(f"dora: {place} has outputs whose weights are all zero, and no direction; use LoRA for it")
        own = min(rank, layer.weight.shape[0], layer.weight[0].numel())  # a layer of 3 channels has no rank 16
        down = drawn((own, *layer.weight.shape[1:]), f"{seed} {place}")
        changes[place] = LowRank(down, torch.zeros(layer.weight.shape[0], own), scale, norms.get(place))
    return surgery.start(network, name, changes)


def fresh_text(
    encoder: Any,
    rank: int,
    alpha: float | None = None,
    targets: Targets = "attention",
    dora: bool = False,
    seed: int = 0,
    name: str = "default",
) -> dict[str, nn.Parameter]:
    """`fresh` for the towers of a text encoder; names begin with the tower's, "text_encoder" or "text_encoder_2".

    Raises ValueError for an encoder that is not of transformers.
    """
    found: dict[str, nn.Parameter] = {}
    for part, tower in towers(encoder).items():
        made = fresh(tower, rank, alpha, targets, dora, seed, name)
        found |= {f"{part}.{key}": value for key, value in made.items()}
    tag(encoder, "trained")
    return found


def drawn(shape: tuple[int, ...], key: str) -> Tensor:
    """The first values of `down`, uniform in +-1 / sqrt(inputs) as a linear layer's, from a key alone."""
    number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return (2 * torch.rand(shape, generator=torch.Generator().manual_seed(number)) - 1) * bound


def targeted(network: nn.Module, targets: Targets) -> dict[str, Any]:
    """The layers that are meant, by name; ValueError for what fits none."""
    wanted = [targets] if isinstance(targets, str) else list(targets)
    there = {name: layer for name, layer in plain_modules(network) if isinstance(layer, nn.Linear | nn.Conv2d)}
    attending = attention(network)
    found: dict[str, Any] = {}
    for word in wanted:
        if word in KINDS:
            chosen = {name: layer for name, layer in there.items() if _of_kind(word, layer, name in attending)}
        else:
            chosen = {name: layer for name, layer in there.items() if fnmatch.fnmatchcase(name, word)}
        if not chosen:
            some = ", ".join(list(there)[:: max(len(there) // 4, 1)][:4])
            raise ValueError(f"targets: {word!r} fits no layer; expected {', '.join(KINDS)} or a name as in {some}")
        found |= chosen
    return {name: layer for name, layer in there.items() if name in found}


def _of_kind(kind: str, layer: nn.Module, attends: bool) -> bool:
    return kind == "all" or (attends if kind == "attention" else isinstance(layer, nn.Conv2d))


def attention(network: nn.Module) -> set[str]:
    """The names of the projections of attention, of our networks and of transformers' towers."""
    modules = dict(plain_modules(network))
    found = set()
    for name, layer in modules.items():
        parent, _, leaf = name.rpartition(".")
        ours = isinstance(modules.get(parent), SelfAttention | CrossAttention | AddedBlock)
        theirs = leaf in _TEXT or name.endswith("attention.output.dense")
        if isinstance(layer, nn.Linear) and (ours or (theirs and not hasattr(network, "attention_layers"))):
            found.add(name)
    return found


def tensors(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of the adapter on a network (or a tower) by name, for a checkpoint: the network's own, not copies."""
    return {name: value.detach() for name, value in _parameters(network).items()}


def _parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """What an adapter has on a network, or on a tower, whose new words are among it."""
    table = network.get_input_embeddings() if hasattr(network, "get_input_embeddings") else None  # type: ignore[operator]
    return surgery.parameters(network) | ({"words": table.rows} if isinstance(table, Extended) else {})


def load_tensors(network: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put tensors that `tensors` gave back in place; ValueError where they are not exactly those of the adapter."""
    own = _parameters(network)
    if own.keys() != values.keys():
        odd = sorted(own.keys() ^ values.keys())
        raise ValueError(f"the adapter's tensors differ in {len(odd)} names, the first is {odd[0]!r}")
    for name, value in values.items():
        if own[name].shape != value.shape:
            raise ValueError(f"{name}: expected the shape {list(own[name].shape)}, got {list(value.shape)}")
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)
