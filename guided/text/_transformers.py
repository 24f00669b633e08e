"""Text encoders of the transformers library: CLIP, the T5 family, and those that are like BERT."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from guided._compat import ensure_torchvision
from guided.text._locate import Found, tokenizer_folder
from guided.text._words import TransformersWords
from guided.text.encoder import FrozenEncoder, Null

CLIP = ("clip", "clip_text_model")
T5 = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}
# T5's positions are relative, so nothing in its weights says how much it reads.
UNLIMITED = 512
LAST = -1
"""The layer whose states an encoder gives unless it is told another."""


def open_transformers(found: Found, spec: dict[str, Any], device: torch.device, dtype: torch.dtype) -> FrozenEncoder:
    """Open a transformers folder: its config.json says which class, the installed library has the code."""
    model, tokenizer, kind = load(found, device, dtype)
    limit = limit_of(model, tokenizer)
    length = spec["length"] if spec["length"] is not None else min(limit, _reads(found, limit))
    if not 1 <= length <= limit:
        raise ValueError(f"text encoder {found.name!r}: length is between 1 and {limit}, got {length}")
    words = TransformersWords(tokenizer, length)
    width, layer = width_of(model), spec.get("layer", LAST)
    layers = int(model.config.num_hidden_layers)
    if layer < -layers - 1:
        raise ValueError(
            f"text encoder {found.name!r}: it has {layers} layers, so layer is -1 .. {-layers - 1}, got {layer}"
        )
    null: Null = "empty"
    if kind in CLIP:
        tower: Any = ClipTower(model, layer)
        vector_width = int(model.config.projection_dim) if hasattr(model, "text_projection") else width
    elif kind in T5:
        tower, vector_width = T5Tower(model, layer), 0
    else:
        tower, vector_width, null = MeanTower(model, layer), width, "learned"
    spec = {**spec, "class": type(model).__name__, "tokenizer": words.fingerprint, "length": length}
    return FrozenEncoder(words, tower, spec, width, vector_width, null, device)


def load(found: Found, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, str]:
    """A folder's model, frozen, and its tokenizer, and the model_type of its config.json."""
    try:
        config = json.loads((found.folder / "config.json").read_bytes())
        kind = config.get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{found.folder / 'config.json'}: no config of a text encoder ({error})") from None
    ensure_torchvision()
    try:
        import transformers
    except ImportError as error:
        raise ImportError("this text encoder needs transformers: pip install 'guided[text]'") from error

    with quiet(transformers):
        model = _weights(_class(transformers, kind, config, found), found, dtype)
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            tokenizer_folder(found.folder), local_files_only=True, trust_remote_code=False
        )
    _check_vocabulary(model, tokenizer, found)
    return model.eval().requires_grad_(False).to(device), tokenizer, str(kind)


def width_of(model: Any) -> int:
    """The width of a model's states."""
    return int(getattr(model.config, "hidden_size", None) or model.config.d_model)


def states_of(said: Any, layer: int) -> Tensor:
    """The states after a layer, counted from the end, of what a model of transformers says."""
    states: Tensor = said.last_hidden_state if layer == LAST else said.hidden_states[layer]
    return states


class ClipTower(nn.Module):
    """CLIP's text tower: states after a layer (the last: and the final norm), and that of the end, projected if it can.

    Learning Transferable Visual Models From Natural Language Supervision, Radford et al. 2021, section 2.4.
    """

    def __init__(self, model: Any, layer: int = LAST) -> None:
        super().__init__()
        self.model, self.layer = model, layer

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        said = self.model(input_ids=ids, output_hidden_states=self.layer != LAST)
        pooled = said.last_hidden_state[:, -1]  # the end token: there is no padding after it
        if hasattr(self.model, "text_projection"):
            pooled = self.model.text_projection(pooled)
        return states_of(said, self.layer), pooled


class T5Tower(nn.Module):
    """T5's encoder: its states, and no pooled vector."""

    def __init__(self, model: Any, layer: int = LAST) -> None:
        super().__init__()
        self.model, self.layer = model, layer

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        return states_of(self.model(input_ids=ids, output_hidden_states=self.layer != LAST), self.layer), None


class MeanTower(nn.Module):
    """An encoder like BERT: its states, and their mean at unit RMS (sentence encoders train its direction)."""

    def __init__(self, model: Any, layer: int = LAST) -> None:
        super().__init__()
        self.model, self.layer = model, layer

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        said = self.model(input_ids=ids, output_hidden_states=self.layer != LAST)
        mean = said.last_hidden_state.float().mean(1)
        return states_of(said, self.layer), mean / mean.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-12)


def _class(transformers: Any, kind: str | None, config: dict[str, Any], found: Found) -> Any:
    architectures = config.get("architectures") or []
    if kind in CLIP:
        projected = {"CLIPModel", "CLIPTextModelWithProjection"} & set(architectures)
        return transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    if kind in T5:
        return getattr(transformers, T5[kind])
    if kind in transformers.models.auto.modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES | {"mpnet": ""}:
        return transformers.AutoModel
    raise ValueError(
        f"text encoder {found.name!r}: its config.json says model_type {kind!r}, which is no text encoder known "
        "here; expected CLIP text, the T5 family or an encoder like BERT"
    )


def _weights(chosen: Any, found: Found, dtype: torch.dtype) -> Any:
    try:
        model, report = chosen.from_pretrained(
            found.folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            variant=found.variant,
            dtype=dtype,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"text encoder {found.folder}: its weights do not load: {reason}") from error
    # A tensor that is missing would be filled with random numbers; the pooler of BERT is not used.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise ValueError(
            f"text encoder {found.folder}: {len(missing)} tensors of {type(model).__name__} are not in its weights, "
            f"the first is {missing[0]}; the folder is incomplete, or its config.json is another model's"
        )
    return model


def limit_of(model: Any, tokenizer: Any) -> int:
    """The most tokens the weights can place."""
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 1e6 else []
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions:
        table = next((m for name, m in model.named_modules() if name.endswith("position_embeddings")), None)
        # RoBERTa counts positions from its padding index on.
        start = getattr(table, "padding_idx", None)
        limits.append(int(positions) - (0 if start is None else start + 1))
    return min(limits, default=UNLIMITED)


def _reads(found: Found, limit: int) -> int:
    """What a sentence encoder says it was trained to read, where it says so."""
    path = found.folder / "sentence_bert_config.json"
    return int(json.loads(path.read_text()).get("max_seq_length") or limit) if path.is_file() else limit


def _check_vocabulary(model: Any, tokenizer: Any, found: Found) -> None:
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ValueError(
            f"text encoder {found.folder}: its tokenizer has {len(tokenizer)} tokens, its weights know {rows}: "
            "they are not a pair"
        )


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    # What it would report (tensors of a vision tower or of a decoder left unread) is expected here.
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
