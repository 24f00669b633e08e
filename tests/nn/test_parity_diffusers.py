"""The arithmetic of Stable Diffusion 1, 2, XL and the x4 upscaler, and of DeepFloyd IF, at tiny widths.

The map below renames keys and stacks query, key and value; nothing else stands between their weights and ours.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from guided._compat import ensure_torchvision
from guided.cond import Cond
from guided.nn import UNet, UNetConfig
from tests.nn.tools import wake

RENAME = [
    (r"time_embedding\.linear_1", "vector.time.inner"),
    (r"time_embedding\.linear_2", "vector.time.outer"),
    (r"class_embedding\.linear_1", "vector.aug.inner"),
    (r"class_embedding\.linear_2", "vector.aug.outer"),
    (r"class_embedding\.weight", "vector.label.weight"),
    (r"add_embedding\.linear_1", "vector.vector.inner"),
    (r"add_embedding\.linear_2", "vector.vector.outer"),
    (r"add_embedding\.norm1", "sequence.pool.norm_in"),
    (r"add_embedding\.norm2", "sequence.pool.norm_out"),
    (r"add_embedding\.proj", "sequence.pool.proj"),
    (r"add_embedding\.pool\.positional_embedding", "sequence.pool.position"),
    (r"add_embedding\.pool\.(.)_proj", r"sequence.pool.to_\1"),
    (r"encoder_hid_proj", "sequence.project"),
    (r"conv_norm_out", "norm_out"),
    (r"mid_block\.", "middle."),
    (r"(down|up)_blocks\.(\d+)\.(?=res|att)", r"\1.\2.stages."),
    (r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0", r"\1.\2.move"),
    (r"resnets\.(\d+)\.", r"\1.block."),
    (r"attentions\.(\d+)\.", r"\1.attention.0."),
    (r"time_emb_proj", "embed"),
    (r"conv_shortcut", "skip"),
    (r"group_norm", "norm"),
    (r"norm_cross", "context_norm"),
    (r"to_out\.0", "out"),
    (r"transformer_blocks", "layers"),
    (r"attn2", "cross_attention"),
    (r"ff\.net\.0\.proj", "mlp_in"),
    (r"ff\.net\.2", "mlp_out"),
]


STACKS = {
    "qkv": ("to_q", "to_k", "to_v"),
    "kv": ("to_k", "to_v"),
    "q": ("to_q",),
    "text_kv": ("add_k_proj", "add_v_proj"),
}


def renamed(theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for key, value in theirs.items():
        for pattern, new in RENAME:
            key = re.sub(pattern, new, key)
        first = key.split("attn1")[0] + "first_cross_attention.q.weight"
        state[key.replace("attn1", "first_cross_attention" if first in ours else "self_attention")] = value
    result = {}
    for key, like in ours.items():
        stem, _, end = key.rpartition(".")
        stem, _, name = stem.rpartition(".")
        if key == "vector.label.weight":  # ours has one more row, for no class
            result[key] = torch.cat((state.pop(key), torch.zeros_like(like[:1])))
        elif key in state:
            result[key] = state.pop(key).reshape(like.shape)
        elif name in STACKS:
            parts = [f"{stem}.{part}.{end}" for part in STACKS[name]]
            result[key] = torch.cat([state.pop(part) for part in parts if part in state])
        elif key.startswith("vector.null"):
            result[key] = torch.zeros_like(like)
    assert not state, f"not placed: {sorted(state)}"
    return result


SD: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
OURS: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "widths": (8, 16),
    "blocks": 2,
    "depth": (1, 0),
    "scale_shift": False,
    "attention": "transformer",
    "groups": 4,
    "heads": 2,
    "token_width": 12,
    "null_token": False,
}
XL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 3),
    "use_linear_projection": True,
    "attention_head_dim": (2, 4),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 10 + 6 * 4,
}
IF: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 6,
    "out_channels": 6,
    "block_out_channels": (8, 16),
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "layers_per_block": 2,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "cross_attention_dim": 16,
    "encoder_hid_dim": 12,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
}
IF_LARGE = {
    "cross_attention_dim": 64,
    "class_embed_type": "timestep",
    "cross_attention_norm": "group_norm",
    "only_cross_attention": (False, True),
    "mid_block_only_cross_attention": True,
    "mid_block_scale_factor": 1.414,
    "resnet_out_scale_factor": 1.414,
    "resnet_skip_time_act": True,
    "time_embedding_act_fn": "gelu",
}
OURS_IF: dict[str, Any] = {
    "in_channels": 3,
    "image_channels": 3,
    "out_channels": 6,
    "widths": (8, 16),
    "blocks": 2,
    "depth": (0, 1),
    "resample": "resblock",
    "attention": "added",
    "act": "gelu",
    "groups": 4,
    "head_width": 8,
    "token_width": 12,
    "cross_width": 16,
    "pool_heads": 2,
    "null_token": False,
}
OURS_IF_LARGE = {
    "cross_width": 64,
    "aug": True,
    "aug_scale": 1.0,
    "context_norm": True,
    "text_only": (False, True),
    "middle_text_only": True,
    "residual_scale": 1.414,
}
CASES = {
    "sd1": (SD, OURS),
    "sd2": (
        SD | {"use_linear_projection": True, "attention_head_dim": (1, 2)},
        OURS | {"heads": None, "head_width": 8},
    ),
    "sdxl": (SD | XL, OURS | {"depth": (0, 3), "middle_depth": 3, "heads": None, "head_width": 4, "vector_width": 34}),
    "x4": (
        SD | {"only_cross_attention": (True, False), "num_class_embeds": 6, "in_channels": 7},
        OURS | {"text_only": (True, False), "classes": 6, "image_channels": 3},
    ),
    "if": (IF, OURS_IF),
    "if-large": (IF | IF_LARGE, OURS_IF | OURS_IF_LARGE),
}


def pair(name: str) -> tuple[Any, UNet]:
    pytest.importorskip("diffusers")
    ensure_torchvision()
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    theirs = UNet2DConditionModel(**CASES[name][0]).double().eval()
    wake(theirs)
    ours = UNet(UNetConfig.from_dict(CASES[name][1])).double()
    ours.load_state_dict(renamed(theirs.state_dict(), ours.state_dict()))
    return theirs, ours


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_the_published_arithmetic(name: str) -> None:
    theirs, ours = pair(name)
    config = ours.config
    f64 = torch.float64
    x = torch.randn(2, config.in_channels, 8, 12, dtype=f64)
    t = torch.tensor([981.0, 3.0])
    tokens = torch.randn(2, 5, 12, dtype=f64)
    image = torch.randn(2, config.image_channels, 8, 12, dtype=f64) if config.image_channels else None
    label = torch.tensor([1, 4]) if config.classes else None
    aug = torch.tensor([250.0, 0.0]) if config.aug else None
    pooled, times = torch.randn(2, 10, dtype=f64), torch.rand(2, 6) * 1000
    extra, vector = None, None
    if config.vector_width:
        extra = {"text_embeds": pooled, "time_ids": times}
        waves = theirs.add_time_proj(times.flatten()).reshape(2, -1)
        vector = torch.cat((pooled, waves.double()), -1)
    mask = torch.ones(2, 5, dtype=torch.bool)
    want = theirs(
        x if image is None else torch.cat((x, image), 1),
        t,
        encoder_hidden_states=tokens,
        class_labels=label if aug is None else aug,
        added_cond_kwargs=extra,
    ).sample
    cond = Cond(label=label, tokens=tokens, mask=mask, vector=vector, image=image, aug=aug)
    got = ours(x, t, cond)
    assert (got - want).norm() < 1e-5 * want.norm()
    assert (ours(x, t + 100, cond) - want).norm() > 1e-3 * want.norm()
    assert (ours(x, t, Cond(label=label, vector=vector, image=image, aug=aug)) - want).norm() > 1e-3 * want.norm()
