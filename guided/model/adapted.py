"""A network under the layers of an adapter: its own layers, names and tensors.

A layer that is adapted holds the network's own as `base_layer`, as peft has it; nothing here needs peft.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

BASE = "base_layer"


def original(network: nn.Module, name: str) -> Any:
    """A layer of the network as it is without adapters."""
    found: Any = network.get_submodule(name)
    while hasattr(found, BASE):
        found = getattr(found, BASE)
    return found


def is_adapted(network: nn.Module) -> bool:
    """Whether any layer carries an adapter."""
    return any(hasattr(module, BASE) for module in network.modules())


def stripped(network: nn.Module) -> nn.Module:
    """Take every adapter off, in place: what is left is the network's own modules."""
    found = [
        (parent, name)
        for parent in network.modules()
        for name, child in parent.named_children()
        if hasattr(child, BASE) and not hasattr(parent, BASE)
    ]
    for parent, name in found:
        setattr(parent, name, original(parent, name))
    network.__dict__.pop("peft_config", None)
    return network


def state(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of the network's own layers, by their own names."""
    adapted = [name for name, module in network.named_modules() if hasattr(module, BASE)]
    own = {}
    for name, value in network.state_dict().items():
        place = next((layer for layer in adapted if name.startswith(f"{layer}.")), None)
        if place is None:
            own[name] = value
        elif name.startswith(f"{place}.{BASE}."):
            own[f"{place}.{name.removeprefix(f'{place}.{BASE}.')}"] = value
    return own
