"""Adapters saved from models, and models opened from the folders of adapters."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from guided.model import Model
from guided.nn import UNet
from guided.tune.adapters import folder, onto
from guided.tune.adapters.adapter import Adapter
from guided.tune.adapters.lowrank import LowRank
from guided.tune.adapters.places import TOWERS, UNET, counterpart, tower_name, written
from guided.tune.adapters.reading import read

Path = str | os.PathLike[str]


def save(
    model: Model | UNet,
    place: Path,
    base: str | Mapping[str, Any] | None = None,
    name: str | None = None,
    dtype: torch.dtype = torch.float32,
    card: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Write the folder of an adapter that is on a model, in training or not, whole or not at all; returns it.

    base: the model's own path, hub id or shipped name, or the whole entry {"source", "sha256", "name"}; by default what
    the model says of itself. name: which of several adapters. card: JSON, of how it was made. The weights go into
    diffusers' form where the base has a counterpart there, else into peft's. Raises ValueError where no adapter is
    meant, or the folder holds something else; OSError where the disk is full.
    """
    found = onto.adapter_of(model, name)
    if not found.layers and not found.words:
        raise ValueError(f"save: {found.name!r} changes nothing")
    target = pathlib.Path(place)
    said = base_of(model, base)
    names = to_theirs(model, found)
    folder.write(target, found if names is None else names, said, names is not None, dtype, card)
    return target


def base_of(model: Model | UNet, base: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """What an adapter's folder says of its base: source, sha256 of the weights, name."""
    given: dict[str, Any] = {"source": base} if isinstance(base, str) else dict(base or {})
    if isinstance(model, Model):
        own = dict(model.base or {"source": model.source})
        given = {**own, "sha256": model.hash, "name": str(model.card.get("name") or ""), **given}
    if not isinstance(given.get("source"), str):
        raise ValueError("save: this model was opened from nowhere: give base=, the path or hub id of its folder")
    given["source"] = _named(given["source"])
    return {**{"name": "", "sha256": None}, **given}


def _named(source: str) -> str:
    """A model's name as it holds wherever the adapter is opened from: shipped, of the hub, or a folder's whole path."""
    from guided import zoo

    place = pathlib.Path(source).expanduser()
    if source in zoo.SHIPPED or not place.exists():
        return source
    return next((name for name in zoo.SHIPPED if place.absolute() == zoo.shipped(name)), str(place.absolute()))


def to_theirs(model: Model | UNet, adapter: Adapter) -> Adapter | None:
    """The adapter with diffusers' names for its layers; None where its base has no counterpart there."""
    network = model.denoiser.network if isinstance(model, Model) else model
    if not isinstance(network, UNet):
        return None
    try:
        linear = bool(counterpart(network.config).get("use_linear_projection"))
    except ValueError:
        return None
    if isinstance(model, Model):
        unet = (model.card.get("layout") or {}).get("unet") or {}
        linear = bool(unet.get("use_linear_projection", linear if not unet else False))
    layers: dict[str, Mapping[str, LowRank]] = {}
    for part, changes in adapter.layers.items():
        named = {tower_name(name): change for name, change in changes.items()}
        layers[part] = written(changes, network, linear) if part == UNET else named
    return dataclasses.replace(adapter, layers=layers)


def opened(place: Path, base: Path | Model | None = None) -> Model:
    """The base of an adapter with the adapter on it: `guided.load` of an adapter's folder or file.

    base: the base, where the folder says none, or not where it is now. Its weights must be those that the adapter was
    made on. Raises FileNotFoundError where the base is not there, ValueError where it is another, or the adapter is
    damaged or does not fit.
    """
    from guided import zoo

    adapter = read(place)
    said = dict(adapter.base or {})
    given = base if base is not None else said.get("source")
    if given is None:
        raise ValueError(
            f"{place}: an adapter that names no base: guided.load({str(place)!r}, base=...), or --model BASE --lora "
            f"{place}"
        )
    folders = () if isinstance(given, Model) else (pathlib.Path(given).expanduser(), pathlib.Path(given) / "model")
    if any(map(is_adapter, folders)):  # or a run that made one
        raise ValueError(f"{place}: its base {given} is an adapter itself: merge that one into a model first")
    try:
        model = given if isinstance(given, Model) else zoo.load_model(given)
    except FileNotFoundError as error:
        if base is not None:
            raise
        raise FileNotFoundError(
            f"{place}: its base {given} is not there ({error}). Say where it is now: guided.load({str(place)!r}, "
            f"base=...), --model BASE --lora {place}, or base.source in its {folder.MANIFEST}"
        ) from None
    if said.get("sha256") not in (None, model.hash):
        raise ValueError(
            f"{place}: made for weights {said['sha256'][:12]} of {said.get('name') or said.get('source')}, and "
            f"those of {model.source} are {model.hash[:12]}: another base. tune.adapters.inject tries it all the same"
        )
    onto.inject(model, adapter, name=adapter.name)
    model.base = {"source": model.source, "sha256": model.hash, "name": str(model.card.get("name") or "")}
    if base is None:
        model.source = os.fspath(place)
    return model


def apply(model: Model, specs: Sequence[str]) -> None:
    """Put adapters on a model, each FILE or FILE:WEIGHT; the adapter that the model came with is reweighted.

    Raises as `inject`.
    """
    for spec in specs:
        file, colon, number = spec.rpartition(":")
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            colon = ""
        file, weight = (file, weight) if colon else (spec, 1.0)
        there = [entry["name"] for entry in model.adapters]
        own = next((entry["name"] for entry in model.adapters if file == model.source == entry.get("file")), None)
        if own is not None:
            onto.reweight(model, {own: weight})
            continue
        adapter = read(file)
        names = [adapter.name, *(f"{adapter.name}-{i}" for i in range(2, len(there) + 3))]
        onto.inject(model, adapter, weight, next(name for name in names if name not in there))


def is_adapter(path: pathlib.Path) -> bool:
    """Whether a path is the folder of an adapter, by the names of its files."""
    from guided.tune.adapters.reading import DIFFUSERS, EMBEDDINGS, PEFT_CONFIG

    names = (folder.MANIFEST, PEFT_CONFIG, DIFFUSERS, EMBEDDINGS)
    return path.is_dir() and any((path / name).is_file() for name in names)


def with_words(model: Model, words: Mapping[str, Any], name: str = "words") -> None:
    """Give a model's text encoder new words: of each its vectors (n, width), by tower where there are two, or a file.

    Raises ValueError, naming the word, where they do not fit.
    """
    made: dict[str, Mapping[str, torch.Tensor]] = {}
    for word, given in words.items():
        if isinstance(given, str | os.PathLike):
            held = read(given).words
            if len(held) != 1:
                raise ValueError(f"{given}: expected the vectors of one word, it holds {', '.join(held) or 'none'}")
            made[word] = next(iter(held.values()))
        elif isinstance(given, Mapping):
            made[word] = {{"clip_l": TOWERS[0], "clip_g": TOWERS[1]}.get(str(k), str(k)): v for k, v in given.items()}
        else:
            made[word] = {TOWERS[0]: given.reshape(-1, given.shape[-1])}
    onto.inject(model, Adapter(words=made, name=name), name=name)
