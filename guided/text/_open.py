"""From a spec to a frozen encoder: where its files are, what they are, whether they are the right ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from guided.text._locate import MINILM_SCALE, locate
from guided.text._open_clip import open_open_clip
from guided.text._transformers import LAST, open_transformers
from guided.text.encoder import FrozenEncoder

FIELDS = ("class", "from", "weights", "tokenizer", "length", "dtype", "scale", "layer")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
OPENERS = {"transformers": open_transformers, "open_clip": open_open_clip}


def open_encoder(
    spec: str | Mapping[str, Any], length: int | None, device: torch.device, dtype: torch.dtype | None
) -> FrozenEncoder:
    """What `guided.text.open` does."""
    wanted = _checked(spec)
    name = wanted["from"]
    dtype_name = wanted.get("dtype", "float32") if dtype is None else str(dtype).removeprefix("torch.")
    if dtype_name not in DTYPES:
        raise ValueError(f"text encoder: dtype is one of {', '.join(DTYPES)}, got {dtype_name!r}")
    found = locate(name)
    # The opener fills in what only it knows: the class, the tokenizer, a length that was not asked for.
    base: dict[str, Any] = {
        "class": None,
        "from": found.name,
        "weights": found.checksum(),
        "tokenizer": None,
        "length": wanted.get("length") if length is None else length,
        "dtype": dtype_name,
        "scale": wanted.get("scale", MINILM_SCALE if found.minilm else 1.0),
    }
    if (
        wanted.get("layer", LAST) != LAST
    ):  # where it is the last, nothing is said of it: older specs and caches stay good
        base["layer"] = wanted["layer"]
    encoder = OPENERS[found.library](found, base, device, DTYPES[dtype_name])
    for field in ("class", "weights", "tokenizer"):
        has = encoder.spec[field]
        if wanted.get(field, has) != has:
            raise ValueError(
                f"text encoder {name!r}: its {field} is {has}, expected {wanted[field]}: it is not the encoder "
                f"that was asked for; restore that one, or leave out {field!r} to take this one"
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
    source = spec.get("from")
    if not isinstance(source, str) or not source:
        raise ValueError(f'text encoder: expected "from" to name an encoder, got {json.dumps(source)}')
    scale, length = spec.get("scale", 1.0), spec.get("length")
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not scale > 0:
        raise ValueError(f"text encoder: scale is a number above 0, got {scale!r}")
    if length is not None and (isinstance(length, bool) or not isinstance(length, int)):
        raise ValueError(f"text encoder: length is a whole number of tokens, got {length!r}")
    layer = spec.get("layer", LAST)
    if type(layer) is not int or layer > LAST:
        raise ValueError(f"text encoder: layer counts from the end, -1 the last, -2 the one before; got {layer!r:.80}")
    return dict(spec)
