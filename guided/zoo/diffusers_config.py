"""The `config.json` of a UNet2DConditionModel as our `UNetConfig`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guided.nn import UNetConfig

DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 4,
    "out_channels": 4,
    "center_input_sample": False,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "only_cross_attention": False,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "dropout": 0.0,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "attention_head_dim": 8,
    "num_attention_heads": None,
    "dual_cross_attention": False,
    "use_linear_projection": False,
    "class_embed_type": None,
    "addition_embed_type": None,
    "addition_time_embed_dim": None,
    "num_class_embeds": None,
    "upcast_attention": False,
    "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False,
    "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "time_embedding_act_fn": None,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None,
    "attention_type": "default",
    "class_embeddings_concat": False,
    "mid_block_only_cross_attention": None,
    "cross_attention_norm": None,
    "addition_embed_type_num_heads": 64,
}
"""What the class takes for an entry that its config.json does not name."""

# What has no counterpart in our U-Net, except at this value.
FIXED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "downsample_padding": (1,),
    "reverse_transformer_layers_per_block": (None,),
    "encoder_hid_dim_type": (None, "text_proj"),
    "num_attention_heads": (None,),
    "dual_cross_attention": (False,),
    "class_embed_type": (None, "timestep"),
    "addition_embed_type": (None, "text", "text_time"),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "class_embeddings_concat": (False,),
    "cross_attention_norm": (None, "group_norm"),
    "act_fn": ("silu", "swish", "gelu"),
}
_ACTS = {"silu": "silu", "swish": "silu", "gelu": "gelu", None: None}

# Down block -> up block, those that attend to text first; and the middle block of each family.
TRANSFORMER = {"CrossAttnDownBlock2D": "CrossAttnUpBlock2D", "DownBlock2D": "UpBlock2D"}
ADDED = {"SimpleCrossAttnDownBlock2D": "SimpleCrossAttnUpBlock2D", "ResnetDownsampleBlock2D": "ResnetUpsampleBlock2D"}
MIDDLE = {"transformer": "UNetMidBlock2DCrossAttn", "added": "UNetMidBlock2DSimpleCrossAttn"}


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the defaults of the class; ValueError for another class or an entry that is not known."""
    if not isinstance(values, Mapping):
        raise ValueError(f"expected a mapping, got {type(values).__name__}")
    name = values.get("_class_name", "UNet2DConditionModel")
    if name != "UNet2DConditionModel":
        raise ValueError(f"_class_name: expected 'UNet2DConditionModel', got {name!r:.80}")
    given = {key: value for key, value in values.items() if not key.startswith("_")}
    unknown = sorted(set(given) - set(DEFAULTS))
    if unknown:
        raise ValueError(
            f"{unknown[0]}: not an entry of UNet2DConditionModel known here, got {given[unknown[0]]!r:.80}"
        )
    full = {**DEFAULTS, **given}
    for key, allowed in FIXED.items():
        if not any(full[key] == value and type(full[key]) is type(value) for value in allowed):
            expected = " or ".join(repr(value) for value in allowed)
            raise ValueError(f"{key}: expected {expected}, got {full[key]!r:.80}: our U-Net has no counterpart to it")
    return full


def to_config(values: Mapping[str, Any], channels: int | None = None) -> UNetConfig:
    """Our config of a UNet2DConditionModel's.

    channels: of what it draws (the rest of its input is an image condition); None: 3 where it gives out 3 or 6, a
    picture or one with its variance, else all it gives out. Raises ValueError naming the entry that has no counterpart.
    """
    full = complete(values)
    for key in ("in_channels", "out_channels"):
        if type(full[key]) is not int:
            raise ValueError(f"{key}: expected a whole number, got {full[key]!r:.80}")
    widths = _whole("block_out_channels", full["block_out_channels"])
    count = len(widths)
    kind, depth = _blocks(full, count)
    drawn = channels or (3 if full["out_channels"] in (3, 6) else full["out_channels"])
    if full["in_channels"] < drawn or full["out_channels"] not in (drawn, 2 * drawn):
        raise ValueError(
            f"in_channels, out_channels: expected at least {drawn}, and {drawn} or {2 * drawn}, "
            f"got {full['in_channels']} and {full['out_channels']}"
        )
    _norms(full, widths)
    fields: dict[str, Any] = {
        "in_channels": drawn,
        "image_channels": full["in_channels"] - drawn,
        "out_channels": full["out_channels"],
        "widths": widths,
        "blocks": _each("layers_per_block", full["layers_per_block"], count),
        "resample": "resblock" if kind == "added" else "conv",
        "scale_shift": full["resnet_time_scale_shift"] == "scale_shift",
        "act": _ACTS[full["act_fn"]],
        "dropout": full["dropout"],
        "groups": full["norm_num_groups"],
        "norm_eps": full["norm_eps"],
        "depth": depth,
        "embed_width": full["time_embedding_dim"] or 4 * widths[0],
        "flip": full["flip_sin_to_cos"],
        "shift": full["freq_shift"],
        "null_token": False,
        "residual_scale": _residual_scale(full, kind),
        **_middle(full, kind, count),
    }
    fields |= _text(full, kind, fields) | _heads(full, kind, fields) | _vector(full)
    return UNetConfig.from_dict(fields)


def _blocks(full: Mapping[str, Any], count: int) -> tuple[str, tuple[int, ...]]:
    """The kind of attention, and its depth at each level."""
    down = _each("down_block_types", full["down_block_types"], count)
    ups = _each("up_block_types", full["up_block_types"], count)
    families = {"transformer": TRANSFORMER, "added": ADDED}
    kind = next((name for name, family in families.items() if down[0] in list(family)), None)
    for i, block in enumerate(down):
        if kind is None or block not in list(families[kind]):
            family = [*TRANSFORMER, *ADDED] if kind is None else list(families[kind])
            raise ValueError(f"down_block_types[{i}]: expected {' or '.join(family)}, got {block!r:.80}")
        up = ups[count - 1 - i]
        if up != families[kind][block]:
            raise ValueError(f"up_block_types[{count - 1 - i}]: expected {families[kind][block]}, got {up!r:.80}")
    assert kind is not None
    layers = _each("transformer_layers_per_block", full["transformer_layers_per_block"], count)
    if not all(type(layer) is int for layer in layers):
        raise ValueError(f"transformer_layers_per_block: expected whole numbers, got {layers!r:.80}")
    attends = [block in ("CrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D") for block in down]
    return kind, tuple((layer if kind == "transformer" else 1) * on for layer, on in zip(layers, attends, strict=True))


def _middle(full: Mapping[str, Any], kind: str, count: int) -> dict[str, Any]:
    block = full["mid_block_type"]
    if block is None:
        return {"middle_blocks": 0}
    if block == "UNetMidBlock2D":
        return {"middle_blocks": 1, "middle_depth": 0}
    if block != MIDDLE[kind]:
        raise ValueError(f"mid_block_type: expected {MIDDLE[kind]}, UNetMidBlock2D or null, got {block!r:.80}")
    layers = _each("transformer_layers_per_block", full["transformer_layers_per_block"], count)
    return {"middle_blocks": 2, "middle_depth": layers[-1] if kind == "transformer" else 1}


def _residual_scale(full: Mapping[str, Any], kind: str) -> float:
    """One divisor of residual sums; theirs have one for the levels (of IF's blocks alone) and one for the middle."""
    level, middle = full["resnet_out_scale_factor"], full["mid_block_scale_factor"]
    if (level != middle and full["mid_block_type"] is not None) or (kind == "transformer" and level != 1):
        expected = level if kind == "added" else 1
        raise ValueError(
            f"mid_block_scale_factor, resnet_out_scale_factor: expected both to be {expected}, got {middle} and {level}"
        )
    # IF's blocks may take the activation of the embedding once for all; ours always do, which is the same.
    act, skip = full["time_embedding_act_fn"], full["resnet_skip_time_act"]
    if not (act is None and skip is False) and not (
        kind == "added" and skip is True and act in list(_ACTS) and _ACTS[act] == _ACTS[full["act_fn"]]
    ):
        raise ValueError(
            "time_embedding_act_fn, resnet_skip_time_act: expected null and false, or in blocks of DeepFloyd IF "
            f"{full['act_fn']!r} and true, got {act!r} and {skip!r}"
        )
    return float(level)


def _norms(full: Mapping[str, Any], widths: Sequence[int]) -> None:
    groups = full["norm_num_groups"]
    if not isinstance(groups, int) or groups < 1 or any(width % groups for width in widths):
        raise ValueError(f"norm_num_groups: expected a divisor of block_out_channels {list(widths)}, got {groups!r}")


def _text(full: Mapping[str, Any], kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """What attends to text, and what the text is."""
    count, attention = len(fields["widths"]), any(fields["depth"]) or fields.get("middle_depth")
    read = full["encoder_hid_dim"] or _same("cross_attention_dim", full["cross_attention_dim"], count)
    pool = full["addition_embed_type_num_heads"] if full["addition_embed_type"] == "text" else 0
    if not attention and not pool:
        return {"attention": "self"}
    only = _each("only_cross_attention", full["only_cross_attention"], count)
    middle = full["mid_block_only_cross_attention"]
    if middle is None:
        middle = full["only_cross_attention"] if isinstance(full["only_cross_attention"], bool) else False
    width = _same("cross_attention_dim", full["cross_attention_dim"], count)
    if full["cross_attention_norm"] == "group_norm" and width % 32:
        raise ValueError(f"cross_attention_dim: expected a multiple of 32 under cross_attention_norm, got {width}")
    return {
        "attention": kind,
        "token_width": read,
        "cross_width": width if full["encoder_hid_dim"] else None,
        "pool_heads": pool,
        "text_only": [bool(one) for one in only] if any(only) else (),
        "middle_text_only": bool(middle) and kind == "added",
        "context_norm": kind == "added" and full["cross_attention_norm"] == "group_norm",
    }


def _heads(full: Mapping[str, Any], kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """`attention_head_dim` is the number of heads in transformers, in spite of its name, and the width of one in IF."""
    count = len(fields["widths"])
    given = _each("attention_head_dim", full["attention_head_dim"], count)
    used = [i for i in range(count) if fields["depth"][i]]
    used += [count - 1] if fields.get("middle_depth") else []
    if not used:
        return {}
    values = [given[i] for i in used]
    if not all(type(value) is int and value > 0 for value in values):
        raise ValueError(f"attention_head_dim: expected whole numbers above 0, got {full['attention_head_dim']!r:.80}")
    divides = [fields["widths"][i] % value == 0 for i, value in zip(used, values, strict=True)]
    widths = {fields["widths"][i] // value for i, value in zip(used, values, strict=True)}
    if not all(divides):
        raise ValueError(f"attention_head_dim: expected divisors of block_out_channels {fields['widths']}, got {given}")
    if kind == "added":
        return {"head_width": _same("attention_head_dim", values, len(values))}
    if len(set(values)) == 1:
        return {"heads": values[0]}
    if len(widths) == 1:
        return {"head_width": widths.pop()}
    raise ValueError(
        "attention_head_dim: expected one number of heads for all levels, or numbers that give heads of one width, "
        f"got {given} for the widths {fields['widths']}"
    )


def _vector(full: Mapping[str, Any]) -> dict[str, Any]:
    """What is added to the embedding of the noise level."""
    found: dict[str, Any] = {}
    if full["class_embed_type"] == "timestep":
        found |= {"aug": True, "aug_scale": 1.0}
    elif full["num_class_embeds"] is not None:
        found["classes"] = full["num_class_embeds"]
    if full["addition_embed_type"] == "text_time":
        if _ACTS[full["act_fn"]] != "silu":
            raise ValueError(f"act_fn: expected 'silu' beside addition_embed_type 'text_time', got {full['act_fn']!r}")
        width, waves = full["projection_class_embeddings_input_dim"], full["addition_time_embed_dim"]
        if not isinstance(width, int) or not isinstance(waves, int) or width <= 6 * waves:
            raise ValueError(
                "projection_class_embeddings_input_dim, addition_time_embed_dim: expected the width of the pooled text "
                f"and six embeddings together, and that of one embedding, got {width!r} and {waves!r}"
            )
        found["vector_width"] = width
    return found


def _whole(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or not value or not all(type(v) is int and v > 0 for v in value):
        raise ValueError(f"{name}: expected a list of whole numbers above 0, got {value!r:.80}")
    return tuple(value)


def _each(name: str, value: Any, count: int) -> list[Any]:
    """One value a level: the list, or one for all."""
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name}: expected {count} entries, one for each of block_out_channels, got {value!r:.80}")
    return list(value)


def _same(name: str, value: Any, count: int) -> int:
    values = _each(name, value, count)
    if len(set(map(repr, values))) != 1 or type(values[0]) is not int or values[0] < 1:
        raise ValueError(f"{name}: expected one whole number above 0 for all levels, got {value!r:.80}")
    return values[0]
