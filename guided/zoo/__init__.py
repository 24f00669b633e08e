"""Models by path or name: our own folders, the one that is shipped, and published checkpoints."""

from __future__ import annotations

import importlib.resources
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from guided import _safetensors
from guided.cascade import MANIFEST, Cascade
from guided.model import Model, NoisyClassifier, opened
from guided.nn import EncoderUNet, UNet
from guided.zoo import cascades, diffusers_open, hub, opening, pipeline, weights
from guided.zoo.recognise import is_original

SHIPPED = ("emoji", "emoji-up")
CASCADE = "emoji-128"
"""The cascade of the two that are shipped."""
_WEIGHTS = (".safetensors", ".gguf", ".onnx")


def load(
    path_or_id: str | os.PathLike[str],
    *,
    pickle: bool = False,
    config: Mapping[str, Any] | None = None,
    base: str | os.PathLike[str] | Model | None = None,
) -> Model | NoisyClassifier | Cascade:
    """Open a model: a folder of ours, of a finished training run, of a diffusers pipeline or of an adapter (which is
    put on the base that it names; `base` in place of that one), a published checkpoint, "emoji", the shipped one,
    "emoji-up", which enlarges its pictures, "emoji-128", both as a cascade, or a pipeline of the hub by its id,
    owner/name, which is then kept in the hub's cache.

    The folder of a cascade, or one with the stages of DeepFloyd IF in it, gives a `Cascade`, that of a classifier of
    noisy pictures a `NoisyClassifier`. The name of a shipped model goes before a folder of that name; write ./emoji for
    the folder. A checkpoint is guided-diffusion's, or the whole file of a Stable Diffusion 1, 2, XL, inpainting or x4
    upscaler, as .safetensors, as the .safetensors.index.json of several, or, only with pickle=True, as .pt or .ckpt;
    `config` is then its own (its flags, or the YAML beside it), for what no tensor says. The tokenizer is in no such
    file: it is the folder `tokenizer` beside it, or the one that config names as `tokenizer`, else CLIP's own, from
    open_clip or the hub. Raises FileNotFoundError where there is none, ValueError where it is damaged or of another
    kind.
    """
    name = os.fspath(path_or_id)
    if name in SHIPPED:
        model = Model.open(shipped(name))
        model.source = name
        return model
    if name == CASCADE:
        return Cascade([Model.open(shipped(stage)) for stage in SHIPPED], name=name, source=name)
    path = pathlib.Path(name).expanduser()
    found: Model | NoisyClassifier | Cascade
    if _is_adapter(path / "model"):  # the folder of a run that tuned
        path = path / "model"
    if base is not None or _is_adapter(path):
        from guided.tune.adapters import keeping

        return keeping.opened(path, base)
    if not path.exists():
        if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
            raise FileNotFoundError(
                f"{name}: no such model folder, and no shipped model ({', '.join((*SHIPPED, CASCADE))})."
            )
        found = pipeline.open_pipeline(hub.fetch(name), name)
    elif (path / MANIFEST).is_file():
        found = Cascade.load(path)
    elif cascades.is_published(path):
        found = cascades.open_published(path)
    elif (path / pipeline.INDEX).is_file():
        found = pipeline.open_pipeline(path)
    else:
        found = _file(path, pickle, config) if path.is_file() else opened(path)
    if isinstance(found, Model):
        found.source = name
    return found


def to_diffusers(what: Model | UNet, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> pathlib.Path:
    """Write a network, or a model that came from diffusers, as a folder that it opens: `diffusers_export.export`."""
    from guided.zoo.diffusers_export import export

    return export(what, folder, dtype)


def load_model(path_or_id: str | os.PathLike[str]) -> Model:
    """`load` for those who want one model: ValueError where it is a classifier, or a cascade."""
    found = load_drawing(path_or_id)
    if not isinstance(found, Model):
        names = ", ".join(found.folders)
        raise ValueError(f"{path_or_id}: a cascade; give one of its stages, folders in it ({names})")
    return found


def load_drawing(path_or_id: str | os.PathLike[str]) -> Model | Cascade:
    """`load` for those who draw: ValueError where it is a classifier."""
    found = load(path_or_id)
    if isinstance(found, NoisyClassifier):
        raise ValueError(f"{path_or_id}: a classifier of noisy pictures ({len(found.classes)} classes): it draws none")
    return found


def network(state_dict: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> UNet | EncoderUNet:
    """Our network, float32, with the weights of a checkpoint, whoever named them.

    config: the mapping in the file beside the weights: the original's (flags or YAML), or, for our own names, the
    config of the network; what it does not say is the family's published value. Raises ValueError with what is missing,
    unexpected or of another shape, block by block, and the published network that is nearest.
    """
    if not state_dict:
        raise ValueError("the checkpoint is empty")
    if is_original({name: () for name in state_dict}):
        return opening.network(state_dict, config)
    if "vector.time.inner.weight" in state_dict:
        return _by_our_names(state_dict, config)
    return _by_diffusers_names(state_dict, config)


def _by_our_names(state: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> UNet | EncoderUNet:
    if config is None:
        raise ValueError("these are guided's own names: give config=, the card's `network` (guided.load reads both)")
    return opening.own(state, config)


def _by_diffusers_names(state: Mapping[str, Tensor], config: Mapping[str, Any] | None) -> UNet:
    if not any(name.startswith("time_embedding.") for name in state):
        raise ValueError(
            f"{opening.UNKNOWN} It names {', '.join(sorted(state)[:5])}, ...; known are the original layout "
            "(input_blocks.N.M), diffusers' (down_blocks.N.resnets.M) and guided's own"
        )
    return diffusers_open.network(state, config)


def shipped(name: str) -> pathlib.Path:
    """The folder of a shipped model; FileNotFoundError if this install lacks it."""
    folder = pathlib.Path(str(importlib.resources.files("guided"))) / "assets" / name
    if not (folder / "card.json").is_file():
        raise FileNotFoundError(f"{name}: this install of guided lacks its shipped model; install the whole package")
    return folder


def _is_adapter(path: pathlib.Path) -> bool:
    if not path.is_dir() or any((path / name).is_file() for name in ("card.json", MANIFEST, pipeline.INDEX)):
        return False
    from guided.tune.adapters import keeping

    return keeping.is_adapter(path)


def _file(path: pathlib.Path, pickle: bool, config: Mapping[str, Any] | None) -> Model | NoisyClassifier:
    """A checkpoint file as a model; ValueError says why it is none: damaged, a pickle, or weights without a card."""
    if weights.is_pickle(path):
        if not pickle:
            _safetensors.refuse_pickle(path)
        return opening.open_file(path, pickle=True, config=config)
    if path.name.endswith(weights.INDEX) or path.suffix.lower() == ".safetensors":
        listed = weights.entries(path)
        if is_original({name: entry.shape for name, entry in listed.items()}):
            return opening.open_file(path, config=config)
    if path.suffix.lower() in _WEIGHTS or path.name.endswith(weights.INDEX):
        raise ValueError(f"{path}: {opening.UNKNOWN} (`guided inspect` describes the file)")
    raise ValueError(f"{path}: not a model; a model is a folder with card.json and model.safetensors")
