"""Adapters read from the published forms: diffusers', peft's and kohya's LoRA, and files of new words."""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from guided import _files, _safetensors
from guided.model import parts
from guided.tune.adapters import folder, keys
from guided.tune.adapters.adapter import Adapter
from guided.tune.adapters.lowrank import LowRank
from guided.tune.adapters.places import PARTS, TOWERS, UNET

DIFFUSERS, PEFT, PEFT_CONFIG = "pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json"
EMBEDDINGS = "learned_embeds.safetensors"
METADATA = "lora_adapter_metadata"
"""The entry of a file's metadata in which diffusers keeps peft's config of each part."""
_LIMIT = 8 << 20
# A pattern of names; what could keep the search for a match busy without end is not one.
_PLAIN = re.compile(r"\^?(?:[\w-]|\\?\.|\.\*(?!\.\*)|\||\\d\+?)*\$?")
# What a config of peft may say that the tensors alone do not, and that is more than a LoRA.
_REFUSED = (
    *("modules_to_save", "layer_replication", "lora_bias", "use_qalora", "use_bdlora", "alora_invocation_tokens"),
    *("trainable_token_indices", "arrow_config", "fan_in_fan_out"),
)


def read(path: str | os.PathLike[str]) -> Adapter:
    """An adapter in any known form: a folder of ours, of diffusers' or of peft's, a kohya file, or a file of new words.

    Raises FileNotFoundError, or ValueError where it is a pickle, damaged, or of another kind, naming the key.
    """
    place = pathlib.Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such file or folder of an adapter")
    if place.is_file():
        return _file(place)
    if (place / folder.MANIFEST).is_file():
        return folder.read(place)
    if peft_folders(place):
        return of_peft(place)
    for name in (DIFFUSERS, EMBEDDINGS):
        if (place / name).is_file():
            return _file(place / name, place)
    files = sorted(place.glob("*.safetensors"))
    if len(files) == 1 and not (place / "config.json").is_file() and not (place / "card.json").is_file():
        return _file(files[0], place)
    for file in sorted(place.iterdir()):
        if file.suffix.lower() in _safetensors.PICKLES:
            _safetensors.refuse_pickle(file)
    raise ValueError(f"{place}: no adapter in it: none of {folder.MANIFEST}, {PEFT_CONFIG}, {DIFFUSERS}, {EMBEDDINGS}")


def _file(file: pathlib.Path, named: pathlib.Path | None = None) -> Adapter:
    """The adapter of one file; named: what it is called by."""
    tensors, metadata = loaded(file)
    place = named or file
    name = place.name.removesuffix(".safetensors")
    said: dict[str, Any] = {"name": name, "file": str(place), "sha256": _files.sha256(file)}
    try:
        if is_words(tensors):
            return Adapter(words=words_of(tensors, name), **said)
        return Adapter(keys.grouped(tensors, alphas=_alphas(metadata)), **said)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def loaded(file: pathlib.Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The tensors of a file, and its metadata; ValueError where it holds none."""
    metadata = _safetensors.header(file).metadata
    with warnings.catch_warnings():
        # What is not finite is refused below, by its key.
        warnings.simplefilter("ignore", _safetensors.NotFinite)
        tensors = _safetensors.load(file)
    if not tensors:
        raise ValueError(f"{file}: holds no tensor")
    return tensors, metadata


def layers_of(file: pathlib.Path) -> dict[str, dict[str, LowRank]]:
    """The changes in a file in diffusers' form or kohya's."""
    tensors, metadata = loaded(file)
    try:
        return keys.grouped(tensors, alphas=_alphas(metadata))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def is_words(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors are vectors of new words."""
    marks = ("lora", "alpha", "hada_", "lokr_", "weight", "bias", "dora_", "diff")
    return all(value.ndim in (1, 2) and not any(mark in name for mark in marks) for name, value in tensors.items())


def words_of(tensors: Mapping[str, Tensor], stem: str) -> dict[str, dict[str, Tensor]]:
    """The words of a file; kohya's and the forms of two towers are called by the file's name."""
    rows = {name: value.float().reshape(-1, value.shape[-1]) for name, value in tensors.items()}
    if "emb_params" in rows:
        return {stem: {TOWERS[0]: rows["emb_params"]}}
    if rows.keys() <= {"clip_l", "clip_g"}:
        parts_of = {"clip_l": TOWERS[0], "clip_g": TOWERS[1]}
        return {stem: {parts_of[name]: value for name, value in rows.items()}}
    return {word: {TOWERS[0]: value} for word, value in rows.items()}


def _alphas(metadata: Mapping[str, str]) -> keys.Alphas:
    """What diffusers says of alphas beside the tensors."""
    if METADATA not in metadata:
        return lambda part, layer, rank: None
    try:
        values = json.loads(metadata[METADATA])
        configs = {part: _inner(values, part) for part in PARTS}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{METADATA}: no mapping ({error})") from None
    configs = {part: config for part, config in configs.items() if config}
    for part, config in configs.items():
        check(config, f"{METADATA}: {part}")
    return lambda part, layer, rank: alpha(configs[part], layer, rank) if part in configs else None


def _inner(values: Mapping[str, Any], part: str) -> dict[str, Any]:
    return {name.removeprefix(f"{part}."): value for name, value in values.items() if name.startswith(f"{part}.")}


def alpha(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """What a config of peft says of a layer's alpha, by peft's own rule of patterns, with the scale alpha / rank."""
    found = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer) or re.match(rf"(.*\.)?({pattern})$", f"text_model.{layer}"):
            found = value
            break
    return float(found) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)


def check(config: Mapping[str, Any], where: str) -> None:
    """Raise ValueError where a config of peft is not a plain LoRA's or DoRA's."""
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        raise ValueError(f"{where}: peft_type: expected LORA, got {kind!r:.80}")
    for name in _REFUSED:
        if config.get(name):
            raise ValueError(
                f"{where}: {name}: {config[name]!r:.80}: more than a LoRA or DoRA, which is all guided reads"
            )
    if config.get("bias", "none") != "none":
        raise ValueError(f"{where}: bias: expected 'none', got {config['bias']!r:.80}")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ValueError(f"{where}: alpha_pattern: expected a mapping, got {patterns!r:.80}")
    for pattern in patterns:
        if not _PLAIN.fullmatch(pattern):
            raise ValueError(
                f"{where}: alpha_pattern: {pattern!r:.80}: expected names of layers, with .* and | at most"
            )
    values = [config.get("lora_alpha", 1), *patterns.values()]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise ValueError(f"{where}: lora_alpha, alpha_pattern: expected numbers")


def peft_folders(place: pathlib.Path) -> dict[str, pathlib.Path]:
    """The folders of peft's form in a folder, itself one of them, by the part that each is of."""
    inside = {part: place / part for part in PARTS if (place / part / PEFT_CONFIG).is_file()}
    if (place / PEFT_CONFIG).is_file():
        own = place.name if place.name in TOWERS else UNET
        return {own: place, **{part: path for part, path in inside.items() if part != own}}
    return inside


def peft_layers(place: pathlib.Path, part: str) -> dict[str, LowRank]:
    """The changes in one folder of peft's form."""
    config = parts.read(place / PEFT_CONFIG, _LIMIT)
    check(config, str(place / PEFT_CONFIG))
    if not (place / PEFT).is_file() and (place / "adapter_model.bin").is_file():
        _safetensors.refuse_pickle(place / "adapter_model.bin")
    tensors, _ = loaded(place / PEFT)
    try:
        found = keys.grouped(tensors, part, lambda part, layer, rank: alpha(config, layer, rank))
    except ValueError as error:
        raise ValueError(f"{place / PEFT}: {error}") from None
    if set(found) != {part}:
        raise ValueError(f"{place / PEFT}: expected the keys of one part, got those of {', '.join(sorted(found))}")
    return found[part]


def of_peft(place: pathlib.Path) -> Adapter:
    """The adapter of a folder in peft's form, and of those of the towers in it."""
    folders = peft_folders(place)
    layers = {part: peft_layers(path, part) for part, path in folders.items()}
    base = parts.read(next(iter(folders.values())) / PEFT_CONFIG, _LIMIT).get("base_model_name_or_path")
    return Adapter(
        layers,
        name=place.name,
        file=str(place),
        sha256=_files.checksum([path / PEFT for path in folders.values()]),
        base={"source": base} if isinstance(base, str) and base else None,
    )
