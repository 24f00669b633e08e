"""Files in other forms: through a published network where no base is at hand."""

from __future__ import annotations

import pathlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from guided.tune import adapters
from guided.tune.adapters import describing


def pair(name: str, out: int, into: int, *kernel: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(out + into)
    made = {"lora_down.weight": torch.randn(2, into, *kernel, generator=g)}
    made |= {"lora_up.weight": torch.randn(out, 2, *[1] * len(kernel), generator=g), "alpha": torch.tensor(1.0)}
    return {f"{name}.{end}": value for end, value in made.items()}


def test_sd1_of_kohya(tmp_path: pathlib.Path) -> None:
    place = "lora_unet_down_blocks_0_attentions_0"
    tensors = pair(f"{place}_transformer_blocks_0_attn1_to_v", 320, 320) | pair(f"{place}_proj_in", 320, 320, 1, 1)
    tensors |= pair("lora_unet_mid_block_resnets_0_conv1", 1280, 1280, 3, 3)
    tensors |= pair("lora_te_text_model_encoder_layers_3_mlp_fc1", 3072, 768)
    save_file(tensors, tmp_path / "k.safetensors")
    adapters.convert(tmp_path / "k.safetensors", tmp_path / "d", "diffusers-lora")
    held = load_file(tmp_path / "d" / "pytorch_lora_weights.safetensors")
    assert held["unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"].shape == (2, 320, 1, 1)
    assert held["unet.mid_block.resnets.0.conv1.lora_A.weight"].shape == (2, 1280, 3, 3)
    assert "text_encoder.text_model.encoder.layers.3.mlp.fc1.lora_B.weight" in held
    assert not any("to_q" in name for name in held)  # a part that was not changed stays unchanged
    adapters.convert(tmp_path / "d", tmp_path / "again.safetensors", "kohya")
    again = load_file(tmp_path / "again.safetensors")
    assert again.keys() == tensors.keys() and all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_sdxl_of_kohya_in_the_original_layout(tmp_path: pathlib.Path) -> None:
    tensors = pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 640, 2048)
    tensors |= pair("lora_unet_output_blocks_0_1_proj_in", 1280, 1280)
    tensors |= pair("lora_te2_text_model_encoder_layers_31_self_attn_q_proj", 1280, 1280)
    save_file(tensors, tmp_path / "k.safetensors")
    adapters.convert(tmp_path / "k.safetensors", tmp_path / "d", "diffusers-lora")
    held = load_file(tmp_path / "d" / "pytorch_lora_weights.safetensors")
    assert {name.removesuffix(".lora_A.weight") for name in held if "lora_A" in name} == {
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        "unet.up_blocks.0.attentions.0.proj_in",
        "text_encoder_2.text_model.encoder.layers.31.self_attn.q_proj",
    }
    key = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
    assert torch.equal(
        held[key], tensors["lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight"]
    )


def test_what_no_published_network_has(tmp_path: pathlib.Path) -> None:
    save_file(pair("lora_unet_down_blocks_0_attentions_0_proj_in", 33, 33), tmp_path / "k.safetensors")
    with pytest.raises(ValueError, match="no published network has these layers; --base MODEL"):
        adapters.convert(tmp_path / "k.safetensors", tmp_path / "d", "diffusers-lora")
    with pytest.raises(ValueError, match="which model is it for"):
        adapters.convert(tmp_path / "k.safetensors", tmp_path / "d", "adapter")
    save_file({"<a>": torch.ones(1, 8)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"new words .<a>. have no such form"):
        adapters.convert(tmp_path / "w.safetensors", tmp_path / "d", "kohya")
    assert not (tmp_path / "d").exists()
    assert describing.of_folder(tmp_path / "w.safetensors")["kind"] == "adapter 'w': textual-inversion"


def test_the_same_adapter_gives_the_same_bytes(tmp_path: pathlib.Path) -> None:
    save_file(pair("lora_unet_mid_block_resnets_0_conv1", 1280, 1280, 3, 3), tmp_path / "k.safetensors")
    files = []
    for name in ("a", "b"):
        adapters.convert(tmp_path / "k.safetensors", tmp_path / name, "diffusers-lora")
        files.append((tmp_path / name / "pytorch_lora_weights.safetensors").read_bytes())
    assert files[0] == files[1]
