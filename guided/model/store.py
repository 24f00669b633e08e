"""The folder of a model: what is written to it, and what is checked before anything in it is used."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from guided import _files, _safetensors
from guided.codec import Codec
from guided.degrade import Translation
from guided.model import adapted, towers
from guided.model import card as cards
from guided.model.autoencoder import AutoencoderKL
from guided.model.distilled import Distilled
from guided.nn import EncoderUNet

F = TypeVar("F", bound=nn.Module)
MODEL, EARLY = cards.FILES
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, eq=False)
class Opened(Generic[F]):
    """The parts of a model that a folder holds."""

    framed: F
    codec: Codec
    card: dict[str, Any]
    early: dict[str, Tensor] | None
    hash: str


def place_of(path: pathlib.Path) -> pathlib.Path:
    """The model folder that a path means: itself, or `model/` in the folder of a training run.

    Raises FileNotFoundError, or ValueError for a file.
    """
    if path.is_file():
        _safetensors.refuse_pickle(path)
        raise ValueError(f"{path}: a model is a folder with card.json and {MODEL}; this is a file")
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    if (path / "card.json").is_file():
        return path
    if (path / "model" / "card.json").is_file():
        return path / "model"
    if (path / "checkpoints").is_dir():
        raise ValueError(
            f"{path}: a training run that has not finished: it holds no model yet. Give the same command to go on"
        )
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in _safetensors.PICKLES:
            _safetensors.refuse_pickle(file)
    raise FileNotFoundError(f"{path}: neither a model folder nor a training run: no card.json in it")


def read(path: pathlib.Path, kind: type[nn.Module], frame: Callable[[Mapping[str, Any], nn.Module], F]) -> Opened[F]:
    """Open a model folder or the folder of a run; every file is checked first. Raises as `Model.open`.

    kind: the network it must hold. frame: what puts it into the common frame, as the card says.
    """
    folder = place_of(path)
    values = cards.read(folder)
    network = cards.network(values)
    if not isinstance(network, kind):
        what = "a classifier of noisy pictures, which draws none" if holds_classifier(folder) else "no classifier"
        raise ValueError(f"{folder}: holds {what}; guided.load opens it")
    try:
        framed = frame(values, network)
        if values.get("text") is not None:
            values["text"] = towers.placed(values["text"], folder)
        codec = cards.codec(values, folder)
    except ValueError as error:
        raise ValueError(f"{folder / 'card.json'}: {error}") from None
    digest = _hashed(folder, MODEL, values["sha256"])
    weights = _weights(folder / MODEL, network)
    early = None
    if EARLY in values["sha256"]:
        _hashed(folder, EARLY, values["sha256"])
        early = _weights(folder / EARLY, network)
    network.load_state_dict(weights, assign=True)
    framed.eval().requires_grad_(False)
    return Opened(framed, codec, values, early, digest)


def holds_classifier(path: pathlib.Path) -> bool:
    """Whether the network of a folder is a classifier; raises as `read`."""
    network = cards.read(place_of(path)).get("network")
    return isinstance(network, dict) and network.get("class") == EncoderUNet.__name__


def _hashed(folder: pathlib.Path, name: str, hashes: Mapping[str, str]) -> str:
    file = folder / name
    if not file.is_file():
        raise FileNotFoundError(f"{file}: the card names it, it is not there")
    _safetensors.header(file)
    digest = _files.sha256(file)
    if digest != hashes.get(name):
        raise ValueError(f"{file}: its SHA-256 is {digest}, the card says {hashes.get(name)}: damaged, or replaced")
    return digest


def _weights(file: pathlib.Path, network: nn.Module) -> dict[str, Tensor]:
    """The weights of a file in the dtypes of the network, if they are exactly its own; ValueError otherwise."""
    wanted = network.state_dict()
    found = _safetensors.header(file).tensors
    shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    difference = _safetensors.compare(shapes, {name: entry.shape for name, entry in found.items()})
    if difference is not None:
        raise ValueError(f"{file}: does not fit the network of its card: {difference}")
    return {name: value.to(wanted[name].dtype) for name, value in _safetensors.load(file).items()}


def write(
    folder: pathlib.Path,
    denoiser: cards.Placed,
    codec: Codec,
    card: Mapping[str, Any],
    early: Mapping[str, Tensor] | None,
    dtype: torch.dtype,
) -> None:
    """Write a model folder, whole or not at all: the network, an autoencoder in `vae`, towers of text beside it."""
    if dtype not in _FLOATS:
        raise ValueError(f"dtype: expected one of {', '.join(map(str, _FLOATS))}, got {dtype}")
    refuse_other(folder)
    text, copies = towers.portable(card.get("text"))
    values = {"format": cards.FORMAT, "name": folder.name, **card, **cards.describe(denoiser, codec), "sha256": {}}
    values["text"] = text
    cards.check(values)
    state = {MODEL: denoiser.network.state_dict()} | ({EARLY: early} if early is not None else {})
    need = sum(value.numel() * dtype.itemsize for group in state.values() for value in group.values())
    need += sum(file.stat().st_size for file in copies)
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    _files.require_space(folder.absolute().parent, need + (1 << 20))
    with _files.folder(folder) as aside:
        for name, tensors in state.items():
            _safetensors.save(tensors, aside / name, dtype)
            values["sha256"][name] = _files.sha256(aside / name)
        if isinstance(codec, AutoencoderKL):
            values["codec"]["sha256"] = codec.save(aside / cards.VAE)
        towers.copy(copies, aside)
        said = json.dumps(_strict(values), indent=1, ensure_ascii=False, allow_nan=False)
        (aside / "card.json").write_text(said + "\n", encoding="utf-8")


def amend(folder: pathlib.Path, changes: Mapping[str, Any], out: pathlib.Path | None = None) -> pathlib.Path:
    """Change entries of the card of a model folder, or of a copy of it at `out`; the weights stay as they are."""
    values = cards.check({**cards.read(folder), **_strict(changes)})
    text = json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if out is None:
        _files.write(folder / "card.json", text)
        return folder
    refuse_other(out)
    with _files.folder(out) as aside:
        for file in sorted(folder.rglob("*")):
            inner = file.relative_to(folder)
            if file.is_file() and not any(part.startswith(".") for part in inner.parts):
                target = aside / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        (aside / "card.json").write_text(text, encoding="utf-8")
    return out


def refuse_other(folder: pathlib.Path) -> None:
    """Raise ValueError where a model would be written over something else."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not (folder / "card.json").is_file()):
        raise ValueError(f"{folder}: holds something other than a model; choose a new folder")


def _strict(value: Any) -> Any:
    """The value as every JSON reader takes it: numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(name): _strict(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def hash_of(network: nn.Module) -> str:
    """SHA-256 of the bytes that `model.safetensors` has in float32."""
    import safetensors.torch

    content = safetensors.torch.save(_safetensors.plain(adapted.state(network), torch.float32))
    return hashlib.sha256(content).hexdigest()


def blank(network: nn.Module) -> nn.Module:
    """A copy of a network without memory, for other weights."""
    return copy.deepcopy(network).to("meta")


def fitting(card: Mapping[str, Any], encoders: Mapping[str, object], network: nn.Module) -> None:
    """Raise ValueError where a model's card, encoders and network do not fit together."""
    accepts: Collection[str] = getattr(network, "accepts", frozenset())
    config = getattr(network, "config", None)
    known, channels = getattr(config, "classes", None), getattr(config, "in_channels", None)
    size = card.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise ValueError(f"card: size: expected [height, width], got {size!r}")
    if card.get("mean") is not None and channels not in (None, len(card["mean"])):
        raise ValueError(f"card: mean: {len(card['mean'])} numbers for {channels} channels")
    if card.get("classes") and "label" not in accepts:
        raise ValueError("card: it names classes, and the network takes no label")
    if known is not None and card.get("classes") and len(card["classes"]) != known:
        raise ValueError(f"card: it names {len(card['classes'])} classes, the network knows {known}")
    if card.get("translate") is not None:
        taught = Translation.of(card["translate"])
        needed = {"image"} | ({"label"} if taught.several else set()) | ({"aug"} if taught.augment else set())
        # Where a published network embeds the level in another way, the edge sees to it.
        seen = {*accepts} | ({"aug"} if (card.get("edge") or {}).get("low") else set())
        if needed - seen:
            raise ValueError(f"card: translate: its tasks need a network that sees {', '.join(sorted(needed))}")
    said = card.get("distilled")
    if said is not None and Distilled.of(said).w is not None and "guidance" not in accepts:
        raise ValueError("card: distilled: it names guidance weights, and the network is told none")
    if set(encoders) - {"text"}:
        raise ValueError(f"encoders: expected 'text' or none, got {sorted(encoders)}")
    if "text" in encoders and not {"tokens", "vector"} & set(accepts):
        raise ValueError("encoders: there is a text encoder, and the network takes neither tokens nor a vector")
