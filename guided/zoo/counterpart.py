"""Which of our networks a UNet2DConditionModel can be, and the config.json that says so."""

from __future__ import annotations

from typing import Any

from guided.nn import UNetConfig
from guided.zoo.diffusers_config import ADDED, MIDDLE, TRANSFORMER, to_config


def from_config(config: UNetConfig, waves: int = 256) -> dict[str, Any]:
    """The entries of a UNet2DConditionModel's config.json that give this network.

    waves: the width in which each of the six sizes beside pooled text is embedded. Raises ValueError naming the block
    that has no counterpart.
    """
    for name, refused in _without_counterpart(config).items():
        if refused:
            raise ValueError(f"{name}: UNet2DConditionModel has no counterpart to {refused}")
    family = ADDED if config.attention == "added" else TRANSFORMER
    attending, plain = family
    down = [attending if depth else plain for depth in config.depth]
    values: dict[str, Any] = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": config.in_channels + config.image_channels,
        "out_channels": config.out_channels,
        "flip_sin_to_cos": config.flip,
        "freq_shift": int(config.shift) if config.shift == int(config.shift) else config.shift,
        "down_block_types": down,
        "up_block_types": [family[block] for block in reversed(down)],
        "mid_block_type": None if config.middle_blocks == 0 else _middle_type(config),
        "block_out_channels": list(config.widths),
        "layers_per_block": list(config.blocks) if len(set(config.blocks)) > 1 else config.blocks[0],
        "act_fn": config.act,
        "dropout": config.dropout,
        "norm_num_groups": config.groups,
        "norm_eps": config.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "resnet_out_scale_factor": config.residual_scale,
        "mid_block_scale_factor": config.residual_scale,
        "time_embedding_dim": config.embedding,
        "attention_head_dim": _head_dims(config),
        "use_linear_projection": config.attention == "transformer",
    }
    values |= _text_entries(config)
    if config.classes:
        values["num_class_embeds"] = config.classes
    if config.aug:
        values["class_embed_type"] = "timestep"
    if config.vector_width:
        values |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": waves,
            "projection_class_embeddings_input_dim": config.vector_width,
        }
    # What comes out must go in again as the network that it came from.
    again = to_config(values, config.in_channels)
    for name, value in _effective(config).items():
        if _effective(again)[name] != value:
            raise ValueError(f"{name}: UNet2DConditionModel has no counterpart to {value!r}")
    return values


def _effective(config: UNetConfig) -> dict[str, Any]:
    """A config with its defaults filled in, and without what makes no difference."""
    values = config.to_dict()
    attending = [w for w, d in zip((*config.widths, config.widths[-1]), config.levels_and_middle, strict=True) if d]
    values["heads"] = [config.heads or width // config.head_width for width in attending]
    values["embed_width"], values["time_width"] = config.embedding, config.time_width or config.widths[0]
    values["text_only"] = [config.reads_text_only(i) for i in range(len(config.widths))]
    values["middle_depth"] = config.middle_depth if config.middle_blocks else 0
    idle = (
        "head_width",
        "fourier_std",
        *(() if config.aug else ("aug_scale",)),
        *(() if attending else ("attention",)),
    )
    return {name: value for name, value in values.items() if name not in idle}


def _text_entries(config: UNetConfig) -> dict[str, Any]:
    if not config.token_width:
        return {}
    values: dict[str, Any] = {"cross_attention_dim": config.context}
    if config.cross_width:
        values["encoder_hid_dim"] = config.token_width
    if config.pool_heads:
        values |= {"addition_embed_type": "text", "addition_embed_type_num_heads": config.pool_heads}
    if any(config.text_only) or config.middle_text_only:
        values["only_cross_attention"] = list(config.text_only) or [False] * len(config.widths)
        values["mid_block_only_cross_attention"] = config.middle_text_only
    if config.context_norm:
        values["cross_attention_norm"] = "group_norm"
    depths = [max(depth, 1) for depth in config.depth]
    if config.attention == "transformer" and config.middle_blocks:
        depths[-1] = config.depth[-1] or config.middle_depth
    values["transformer_layers_per_block"] = depths if len(set(depths)) > 1 else depths[0]
    return values


def _middle_type(config: UNetConfig) -> str:
    return "UNetMidBlock2D" if config.middle_blocks == 1 else MIDDLE[_kind(config)]


def _kind(config: UNetConfig) -> str:
    return "added" if config.attention == "added" else "transformer"


def _head_dims(config: UNetConfig) -> Any:
    if config.attention == "added":
        return config.head_width
    if config.heads:
        return config.heads
    return [width // config.head_width if width % config.head_width == 0 else 1 for width in config.widths]


def _without_counterpart(config: UNetConfig) -> dict[str, str]:
    """What of a network no UNet2DConditionModel has: the block of ours -> what it is, or nothing."""
    attends = any(config.levels_and_middle)
    kinds = {"self": "self-attention alone", "cross": "self- and cross-attention without a feed-forward"}
    unlike = config.attention in kinds and attends
    added = config.attention == "added"
    ragged = any(width % config.groups for width in config.widths)
    width = config.time_width or config.widths[0]
    waves = config.time != "sinusoidal" or config.max_period != 10_000 or width != config.widths[0]
    deepest = 1 if added else config.depth[-1] or config.middle_depth
    alike = config.middle_blocks == 2 and config.middle_depth == deepest > 0
    middle = config.middle_blocks == 0 or (config.middle_blocks == 1 and not config.middle_depth) or alike
    return {
        "conv_in: patch": f"squares of {config.patch} pixels as channels" if config.patch > 1 else "",
        "down, up: skips": "one skip a level" if config.skips != "every" else "",
        "attention": kinds[config.attention] if unlike else "",
        "attention: depth": "several blocks in a row" if added and max(config.levels_and_middle) > 1 else "",
        "resample": f"{config.resample!r} here" if config.resample != ("resblock" if added else "conv") else "",
        "middle": f"{config.middle_blocks} blocks with attention {config.middle_depth}" if not middle else "",
        "vector.features": "these features of the noise level" if waves else "",
        "vector.aug": f"a scale of {config.aug_scale}" if config.aug and config.aug_scale != 1 else "",
        "vector.guidance": "a guidance weight as an input (distilled)" if config.guidance else "",
        "vector": "a class and an augmentation level at once" if config.classes and config.aug else "",
        "vector.vector": "pooled text in two ways" if config.vector_width and config.pool_heads else "",
        "sequence.null": "a learned token before the text" if config.token_width and config.null_token else "",
        "sequence.norm": "a norm of the text" if config.token_norm else "",
        "space: presence": "a channel for where the image is given" if config.presence else "",
        "space: coordinates": "channels for the place of each pixel" if config.coordinates else "",
        "groups": f"{config.groups} groups, which do not divide {config.widths}" if ragged else "",
    }
