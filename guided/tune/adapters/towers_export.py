"""Text towers whose weights an adapter was merged into, as folders that a model's own copies come from."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from guided import _files, _safetensors
from guided.model import Model
from guided.model.conditioning import LazyEncoder
from guided.text import locate, tokenizer_folder
from guided.tune.adapters import words
from guided.tune.adapters.places import TOWERS, UNET
from guided.tune.adapters.towers import TAG

_SMALL = (".json", ".txt", ".model")


def check(model: Model, attached: Mapping[str, nn.Module]) -> None:
    """Raise ValueError where what is on the text encoder cannot go into its weights."""
    text = model.encoders.get("text")
    new = words.names(text)
    if new:
        raise ValueError(f"merge: {', '.join(map(repr, new))} holds new words, which no weights hold: keep the adapter")
    if set(attached) - {UNET} and "towers" not in (text.spec if text is not None else {}):
        raise ValueError(
            "merge: the adapter changes the text encoder, which is no part of the model's own folder: keep the adapter"
        )


def keep(model: Model, attached: Mapping[str, nn.Module]) -> None:
    """Lay the towers that were merged into out in the cache, and have the model's encoder come from there."""
    changed = {part: module for part, module in attached.items() if part != UNET}
    if not changed:
        return
    encoder = model.encoders["text"]
    spec: dict[str, Any] = {name: value for name, value in encoder.spec.items() if name != TAG}
    spec["towers"] = [
        _laid_out(dict(entry), TOWERS[i], changed.get(TOWERS[i])) for i, entry in enumerate(spec["towers"])
    ]
    model.encoders["text"] = LazyEncoder(spec, model.device)


def _laid_out(entry: dict[str, Any], part: str, tower: Any) -> dict[str, Any]:
    if tower is None:
        return entry
    found = locate(entry["from"])
    state = {name: value.detach().cpu().contiguous() for name, value in tower.state_dict().items()}
    names = stored_names(list(_safetensors.headers(_safetensors.Files(found.weights))), list(state))
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    place = _files.cache("merged") / digest.hexdigest()[:24]
    if not place.is_dir():
        with _files.folder(place) as aside:
            inner = aside / part
            inner.mkdir()
            _copy(found.folder, inner)
            tokenizer = tokenizer_folder(found.folder)
            if tokenizer != found.folder:
                (aside / part.replace("text_encoder", "tokenizer")).mkdir()
                _copy(tokenizer, aside / part.replace("text_encoder", "tokenizer"))
            _safetensors.save({names[name]: value for name, value in state.items()}, inner / "model.safetensors")
    kept = {name: value for name, value in entry.items() if name not in ("weights", "class", "tokenizer")}
    return {**kept, "from": str(place / part)}


def stored_names(stored: list[str], own: list[str]) -> dict[str, str]:
    """What a file calls a tower's tensors: versions of transformers differ in the prefix `text_model`."""
    there = set(stored)
    found = {}
    for name in own:
        options = (name, f"text_model.{name}", name.removeprefix("text_model."))
        found[name] = next((option for option in options if option in there), name)
    return found


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in _SMALL and not file.name.endswith(".index.json"):
            (target / file.name).write_bytes(file.read_bytes())
