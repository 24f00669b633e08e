"""Adapters on a network: peft's layers are put around its own, weighed, taken off, or merged into the weights.

What is attached by name is held beside the network as tensors; its layers carry the weighted sum of all of it, one
peft adapter. An adapter in training is the exception: its tensors are those of the layers, and it stands alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from guided._compat import ensure_torchvision
from guided.model.adapted import original, stripped
from guided.tune.adapters.lowrank import LowRank, row_norms, weighed

ADAPTER = "default"
"""What peft calls the one adapter that its layers carry."""
HELD = "adapters_held"
Changes = Mapping[str, LowRank]


@dataclass
class Held:
    """What is attached to a network: changes by the names of its layers, and the weight of each adapter."""

    changes: dict[str, Changes] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    trained: str | None = None
    frozen: dict[str, bool] = field(default_factory=dict)


def library() -> Any:
    """peft; ImportError that says how to get it."""
    ensure_torchvision()
    try:
        import peft
    except ImportError as error:
        raise ImportError("an adapter needs peft: pip install 'guided[train]'") from error
    return peft


def held(network: nn.Module) -> Held | None:
    """What is attached to a network, None for one as it was made."""
    found: Held | None = network.__dict__.get(HELD)
    return found


def names(network: nn.Module) -> list[str]:
    """The names of the adapters on a network."""
    found = held(network)
    if found is None:
        return []
    return [*found.changes, *([] if found.trained is None else [found.trained])]


def attach(network: nn.Module, name: str, changes: Changes, weight: float = 1.0) -> None:
    """Add an adapter whose changes fit the network's layers; ValueError where its name is taken."""
    ready(network)
    if name in names(network):
        raise ValueError(f"there is an adapter {name!r} already: eject it, or give this one another name")
    now = held(network) or _begin(network)
    now.changes[name], now.weights[name] = changes, weight
    _compose(network, now)


def ready(network: nn.Module) -> None:
    """Raise ValueError where an adapter in training stands alone on a network, ImportError where peft is missing."""
    library()
    now = held(network)
    if now is not None and now.trained is not None:
        raise ValueError(f"{now.trained!r} is in training on this network: nothing can be added to it")


def detach(network: nn.Module, name: str | None = None) -> None:
    """Take an adapter off, or all of them; without any, the network is the one it was before the first."""
    now = held(network)
    if now is None or (name is not None and name not in names(network)):
        return
    if name is None or names(network) == [name]:
        _end(network, now)
        return
    del now.changes[name], now.weights[name]
    _compose(network, now)


def reweigh(network: nn.Module, weights: Mapping[str, float]) -> None:
    """Change the weights of adapters that are attached."""
    now = held(network)
    if now is not None and weights.keys() & now.weights.keys():
        now.weights |= {name: w for name, w in weights.items() if name in now.weights}
        _compose(network, now)


def absorb(network: nn.Module) -> None:
    """Add what is attached to the weights of the network's own layers, and take it off.

    In float64, rounded once: in layers of half precision peft's own merging rounds the factors, their product and the
    sum. Raises ValueError where a weight would not be finite.
    """
    now = held(network)
    if now is None:
        return
    changes = changes_of(network, now.trained) if now.trained is not None else _composed(network, now)
    with torch.no_grad():
        for place, change in changes.items():
            weight = original(network, place).weight
            moved = change.onto(weight)
            if not bool(moved.isfinite().all()):
                raise ValueError(f"merge: {place}: its weights would not be finite")
            weight.copy_(moved)
    _end(network, now)


def put(network: nn.Module, changes: Changes, trainable: bool = False) -> dict[str, nn.Parameter]:
    """peft's layers around those named, with these values; returns their parameters by name."""
    kinds = {dora: {n: c for n, c in changes.items() if (c.magnitude is not None) == dora} for dora in (False, True)}
    for dora, group in kinds.items():
        if group:
            _inject(network, {name: change.rank for name, change in group.items()}, dora)
    layers = _layers(network)
    with torch.no_grad():
        for name, change in changes.items():
            layer = layers[name]
            layer.scaling[ADAPTER], layer.lora_alpha[ADAPTER] = change.scale, change.alpha
            down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            down.copy_(change.down.reshape(down.shape))
            up.copy_(change.up.reshape(up.shape))
            if change.magnitude is not None:
                magnitude = layer.lora_magnitude_vector[ADAPTER].weight
                magnitude.copy_(change.magnitude.reshape(magnitude.shape))
    found = parameters(network)
    for value in found.values():
        value.requires_grad_(trainable)
    return found


def parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's own parameters: LAYER.lora_A, LAYER.lora_B and LAYER.lora_magnitude_vector."""
    found = {}
    for name, layer in _layers(network).items():
        found[f"{name}.lora_A"] = layer.lora_A[ADAPTER].weight
        found[f"{name}.lora_B"] = layer.lora_B[ADAPTER].weight
        if layer.lora_magnitude_vector and ADAPTER in layer.lora_magnitude_vector:
            found[f"{name}.lora_magnitude_vector"] = layer.lora_magnitude_vector[ADAPTER].weight
    return found


def changes_of(network: nn.Module, name: str) -> dict[str, LowRank]:
    """The changes of one adapter on a network, of one in training as it stands; copies on the CPU."""
    now = held(network)
    if now is not None and name in now.changes:
        return dict(now.changes[name])
    if now is None or now.trained != name:
        return {}
    found = {}
    for place, layer in _layers(network).items():
        values = [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]
        down, up = (value.detach().cpu().float().clone() for value in values)
        dora = layer.lora_magnitude_vector and ADAPTER in layer.lora_magnitude_vector
        magnitude = layer.lora_magnitude_vector[ADAPTER].weight.detach().cpu().float().flatten() if dora else None
        found[place] = LowRank(down, up.flatten(1), float(layer.scaling[ADAPTER]), magnitude)
    return found


def start(network: nn.Module, name: str, changes: Changes) -> dict[str, nn.Parameter]:
    """Put an adapter on to be trained; ValueError where the network has one already."""
    if held(network) is not None:
        raise ValueError(f"there is an adapter on this network ({', '.join(names(network))}): merge or eject it first")
    now = _begin(network)
    now.trained = name
    return put(network, changes, trainable=True)


def norms(network: nn.Module, places: Iterable[str]) -> dict[str, Tensor]:
    """The norms of the rows of layers' own weights, on the CPU."""
    return {place: row_norms(original(network, place).weight.detach().cpu().float()) for place in places}


def _begin(network: nn.Module) -> Held:
    now = Held(frozen={name: value.requires_grad for name, value in network.named_parameters()})
    network.__dict__[HELD] = now
    return now


def _end(network: nn.Module, now: Held) -> None:
    stripped(network)
    network.__dict__.pop(HELD)
    for name, value in network.named_parameters():
        value.requires_grad_(now.frozen.get(name, False))


def _compose(network: nn.Module, now: Held) -> None:
    """Make the network's layers carry the weighted sum of what is attached."""
    stripped(network)
    put(network, _composed(network, now))


def _composed(network: nn.Module, now: Held) -> Changes:
    """The weighted sum of what is attached, layer by layer."""
    by_layer: dict[str, list[tuple[LowRank, float]]] = {}
    for name, changes in now.changes.items():
        for place, change in changes.items():
            by_layer.setdefault(place, []).append((change, now.weights[name]))
    weights = {place: original(network, place).weight for place in by_layer}
    return {place: weighed(changes, weights[place]) for place, changes in by_layer.items()}


def _inject(network: nn.Module, ranks: Mapping[str, int], dora: bool) -> None:
    peft = library()
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    # Anchored: a name of a layer is a pattern to peft, and fits every name that ends so.
    others = {f"^{name}": rank for name, rank in ranks.items() if rank != usual}
    config = peft.LoraConfig(
        r=usual, lora_alpha=usual, rank_pattern=others, target_modules=list(ranks), use_dora=dora, bias="none"
    )
    training = {module: module.training for module in network.modules()}
    # peft draws first values, which are replaced; nobody's random numbers may depend on that.
    with torch.random.fork_rng(devices=[]):
        peft.inject_adapter_in_model(config, network, adapter_name=ADAPTER)
    for module in network.modules():
        module.training = training.get(module, network.training)


def _layers(network: nn.Module) -> dict[str, Any]:
    """The layers of a network that carry the adapter, by the names of its own."""
    return {
        name: module
        for name, module in network.named_modules()
        if hasattr(module, "base_layer") and ADAPTER in getattr(module, "lora_A", {})
    }
