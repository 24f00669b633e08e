"""The configs that the authors publish beside their checkpoints are those of the checkpoints.

Values: the commands in guided-diffusion's README; configs/stable-diffusion/v1-inference.yaml of CompVis;
v2-inference-v.yaml and x4-upscaling.yaml of Stability-AI/stablediffusion; sd_xl_base.yaml of generative-models.
"""

from __future__ import annotations

from typing import Any

import pytest

from guided.denoiser import Eps, V
from guided.frames import DDPM
from guided.zoo.families import FAMILIES, LATENT
from guided.zoo.recognise import expected, recognise

_ADM: dict[str, Any] = {
    "diffusion_steps": 1000,
    "learn_sigma": True,
    "noise_schedule": "linear",
    "num_res_blocks": 2,
    "resblock_updown": True,
    "use_fp16": True,
    "use_scale_shift_norm": True,
}
_LDM: dict[str, Any] = {"image_size": 32, "in_channels": 4, "out_channels": 4, "num_res_blocks": 2, "legacy": False}
_SD: dict[str, Any] = {
    **_LDM,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "channel_mult": [1, 2, 4, 4],
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "use_checkpoint": True,
}


def ldm(unet: dict[str, Any], **beside: Any) -> dict[str, Any]:
    noise = {"linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000, **beside}
    told = {**noise, "scale_factor": 0.18215, "first_stage_key": "jpg", "cond_stage_trainable": False, "use_ema": False}
    return {"model": {"target": "ldm.models.diffusion.ddpm", "params": {**told, "unet_config": {"params": unet}}}}


CONFIGS: dict[str, dict[str, Any]] = {
    "adm-64": _ADM
    | {
        "attention_resolutions": "32,16,8",
        "class_cond": True,
        "dropout": 0.1,
        "image_size": 64,
        "noise_schedule": "cosine",
        "num_channels": 192,
        "num_head_channels": 64,
        "num_res_blocks": 3,
        "use_new_attention_order": True,
    },
    "adm-128": _ADM
    | {
        "attention_resolutions": "32,16,8",
        "class_cond": True,
        "image_size": 128,
        "num_channels": 256,
        "num_heads": 4,
    },
    "adm-256": _ADM
    | {
        "attention_resolutions": "32,16,8",
        "class_cond": True,
        "image_size": 256,
        "num_channels": 256,
        "num_head_channels": 64,
    },
    "adm-64-to-256": _ADM
    | {
        "attention_resolutions": "32,16,8",
        "class_cond": True,
        "large_size": 256,
        "small_size": 64,
        "num_channels": 192,
        "num_heads": 4,
    },
    "adm-classifier-64": {
        "image_size": 64,
        "classifier_attention_resolutions": "32,16,8",
        "classifier_depth": 4,
        "classifier_width": 128,
        "classifier_pool": "attention",
        "classifier_resblock_updown": True,
        "classifier_use_scale_shift_norm": True,
    },
    "sd-1": ldm(_SD | {"num_heads": 8, "context_dim": 768}),
    "sd-2": ldm(
        _SD | {"num_head_channels": 64, "context_dim": 1024, "use_linear_in_transformer": True, "use_fp16": True},
        parameterization="v",
    ),
    "sd-x4-upscaler": ldm(
        _LDM
        | {
            "in_channels": 7,
            "num_classes": 1000,
            "model_channels": 256,
            "attention_resolutions": [2, 4, 8],
            "channel_mult": [1, 2, 2, 4],
            "disable_self_attentions": [True, True, True, False],
            "disable_middle_self_attn": False,
            "num_heads": 8,
            "use_spatial_transformer": True,
            "transformer_depth": 1,
            "context_dim": 1024,
            "use_linear_in_transformer": True,
        },
        parameterization="v",
        linear_start=0.0001,
        linear_end=0.02,
    ),
    "sdxl-base": {
        "model": {
            "target": "sgm.models.diffusion.DiffusionEngine",
            "params": {
                "scale_factor": 0.13025,
                "network_config": {
                    "params": {
                        "adm_in_channels": 2816,
                        "num_classes": "sequential",
                        "use_checkpoint": True,
                        "in_channels": 4,
                        "out_channels": 4,
                        "model_channels": 320,
                        "attention_resolutions": [4, 2],
                        "num_res_blocks": 2,
                        "channel_mult": [1, 2, 4],
                        "num_head_channels": 64,
                        "use_linear_in_transformer": True,
                        "transformer_depth": [1, 2, 10],
                        "context_dim": 2048,
                        "spatial_transformer_attn_type": "softmax-xformers",
                    }
                },
            },
        }
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_authors_config_is_the_checkpoints(name: str) -> None:
    family = next(one for one in FAMILIES if one.name == name)
    shapes = expected(family.config, family.options, family.size if family.classifier else None)
    found = recognise(shapes, CONFIGS[name])
    assert (found.family, found.config, found.options) == (name, family.config, family.options)
    # The classifier's flags name no heads: they are written in its code.
    assert family.classifier or not {"heads", "head_width", "dropout"} & set(found.assumed)
    assert found.schedule == family.schedule and (found.predicts or Eps()) == family.predicts


def test_what_the_yaml_says_of_the_noise() -> None:
    family = next(one for one in FAMILIES if one.name == "sd-2")
    found = recognise(expected(family.config, family.options), CONFIGS["sd-2"])
    assert found.schedule == LATENT and found.predicts == V() and not set(found.assumed) & {"schedule", "predicts"}
    assert recognise(expected(family.config, family.options)).assumptions()["predicts"] == "V()"
    assert DDPM("scaled", 0.00085, 0.012) == LATENT


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("blocks", [1, 4, [2, 2, 2], "2"])
def test_blocks_of_another_network_are_not_believed(name: str, blocks: Any) -> None:
    family = next(one for one in FAMILIES if one.name == name)
    shapes = expected(family.config, family.options, family.size if family.classifier else None)
    key = "classifier_depth" if family.classifier else "num_res_blocks"
    heads = {"num_heads": 8} if family.config.heads else {"num_head_channels": 64}
    if blocks == 4 and name == "adm-classifier-64":
        recognise(shapes, {**heads, key: blocks})
    elif not (blocks == [2, 2, 2] and name == "sdxl-base"):
        with pytest.raises(ValueError, match="config: num_res_blocks: says"):
            recognise(shapes, {**heads, key: blocks})
