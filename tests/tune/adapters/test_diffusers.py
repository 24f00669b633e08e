"""Adapters to and from diffusers and kohya's files: whole tiny pipelines say the same on both sides."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import guided
from guided.tune import adapters
from tests.tune.adapters.build import apart, our_answer, pipeline, shaken, their_answer, theirs

TEXT = "a red cat"
PIPES = pytest.mark.parametrize("name", ["sd-1.5", "sdxl-base"])
KINDS = pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
UNET = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "proj_in", "ff.net.0.proj", "time_emb_proj"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    from tests.zoo import pipelines

    root = tmp_path_factory.mktemp("pipes")
    return {name: pipelines.saved(name, root / name) for name in ("sd-1.5", "sdxl-base")}


def written_by_theirs(pipe: Any, folder: pathlib.Path, dora: bool) -> None:
    """peft's adapters of random values on all parts of a pipeline, saved by diffusers itself."""
    import peft
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    torch.manual_seed(7)
    # peft's DoRA of a convolution of size 1 is not asked for: the whole of proj_in is a matrix here.
    targets = [name for name in UNET if not (dora and name == "proj_in")]
    patterns = {"rank_pattern": {"to_k": 2}, "alpha_pattern": {"to_v": 4}}
    config = peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False, use_dora=dora, **patterns
    )
    pipe.unet.add_adapter(config)
    parts = {"unet": pipe.unet}
    for part in ("text_encoder", "text_encoder_2"):
        if hasattr(pipe, part):
            parts[part] = getattr(pipe, part)
            parts[part].add_adapter(
                peft.LoraConfig(r=2, lora_alpha=1, target_modules=["q_proj", "v_proj", "fc1"], init_lora_weights=False)
            )
    layers = {
        f"{part}_lora_layers": convert_state_dict_to_diffusers(get_peft_model_state_dict(module))
        if part != "unet"
        else get_peft_model_state_dict(module)
        for part, module in parts.items()
    }
    pipe.save_lora_weights(folder, **layers, **_collate_lora_metadata(parts))


@PIPES
@KINDS
def test_theirs_in_ours(name: str, dora: bool, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    pipe, model = pipeline(name, folders[name])
    before = our_answer(model, TEXT)
    written_by_theirs(pipe, tmp_path / "theirs", dora)
    adapters.inject(model, tmp_path / "theirs")
    assert apart(our_answer(model, TEXT), their_answer(pipe, TEXT)) < 1e-4
    assert apart(our_answer(model, TEXT), before) > 0.1
    adapters.eject(model)
    assert apart(our_answer(model, TEXT), before) == 0


def trained(name: str, folder: pathlib.Path, dora: bool) -> Any:
    """A model with an adapter of ours on all of its parts, as training leaves it."""
    _, model = pipeline(name, folder)
    targets = ["attention", "*conv1", "*proj_in", "*embed"]
    made = adapters.fresh(model.denoiser.network, 3, 6.0, targets, dora, seed=1)
    made |= adapters.fresh_text(model.encoders["text"], 2, 1.0, "all", dora, seed=2)
    shaken(made)
    return model


@PIPES
@KINDS
def test_ours_in_theirs(name: str, dora: bool, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    model = trained(name, folders[name], dora)
    answer = our_answer(model, TEXT)
    adapters.save(model, tmp_path / "ours")
    pipe = theirs(name, folders[name])
    pipe.load_lora_weights(tmp_path / "ours")
    assert apart(their_answer(pipe, TEXT), answer) < 1e-4
    opened = guided.load(tmp_path / "ours")
    assert apart(our_answer(opened, TEXT), answer) < 1e-5
    adapters.merge(opened)
    assert apart(our_answer(opened, TEXT), answer) < 1e-5
    opened.save(tmp_path / "merged")
    assert apart(our_answer(guided.load(tmp_path / "merged"), TEXT), answer) < 1e-5


@PIPES
def test_kohyas_keys(name: str, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """Ours as kohya's file, read by diffusers' own conversion; and read back."""
    model = trained(name, folders[name], False)
    answer = our_answer(model, TEXT)
    adapters.save(model, tmp_path / "ours")
    adapters.convert(tmp_path / "ours", tmp_path / "kohya.safetensors", "kohya")
    keys = list(load_file(tmp_path / "kohya.safetensors"))
    start = "lora_te1_" if name == "sdxl-base" else "lora_te_"
    assert f"{start}text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight" in keys
    assert "lora_unet_down_blocks_0_resnets_0_conv1.lora_up.weight" in keys
    pipe = theirs(name, folders[name])
    pipe.load_lora_weights(tmp_path / "kohya.safetensors")
    assert apart(their_answer(pipe, TEXT), answer) < 1e-4
    other = guided.load(folders[name])
    adapters.inject(other, tmp_path / "kohya.safetensors", name="k")
    assert apart(our_answer(other, TEXT), answer) < 1e-5
    # And back into diffusers' form, by way of the base.
    adapters.convert(tmp_path / "kohya.safetensors", tmp_path / "again", "diffusers-lora", str(folders[name]))
    pipe = theirs(name, folders[name])
    pipe.load_lora_weights(tmp_path / "again")
    assert apart(their_answer(pipe, TEXT), answer) < 1e-4


def test_a_dora_in_kohyas_keys(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    model = trained("sd-1.5", folders["sd-1.5"], True)
    answer = our_answer(model, TEXT)
    adapters.save(model, tmp_path / "ours")
    adapters.convert(tmp_path / "ours", tmp_path / "kohya.safetensors", "kohya")
    assert any(name.endswith(".dora_scale") for name in load_file(tmp_path / "kohya.safetensors"))
    other = guided.load(folders["sd-1.5"])
    adapters.inject(other, tmp_path / "kohya.safetensors")
    assert apart(our_answer(other, TEXT), answer) < 1e-5


def test_kohyas_names_of_the_original_layout(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """SDXL's: input_blocks_4_1, as the single file of the U-Net names its layers."""
    from guided.zoo import diffusers_names, original

    model = trained("sdxl-base", folders["sdxl-base"], False)
    adapters.save(model, tmp_path / "ours")
    adapters.convert(tmp_path / "ours", tmp_path / "kohya.safetensors", "kohya")
    config = model.denoiser.network.config
    theirs_of = {pair.ours: pair.theirs for pair in diffusers_names.layout(config)}
    names = {
        theirs_name.removesuffix(".weight").replace(".", "_"): file_name.removesuffix(".weight").replace(".", "_")
        for pair in original.layout(config)
        for theirs_name, file_name in zip(theirs_of.get(pair.ours, ()), pair.theirs, strict=True)
        if pair.ours.endswith("weight")
    }
    tensors = {}
    for key, value in load_file(tmp_path / "kohya.safetensors").items():
        layer, _, end = key.partition(".")
        if layer.startswith("lora_unet_"):
            layer = f"lora_unet_{names[layer.removeprefix('lora_unet_')]}"
        tensors[f"{layer}.{end}"] = value
    save_file(tensors, tmp_path / "sgm.safetensors")
    assert any(name.startswith("lora_unet_input_blocks_") for name in tensors)
    other = guided.load(folders["sdxl-base"])
    adapters.inject(other, tmp_path / "sgm.safetensors")
    assert apart(our_answer(other, TEXT), our_answer(model, TEXT)) < 1e-5


def test_the_old_keys_of_diffusers(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """Attention processors beside the layers, `.lora.down`, and a file without a prefix for its U-Net."""
    model = trained("sd-1.5", folders["sd-1.5"], False)
    adapters.save(model, tmp_path / "ours")
    tensors = {}
    for name, value in load_file(tmp_path / "ours" / "pytorch_lora_weights.safetensors").items():
        name = name.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up.")
        for end in ("to_q", "to_k", "to_v"):
            name = name.replace(f".{end}.lora.", f".processor.{end}_lora.")
        name = name.replace(".to_out.0.lora.", ".processor.to_out_lora.")
        for part in "qkv":
            name = name.replace(f".self_attn.{part}_proj.lora.", f".self_attn.to_{part}_lora.")
        tensors[name.replace(".out_proj.lora.", ".to_out_lora.")] = value
        layer = name.partition("_lora.")[0] if "_lora." in name else name.partition(".lora.")[0]
        rank = value.shape[0] if ".down." in name else value.shape[1]
        tensors[f"{layer}.alpha"] = torch.tensor(float(rank * (2 if name.startswith("unet") else 0.5)))
    tensors = {  # the alpha stands under the name of the layer
        name.replace(".processor.to_out.alpha", ".to_out.0.alpha").replace(".processor.", ".")
        if name.endswith("alpha")
        else name: value
        for name, value in tensors.items()
    }
    save_file(tensors, tmp_path / "old.safetensors")
    other = guided.load(folders["sd-1.5"])
    adapters.inject(other, tmp_path / "old.safetensors")
    assert apart(our_answer(other, TEXT), our_answer(model, TEXT)) < 1e-5
    bare = {name.removeprefix("unet."): value for name, value in tensors.items() if name.startswith("unet.")}
    save_file(bare, tmp_path / "bare.safetensors")
    assert adapters.read(tmp_path / "bare.safetensors").layers.keys() == {"unet"}


def test_an_adapter_is_small_and_its_base_stays_what_it_is(
    folders: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    from guided import _files

    base = folders["sd-1.5"]
    held = {file: _files.sha256(file) for file in sorted(base.rglob("*")) if file.is_file()}
    model = trained("sd-1.5", base, False)
    adapters.eject(model)
    shaken(adapters.fresh(model.denoiser.network, 1, seed=1))
    adapters.save(model, tmp_path / "small")
    guided.load(tmp_path / "small")
    assert {file: _files.sha256(file) for file in sorted(base.rglob("*")) if file.is_file()} == held
    size = sum(file.stat().st_size for file in (tmp_path / "small").iterdir())
    assert size < 0.25 * (base / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
