"""Models by path or name: our own folders, and the one that is shipped."""

from __future__ import annotations

import importlib.resources
import os
import pathlib
import re
from typing import TYPE_CHECKING

from guided import _safetensors
from guided.model import Model, NoisyClassifier, opened

if TYPE_CHECKING:
    import torch

    from guided.nn import UNet

SHIPPED = ("emoji",)
_WEIGHTS = (".safetensors", ".gguf", ".onnx")


def load(path_or_id: str | os.PathLike[str]) -> Model | NoisyClassifier:
    """Open a model: a model folder, the folder of a finished training run, or "emoji", the shipped one.

    The folder of a classifier of noisy pictures gives a `NoisyClassifier`. The name of a shipped model goes before a
    folder of that name; write ./emoji for the folder. Raises FileNotFoundError where there is none, ValueError where
    it is damaged or of another kind.
    """
    name = os.fspath(path_or_id)
    if name in SHIPPED:
        model = Model.open(shipped(name))
        model.source = name
        return model
    path = pathlib.Path(name).expanduser()
    if path.is_file():
        _foreign_file(path)
    if path.is_dir() and (path / "model_index.json").is_file():
        from guided.zoo.pipeline import open_pipeline

        return open_pipeline(path)
    if not path.exists():
        hub = " Models of the hub are not opened by this version." if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else ""
        raise FileNotFoundError(f"{name}: no such model folder, and no shipped model ({', '.join(SHIPPED)}).{hub}")
    found = opened(path)
    if isinstance(found, Model):
        found.source = name
    return found


def to_diffusers(what: Model | UNet, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> pathlib.Path:
    """Write a network, or a model that came from diffusers, as a folder that diffusers opens.

    See `guided.zoo.diffusers_export.export`.
    """
    import torch

    from guided.zoo.diffusers_export import export

    return export(what, folder, dtype or torch.float32)


def load_model(path_or_id: str | os.PathLike[str]) -> Model:
    """`load` for those who draw: ValueError also where it is a classifier."""
    found = load(path_or_id)
    if not isinstance(found, Model):
        raise ValueError(f"{path_or_id}: a classifier of noisy pictures ({len(found.classes)} classes): it draws none")
    return found


def shipped(name: str) -> pathlib.Path:
    """The folder of a shipped model; FileNotFoundError if this install lacks it."""
    folder = pathlib.Path(str(importlib.resources.files("guided"))) / "assets" / name
    if not (folder / "card.json").is_file():
        raise FileNotFoundError(f"{name}: this install of guided lacks its shipped model; install the whole package")
    return folder


def _foreign_file(path: pathlib.Path) -> None:
    """Say why a file is no model: damaged, a pickle, or weights without the card that says what they are."""
    if path.suffix.lower() == ".safetensors":
        _safetensors.header(path)
    else:
        _safetensors.refuse_pickle(path)
    if path.suffix.lower() in _WEIGHTS:
        raise ValueError(
            f"{path}: weights alone, without a card that says what they are; this version of guided opens its own "
            "model folders only (`guided inspect` describes the file)"
        )
    raise ValueError(f"{path}: not a model; a model is a folder with card.json and model.safetensors")
