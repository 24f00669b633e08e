"""Adapters on a model: put on, weighed, taken off, or merged into its weights."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from guided.model import Model
from guided.nn import UNet
from guided.tune.adapters import surgery, words
from guided.tune.adapters.adapter import Adapter
from guided.tune.adapters.places import UNET, resolved
from guided.tune.adapters.towers import opened_towers, tag, towers

Given = str | os.PathLike[str] | Adapter


def inject(model: Model | UNet, adapter: Given, weight: float = 1.0, name: str = "default") -> Adapter:
    """Put an adapter on a model (its network and its text towers), or on a bare network; returns what was put on.

    adapter: a file or a folder in any form that `read` knows, or one at hand. Several may be on, each under a name of
    its own: their changes, each times its weight, are added. New words have no weight. Raises ValueError naming the
    layers that the model does not have, or has in another shape, and the base that the adapter looks made for; nothing
    is changed then.
    """
    found = adapter if isinstance(adapter, Adapter) else _read(adapter)
    where = model.name if isinstance(model, Model) else "the network"
    if not isinstance(model, Model | UNet):
        raise TypeError(f"an adapter goes on a Model or a UNet, got {type(model).__name__}; of a cascade, on a stage")
    if not math.isfinite(weight):
        raise ValueError(f"weight: expected a number, got {weight!r}")
    if name in _names(model):
        raise ValueError(f"there is an adapter {name!r} already: eject it, or give this one another name")
    modules = _modules(model, found)
    changes = {}
    for part, layers in found.layers.items():
        if part not in modules:
            raise ValueError(f"the adapter changes {part} ({len(layers)} layers), and {where} has none")
        changes[part] = resolved(layers, modules[part], part, where)
        surgery.ready(modules[part])
    if isinstance(model, Model):
        _ = model.hash  # of the weights alone: it is taken before anything is put on them
        if found.words:
            if "text" not in model.encoders:
                raise ValueError(f"the adapter has new words, and {where} reads no text")
            words.put(model.encoders["text"], name, found.words)
    elif found.words:
        raise ValueError("the adapter has new words, and a bare network reads no text")
    for part, layered in changes.items():
        surgery.attach(modules[part], name, layered, weight)
    if isinstance(model, Model):
        model.adapters = (*model.adapters, _record(found, name, weight))
        _tag(model)
    return found


def reweight(model: Model | UNet, weights: Mapping[str, float]) -> None:
    """Change the weights of adapters by name; ValueError for a name that is not on the model."""
    for name, weight in weights.items():
        if name not in _names(model):
            raise ValueError(f"no adapter {name!r} is on it; there are {', '.join(_names(model)) or 'none'}")
        if not math.isfinite(weight):
            raise ValueError(f"weight of {name!r}: expected a number, got {weight!r}")
    for module in _attached(model).values():
        surgery.reweigh(module, weights)
    if isinstance(model, Model):
        model.adapters = tuple(
            {**entry, "weight": float(weights.get(entry["name"], entry["weight"]))} for entry in model.adapters
        )
        _tag(model)


def eject(model: Model | UNet, name: str | None = None) -> None:
    """Take one adapter off, or all: the model is then what it was, bit for bit. ValueError for an unknown name."""
    if name is not None and name not in _names(model):
        raise ValueError(f"no adapter {name!r} is on it; there are {', '.join(_names(model)) or 'none'}")
    for module in _attached(model).values():
        surgery.detach(module, name)
    if isinstance(model, Model):
        words.take(model.encoders.get("text"), name)
        model.adapters = tuple(entry for entry in model.adapters if name not in (None, entry["name"]))
        _tag(model)


def merge(model: Model | UNet, weights: Mapping[str, float] | None = None) -> None:
    """Put all adapters into the weights, in place; the model is then an ordinary one, to be saved or exported.

    weights: by name, in place of those they have. Raises ValueError, before anything is changed, for new words, which
    no weights hold, and for text encoders that are no part of the model's own folder.
    """
    reweight(model, weights or {})
    attached = _attached(model)
    if isinstance(model, Model):
        from guided.tune.adapters import towers_export

        towers_export.check(model, attached)
        records = [dict(entry) for entry in model.adapters]
    for module in attached.values():
        surgery.absorb(module)
    if isinstance(model, Model):
        towers_export.keep(model, attached)
        if UNET in attached:
            model.forget_hash()
        model.adapters, model.source = (), None  # what it was opened from draws other pictures
        provenance = dict(model.card.get("provenance") or {})
        model.card["provenance"] = {**provenance, "merged": [*provenance.get("merged", []), *records]}
        _tag(model)


def adapter_of(model: Model | UNet, name: str | None = None) -> Adapter:
    """One of the adapters on a model, as it stands, in training too; ValueError where none, or more than one, is meant.

    Its layers have our own names.
    """
    there = _names(model)
    if name is None and len(there) == 1:
        name = there[0]
    if name not in there:
        raise ValueError(
            f"which adapter: expected one of {', '.join(there) or 'none, for there is none'}, got {name!r}"
        )
    layers = {part: surgery.changes_of(module, name) for part, module in _attached(model).items()}
    new = words.of(model.encoders.get("text"), name) if isinstance(model, Model) else {}
    entry: Mapping[str, Any] = {}
    if isinstance(model, Model):
        entry = next((one for one in model.adapters if one["name"] == name), {})
    return Adapter({part: found for part, found in layers.items() if found}, new, name=name, file=entry.get("file"))


def parts(model: Model | UNet) -> dict[str, nn.Module]:
    """All that an adapter can be put on, by part; the text towers are opened."""
    if not isinstance(model, Model):
        return {UNET: model}
    text = model.encoders.get("text")
    return {UNET: model.denoiser.network} | (towers(text) if text is not None else {})


def _modules(model: Model | UNet, adapter: Adapter) -> dict[str, nn.Module]:
    """What an adapter is to be put on; towers are opened for one that changes them alone."""
    reads = bool(adapter.words) or bool(set(adapter.layers) - {UNET})
    if isinstance(model, Model) and not reads:
        return {UNET: model.denoiser.network}
    return parts(model)


def _attached(model: Model | UNet) -> dict[str, nn.Module]:
    """The parts that an adapter is on."""
    if not isinstance(model, Model):
        return {UNET: model} if surgery.held(model) is not None else {}
    found = {UNET: model.denoiser.network, **opened_towers(model.encoders.get("text"))}
    return {part: module for part, module in found.items() if surgery.held(module) is not None}


def _names(model: Model | UNet) -> list[str]:
    found = [name for module in _attached(model).values() for name in surgery.names(module)]
    if isinstance(model, Model):
        found += [entry["name"] for entry in model.adapters] + words.names(model.encoders.get("text"))
    return list(dict.fromkeys(found))


def _record(adapter: Adapter, name: str, weight: float) -> dict[str, Any]:
    """What a picture says of an adapter that drew it."""
    values: dict[str, Any] = {"name": name, "file": adapter.file, "weight": float(weight), "sha256": adapter.digest}
    values["words"] = sorted(adapter.words) or None
    return {key: value for key, value in values.items() if value is not None}


def _tag(model: Model) -> None:
    """Mark the text encoder by what is on it."""
    text = model.encoders.get("text")
    there = opened_towers(text)
    if not there:
        return
    digests = {entry["name"]: entry["sha256"] for entry in model.adapters}
    found = []
    for part, tower in there.items():
        now = surgery.held(tower)
        found += [f"{part} {digests.get(name)} {now.weights[name]}" for name in now.changes] if now is not None else []
    found += [f"words {digests.get(name)}" for name in words.names(text)]
    tag(text, hashlib.sha256("\n".join(found).encode()).hexdigest()[:16] if found else None)


def _read(path: str | os.PathLike[str]) -> Adapter:
    from guided.tune.adapters.reading import read

    return read(path)
