"""The card of a model folder: what its weights are, as JSON; every part of it is checked before it is used."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from guided import denoiser as kinds
from guided import frames, solvers
from guided.codec import Codec, Pixels
from guided.degrade import Translation
from guided.denoiser import Around, Denoiser, LearnedVariance, Parametrization
from guided.model import parts
from guided.model.distilled import Distilled
from guided.nn import EncoderUNet, UNet, UNetConfig

FORMAT = "guided-model/1"
FILES = ("model.safetensors", "early.safetensors")
VAE = "vae"
"""The folder of an autoencoder within a model's, in diffusers' own form."""
SIDE = 8192
"""The longest side of a picture, in pixels."""
STEPS = 10_000
_LIMIT = 8 << 20
_PARAMETRIZATIONS = {kind.__name__: kind for kind in (kinds.EDM, kinds.Eps, kinds.X0, kinds.V, kinds.Flow)}
_FRAMES = {frames.DDPM.__name__: frames.DDPM}
_VARIANCES = {None: Denoiser, "learned": LearnedVariance}
_CODECS = ("Pixels", "AutoencoderKL")


class Placed(Protocol):
    """A network as it is placed in the common frame: a `Denoiser`, or a `NoisyClassifier`."""

    network: nn.Module
    parametrization: Parametrization
    lo: float
    hi: float


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The checked card of a model folder; raises FileNotFoundError, or ValueError naming the entry that is wrong."""
    file = folder / "card.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder}: no card.json in it: not a model folder")
    values = parts.read(file, _LIMIT)
    try:
        return check(values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def check(values: Any) -> dict[str, Any]:
    """The card itself, if every entry that guided reads is sound; raises ValueError naming the entry."""
    if not isinstance(values, dict):
        raise ValueError(f"expected a mapping, got {type(values).__name__}")
    if values.get("format") != FORMAT:
        raise ValueError(
            f"format: expected {FORMAT!r}, got {values.get('format')!r:.80}; "
            "another version of guided made it, or it is no model"
        )
    _names(values)
    _size(values.get("size"))
    _defaults(values.get("defaults", {}))
    _calibrated(values.get("calibrated", {}))
    if values.get("translate") is not None:
        Translation.of(_mapping("translate", values["translate"]))
    if values.get("distilled") is not None:
        Distilled.of(values["distilled"])
    for name in ("recipe", "data", "metrics", "provenance", "layout", "edge"):
        _mapping(name, values.get(name) or {})
    hashes = _mapping("sha256", values.get("sha256"))
    if set(hashes) - set(FILES) or not all(isinstance(value, str) for value in hashes.values()):
        raise ValueError(f"sha256: expected hashes of {' and '.join(FILES)} alone, got {sorted(hashes)}")
    low, high = _pair("range", values.get("range"))
    if not 0 < low < high < math.inf:
        raise ValueError(f"range: expected 0 < lo < hi, got [{low}, {high}]")
    mean = values.get("mean")
    if mean is not None and not (isinstance(mean, list) and all(_number(value) for value in mean)):
        raise ValueError(f"mean: expected one number a channel, got {mean!r:.80}")
    return values


def _names(values: Mapping[str, Any]) -> None:
    name, classes, text = values.get("name", ""), values.get("classes"), values.get("text")
    if not isinstance(name, str):
        raise ValueError(f"name: expected a text, got {name!r:.80}")
    if classes is not None and (
        not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes)
    ):
        raise ValueError(f"classes: expected null or a list of names, got {classes!r:.80}")
    if text is not None and not isinstance(text, dict | str):
        raise ValueError(f"text: expected null or the description of a text encoder, got {text!r:.80}")


def _size(size: Any) -> None:
    height, width = _pair("size", size)
    if not all(type(side) is int and 1 <= side <= SIDE for side in (height, width)):
        raise ValueError(f"size: expected [height, width], each from 1 to {SIDE} pixels, got {size!r:.80}")


def _defaults(values: Any) -> None:
    _mapping("defaults", values)
    steps, w, solver = values.get("steps", 1), values.get("w", 1.0), values.get("solver")
    if type(steps) is not int or not 1 <= steps <= STEPS:
        raise ValueError(f"defaults.steps: expected a whole number from 1 to {STEPS}, got {steps!r:.80}")
    if not _number(w):
        raise ValueError(f"defaults.w: expected a number, got {w!r:.80}")
    if solver is not None and solver not in solvers.NAMES:
        raise ValueError(f"defaults.solver: expected one of {', '.join(sorted(solvers.NAMES))}, got {solver!r:.80}")


def _calibrated(values: Any) -> None:
    """Paths found for this model, by the number of their steps."""
    for steps, found in _mapping("calibrated", values).items():
        name = f"calibrated.{steps:.20}"
        levels = _mapping(name, found).get("levels")
        if not isinstance(levels, list) or not all(_number(level) for level in levels):
            raise ValueError(f"{name}.levels: expected a list of numbers, got {levels!r:.80}")
        falls = len(levels) > 1 and all(high > low for high, low in pairwise(levels)) and levels[-1] == 0
        if not falls or steps != str(len(levels) - 1):
            raise ValueError(f"{name}.levels: expected one more than the steps, falling to 0, got {levels!r:.80}")
        if found.get("solver") not in (*solvers.NAMES, solvers.Fitted.name) or not _number(found.get("w")):
            raise ValueError(f"{name}: expected the name of a solver and a weight w, got {found!r:.80}")
        if found["solver"] == solvers.Fitted.name:
            _fitted(name, found)


def fitted(found: Mapping[str, Any]) -> solvers.Fitted:
    """The solver of a calibrated path that has one of its own; ValueError where its weights are not those of a path."""
    weights = tuple(tuple(map(float, row)) for row in found["weights"])
    return solvers.Fitted(tuple(map(float, found["levels"])), weights, tuple(map(float, found["limits"])))


def _fitted(name: str, found: Mapping[str, Any]) -> None:
    """ValueError unless the entry `name` has the weights and limits of a fitted solver."""
    rows, limits = found.get("weights"), found.get("limits")
    if not isinstance(rows, list) or not all(isinstance(row, list) and all(map(_number, row)) for row in rows):
        raise ValueError(f"{name}.weights: expected a list of numbers for each step, got {rows!r:.80}")
    if not isinstance(limits, list) or not all(map(_number, limits)):
        raise ValueError(f"{name}.limits: expected a number for each step, got {limits!r:.80}")
    fitted(found)


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a mapping, got {value!r:.80}")
    return value


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, list) or len(value) != 2 or not all(_number(part) for part in value):
        raise ValueError(f"{name}: expected two numbers, got {value!r:.80}")
    return value[0], value[1]


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def network(values: Mapping[str, Any]) -> nn.Module:
    """The network of a card, without memory (on the meta device); raises ValueError."""
    described = _mapping("network", values.get("network"))
    if described.get("class") not in ("UNet", "EncoderUNet"):
        raise ValueError(f"network: expected the class UNet or EncoderUNet, got {described.get('class')!r:.80}")
    config = _mapping("network.config", described.get("config"))
    bounded(config)
    try:
        with torch.device("meta"), _Unset():
            made = UNetConfig.from_dict(config)
            return UNet(made) if described["class"] == "UNet" else EncoderUNet(made, values["size"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"network.config: {error}") from None


class _Unset(TorchFunctionMode):
    """First weights are not drawn where there is no memory for them: torch would load its compiler to do it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def bounded(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a network of absurd size."""
    # Even a network without memory takes a Python object for each of its layers.
    for name, value in config.items():
        listed = value if isinstance(value, list) else [value]
        most = 64 if name in ("blocks", "depth", "middle_blocks", "middle_depth") else 1 << 20
        if len(listed) > 16 or any(isinstance(part, int) and abs(part) > most for part in listed):
            raise ValueError(f"network.config: {name}: {value!r:.80} is beyond reason")


def parametrization(values: Mapping[str, Any]) -> Parametrization:
    """The parametrization of a card, in its frame where it names one; raises ValueError."""
    described = dict(_mapping("parametrization", values.get("parametrization")))
    frame = described.pop("frame", None)
    kind = _PARAMETRIZATIONS.get(described.pop("class", None))
    if kind is None:
        raise ValueError(f"parametrization: expected one of {', '.join(_PARAMETRIZATIONS)}")
    known = {field.name for field in dataclasses.fields(kind)}
    if set(described) - known or not all(_number(value) and value > 0 for value in described.values()):
        raise ValueError(f"parametrization: {kind.__name__} takes {sorted(known) or 'nothing'}, got {described!r:.80}")
    plain: Parametrization = kind(**described)
    return plain if frame is None else frames.Framed(_frame(frame), plain)


def _frame(value: Any) -> frames.Frame:
    described = dict(_mapping("parametrization.frame", value))
    kind = _FRAMES.get(described.pop("class", None))
    if kind is None:
        raise ValueError(f"parametrization.frame: expected one of {', '.join(_FRAMES)}")
    known = {field.name for field in dataclasses.fields(kind)}
    numbers = [part for name, part in described.items() if name != "schedule"]
    if set(described) - known or not all(_number(part) for part in numbers):
        raise ValueError(f"parametrization.frame: {kind.__name__} takes {sorted(known)}, got {described!r:.80}")
    try:
        return kind(**described)
    except ValueError as error:
        raise ValueError(f"parametrization.frame: {error}") from None


def denoiser(values: Mapping[str, Any], network: nn.Module) -> Denoiser:
    """A network in the common frame as its card says; raises ValueError."""
    variance = values.get("variance")
    if variance not in _VARIANCES:
        raise ValueError(f"variance: expected null or 'learned', got {variance!r:.80}")
    config: UNetConfig = network.config  # type: ignore[assignment]
    if variance == "learned" and config.out_channels != 2 * config.in_channels:
        raise ValueError(f"variance: learned: {config.out_channels} channels of output for {config.in_channels}")
    around = values.get("around", False)
    if not isinstance(around, bool) or (around and (variance or config.image_channels != config.in_channels)):
        raise ValueError(
            f"around: expected true or false, true for a network shown a picture like x, got {around!r:.80}"
        )
    kind = Around if around else _VARIANCES[variance]
    return kind(network, parametrization(values), *values["range"])


def codec(values: Mapping[str, Any], folder: pathlib.Path | None = None) -> Codec:
    """The codec of a card; an autoencoder lies in `vae` of the model's folder. Raises ValueError."""
    described = _mapping("codec", values.get("codec", {"class": "Pixels"}))
    if described.get("class") not in _CODECS:
        raise ValueError(f"codec: expected one of {', '.join(_CODECS)}, got {described.get('class')!r:.80}")
    if described["class"] == "Pixels":
        return Pixels()
    if folder is None:
        raise ValueError("codec: AutoencoderKL: it lies in a model's folder")
    from guided.model.autoencoder import open_autoencoder

    return open_autoencoder(folder / VAE, described.get("sha256"))


def describe(denoiser: Placed, codec: Codec) -> dict[str, Any]:
    """The entries of a card that the objects themselves know; raises TypeError for parts that a card cannot name."""
    given, network = denoiser.parametrization, denoiser.network
    said, frame = (given.predicts, given.frame) if isinstance(given, frames.Framed) else (given, None)
    kind = type(said).__name__
    if (
        not isinstance(network, UNet | EncoderUNet)
        or kind not in _PARAMETRIZATIONS
        or type(codec).__name__ not in _CODECS
        or (frame is not None and type(frame).__name__ not in _FRAMES)
    ):
        raise TypeError(
            f"a model folder holds a UNet in one of {', '.join(_PARAMETRIZATIONS)} (of {', '.join(_FRAMES)} or none) "
            f"over one of {', '.join(_CODECS)}; got {type(network).__name__}, {given!r} and "
            f"{type(codec).__name__}"
        )
    described = {"class": kind, **dataclasses.asdict(said)}  # type: ignore[call-overload]
    if frame is not None:
        described["frame"] = {"class": type(frame).__name__, **dataclasses.asdict(frame)}  # type: ignore[call-overload]
    size = {"size": list(network.size)} if isinstance(network, EncoderUNet) else {}
    variance: dict[str, Any] = {"variance": "learned"} if isinstance(denoiser, LearnedVariance) else {}
    variance |= {"around": True} if isinstance(denoiser, Around) else {}
    return {
        "format": FORMAT,
        "network": {"class": type(network).__name__, "config": network.config.to_dict()},
        **size,
        "parametrization": described,
        **variance,
        "range": [denoiser.lo, denoiser.hi],
        "codec": {"class": type(codec).__name__},
    }
