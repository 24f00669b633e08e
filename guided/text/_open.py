"""From a spec to a frozen encoder: where its files are, what they are, whether they are the right ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from guided.text import _locate as files
from guided.text._transformers import open_transformers
from guided.text.encoder import FrozenEncoder

FIELDS = ("class", "from", "weights", "tokenizer", "length", "dtype", "scale")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_encoder(
    spec: str | Mapping[str, Any], length: int | None, device: torch.device, dtype: torch.dtype | None
) -> FrozenEncoder:
    """What `guided.text.open` does."""
    wanted = _checked(spec)
    name = wanted["from"]
    dtype_name = wanted.get("dtype", "float32") if dtype is None else str(dtype).removeprefix("torch.")
    if dtype_name not in DTYPES:
        raise ValueError(f"text encoder: dtype is one of {', '.join(DTYPES)}, got {dtype_name!r}")
    found = files.locate(name)
    base: dict[str, Any] = {
        "class": "",
        "from": "minilm" if found.minilm else name,
        "weights": files.checksum(found),
        "tokenizer": "",
        "length": length if length is not None else wanted.get("length"),
        "dtype": dtype_name,
        "scale": wanted.get("scale", files.MINILM_SCALE if found.minilm else 1.0),
    }
    opener = open_transformers
    if found.arch is not None or (found.folder / "open_clip_config.json").is_file():
        from guided.text._open_clip import open_open_clip

        opener = open_open_clip
    encoder = opener(found, base, device, DTYPES[dtype_name])
    for field in ("class", "weights", "tokenizer"):
        if wanted.get(field, encoder.spec[field]) != encoder.spec[field]:
            raise ValueError(
                f"text encoder {name!r}: its {field} is {encoder.spec[field]}, expected {wanted[field]}; "
                f"this is another encoder than the one asked for. Open the original, or leave {field} out to take this one"
            )
    return encoder


def _checked(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(spec, str):
        spec = {"from": spec}
    if not isinstance(spec, Mapping):
        raise TypeError(f"text encoder: expected a name or a mapping, got {type(spec).__name__}")
    unknown = [field for field in spec if field not in FIELDS]
    if unknown:
        raise ValueError(f"text encoder: unknown field {unknown[0]!r}; known are {', '.join(FIELDS)}")
    if not isinstance(spec.get("from"), str) or not spec["from"]:
        raise ValueError(
            f'text encoder: expected "from" to name an encoder, got {json.dumps(spec.get("from"))}'
        )
    return dict(spec)
