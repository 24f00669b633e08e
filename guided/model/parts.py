"""Folders of the parts of a pipeline, in diffusers' own form: a config.json and weights, both checked before use."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from guided import _safetensors
from guided._compat import ensure_torchvision

STEM = "diffusion_pytorch_model"
_LIMIT = 1 << 20
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""What weights may be stored in: float32 holds all of it."""


def read(file: pathlib.Path, limit: int = _LIMIT) -> dict[str, Any]:
    """A JSON mapping; FileNotFoundError, or ValueError where it is none or too long."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    if file.stat().st_size > limit:
        raise ValueError(f"{file}: {file.stat().st_size} bytes, at most {limit} are read")
    try:
        values = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected a mapping, got {type(values).__name__}")
    return values


def config(folder: pathlib.Path, kind: str) -> dict[str, Any]:
    """The config.json of a part; ValueError where it is of another class than `kind`."""
    values = read(folder / "config.json")
    if values.get("_class_name") != kind:
        name = values.get("_class_name")
        raise ValueError(f"{folder / 'config.json'}: _class_name: expected {kind!r}, got {name!r:.80}")
    return values


def weights(folder: pathlib.Path) -> _safetensors.Files:
    """The weights of a part; pickles alone are refused."""
    found = _safetensors.files(folder, STEM)
    if found is not None:
        return found
    for file in sorted(folder.glob("*")):
        if file.suffix.lower() in _safetensors.PICKLES:
            _safetensors.refuse_pickle(file)
    raise FileNotFoundError(f"{folder}: no {STEM}.safetensors in it, nor an index of its parts")


def entries(found: _safetensors.Files, folder: pathlib.Path) -> dict[str, _safetensors.Entry]:
    """The tensors of a part; ValueError unless all are floating-point numbers of 16 or 32 bits."""
    held = _safetensors.headers(found)
    for name, entry in held.items():
        if entry.dtype not in FLOATS:
            raise ValueError(f"{folder}: {name} is {entry.dtype}, expected one of {', '.join(FLOATS)}")
    return held


def load(found: _safetensors.Files) -> dict[str, Tensor]:
    """All tensors of a part, as they are stored."""
    return {name: value for path in found.paths for name, value in _safetensors.load(path).items()}


def diffusers(need: str) -> Any:
    """The library; ImportError that says what needs it."""
    ensure_torchvision()
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(f"{need}: pip install 'guided[text]'") from error
    return diffusers


@contextlib.contextmanager
def quiet(library: Any) -> Iterator[None]:
    """Without its remarks on entries of a config that it ignores."""
    logging = library.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
