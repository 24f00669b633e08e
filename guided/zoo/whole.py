"""A whole latent diffusion in one file: which parts it has, what each is, and all its tensors in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from guided.zoo import diffusers_names, ldm_names, names
from guided.zoo.deduce import Shapes
from guided.zoo.diffusers_config import to_config
from guided.zoo.names import Pair
from guided.zoo.original import Options, layout
from guided.zoo.recognise import Recognised, blank

UNET, VAE, EMA = "model.diffusion_model.", "first_stage_model.", "model_ema."
SD, XL = "cond_stage_model.", "conditioner.embedders."
WANTED = "its U-Net works on latents: a diffusers folder holds all parts, zoo.network gives the U-Net alone"
HEAD = 64
"""The width of a head in every published tower of CLIP's text."""
# What is beside the parts within their prefixes, and is not read: buffers, and what trained them.
_IDLE = (
    *("text_model.embeddings.position_ids", "attn_mask", "logit_scale", "text_projection"),
    *("loss.", "model_ema."),
)


@dataclass(frozen=True)
class Tower:
    """A text encoder in a file: the prefix of its names, and the config.json of transformers that it needs.

    clip: it has transformers' names, else open_clip's. part: its folder in a pipeline.
    """

    prefix: str
    clip: bool
    part: str
    config: Mapping[str, Any]

    @property
    def projected(self) -> bool:
        """Whether its pooled state is read."""
        return list(self.config["architectures"]) == ["CLIPTextModelWithProjection"]

    def pairs(self) -> Iterator[Pair]:
        """Its tensors in the file and in its folder."""
        layers = self.config["num_hidden_layers"]
        own = ldm_names.clip(layers) if self.clip else ldm_names.open_clip(layers, self.projected)
        return ldm_names.within(own, self.prefix, self.part)


@dataclass(frozen=True)
class Whole:
    """All that a file's tensors make: the configs of the parts, and the pairs of their tensors."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    towers: tuple[Tower, ...]

    def table(self) -> list[Pair]:
        """Every tensor that is read: `ours` in the file, `theirs` in the parts, PART/NAME."""
        config = to_config(self.unet, self.vae["latent_channels"])
        linear = bool(self.unet["use_linear_projection"])
        original = [pair for pair in layout(config, Options(linear=linear)) if pair.theirs]
        theirs = diffusers_names.table(blank(config), linear)  # type: ignore[arg-type]
        unet = ldm_names.within(ldm_names.renamed(original, theirs), UNET, "unet")
        vae = ldm_names.within(ldm_names.autoencoder(self.vae), VAE, "vae")
        return [*unet, *vae, *(pair for tower in self.towers for pair in tower.pairs())]

    def others(self, found: Shapes) -> list[str]:
        """The tensors beside those that are read, without the copies of their moving averages."""
        read = {pair.ours for pair in self.table()}
        return sorted(name for name in found if name not in read and not name.startswith(EMA))


def towers(shapes: Shapes, xl: bool) -> tuple[Tower, ...]:
    """The text encoders of a file; ValueError where one is missing or damaged. xl: as SDXL has them, a pair."""
    if xl:
        return _clip(shapes, f"{XL}0.transformer.", "text_encoder"), _open_clip(shapes, f"{XL}1.model.", True)
    if any(name.startswith(f"{SD}model.") for name in shapes):
        return (_open_clip(shapes, f"{SD}model.", False),)
    return (_clip(shapes, f"{SD}transformer.", "text_encoder"),)


def _clip(shapes: Shapes, prefix: str, part: str) -> Tower:
    own = _within(shapes, prefix, "CLIP's text model in transformers' names")
    stem = "text_model.encoder.layers."
    layers = _count(own, stem)
    config = _config(
        own,
        prefix,
        layers,
        table="text_model.embeddings.token_embedding.weight",
        inner=f"{stem}0.mlp.fc1.weight",
        places="text_model.embeddings.position_embedding.weight",
    )
    tower = Tower(prefix, True, part, {**config, "hidden_act": "quick_gelu"})
    _fitting(tower, own)
    return tower


def _open_clip(shapes: Shapes, prefix: str, xl: bool) -> Tower:
    """open_clip's; SD 2 reads the states before its last layer, which the folder's model then does not have."""
    own = _within(shapes, prefix, "open_clip's text transformer")
    stem = "transformer.resblocks."
    layers = _count(own, stem)
    config = _config(
        own,
        prefix,
        layers if xl else layers - 1,
        table="token_embedding.weight",
        inner=f"{stem}0.mlp.c_fc.weight",
        places="positional_embedding",
    )
    config |= {"hidden_act": "gelu"}
    if xl:
        projection = _shape(own, prefix, "text_projection", 2)[1]
        config |= {"projection_dim": projection, "architectures": ["CLIPTextModelWithProjection"]}
    tower = Tower(prefix, False, "text_encoder_2" if xl else "text_encoder", config)
    last = f"{stem}{layers - 1}."
    _fitting(tower, {name: shape for name, shape in own.items() if xl or not name.startswith(last)})
    return tower


def _within(shapes: Shapes, prefix: str, what: str) -> dict[str, tuple[int, ...]]:
    own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    if not own:
        raise ValueError(f"{prefix}: not in the file: it has no text encoder ({what}); {WANTED}")
    return own


def _count(own: Shapes, stem: str) -> int:
    numbers = {name.removeprefix(stem).partition(".")[0] for name in own if name.startswith(stem)}
    count = len(numbers)
    if not 1 <= count <= 64 or numbers != {str(i) for i in range(count)}:
        raise ValueError(f"{stem}: expected layers 0, 1, ... without a hole, at most 64, got {sorted(numbers)[:8]}")
    return count


def _shape(own: Shapes, prefix: str, name: str, axes: int) -> tuple[int, ...]:
    shape = own.get(name)
    if shape is None:
        raise ValueError(f"{prefix}{name}: missing")
    if len(shape) != axes or not all(shape):
        raise ValueError(f"{prefix}{name}: expected {axes} axes, got {list(shape)}")
    return tuple(shape)


def _config(own: Shapes, prefix: str, layers: int, *, table: str, inner: str, places: str) -> dict[str, Any]:
    """The config.json of a tower, by the names of its table of words, of a layer's MLP, and of its positions."""
    vocabulary, width = _shape(own, prefix, table, 2)
    between, longest = (_shape(own, prefix, name, 2)[0] for name in (inner, places))
    if width % HEAD:
        raise ValueError(f"{prefix}: {width} wide: its heads stand in no tensor, and heads of {HEAD} do not divide it")
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "hidden_size": width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": between,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": longest,
        "model_type": "clip_text_model",
        "num_attention_heads": width // HEAD,
        "num_hidden_layers": layers,
        "pad_token_id": 1,
        "projection_dim": width,
        "vocab_size": vocabulary,
    }


def _fitting(tower: Tower, own: Shapes) -> None:
    def shape(name: str) -> tuple[int, ...]:
        return ldm_names.clip_shape(name.removeprefix(f"{tower.part}/"), tower.config)

    compare(tower.prefix, list(tower.pairs()), {tower.prefix + name: size for name, size in own.items()}, shape)


def compare(prefix: str, pairs: list[Pair], found: Shapes, shape: Any) -> None:
    """Raise ValueError, tensor by tensor, where a part of a file is not what its config says.

    shape: of a tensor of the parts, by its name PART/NAME.
    """
    from guided import _safetensors

    meta = {name: torch.empty(shape(name), device="meta") for pair in pairs for name in pair.theirs}
    wanted = {name: tuple(value.shape) for name, value in names.read(pairs, meta).items()}
    own = {
        name: tuple(size) for name, size in found.items()
        if name in wanted or not name.removeprefix(prefix).startswith(_IDLE)
    }  # fmt: skip
    wrong = _safetensors.compare(wanted, own)
    if wrong:
        raise ValueError(f"{prefix}: does not make a whole part: {wrong}")


def autoencoder(shapes: Shapes, found: Recognised) -> dict[str, Any]:
    """The config.json of the file's autoencoder, without its scale; ValueError where it is missing or damaged."""
    own = {name.removeprefix(VAE): shape for name, shape in shapes.items() if name.startswith(VAE)}
    if not own:
        raise ValueError(f"{VAE}: not in the file: it has no autoencoder; {WANTED}")
    levels = len({name.split(".")[2] for name in own if name.startswith("encoder.down.")})
    widths = [_shape(own, VAE, f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)]
    blocks = len({name.split(".")[4] for name in own if name.startswith("encoder.down.0.block.")})
    pictures = _shape(own, VAE, "encoder.conv_in.weight", 4)[1]
    latents = _shape(own, VAE, "decoder.conv_in.weight", 4)[1]
    if not 1 <= levels <= 8 or not 1 <= blocks <= 64 or any(width % 32 for width in widths):
        raise ValueError(f"{VAE}: expected 1 to 8 levels of widths that 32 groups divide, got {widths}")
    if latents != found.config.in_channels:
        raise ValueError(f"{VAE}: its latents have {latents} channels, the U-Net draws {found.config.in_channels}")
    config: dict[str, Any] = {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": pictures,
        "latent_channels": latents,
        "layers_per_block": blocks,
        "norm_num_groups": 32,
        "out_channels": pictures,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    inner = {name: tuple(shape) for name, shape in shapes.items() if name.startswith(VAE)}
    sizes = ldm_names.autoencoder_shapes(config)
    compare(VAE, list(ldm_names.within(ldm_names.autoencoder(config), VAE, "vae")), inner, lambda n: sizes[n[4:]])
    return config
