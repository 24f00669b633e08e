"""Pipelines of the hub: only the files that are read, kept in its cache, and found there without a connection."""

from __future__ import annotations

import fnmatch
import pathlib
from collections.abc import Sequence

from guided import _safetensors
from guided.zoo.pipeline import INDEX

_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_STEMS = ("diffusion_pytorch_model", "model")
_SMALL = (
    *(INDEX, "unet/config.json", "vae/config.json", "text_encoder*/config.json", "*scheduler/scheduler_config.json"),
    *(f"tokenizer*/{name}" for name in ("*.json", "*.txt", "*.model")),
)


def fetch(name: str) -> pathlib.Path:
    """The local folder of a pipeline of the hub, `owner/name`; what is there already is not fetched again.

    Raises FileNotFoundError where it is neither in the cache nor to be had, ImportError without huggingface_hub.
    """
    try:
        from huggingface_hub import HfApi, snapshot_download
    except ImportError as error:
        raise ImportError("a model of the hub needs huggingface_hub: pip install 'guided[text]'") from error
    try:
        wanted = choose(name, HfApi().list_repo_files(name))
        return pathlib.Path(snapshot_download(name, allow_patterns=wanted))
    except (OSError, RuntimeError) as error:  # no connection, or none wanted, or no such repository
        try:
            return pathlib.Path(snapshot_download(name, local_files_only=True))
        except (OSError, ValueError):
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise FileNotFoundError(
                f"{name}: no such model folder here, and the hub does not give it ({reason}); give the path of a local "
                "copy, or try again with a connection"
            ) from None


def choose(name: str, files: Sequence[str]) -> list[str]:
    """The files of a repository that guided reads: of each part one set of safetensors, the plainest there is.

    Raises ValueError where it is no pipeline, or has pickles alone.
    """
    if INDEX not in files:
        raise ValueError(f"{name}: no {INDEX} in it: guided opens pipelines of diffusers from the hub")
    chosen = [file for file in files if any(fnmatch.fnmatchcase(file, pattern) for pattern in _SMALL)]
    for part in _PARTS:
        held = [file for file in files if file.startswith(f"{part}/")]
        weights = next((found for variant in _safetensors.VARIANTS if (found := _set(held, part, variant))), None)
        if held and weights is None:
            raise ValueError(f"{name}: {part}: its weights are there as pickles alone, which can run code when read")
        chosen += weights or []
    return sorted(set(chosen))


def _set(files: Sequence[str], part: str, variant: str | None) -> list[str]:
    """One file, or the shards and their index, of a variant; nothing where it is not there."""
    end = "" if variant is None else f".{variant}"
    for stem in _STEMS:
        single, index = f"{part}/{stem}{end}.safetensors", f"{part}/{stem}.safetensors.index{end}.json"
        if single in files:
            return [single]
        if index in files:
            # Both places of the variant in a shard's name are in use.
            patterns = [f"{part}/{stem}{end}-*-of-*.safetensors", f"{part}/{stem}-*-of-*{end}.safetensors"]
            shards = [file for file in files if any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)]
            return [index, *[file for file in shards if variant is not None or file.count(".") == 1]]
    return []
