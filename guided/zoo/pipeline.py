"""Pipeline folders of diffusers (model_index.json) as models."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from guided import _safetensors
from guided.codec import Codec, Pixels
from guided.degrade import Augment, Down, Translation
from guided.denoiser import Denoiser, Eps, LearnedVariance, Parametrization, V
from guided.frames import DDPM, Framed
from guided.model import Model, parts
from guided.model import card as cards
from guided.model.autoencoder import open_autoencoder, read_config
from guided.model.conditioning import LazyEncoder
from guided.nn import UNet, UNetConfig
from guided.text import locate, tokenizer_folder
from guided.zoo import diffusers_open
from guided.zoo.diffusers_config import to_config
from guided.zoo.weights import floats

INDEX = "model_index.json"
LAYOUT = "diffusers"


@dataclass(frozen=True)
class Kind:
    """A kind of pipeline: how it is called, its defaults, the scheduler of its image condition."""

    family: str
    steps: int
    w: float
    latent: bool = True
    low: str | None = None
    up: tuple[str, int] = ("none", 0)  # how `low` brings a picture to its size, and the index of noise it then puts on
    paint: bool = False
    text: tuple[dict[str, Any], ...] = ({"layer": -1, "pooled": False},)


_SD = Kind("Stable Diffusion", 30, 7.5)
_PAINT = Kind("Stable Diffusion inpainting", 30, 7.5, paint=True)
_XL = Kind("Stable Diffusion XL", 30, 5.0, text=({"layer": -2, "pooled": False}, {"layer": -2, "pooled": True}))
_IF = Kind("DeepFloyd IF, first stage", 50, 7.0, latent=False)
_IF_UP = Kind("DeepFloyd IF, enlarging stage", 30, 4.0, latent=False, low="image_noising_scheduler", up=("linear", 250))
_X4 = Kind("Stable Diffusion x4 upscaler", 30, 9.0, low="low_res_scheduler", up=("none", 20))
KINDS = {
    "StableDiffusionPipeline": _SD,
    "StableDiffusionImg2ImgPipeline": _SD,
    "StableDiffusionInpaintPipeline": _PAINT,
    "StableDiffusionUpscalePipeline": Kind(
        "Stable Diffusion x4 upscaler", 30, 9.0, low="low_res_scheduler", up=("none", 20)
    ),
    "StableDiffusionXLPipeline": _XL,
    "StableDiffusionXLImg2ImgPipeline": _XL,
    "IFPipeline": _IF,
    "IFSuperResolutionPipeline": _IF_UP,
}
# What each part must be; what is not named here (safety_checker, feature_extractor, watermarker) is not read.
_CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel"),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
}
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled", "squaredcos_cap_v2": "cosine"}
_PREDICTS: dict[str, type[Eps] | type[V]] = {"epsilon": Eps, "v_prediction": V}
_REFUSED = {
    "rescale_betas_zero_snr": (False, None),
    "trained_betas": (None,),
    "use_flow_sigmas": (False, None),
    # Else Euler's shows the network ln(sigma) / 4.
    "timestep_type": ("discrete", None),
    # "learned" is the log variance itself, not its place between two bounds.
    "variance_type": (None, "learned_range", "fixed_small", "fixed_large", "fixed_small_log", "fixed_large_log"),
}
# Those that show a network DDPM's index of its level; EDM's, and those of flows, show it something else.
_SCHEDULERS = (
    *("DDPM", "DDPMParallel", "DDIM", "DDIMParallel", "DDIMInverse", "PNDM", "LMSDiscrete", "EulerDiscrete"),
    *("EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverMultistep"),
    *("DPMSolverMultistepInverse", "DPMSolverSinglestep", "DPMSolverSDE", "DEISMultistep", "UniPCMultistep"),
    *("LCM", "TCD", "SASolver"),
)


@dataclass(frozen=True)
class Facts:
    """What a pipeline folder says of itself, and what it leaves to be assumed; nothing of its weights is read."""

    folder: pathlib.Path
    index: dict[str, Any]
    kind: Kind
    unet: dict[str, Any]
    config: UNetConfig
    scheduler: dict[str, Any]
    schedule: DDPM
    predicts: Parametrization
    low: tuple[dict[str, Any], DDPM] | None
    vae: dict[str, Any] | None
    assumed: dict[str, Any] = field(default_factory=dict)

    @property
    def factor(self) -> int:
        """Pixels a side of one latent."""
        blocks = (self.vae or {}).get("block_out_channels") or [64]
        return int(2 ** (len(blocks) - 1)) if self.vae is not None else 1

    @property
    def size(self) -> list[int]:
        """[H, W] of its pictures, in pixels."""
        side: Any = self.unet.get("sample_size")
        sides = list(side) if isinstance(side, list | tuple) else [side, side]
        if len(sides) != 2 or not all(type(one) is int and 1 <= one <= 8192 // self.factor for one in sides):
            raise ValueError(f"{self.folder / 'unet'}: sample_size: expected one or two sides, got {side!r:.80}")
        return [one * self.factor for one in sides]


def facts(folder: pathlib.Path) -> Facts:
    """Read and check the JSON of a pipeline folder. Raises FileNotFoundError, or ValueError naming file and entry."""
    index = parts.read(folder / INDEX)
    name = index.get("_class_name")
    if not _one_of(KINDS, name):
        raise ValueError(f"{folder / INDEX}: _class_name: expected one of {', '.join(KINDS)}, got {name!r:.80}")
    kind = KINDS[str(name)]
    needed = ["unet", "vae"] if kind.latent else ["unet"]
    needed += ["text_encoder"] if len(kind.text) == 1 else ["text_encoder", "text_encoder_2"]
    for part in needed:
        _need(folder, index, part)
    unet = parts.config(folder / "unet", "UNet2DConditionModel")
    vae = read_config(folder / "vae") if kind.latent else None
    try:
        config = to_config(unet, None if vae is None else vae.get("latent_channels", 4))
        cards.bounded(config.to_dict())
        _fits(kind, config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / 'unet' / 'config.json'}: {error}") from None
    scheduler, schedule, assumed = _scheduler(folder / "scheduler" / "scheduler_config.json")
    predicts = scheduler.get("prediction_type", "epsilon")
    if not _one_of(_PREDICTS, predicts):
        raise ValueError(
            f"{folder / 'scheduler'}: prediction_type: expected one of {', '.join(_PREDICTS)}, got {predicts!r:.80}"
        )
    assumed |= {} if "prediction_type" in scheduler else {"prediction_type": "epsilon"}
    low = None if kind.low is None else _scheduler(folder / kind.low / "scheduler_config.json")[:2]
    said = Facts(
        folder=folder,
        index=index,
        kind=kind,
        unet=unet,
        config=config,
        scheduler=scheduler,
        schedule=schedule,
        predicts=_PREDICTS[predicts](),
        low=low,
        vae=vae,
        assumed=assumed,
    )
    said.size  # noqa: B018  (for its refusal)
    return said


def _one_of(table: Mapping[str, Any], value: object) -> bool:
    # What JSON holds need not be a text, nor hashable.
    return isinstance(value, str) and value in table


def _need(folder: pathlib.Path, index: Mapping[str, Any], part: str) -> None:
    entry = index.get(part)
    name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if name not in _CLASSES[part]:
        raise ValueError(
            f"{folder / INDEX}: {part}: expected [library, {' or '.join(_CLASSES[part])}], got {entry!r:.80}"
        )


def _fits(kind: Kind, config: UNetConfig) -> None:
    """Raise ValueError where a network is not one of its pipeline's."""
    image = config.in_channels + 1 if kind.paint else 3 if kind.low else 0
    if config.image_channels != image:
        raise ValueError(
            f"in_channels: {kind.family}: expected {config.in_channels + image} ({config.in_channels} of what it draws "
            f"and {image} of an image condition), got {config.in_channels + config.image_channels}"
        )
    if bool(config.vector_width) != (len(kind.text) == 2):
        expected = "'text_time'" if len(kind.text) == 2 else "no 'text_time'"
        raise ValueError(f"addition_embed_type: {kind.family}: expected {expected}")
    if kind.low and not (config.aug or config.classes):
        raise ValueError(f"class_embed_type, num_class_embeds: {kind.family}: expected one of them, of the noise level")
    if not kind.low and (config.aug or config.classes):
        raise ValueError(f"class_embed_type, num_class_embeds: {kind.family}: expected neither")
    if (config.attention == "added") == kind.latent:
        raise ValueError(f"down_block_types: {kind.family}: the blocks are of another family")


def _scheduler(file: pathlib.Path) -> tuple[dict[str, Any], DDPM, dict[str, Any]]:
    """A scheduler's config, the noise levels it says, and what it leaves to be assumed."""
    values = parts.read(file)
    for entry, allowed in _REFUSED.items():
        if values.get(entry) not in allowed:
            raise ValueError(f"{file}: {entry}: expected {allowed[0]!r}, got {values[entry]!r:.80}")
    kind = values.get("_class_name")
    if not isinstance(kind, str) or kind.removesuffix("Scheduler") not in _SCHEDULERS:
        raise ValueError(f"{file}: _class_name: expected a scheduler of DDPM's noise levels, got {kind!r:.80}")
    given = {
        "schedule": values.get("beta_schedule", "linear"),
        "start": values.get("beta_start", 1e-4),
        "end": values.get("beta_end", 0.02),
        "steps": values.get("num_train_timesteps", 1000),
    }
    if not _one_of(_SCHEDULES, given["schedule"]):
        raise ValueError(
            f"{file}: beta_schedule: expected one of {', '.join(_SCHEDULES)}, got {given['schedule']!r:.80}"
        )
    names = {"schedule": "beta_schedule", "start": "beta_start", "end": "beta_end", "steps": "num_train_timesteps"}
    assumed = {name: given[key] for key, name in names.items() if name not in values}
    try:
        return values, DDPM(**{**given, "schedule": _SCHEDULES[given["schedule"]]}), assumed
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from None


def open_pipeline(folder: pathlib.Path, name: str | None = None) -> Model:
    """The model of a pipeline folder: weights in float32, its encoders opened with the first prompt.

    name: what it is called, if not as its folder; of a snapshot of the hub, whose folder is called by its revision.
    Raises FileNotFoundError, or ValueError naming what is damaged, of another kind, or does not fit; nothing
    half-loads.
    """
    said = facts(folder)
    spec = text_spec(said)
    codec: Codec = Pixels() if said.vae is None else open_autoencoder(folder / "vae")
    network, dtypes = diffusers_open.folder(folder / "unet", said.config, diffusers_open.linear_of(said.unet))
    files = parts.weights(folder / "unet").paths
    card = card_of(said, dtypes)
    if name is not None:
        card |= {"name": name, "provenance": {**card["provenance"], "revision": folder.name}}
    return assembled(said, spec, network, codec, card, files=files)


def assembled(
    said: Facts,
    spec: Mapping[str, Any],
    network: UNet,
    codec: Codec,
    card: Mapping[str, Any],
    *,
    files: Sequence[pathlib.Path],
) -> Model:
    """The model of a pipeline's parts; spec: of its text encoders, files: where its network's weights came from."""
    frame = said.schedule
    learned = said.config.out_channels == 2 * said.config.in_channels
    kind = LearnedVariance if learned else Denoiser
    denoiser = kind(network, Framed(frame, said.predicts), frame.lo, frame.hi)
    return Model(denoiser, codec, {"text": LazyEncoder(spec)}, card, source=str(said.folder), files=files)


def text_spec(said: Facts) -> dict[str, Any]:
    """What `guided.text.open` makes the pipeline's encoder of."""
    towers = []
    for i, tower in enumerate(said.kind.text):
        folder = said.folder / ("text_encoder" if i == 0 else f"text_encoder_{i + 1}")
        parts.read(folder / "config.json")
        found = locate(str(folder))
        tokenizer_folder(folder)
        _safetensors.headers(_safetensors.Files(found.weights))
        if said.index[folder.name][1] == "T5EncoderModel" and said.kind.latent:
            raise ValueError(f"{said.folder / INDEX}: {folder.name}: {said.kind.family} reads CLIP, not T5")
        towers.append({"from": str(folder), **tower})
    zeros = bool(said.index.get("force_zeros_for_empty_prompt", len(towers) == 2)) and len(towers) == 2
    return {"towers": towers, "null": "zeros" if zeros else "empty", "length": None if said.kind.latent else 77}


def enlarging(low: DDPM, up: str, index: int) -> dict[str, Any]:
    """What a card says of a published network that enlarges by 4: its noise on the picture, usually at `index`."""
    levels = low.log_sigmas().exp()
    usual = float(levels[min(index, len(levels) - 1)])
    augment = Augment("noise", max(usual, min(float(levels[-1]), 16.0)), usual)
    return Translation((Down(4, up=up),), augment).card()


def card_of(said: Facts, dtypes: Mapping[str, str]) -> dict[str, Any]:
    """The card of its model; dtypes: what its network's tensors are stored in."""
    edge: dict[str, Any] = {}
    if said.config.vector_width:
        edge["sizes"] = said.unet["addition_time_embed_dim"]
    if said.low is not None:
        edge["low"] = dataclasses.asdict(said.low[1])
    translate = None if said.low is None else enlarging(said.low[1], *said.kind.up)
    if said.kind.paint:
        edge["paint"] = True
    usual, others = floats(dtypes)
    layout: dict[str, Any] = {"name": LAYOUT, "dtype": usual, "dtypes": others}
    layout |= {"index": said.index, "unet": said.unet, "scheduler": said.scheduler}
    layout |= {} if said.low is None else {str(said.kind.low): said.low[0]}
    return {
        "name": said.folder.resolve().name,
        "size": said.size,
        "defaults": {"steps": said.kind.steps, "w": said.kind.w},
        "edge": edge,
        "translate": translate,
        "layout": layout,
        "provenance": {"pipeline": said.index["_class_name"], "family": said.kind.family, "assumed": said.assumed},
    }
