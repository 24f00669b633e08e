"""The tokenizer of CLIP's text, which no single file holds: from a folder, the installed open_clip, or the hub."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from guided._compat import ensure_torchvision
from guided.text import tokenizer_folder

SIZE = 49408
"""Tokens of CLIP's published vocabulary."""
HUB = "openai/clip-vit-large-patch14"
_SMALL = (".json", ".txt", ".model")
START, END = "<|startoftext|>", "<|endoftext|>"


def files(places: list[pathlib.Path], tokens: int, pad: str) -> dict[str, bytes]:
    """The files of a tokenizer's folder: of the first of `places` that is one, else CLIP's own, which pads with `pad`.

    Raises FileNotFoundError that says where it looked.
    """
    for place in places:
        try:
            found = tokenizer_folder(place) if place.is_dir() else None
        except FileNotFoundError:
            found = None
        if found is not None:
            return {file.name: file.read_bytes() for file in sorted(found.iterdir()) if file.suffix in _SMALL}
    looked = [str(place) for place in places]
    if tokens == SIZE:
        for source in (_installed, _hub):
            vocabulary = source()
            if vocabulary is not None:
                return _written(*vocabulary, pad)
        looked += ["the package open_clip (pip install 'guided[text]')", f"{HUB} on the hub"]
    raise FileNotFoundError(
        f"the tokenizer of its text encoder ({tokens} tokens) is in no single file; looked for it in "
        f"{', '.join(looked)}: put the folder `tokenizer` beside the file, or give config= with `tokenizer`, its folder"
    )


def _installed() -> tuple[dict[str, int], list[str]] | None:
    """CLIP's vocabulary and merges as open_clip carries them; it calls the two special tokens otherwise."""
    ensure_torchvision()
    try:
        import open_clip
    except ImportError:
        return None
    made = open_clip.SimpleTokenizer()
    vocabulary: dict[str, int] = dict(made.encoder)
    if len(vocabulary) != SIZE:
        return None
    own = {"<start_of_text>": START, "<end_of_text>": END}
    ranked = sorted(made.bpe_ranks, key=lambda pair: made.bpe_ranks[pair])
    return {own.get(name, name): i for name, i in vocabulary.items()}, [" ".join(pair) for pair in ranked]


def _hub() -> tuple[dict[str, int], list[str]] | None:
    try:
        from huggingface_hub import hf_hub_download

        vocabulary, merges = (pathlib.Path(hf_hub_download(HUB, name)) for name in ("vocab.json", "merges.txt"))
    except (ImportError, OSError, ValueError, RuntimeError):
        return None
    lines = merges.read_text(encoding="utf-8").splitlines()
    return json.loads(vocabulary.read_bytes()), [line for line in lines[1:] if line]


def _written(vocabulary: dict[str, int], merges: list[str], pad: str) -> dict[str, bytes]:
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    config: dict[str, Any] = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    lines = "\n".join(["#version: 0.2", *merges]) + "\n"
    return {
        "merges.txt": lines.encode(),
        "special_tokens_map.json": json.dumps(special, indent=1).encode(),
        "tokenizer_config.json": json.dumps({**config, **special}, indent=1).encode(),
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
    }
