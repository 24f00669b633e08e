"""Networks and models as folders that diffusers opens."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from guided import _files, _safetensors
from guided.denoiser import Around
from guided.frames import DDPM, Framed
from guided.model import Model, parts, towers
from guided.model.autoencoder import AutoencoderKL
from guided.nn import UNet
from guided.zoo import diffusers_names as names
from guided.zoo import names as tables
from guided.zoo.counterpart import from_config
from guided.zoo.diffusers_config import to_config
from guided.zoo.export import exactly
from guided.zoo.pipeline import INDEX, LAYOUT

Stored = torch.dtype | Mapping[str, Any]


def export(what: Model | UNet, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> pathlib.Path:
    """Write a network as a UNet2DConditionModel's folder, or a model that came from diffusers as a pipeline's.

    Whole or not at all. dtype: of the weights; None gives them as they came, tensor by tensor and bit for bit (in
    float32 what was trained since, and what is ours). Raises ValueError naming the block, or the part of a model, that
    has no counterpart; FileExistsError where the folder holds something; OSError where the disk is full.
    """
    place = pathlib.Path(folder)
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        raise FileExistsError(f"{place}: is there already; choose another name")
    if isinstance(what, UNet):
        with _files.folder(place) as aside:
            _network(what, aside, from_config(what.config), dtype or torch.float32)
        return place
    _model(what, place, dtype)
    return place


def _network(network: UNet, folder: pathlib.Path, values: Mapping[str, Any], stored: Stored) -> None:
    """The `unet` folder of a network whose config.json is `values`; stored: as for `tensors_of`."""
    tensors = tensors_of(network, values, stored)
    folder.mkdir(parents=True, exist_ok=True)
    _safetensors.save(tensors, folder / f"{parts.STEM}.safetensors")
    _json(folder / "config.json", values)


def tensors_of(network: UNet, values: Mapping[str, Any], stored: Stored) -> dict[str, Tensor]:
    """The tensors of a UNet2DConditionModel whose config.json is `values`.

    stored: a dtype, or what a card says of those that the weights came in, as far as these still hold them.
    """
    pairs = names.table(network, bool(values.get("use_linear_projection", False)))
    state = network.state_dict()
    left = tables.lost(pairs, state)
    if left:
        raise ValueError(f"{left[0]}: UNet2DConditionModel has no place for it, and it is not zero")
    tensors = tables.write(pairs, state)
    if isinstance(stored, torch.dtype):
        return {name: value.to(stored) for name, value in tensors.items()}
    usual, others = stored.get("dtype", "F32"), stored.get("dtypes") or {}
    try:
        return {name: exactly(value, parts.FLOATS[str(others.get(name, usual))]) for name, value in tensors.items()}
    except (KeyError, AttributeError) as error:
        raise ValueError(f"layout: dtype, dtypes: expected {', '.join(parts.FLOATS)}, got {error}") from None


def _model(model: Model, place: pathlib.Path, dtype: torch.dtype | None) -> None:
    model.plain("export")
    network, layout = model.denoiser.network, model.card.get("layout") or {}
    layout = layout if layout.get("name") == LAYOUT else {}
    assert isinstance(network, UNet)
    said = model.denoiser.parametrization
    if isinstance(model.denoiser, Around):
        raise ValueError("denoiser: it estimates the difference from a picture, for which diffusers has no pipeline")
    values = layout.get("unet") or {**from_config(network.config), "sample_size": model.card.get("size")}
    if "unet" in layout and to_config(values, network.config.in_channels) != network.config:
        raise ValueError("layout: unet: the card's is the config of another network")
    if not isinstance(said, Framed) or not isinstance(said.frame, DDPM):
        raise ValueError(
            f"parametrization: {said!r}: no scheduler of diffusers shows a network its noise level so; the network "
            "alone goes out by to_diffusers(model.denoiser.network, folder)"
        )
    index = dict(layout.get("index") or {"_class_name": "UNet2DConditionModel"})
    schedulers = {"scheduler": layout.get("scheduler") or scheduler(said)}
    schedulers |= {name: layout[name] for name in ("low_res_scheduler", "image_noising_scheduler") if name in layout}
    spec = model.encoders["text"].spec if "text" in model.encoders else None
    copies = towers.portable(spec)[1] if layout.get("index") else {}
    with _files.folder(place) as aside:
        _network(network, aside / "unet", values, dtype or layout)
        for name, entries in schedulers.items():
            (aside / name).mkdir()
            _json(aside / name / "scheduler_config.json", entries)
        if isinstance(model.codec, AutoencoderKL):
            model.codec.save(aside / "vae", dtype)
        towers.copy(copies, aside)
        if layout.get("index"):
            # Parts that guided does not read (a safety checker) were not kept.
            kept = {
                name: v if not isinstance(v, list) or (aside / name).is_dir() else [None, None]
                for name, v in index.items()
            }
            _json(aside / INDEX, kept)


def scheduler(said: Framed) -> dict[str, Any]:
    """The scheduler of a model of our own in DDPM's noise levels."""
    frame, kind = said.frame, type(said.predicts).__name__
    assert isinstance(frame, DDPM)
    predicts = {"Eps": "epsilon", "V": "v_prediction"}
    if kind not in predicts:
        raise ValueError(f"parametrization: {kind}: expected Eps or V, which a scheduler of diffusers knows")
    schedules = {"linear": "linear", "scaled": "scaled_linear", "cosine": "squaredcos_cap_v2"}
    return {
        "_class_name": "DDIMScheduler",
        "beta_schedule": schedules[frame.schedule],
        "beta_start": frame.start,
        "beta_end": frame.end,
        "num_train_timesteps": frame.steps,
        "prediction_type": predicts[kind],
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "trailing",
    }


def _json(file: pathlib.Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
