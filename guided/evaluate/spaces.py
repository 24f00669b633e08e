"""Feature spaces by name: FID's Inception, any timm model, and what `towers` opens; from a file, a folder, the hub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guided import _files, _safetensors
from guided._compat import ensure_torchvision
from guided.evaluate.inception import open_inception
from guided.evaluate.preparing import of_timm
from guided.evaluate.towers import Towers, find, open_towers

_INCEPTION, _TIMM = "inception:", "timm:"
_OURS = ("state_dict", "url", "file", "source", "hf_hub_id", "hf_hub_filename", "custom_load", "num_classes")
_REFUSED = ("checkpoint_path", "cache_dir", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "features_only")


def open_space(spec: str, device: torch.device | str = "cpu", *, pickle: bool = False) -> Towers:
    """Open the features that distances are taken in.

    spec: "inception:FILE", FID's network; "timm:NAME", of the hub, or "timm:NAME:FILE.safetensors"; a folder or hub id
    of a timm model; or what `open_towers` opens. pickle: whether the file of Inception may be one, as it is published;
    all others are safetensors. Raises FileNotFoundError where there is none, ValueError where it does not fit or is
    refused, ImportError naming the extra where its library is missing.
    """
    if spec.startswith(_INCEPTION):
        return open_inception(spec.removeprefix(_INCEPTION), device, pickle=pickle)
    if spec.startswith(_TIMM):
        return _by_name(spec, torch.device(device))
    found = find(spec)
    config = found.folder / "config.json"
    if found.library == "transformers" and (said := _timm_config(config)) is not None:
        return _opened(spec, *said, found.weights, torch.device(device))
    return open_towers(found, device)


def _by_name(spec: str, device: torch.device) -> Towers:
    """timm:NAME, whose weights are those of its hub folder, or timm:NAME:FILE.safetensors."""
    name, _, file = spec.removeprefix(_TIMM).partition(":")
    timm = _library(spec)
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name}*")[:5])
        raise ValueError(f"{spec}: timm knows no model {name!r}{f'; it knows {near}' if near else ''}")
    known = timm.get_pretrained_cfg(name)
    if file:
        path = Path(file).expanduser()
        settings = {} if known is None else known.to_dict()
        return _opened(spec, name, settings, {}, (path,), device)
    if known is None or not known.hf_hub_id:
        raise ValueError(f"{spec}: the hub has no weights of it; give timm:{name}:FILE.safetensors")
    found = find(known.hf_hub_id)
    said = _timm_config(found.folder / "config.json")
    if said is None:
        raise ValueError(f"{spec}: {found.folder}/config.json is not timm's; give timm:{name}:FILE.safetensors")
    return _opened(spec, *said, found.weights, device)


def _timm_config(file: Path) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
    """The architecture, settings and arguments of timm's config.json in either of its forms, None where it is none."""
    try:
        said = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict) or not isinstance(said.get("architecture"), str):
        return None
    inner = said.get("pretrained_cfg", said)
    arguments = said.get("model_args") or {}
    if not isinstance(inner, dict) or not isinstance(arguments, dict) or arguments.keys() & set(_REFUSED):
        raise ValueError(f"{file}: expected a mapping of settings and one of arguments that name no other weights")
    counted = {"num_classes": said["num_classes"]} if "num_classes" in said else {}
    return said["architecture"], {**inner, **counted}, arguments


def _opened(
    name: str,
    architecture: str,
    settings: Mapping[str, Any],
    arguments: Mapping[str, Any],
    files: tuple[Path, ...],
    device: torch.device,
) -> Towers:
    """A timm model without its classifier: what it gives is pooled as the model itself pools."""
    timm = _library(name)
    if not timm.is_model(architecture):
        raise ValueError(f"{name}: timm knows no model {architecture!r}")
    state: dict[str, Tensor] = {}
    for file in files:
        state |= _safetensors.load(file)
    model = _loaded(timm, name, architecture, settings, arguments, state)
    model.reset_classifier(0)
    prepare = of_timm(timm.data.resolve_model_data_config(model))
    model = model.eval().requires_grad_(False).to(device)

    def see(x: Tensor) -> Tensor:
        out: Tensor = model(x)
        if out.ndim != 2:
            raise ValueError(f"{name}: gives {tuple(out.shape[1:])} for a picture, expected one row of features")
        return out

    title = f"pooled features of {name} ({architecture}, timm, weights {_files.checksum(files)[:12]})"
    return Towers(title, prepare, see, None, None, device)


def _loaded(
    timm: Any,
    name: str,
    architecture: str,
    settings: Mapping[str, Any],
    arguments: Mapping[str, Any],
    state: Mapping[str, Tensor],
) -> Any:
    """The model with all of its weights, its classifier too; ValueError where one is missing or does not fit.

    With another number of classes than the weights have, timm would load whatever there is, and leave the rest random.
    """
    known = {field.name for field in dataclasses.fields(timm.models.PretrainedCfg)} - set(_OURS)
    said = {field: value for field, value in settings.items() if field in known}
    plain = {name: value for name, value in arguments.items() if name != "num_classes"}
    head = said.get("classifier")
    weight = state.get(f"{head}.weight") if isinstance(head, str) else None
    told = settings.get("num_classes")
    first: Exception | None = None
    # Other people's weights may have other classes than the published ones, or none at all.
    for classes in dict.fromkeys((told if isinstance(told, int) else 1000, 0 if weight is None else len(weight))):
        # timm itself takes a mapping away from what it loads.
        given = timm.models.PretrainedCfg(**said, num_classes=classes, state_dict=dict(state))
        try:
            return timm.create_model(architecture, pretrained=True, pretrained_cfg=given, **plain)
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            first = first or error
    raise ValueError(f"{name}: its weights do not fit {architecture}: {' '.join(str(first).split())[:400]}") from first


def _library(name: str) -> Any:
    ensure_torchvision()
    try:
        import timm
        import timm.data
        import timm.models
    except ImportError as error:
        raise ImportError(f"{name} needs timm: pip install 'guided[text]'") from error
    return timm
