"""Adapters written in the published forms: diffusers', peft's and kohya's."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from guided import _safetensors
from guided.tune.adapters import keys
from guided.tune.adapters.adapter import Adapter
from guided.tune.adapters.lowrank import LowRank
from guided.tune.adapters.places import TOWERS, UNET
from guided.tune.adapters.reading import DIFFUSERS, EMBEDDINGS, METADATA, PEFT, PEFT_CONFIG

Changes = Mapping[str, LowRank]


def to_diffusers(adapter: Adapter, folder: pathlib.Path, dtype: torch.dtype) -> list[pathlib.Path]:
    """`pytorch_lora_weights.safetensors` of layers that have diffusers' names, with peft's config of each part."""
    if not adapter.layers:
        return []
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    for part, changes in adapter.layers.items():
        tensors |= keys.spelt(changes, part, dtype)
        metadata |= {f"{part}.{name}": value for name, value in config(changes).items()}
    # One entry alone: the library writes several in an order of chance.
    said = {METADATA: json.dumps(metadata, indent=2, sort_keys=True)}
    _safetensors.save(tensors, folder / DIFFUSERS, metadata=said)
    return [folder / DIFFUSERS]


def to_peft(adapter: Adapter, folder: pathlib.Path, dtype: torch.dtype, base: str | None) -> list[pathlib.Path]:
    """peft's form: of the network in the folder itself, of each text tower in a folder of its name within."""
    written = []
    for part, changes in adapter.layers.items():
        place = folder if part == UNET else folder / part
        place.mkdir(parents=True, exist_ok=True)
        _safetensors.save(keys.spelt(changes, "base_model.model", dtype), place / PEFT, metadata={"format": "pt"})
        values = {"base_model_name_or_path": base, "inference_mode": True, **config(changes)}
        (place / PEFT_CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        written += [place / PEFT_CONFIG, place / PEFT]
    return written


def to_kohya(adapter: Adapter, file: pathlib.Path, dtype: torch.dtype) -> list[pathlib.Path]:
    """One file of layers that have diffusers' names, under kohya's keys."""
    _safetensors.save(keys.kohya(adapter.layers, dtype), file)
    return [file]


def words(adapter: Adapter, folder: pathlib.Path) -> dict[str, str]:
    """Write new words in diffusers' forms; returns the file that each is in."""
    if not adapter.words:
        return {}
    if all(set(vectors) == {TOWERS[0]} for vectors in adapter.words.values()):
        rows = {word: vectors[TOWERS[0]] for word, vectors in adapter.words.items()}
        _safetensors.save(rows, folder / EMBEDDINGS)
        return dict.fromkeys(adapter.words, EMBEDDINGS)
    found = {}
    for i, (word, vectors) in enumerate(adapter.words.items()):
        name = EMBEDDINGS if len(adapter.words) == 1 else f"learned_embeds_{i}.safetensors"
        ends = {TOWERS[0]: "clip_l", TOWERS[1]: "clip_g"}
        _safetensors.save({ends[part]: rows for part, rows in vectors.items()}, folder / name)
        found[word] = name
    return found


def config(changes: Changes) -> dict[str, Any]:
    """The config with which peft puts these changes on."""
    usual_rank = _usual([change.rank for change in changes.values()])
    usual_alpha = _usual([change.alpha for change in changes.values()])
    dora = {change.magnitude is not None for change in changes.values()}
    if len(dora) != 1:
        names = [name for name, change in changes.items() if change.magnitude is None]
        raise ValueError(f"{names[0]}: LoRA among DoRA, which one config of peft cannot say")
    return {
        "peft_type": "LORA",
        "task_type": None,
        "r": usual_rank,
        "lora_alpha": _plain(usual_alpha),
        # Versions of transformers differ in whether a tower lies within `text_model`; the end of a name fits both.
        "rank_pattern": {_end(name): c.rank for name, c in changes.items() if c.rank != usual_rank},
        "alpha_pattern": {_end(name): _plain(c.alpha) for name, c in changes.items() if c.alpha != usual_alpha},
        "target_modules": sorted(map(_end, changes)),
        "use_dora": dora.pop(),
        "use_rslora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
    }


def _end(name: str) -> str:
    return name.removeprefix("text_model.")


def _usual(values: list[Any]) -> Any:
    return max(dict.fromkeys(values), key=values.count)


def _plain(value: float) -> float | int:
    return int(value) if float(value).is_integer() else float(value)
