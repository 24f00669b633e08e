"""Text towers of open_clip models, from their own files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from guided._compat import ensure_torchvision
from guided.text._locate import Found, tokenizer_folder
from guided.text._words import OpenClipWords, Tokenizer, TransformersWords
from guided.text.encoder import FrozenEncoder

# What a model with one built-in text tower keeps at the top level of its weights.
_BUILT_IN = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")


def open_open_clip(found: Found, spec: dict[str, Any], device: torch.device, dtype: torch.dtype) -> FrozenEncoder:
    """Open the text tower of an open_clip model; its image tower is never built."""
    ensure_torchvision()
    try:
        import open_clip
    except ImportError as error:
        raise ImportError("this text encoder needs open_clip: pip install 'guided[text]'") from error

    config = _config(open_clip, found)
    text = config["text_cfg"]
    if text.get("hf_model_name"):
        raise ValueError(
            f"text encoder {found.name!r}: its text tower is {text['hf_model_name']} of transformers, "
            "which open_clip only wraps; open that one"
        )
    limit = int(text.get("context_length", 77))
    if "layer" in spec:
        raise ValueError(
            f"text encoder {found.name!r}: a tower of open_clip gives its last states alone: leave out layer"
        )
    length = spec["length"] if spec["length"] is not None else limit
    if not 1 <= length <= limit:
        raise ValueError(f"text encoder {found.name!r}: length is between 1 and {limit}, got {length}")
    model = open_clip.model._build_text_tower(config["embed_dim"], text, config.get("quick_gelu", False))
    model.output_tokens = True
    _load(model, found)
    words = _words(open_clip, found, text, length)
    pad = words.tokenizer.pad_token_id if isinstance(words, TransformersWords) else 0
    tower = OpenClipTower(model.eval().requires_grad_(False).to(device, dtype), pad)
    kind = f"open_clip.{type(model).__name__}"
    spec = {**spec, "class": kind, "tokenizer": words.fingerprint, "length": length}
    vector_width = int(config["embed_dim"]) if model.text_projection is not None else int(model.width)
    return FrozenEncoder(words, tower, spec, int(model.width), vector_width, "empty", device)


class OpenClipTower(nn.Module):
    """open_clip's text transformer: states after the final norm, and its own pooled and projected state.

    It takes prompts of its full length only, and one that looks both ways was trained to hear the padding: so it
    is given the padding, alone or in a batch the same, and the states of the padding are left out.
    """

    def __init__(self, model: Any, pad: int) -> None:
        super().__init__()
        self.model = model
        self.pad = pad

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        length = ids.shape[1]
        ids = nn.functional.pad(ids, (0, self.model.context_length - length), value=self.pad)
        pooled, states = self.model(ids)
        return states[:, :length], pooled


def _config(open_clip: Any, found: Found) -> dict[str, Any]:
    if found.arch is None:
        path = found.folder / "open_clip_config.json"
        config = json.loads(path.read_text()).get("model_cfg")
    else:
        config = open_clip.get_model_config(found.arch)
        if config is None:
            raise ValueError(
                f"text encoder {found.name!r}: open_clip knows no architecture {found.arch!r}; "
                "open_clip.list_models() lists them"
            )
    if not isinstance(config, dict) or not {"embed_dim", "text_cfg"} <= config.keys():
        raise ValueError(f"text encoder {found.folder}: its open_clip_config.json describes no text tower")
    return config


def _load(model: nn.Module, found: Found) -> None:
    try:
        model.load_state_dict({name: tensor for path in found.weights for name, tensor in _text_tensors(path)})
    except (RuntimeError, SafetensorError) as error:
        file, reason = found.weights[0].name, " ".join(str(error).split())
        raise ValueError(f"text encoder {found.name!r}: {file} does not fit its text tower: {reason}") from error


def _text_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the text tower, which stand at the top level of the weights or under "text."."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a dict)
            if name.startswith(("text.", *_BUILT_IN)):
                yield name.removeprefix("text."), file.get_tensor(name)


def _words(open_clip: Any, found: Found, text: dict[str, Any], length: int) -> Tokenizer:
    options = dict(text.get("tokenizer_kwargs") or {})
    if not text.get("hf_tokenizer_name"):
        return OpenClipWords(open_clip.SimpleTokenizer(**options), length)
    clean = open_clip.tokenizer.get_clean_fn(options.pop("clean", "whitespace"))
    unknown = text.get("tokenizer_mode") or options
    if unknown:
        raise ValueError(f"text encoder {found.name!r}: its tokenizer option {unknown} is not known here")
    import transformers

    place = tokenizer_folder(found.folder)
    load = transformers.AutoTokenizer.from_pretrained
    return TransformersWords(load(place, local_files_only=True, trust_remote_code=False), length, clean)
