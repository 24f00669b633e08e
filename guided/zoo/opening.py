"""From tensors in the original layout to our network, and to a `Model` or a `NoisyClassifier` if nothing is lacking."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from guided import _safetensors
from guided.denoiser import Denoiser, Eps, LearnedVariance
from guided.frames import DDPM, Framed
from guided.model import Model, NoisyClassifier
from guided.model import card as cards
from guided.nn import EncoderUNet, UNet
from guided.zoo import names, weights
from guided.zoo.recognise import Recognised, recognise

LAYOUT = "original"
UNKNOWN = (
    "weights alone, without a card that says what they are, under names that this version of guided does not know."
)
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
TORCH = {name: dtype for dtype, name in _DTYPES.items()}


def network(state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> UNet | EncoderUNet:
    """Our network with the weights of a checkpoint in the original layout; raises ValueError as `recognise`."""
    found = recognise({name: tuple(value.shape) for name, value in state.items()}, config)
    return loaded(found, state)


def loaded(found: Recognised, state: Mapping[str, Tensor]) -> UNet | EncoderUNet:
    """The network of a recognised checkpoint, float32, on the weights' device; ValueError for tensors of no float."""
    own = tensors(found, state)
    dtypes_of(own)
    read = names.read(found.table(), own)
    made: UNet | EncoderUNet = found.blank()  # type: ignore[assignment]
    device = next(iter(own.values())).device
    # A copy in any case: who trains the network must not change the caller's tensors.
    fresh = {name: value.to(device, torch.float32, copy=True).contiguous() for name, value in read.items()}
    made.load_state_dict(fresh, assign=True)
    return made.eval()


def tensors(found: Recognised, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's own tensors of a checkpoint, by their names without the prefix."""
    cut = len(found.prefix)
    return {name[cut:]: value for name, value in state.items() if name.startswith(found.prefix)}


def dtypes_of(own: Mapping[str, Tensor]) -> tuple[str, dict[str, str]]:
    """The commonest dtype of tensors, and the exceptions by name; ValueError for what is no float of 16 or 32 bits."""
    named = {name: _DTYPES.get(value.dtype, str(value.dtype).removeprefix("torch.")) for name, value in own.items()}
    return weights.floats(named)


def own(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> UNet | EncoderUNet:
    """A network of our own names; config: a card, its `network` or a `UNetConfig`'s mapping. ValueError if unlike."""
    if not isinstance(config, Mapping):
        raise ValueError(f"config: expected a mapping, got {type(config).__name__}")
    described = config.get("network", config)
    if not isinstance(described, Mapping) or "config" not in described:
        described = {"class": "EncoderUNet" if "pool.qkv.weight" in state else "UNet", "config": described}
    made: UNet | EncoderUNet = cards.network({"network": dict(described), "size": config.get("size")})  # type: ignore
    wanted, found = made.state_dict(), {name: tuple(value.shape) for name, value in state.items()}
    wrong = _safetensors.compare({name: tuple(value.shape) for name, value in wanted.items()}, found)
    if wrong:
        raise ValueError(f"does not fit the network of its config: {wrong}")
    dtypes_of(state)
    fresh = {name: value.to(torch.float32, copy=True).contiguous() for name, value in state.items()}
    made.load_state_dict(fresh, assign=True)
    return made.eval()


def open_file(
    path: pathlib.Path, *, pickle: bool = False, config: Mapping[str, Any] | None = None
) -> Model | NoisyClassifier:
    """A checkpoint file as what it draws or tells with; ValueError where it lacks parts, saying what does fit.

    config: the original's own; by default the .yaml or .json of the same name beside the file.
    """
    state = weights.read(path, pickle=pickle)
    said = beside(path) if config is None else config
    plain = None if said is None else {name: value for name, value in said.items() if name != "tokenizer"}
    try:
        found = recognise({name: tuple(value.shape) for name, value in state.items()}, plain)
        if found.latent:
            from guided.zoo.whole_open import open_whole

            return open_whole(path, state, found, said)
        check_whole(found)
        made = assembled(found, loaded(found, state), path.name.partition(".")[0])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    dtype, others = dtypes_of(tensors(found, state))
    made.card["layout"] |= {"dtype": dtype, **({"dtypes": others} if others else {})}
    return made


def beside(path: pathlib.Path) -> Mapping[str, Any] | None:
    """The config beside a checkpoint, if what stands there under its name is one."""
    from guided.zoo.settings import means_something

    found = weights.config_beside(path)
    return found if found is not None and means_something(found) else None


def check_whole(found: Recognised) -> None:
    """Raise ValueError where a network alone does not draw, or where nothing says on which noise it was trained."""
    if found.size is None:
        raise ValueError("its pictures' size stands in no tensor: give config= with image_size")
    if found.schedule is None:
        raise ValueError(
            "nothing says on which noise it was trained: give config= with noise_schedule (linear, cosine)"
        )


def assembled(found: Recognised, network: UNet | EncoderUNet, name: str) -> Model | NoisyClassifier:
    """A network of pictures in the common frame, with its card; `check_whole` comes first."""
    assert found.schedule is not None and found.size is not None
    frame: DDPM = found.schedule
    said = Framed(frame, found.predicts or Eps())
    count = found.config.out_channels if found.classifier else found.config.classes
    card: dict[str, Any] = {
        "name": name,
        "size": list(found.size),
        # The published files name none: a class is called by its number.
        "classes": [str(number) for number in range(count)] or None,
        "layout": {"name": LAYOUT, "prefix": found.prefix, "options": dataclasses.asdict(found.options)},
        "provenance": {"family": found.family, "assumed": found.assumptions()},
    }
    if isinstance(network, EncoderUNet):
        return NoisyClassifier(network, said, frame.lo, frame.hi, card).eval().requires_grad_(False)
    kind = LearnedVariance if found.learned_variance else Denoiser
    denoiser = kind(network, said, frame.lo, frame.hi).requires_grad_(False)
    return Model(denoiser, cards.codec({}), {}, card)
