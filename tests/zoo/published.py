"""The `unet/config.json` values of published pipelines, and small networks of the same kinds."""

from __future__ import annotations

from typing import Any

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
UP_CROSS, UP_PLAIN = "CrossAttnUpBlock2D", "UpBlock2D"
SIMPLE, UP_SIMPLE = "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"
RES, UP_RES = "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"

SD15: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [CROSS, CROSS, CROSS, PLAIN],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": [UP_PLAIN, UP_CROSS, UP_CROSS, UP_CROSS],
}
SD21 = SD15 | {
    "_diffusers_version": "0.10.0.dev0",
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "use_linear_projection": True,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "upcast_attention": False,
}
SD21V = SD21 | {"sample_size": 96, "upcast_attention": True}
INPAINT = SD15 | {"in_channels": 9}
X4 = SD21 | {
    "_diffusers_version": "0.8.0",
    "attention_head_dim": 8,
    "block_out_channels": [256, 512, 512, 1024],
    "down_block_types": [PLAIN, CROSS, CROSS, CROSS],
    "up_block_types": [UP_CROSS, UP_CROSS, UP_CROSS, UP_PLAIN],
    "in_channels": 7,
    "num_class_embeds": 1000,
    "only_cross_attention": [True, True, True, False],
    "sample_size": 128,
}
SDXL = SD15 | {
    "_diffusers_version": "0.19.0.dev0",
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 2048,
    "cross_attention_norm": None,
    "down_block_types": [PLAIN, CROSS, CROSS],
    "dual_cross_attention": False,
    "encoder_hid_dim": None,
    "encoder_hid_dim_type": None,
    "mid_block_only_cross_attention": None,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "num_attention_heads": None,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": 2816,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "sample_size": 128,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": [UP_CROSS, UP_CROSS, UP_PLAIN],
    "upcast_attention": None,
    "use_linear_projection": True,
}
IF_I: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.17.0.dev0",
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64,
    "attention_head_dim": 64,
    "block_out_channels": [192, 384, 576, 768],
    "center_input_sample": False,
    "class_embed_type": None,
    "class_embeddings_concat": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "cross_attention_dim": 768,
    "cross_attention_norm": "group_norm",
    "down_block_types": [RES, SIMPLE, SIMPLE, SIMPLE],
    "downsample_padding": 1,
    "dual_cross_attention": False,
    "encoder_hid_dim": 4096,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 3,
    "layers_per_block": 3,
    "mid_block_only_cross_attention": None,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "out_channels": 6,
    "projection_class_embeddings_input_dim": None,
    "resnet_out_scale_factor": 1.0,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "scale_shift",
    "sample_size": 64,
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
    "timestep_post_act": None,
    "up_block_types": [UP_SIMPLE, UP_SIMPLE, UP_SIMPLE, UP_RES],
    "upcast_attention": False,
    "use_linear_projection": False,
}
# Levels, blocks and switches as diffusers' scripts/convert_if.py makes and checks them for "-II-" (in its functions
# superres_create_unet_diffusers_config, get_super_res_unet and verify_param_count; commit 6cb6eb3e). The widths stand
# in no public file that we found: of ten usual lists of multiples, (1, 2, 4, 6, 8) alone gives both the 450M parameters
# that DeepFloyd's README tells of IF-II-M (96 times it: 461M) and the 1.2B of IF-II-L (160 times it: 1.18B).
IF_II = IF_I | {
    "block_out_channels": [96, 192, 384, 576, 768],
    "class_embed_type": "timestep",
    "down_block_types": [RES, RES, RES, SIMPLE, SIMPLE],
    "in_channels": 6,
    "layers_per_block": [2, 2, 3, 5, 5],
    "mid_block_scale_factor": 1 / 0.7071,
    "only_cross_attention": True,
    "resnet_out_scale_factor": 1 / 0.7071,
    "resnet_skip_time_act": True,
    "sample_size": 256,
    "time_embedding_act_fn": "gelu",
    "time_embedding_dim": 768,
    "up_block_types": [UP_SIMPLE, UP_SIMPLE, UP_RES, UP_RES, UP_RES],
}
PUBLISHED = {
    "sd-1.5": SD15,
    "sd-2.1-base": SD21,
    "sd-2.1-v": SD21V,
    "sd-inpainting": INPAINT,
    "x4-upscaler": X4,
    "sdxl-base": SDXL,
    "if-i-m": IF_I,
    "if-ii-m": IF_II,
}

_SMALL: dict[str, Any] = {
    "_diffusers_version": "0.30.0",  # older ones have their sample_size changed by the pipelines
    "block_out_channels": [8, 16, 16, 24],
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "sample_size": 8,
}
_IF_SMALL = {
    "block_out_channels": [8, 16, 16, 24],
    "norm_num_groups": 4,
    "attention_head_dim": 8,
    "cross_attention_dim": 32,
    "encoder_hid_dim": 32,
    "addition_embed_type_num_heads": 4,
    "sample_size": 16,
}
SMALL: dict[str, dict[str, Any]] = {
    "sd-1.5": SD15 | _SMALL | {"attention_head_dim": 2},
    "sd-2.1-v": SD21V | _SMALL | {"attention_head_dim": [2, 4, 4, 6]},
    "sd-inpainting": INPAINT | _SMALL | {"attention_head_dim": 2},
    "x4-upscaler": X4 | _SMALL | {"attention_head_dim": 2},
    "sdxl-base": SDXL
    | _SMALL
    | {
        "block_out_channels": [8, 16, 24],
        "attention_head_dim": [1, 2, 3],
        "transformer_layers_per_block": [1, 2, 3],
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 10 + 24,
    },
    "if-i-m": IF_I | _IF_SMALL,
    "if-ii-m": IF_II
    | _IF_SMALL
    | {"block_out_channels": [8, 8, 16, 16, 24], "layers_per_block": [1, 1, 2, 2, 1], "time_embedding_dim": 24},
}
"""Each kind at reduced width, with a config that says so."""
