"""A latent diffusion in one file as a model: the same that the diffusers folder of its weights is.

What of a folder is small, and the text encoders, which are opened with the first prompt, are laid out in the cache;
U-Net and autoencoder are read from the file itself.
"""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from guided import _files, _safetensors
from guided.denoiser import Eps, Parametrization, V
from guided.frames import DDPM, Framed
from guided.model import Model, autoencoder
from guided.model.towers import REST
from guided.zoo import bpe, diffusers_open, names, pipeline, weights
from guided.zoo.counterpart import from_config
from guided.zoo.diffusers_export import scheduler
from guided.zoo.families import LATENT
from guided.zoo.opening import dtypes_of
from guided.zoo.recognise import Recognised
from guided.zoo.whole import SD, VAE, XL, Whole, towers
from guided.zoo.whole import autoencoder as autoencoder_of

TOKENIZER = "tokenizer"
"""The entry of a config= that names the folder of a tokenizer: `tokenizer`, or the folder that it and others lie in."""
_UPSCALER = "StableDiffusionUpscalePipeline"


def describe(found: Recognised, shapes: Mapping[str, tuple[int, ...]], scale: float | None = None) -> Whole:
    """The parts of a file whose U-Net is recognised; ValueError names the part that is missing, damaged or unknown.

    scale: of its latents, where a config says it.
    """
    config, linear = found.config, found.options.linear
    name = _pipeline(found)
    xl = name == "StableDiffusionXLPipeline"
    vae = autoencoder_of(shapes, found)
    read = towers(shapes, xl)
    width = sum(tower.config["hidden_size"] for tower in read)
    if width != config.token_width:
        raise ValueError(f"{XL if xl else SD}: its text is {width} wide, the U-Net reads {config.token_width}")
    usual = 0.13025 if xl else 0.08333 if name == _UPSCALER else 0.18215
    side = _side(found)
    vae |= {"scaling_factor": scale or usual, "sample_size": side * 2 ** (len(vae["block_out_channels"]) - 1)}
    vae |= {"force_upcast": True} if xl else {}
    waves = 256
    if xl:
        waves, rest = divmod(config.vector_width - int(read[1].config["projection_dim"]), 6)
        if rest or waves < 1:
            raise ValueError(f"label_emb: {config.vector_width} wide: expected six sizes beside the pooled text")
    unet = from_config(config, waves) | {"use_linear_projection": linear, "sample_size": side}
    return Whole(unet, vae, read)


def _pipeline(found: Recognised) -> str:
    """The class of diffusers' pipeline that draws with these parts."""
    config = found.config
    text = bool(config.token_width)
    kinds = {
        (0, False, False): "StableDiffusionPipeline",
        (5, False, False): "StableDiffusionInpaintPipeline",
        (3, True, False): _UPSCALER,
        (0, False, True): "StableDiffusionXLPipeline",
    }
    vector = bool(config.vector_width)
    name = kinds.get((config.image_channels, bool(config.classes), vector))
    known = (found.family or "").startswith(("sd-2-depth", "sd-2-unclip", "sdxl-refiner", "sdxl-inpainting", "ldm"))
    if name is None or known or not text:
        seen = f"{config.image_channels} channels of an image, label_emb: {'yes' if config.classes or vector else 'no'}"
        raise ValueError(
            f"the U-Net of {found.family or 'a network of its own'} ({seen}) works on latents: of such files guided "
            "opens Stable Diffusion 1 and 2, their inpainting, the x4 upscaler and SDXL base alone; zoo.network gives "
            "the U-Net"
        )
    return name


def _side(found: Recognised) -> int:
    """Of the latents; sd-2-base is sd-2's network, but of smaller pictures and trained to predict the noise."""
    base = found.family == "sd-2" and isinstance(found.predicts, Eps)
    return 64 if base else found.size[0] if found.size else 128 if found.config.vector_width else 64


def _predicts(found: Recognised, whole: Whole) -> tuple[DDPM, Parametrization, dict[str, Any]]:
    """The noise and the target, and what of it is assumed."""
    plain = not found.config.image_channels and not found.config.vector_width
    target: Parametrization = V() if not whole.towers[0].clip and plain else Eps()
    assumed = found.assumptions()
    assumed |= {} if found.predicts else {"predicts": repr(target)}
    assumed |= {} if found.schedule else {"schedule": repr(LATENT)}
    assumed |= {} if found.size else {"image_size": _side(found)}
    return found.schedule or LATENT, found.predicts or target, assumed


def open_whole(
    path: pathlib.Path,
    state: dict[str, Tensor],
    found: Recognised,
    config: Mapping[str, Any] | None = None,
) -> Model:
    """The model of a file's tensors; config: of it, see `guided.load`. Raises ValueError, or FileNotFoundError where
    there is no tokenizer."""
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    whole = describe(found, shapes, _scale(config))
    table = whole.table()
    dtypes_of({pair.ours: state[pair.ours] for pair in table})
    schedule, predicts, assumed = _predicts(found, whole)
    parts = names.write(table, state)
    unet, vae = _part(parts, "unet"), _part(parts, "vae")
    usual, others = dtypes_of(unet)
    dtypes = {name: others.get(name, usual) for name in unet}
    files = _configs(found, whole, scheduler(Framed(schedule, predicts)))
    files |= _tokenizers(whole, _places(path, config))
    rest = {name: state[name].contiguous() for name in whole.others(shapes)}
    folder = _laid_out(files, {tower.part: _part(parts, tower.part) for tower in whole.towers}, rest)
    said = pipeline.facts(folder)
    spec = pipeline.text_spec(said)
    stored_as, unlike = dtypes_of(vae)
    stored = {name: (tuple(value.shape), unlike.get(name, stored_as)) for name, value in vae.items()}
    codec = autoencoder.filled(said.vae or {}, stored, lambda: vae, path / VAE.rstrip("."))
    network = diffusers_open.filled(said.config, unet)
    card = pipeline.card_of(said, dtypes)
    card["name"] = path.name.partition(".")[0]
    card["provenance"] |= {"family": found.family or said.kind.family, "assumed": assumed}
    return pipeline.assembled(said, spec, network, codec, card, files=weights.parts(path))


def _part(parts: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}/"): v.contiguous() for name, v in parts.items() if name.startswith(f"{part}/")}


def _scale(config: Mapping[str, Any] | None) -> float | None:
    """`scale_factor` of a latent diffusion's YAML."""
    values: Any = config or {}
    for name in ("model", "params"):
        values = values[name] if isinstance(values.get(name), Mapping) else values
    scale = values.get("scale_factor")
    if scale is None:
        return None
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 < scale < math.inf:
        raise ValueError(f"config: scale_factor: expected a number above 0, got {scale!r:.80}")
    return float(scale)


def _places(path: pathlib.Path, config: Mapping[str, Any] | None) -> list[pathlib.Path]:
    """Where a tokenizer's folder may lie."""
    given = (config or {}).get(TOKENIZER)
    if given is None:
        return [path.parent]
    if not isinstance(given, str) or not pathlib.Path(given).expanduser().is_dir():
        raise FileNotFoundError(f"config: {TOKENIZER}: expected a folder, got {given!r:.200}")
    return [pathlib.Path(given).expanduser()]


def _tokenizers(whole: Whole, places: list[pathlib.Path]) -> dict[str, bytes]:
    found = {}
    for tower in whole.towers:
        name = tower.part.replace("text_encoder", "tokenizer")
        # open_clip pads with 0, which is "!"; CLIP's own code with the end.
        inside = [place / name for place in places]
        inside += [place for place in places if place.name == name or (len(whole.towers) == 1 and _bare(place))]
        for file, content in bpe.files(inside, tower.config["vocab_size"], bpe.END if tower.clip else "!").items():
            found[f"{name}/{file}"] = content
    return found


def _bare(place: pathlib.Path) -> bool:
    return (place / "tokenizer_config.json").is_file()


def _configs(found: Recognised, whole: Whole, said: Mapping[str, Any]) -> dict[str, bytes]:
    """The JSON of a pipeline's folder."""
    name = _pipeline(found)
    index: dict[str, Any] = {
        "_class_name": name,
        "_diffusers_version": "0.30.0",
        "scheduler": ["diffusers", said["_class_name"]],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    for tower in whole.towers:
        index[tower.part] = ["transformers", tower.config["architectures"][0]]
        index[tower.part.replace("text_encoder", "tokenizer")] = ["transformers", "CLIPTokenizer"]
    configs: dict[str, Any] = {"unet/config.json": whole.unet, "vae/config.json": whole.vae}
    if name == "StableDiffusionXLPipeline":
        index |= {"force_zeros_for_empty_prompt": True}
    elif name == _UPSCALER:
        index |= {"low_res_scheduler": ["diffusers", "DDPMScheduler"]}
        low = scheduler(Framed(DDPM("scaled", 1e-4, 0.02), Eps())) | {"_class_name": "DDPMScheduler"}
        configs["low_res_scheduler/scheduler_config.json"] = low
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    configs |= {pipeline.INDEX: index, "scheduler/scheduler_config.json": said}
    configs |= {f"{tower.part}/config.json": tower.config for tower in whole.towers}
    return {name: (json.dumps(values, indent=2) + "\n").encode() for name, values in configs.items()}


def _laid_out(
    files: Mapping[str, bytes], encoders: Mapping[str, Mapping[str, Tensor]], rest: Mapping[str, Tensor]
) -> pathlib.Path:
    """A pipeline's folder without U-Net and autoencoder, in the cache under the digest of all that is in it."""
    tensors = {f"{part}/model.safetensors": state for part, state in encoders.items()}
    tensors |= {f"text_encoder/{REST}": rest} if rest else {}
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)}\n".encode() + content)
    for name, state in tensors.items():
        for key, value in sorted(state.items()):
            digest.update(f"{name} {key} {value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    place = _files.cache("pipelines") / digest.hexdigest()[:24]
    if place.is_dir():
        return place
    with _files.folder(place) as aside:
        for name, content in files.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_bytes(content)
        for name, state in tensors.items():
            _safetensors.save(state, aside / name)
    return place
