"""The codec of latent diffusion: diffusers' AutoencoderKL, opened from and written to its own folder."""

from __future__ import annotations

import json
import math
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from guided import _files, _safetensors
from guided.model import parts

Stored = tuple[str, str]
"""Of a tensor in a folder: its name in the network, and its dtype."""
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The names of its attention in the first published folders."""


class AutoencoderKL:
    """Latents of an AutoencoderKL (Rombach et al. 2022): (B, 3, H, W) in [-1, 1] <-> (B, C, H / factor, W / factor).

    x0 = (mean - shift) * scale, of the mean of what the encoder says. Weights are float32. autocast: a dtype of 16 bits
    to compute in; where the folder's config forbids it (force_upcast), or where a picture would not be finite, it is
    float32 all the same.
    """

    limit: float | None = None

    def __init__(self, network: Any, config: Mapping[str, Any], names: Mapping[str, Stored]) -> None:
        self.network, self.config, self.names = network, dict(config), dict(names)
        self.scale = float(self.config.get("scaling_factor") or 0.18215)
        self.shift = float(self.config.get("shift_factor") or 0.0)
        self.factor = 2 ** (len(network.config.block_out_channels) - 1)
        self.channels = int(network.config.latent_channels)
        self.autocast: torch.dtype | None = None

    def encode(self, images: Tensor) -> Tensor:
        def mean(pictures: Tensor) -> Tensor:
            return self.network.encode(pictures).latent_dist.mode()  # type: ignore[no-any-return]

        return ((self._guarded(mean, images) - self.shift) * self.scale).to(images.dtype)

    def decode(self, x: Tensor) -> Tensor:
        def picture(latents: Tensor) -> Tensor:
            return self.network.decode(latents).sample  # type: ignore[no-any-return]

        return self._guarded(picture, x / self.scale + self.shift).to(x.dtype)

    def _guarded(self, run: Any, given: Tensor) -> Tensor:
        given = given.to(next(self.network.parameters()))
        if self.autocast is not None and not self.config.get("force_upcast"):
            with torch.autocast(given.device.type, self.autocast):
                found: Tensor = run(given).float()
            if bool(found.isfinite().all()):
                return found
            warnings.warn(f"the autoencoder overflows in {self.autocast}: once more in float32", stacklevel=3)
        with torch.autocast(given.device.type, enabled=False):
            return run(given)  # type: ignore[no-any-return]

    def to(self, device: torch.device | str) -> AutoencoderKL:
        """Move the weights, in place."""
        self.network.to(device)
        return self

    def tensors(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Its tensors by the names of the network, in the dtypes they came in or in `dtype`."""
        state = self.network.state_dict()
        return {new: state[new].to(dtype or parts.FLOATS[stored]) for new, stored in self.names.values()}

    def save(self, folder: pathlib.Path, dtype: torch.dtype | None = None) -> str:
        """Write the folder as diffusers reads it, its tensors as they came or in `dtype`; returns their SHA-256."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = self.tensors(dtype)
        named = {old: tensors[new] for old, (new, _) in self.names.items()}
        _safetensors.save(named, folder / f"{parts.STEM}.safetensors")
        _files.write(folder / "config.json", json.dumps(self.config, indent=2) + "\n")
        return _files.sha256(folder / f"{parts.STEM}.safetensors")


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """The config.json of an AutoencoderKL's folder; ValueError where it is another's, or beyond reason."""
    values = parts.config(folder, "AutoencoderKL")
    widths = values.get("block_out_channels", [64])
    if not isinstance(widths, list) or not 1 <= len(widths) <= 8:
        raise ValueError(f"{folder / 'config.json'}: block_out_channels: expected 1 to 8 widths, got {widths!r:.80}")
    numbers = {f"block_out_channels[{i}]": width for i, width in enumerate(widths)}
    numbers |= {name: values.get(name, 1) for name in ("layers_per_block", "latent_channels", "norm_num_groups")}
    for name, value in numbers.items():
        most = 64 if name == "layers_per_block" else 1 << 16
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{folder / 'config.json'}: {name}: expected 1 to {most}, got {value!r:.80}")
    for name in ("scaling_factor", "shift_factor"):
        value = values.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not (number and (value > 0 or name == "shift_factor")):
            expected = "a number above 0" if name == "scaling_factor" else "a number"
            raise ValueError(f"{folder / 'config.json'}: {name}: expected {expected}, got {value!r:.80}")
    for name in ("latents_mean", "latents_std"):
        if values.get(name) is not None:
            raise ValueError(
                f"{folder / 'config.json'}: {name}: expected null, got {values[name]!r:.80}: guided scales all "
                "channels of latents alike"
            )
    return values


def open_autoencoder(folder: pathlib.Path, sha256: str | None = None) -> AutoencoderKL:
    """Open an AutoencoderKL's folder. Raises FileNotFoundError, or ValueError naming what does not fit.

    sha256: of its only weights file, where that is known.
    """
    values = read_config(folder)
    found = parts.weights(folder)
    if sha256 is not None and _files.sha256(found.paths[0]) != sha256:
        raise ValueError(f"{found.paths[0]}: its SHA-256 is not {sha256}: damaged, or replaced")
    entries = parts.entries(found, folder)
    stored = {name: (entry.shape, entry.dtype) for name, entry in entries.items()}
    return filled(values, stored, lambda: parts.load(found), folder)


def filled(
    values: Mapping[str, Any],
    stored: Mapping[str, tuple[tuple[int, ...], str]],
    load: Callable[[], Mapping[str, Tensor]],
    place: pathlib.Path,
) -> AutoencoderKL:
    """The autoencoder of a config.json with these tensors, read once they are known to fit.

    stored: shape and dtype by name; place: what messages call it.
    """
    diffusers = parts.diffusers("a latent model needs diffusers for its autoencoder")
    with parts.quiet(diffusers), torch.device("meta"):
        try:
            network = diffusers.AutoencoderKL.from_config(values)
        except Exception as error:  # whatever its constructor makes of the values
            raise ValueError(f"{place / 'config.json'}: {error}") from None
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    names = {old: _modern(old) for old in stored}
    difference = _safetensors.compare(wanted, {new: stored[old][0] for old, new in names.items()})
    if difference is not None:
        raise ValueError(f"{place}: does not fit its config.json: {difference}")
    network.load_state_dict({names[old]: value.float() for old, value in load().items()}, assign=True)
    known = {old: (new, stored[old][1]) for old, new in names.items()}
    return AutoencoderKL(network.eval().requires_grad_(False), values, known)


def _modern(name: str) -> str:
    words = name.split(".")
    if len(words) > 2 and "attentions" in words and words[-2] in _OLD:
        return ".".join([*words[:-2], _OLD[words[-2]], words[-1]])
    return name
