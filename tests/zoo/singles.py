"""Tiny latent pipelines as whole single files: diffusers' weights under the original names, by rules of their own.

The rules are those by which the published files and folders differ, tensor by tensor, and share nothing with guided.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.nn.tools import wake
from tests.zoo import pipelines
from tests.zoo.published import SD15, SD21, SD21V, SDXL, X4

_TINY: dict[str, Any] = {
    "_diffusers_version": "0.30.0",
    "block_out_channels": [32, 64, 64, 64],
    "cross_attention_dim": 128,
    "sample_size": 8,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": SD15 | _TINY | {"attention_head_dim": 2},
    "sd2": SD21V | _TINY | {"attention_head_dim": [1, 2, 2, 2]},
    "sd2-base": SD21 | _TINY | {"attention_head_dim": [1, 2, 2, 2]},
    "inpainting": SD15 | _TINY | {"attention_head_dim": 2, "in_channels": 9},
    "x4": X4 | _TINY | {"attention_head_dim": 2, "num_class_embeds": 1000},
    "sdxl": SDXL
    | _TINY
    | {
        "block_out_channels": [32, 64, 64],
        "attention_head_dim": [1, 2, 2],
        "transformer_layers_per_block": [1, 2, 3],
        "cross_attention_dim": 256,
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 32 + 24,
    },
}
_HEADS: dict[str, Any] = {"image_size": 8, "num_heads": 2}
_WIDTHS: dict[str, Any] = {"image_size": 8, "num_head_channels": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd1": _HEADS,
    "inpainting": _HEADS,
    "sd2": _WIDTHS,
    "sd2-base": _WIDTHS | {"parameterization": "eps"},
    "sdxl": _WIDTHS,
    "x4": _HEADS
    | {
        "linear_start": 1e-4,
        "linear_end": 0.02,
        "parameterization": "v",
        "disable_self_attentions": [True, True, True, False],
    },
}
"""What of a tiny network stands in no tensor."""


WEIGHTS = "model.safetensors"


def folder(kind: str, place: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The pipeline of a kind, saved by diffusers itself."""
    import diffusers

    torch.manual_seed(1)
    network = diffusers.UNet2DConditionModel.from_config(UNETS[kind]).eval()
    wake(network)
    scales = {"sdxl": 0.13025, "x4": 0.08333}
    levels = 3 if kind == "x4" else 2
    torch.manual_seed(2)
    vae = diffusers.AutoencoderKL(
        block_out_channels=[32, 64, 64][:levels],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=4,
        layers_per_block=2 if kind == "sd1" else 1,
        sample_size=16,
        scaling_factor=scales.get(kind, 0.18215),
        force_upcast=kind == "sdxl",
    ).eval()
    noise = {"beta_start": 1e-4, "beta_end": 0.02} if kind == "x4" else {}
    said = pipelines.LATENT | noise
    predicts = "v_prediction" if kind in ("sd2", "x4") else "epsilon"
    scheduler = diffusers.DDIMScheduler(**said, prediction_type=predicts, clip_sample=False, steps_offset=1)
    given = {"unet": network, "vae": vae, "scheduler": scheduler}
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    open_clip = kind in ("sd2", "sd2-base", "x4")
    if kind == "sdxl":
        towers = pipelines.clip("", False, 128, 3) | pipelines.clip("_2", True, 128, 4, 32, "gelu")
        pipe: Any = diffusers.StableDiffusionXLPipeline(**given, **towers)
    elif kind == "x4":
        low = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02)
        towers = pipelines.clip("", False, 128, 3, 10, "gelu")
        pipe = diffusers.StableDiffusionUpscalePipeline(**given, **towers, low_res_scheduler=low)
    else:
        towers = pipelines.clip("", False, 128, 3, 10, "gelu" if open_clip else "quick_gelu")
        name = "StableDiffusionInpaintPipeline" if kind == "inpainting" else "StableDiffusionPipeline"
        pipe = getattr(diffusers, name)(**given, **towers, **none)
    pipe.to(dtype).save_pretrained(place)
    return place


def state_of(kind: str, place: Path) -> dict[str, Tensor]:
    """All tensors of a pipeline's folder under the names of its single file, with what else is in published ones."""
    weights = "diffusion_pytorch_model.safetensors"
    bare = UNETS[kind]["up_block_types"][0] == "UpBlock2D"
    found = {
        f"model.diffusion_model.{_unet(name, bare)}": value
        for name, value in load_file(place / "unet" / weights).items()
    }
    vae = load_file(place / "vae" / weights)
    found |= {f"first_stage_model.{_vae(name, 3 if kind == 'x4' else 2)}": _square(name, v) for name, v in vae.items()}
    text = {name.removeprefix("text_model."): v for name, v in load_file(place / "text_encoder" / WEIGHTS).items()}
    usual = next(iter(text.values())).dtype
    g = torch.Generator().manual_seed(9)
    if kind in ("sd1", "inpainting", "sdxl"):
        prefix = "conditioner.embedders.0." if kind == "sdxl" else "cond_stage_model."
        found |= {f"{prefix}transformer.text_model.{name}": value for name, value in text.items()}
        found[f"{prefix}transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    else:
        found |= {f"cond_stage_model.model.{name}": value for name, value in _open_clip(text).items()}
        layer = {n: v for n, v in found.items() if ".resblocks.2." in n}  # the last, which SD 2 does not read
        found |= {name.replace(".2.", ".3."): torch.randn(v.shape, generator=g).to(usual) for name, v in layer.items()}
        found["cond_stage_model.model.text_projection"] = torch.randn(128, 128, generator=g).to(usual)
        found["cond_stage_model.model.logit_scale"] = torch.tensor(4.6)
    if kind == "sdxl":
        second = load_file(place / "text_encoder_2" / WEIGHTS)
        projection = second.pop("text_projection.weight")
        inner = {name.removeprefix("text_model."): value for name, value in second.items()}
        found |= {f"conditioner.embedders.1.model.{name}": value for name, value in _open_clip(inner).items()}
        found["conditioner.embedders.1.model.text_projection"] = projection.T.contiguous()
        found["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    else:
        found["betas"] = torch.linspace(0.1, 0.2, 1000, dtype=torch.float64)
        found["model_ema.decay"] = torch.tensor(0.99)
        found["model_ema.diffusion_modelout2bias"] = torch.zeros(4)
    return found


def saved(kind: str, place: Path, dtype: torch.dtype = torch.float32) -> tuple[Path, Path]:
    """The folder of a kind in `place`, and beside its own tokenizers the single file of the same weights."""
    source = folder(kind, place / "folder", dtype)
    (place / "one").mkdir()
    for tokenizer in source.glob("tokenizer*"):
        shutil.copytree(tokenizer, place / "one" / tokenizer.name)
    file = place / "one" / f"{kind}.safetensors"
    save_file(state_of(kind, source), file)
    return source, file


def _unet(name: str, bare: bool) -> str:
    """Two residual blocks a level, and one place in the list for each and for what resamples after them."""
    outer = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "class_embedding": "label_emb",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    for new, old in outer.items():
        if name.startswith(f"{new}."):
            return name.replace(new, old, 1)
    inner = {
        **{"norm1.": "in_layers.0.", "conv1.": "in_layers.2.", "time_emb_proj.": "emb_layers.1."},
        **{"norm2.": "out_layers.0.", "conv2.": "out_layers.3.", "conv_shortcut.": "skip_connection."},
    }
    if match := re.match(r"(down_blocks|up_blocks|mid_block)\.(?:(\d)\.)?(resnets|attentions)\.(\d)\.(.*)", name):
        half, level, what, j, rest = match.groups()
        if what == "resnets":
            for new, old in inner.items():
                rest = rest.replace(new, old, 1) if rest.startswith(new) else rest
        if half == "mid_block":
            return f"middle_block.{2 * int(j) if what == 'resnets' else 1}.{rest}"
        per, first, place = (3, 1, "input_blocks") if half == "down_blocks" else (3, 0, "output_blocks")
        return f"{place}.{first + per * int(level) + int(j)}.{0 if what == 'resnets' else 1}.{rest}"
    match = re.match(r"(down_blocks|up_blocks)\.(\d)\.(?:downsamplers|upsamplers)\.0\.conv\.(.*)", name)
    assert match is not None, name
    half, level, rest = match.groups()
    if half == "down_blocks":
        return f"input_blocks.{3 * int(level) + 3}.0.op.{rest}"
    # After the attention, where there is any: the deepest level of SD 1 and 2 has none.
    plain = level == "0" and bare
    return f"output_blocks.{3 * int(level) + 2}.{1 if plain else 2}.conv.{rest}"


def _vae(name: str, levels: int) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        name = name.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm", "norm")
        return name.replace("to_out.0", "proj_out").replace("to_", "")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)


def _square(name: str, value: Tensor) -> Tensor:
    return value[:, :, None, None] if "attentions" in name and value.ndim == 2 else value


def _open_clip(text: dict[str, Tensor]) -> dict[str, Tensor]:
    found = {
        "token_embedding.weight": text["embeddings.token_embedding.weight"],
        "positional_embedding": text["embeddings.position_embedding.weight"],
        "ln_final.weight": text["final_layer_norm.weight"],
        "ln_final.bias": text["final_layer_norm.bias"],
    }
    for i in range(3):
        inner = f"encoder.layers.{i}."
        for end in ("weight", "bias"):
            whole = torch.cat([text[f"{inner}self_attn.{part}_proj.{end}"] for part in ("q", "k", "v")])
            found[f"transformer.resblocks.{i}.attn.in_proj_{end}"] = whole
            names = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
            for old, new in {**names, "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}.items():
                found[f"transformer.resblocks.{i}.{old}.{end}"] = text[f"{inner}{new}.{end}"]
    return found
