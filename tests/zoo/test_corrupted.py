"""Pipeline folders that are damaged, or not what they say: each is refused by name, and none half-loads."""

from __future__ import annotations

import contextlib
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import guided
from guided.cli import main
from guided.model import Model
from guided.model.autoencoder import open_autoencoder
from guided.zoo.diffusers_config import DEFAULTS
from guided.zoo.pipeline import facts
from tests.zoo import pipelines

pytest.importorskip("diffusers")
KINDS = ("sd-1.5", "sdxl-base", "if-i-m", "x4-upscaler")
UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {name: pipelines.saved(name, root / name) for name in KINDS}


def tensors(file: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def act(folder: Path) -> None:
        state = load_file(folder / file)
        change(state)
        save_file(state, folder / file)

    return act


def removed(file: str, key: str) -> Change:
    return tensors(file, lambda state: state.pop(key))


def renamed(file: str, key: str) -> Change:
    return tensors(file, lambda state: state.update({f"{key}_old": state.pop(key)}))


def reshaped(file: str, key: str) -> Change:
    return tensors(file, lambda state: state.update({key: torch.cat((state[key], state[key]))}))


def typed(file: str, key: str, dtype: torch.dtype) -> Change:
    return tensors(file, lambda state: state.update({key: state[key].to(dtype)}))


def added(file: str, key: str) -> Change:
    return tensors(file, lambda state: state.update({key: torch.zeros(3)}))


def cut(file: str, share: float) -> Change:
    def act(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(len(content) * share)])

    return act


def written(file: str, content: bytes) -> Change:
    def act(folder: Path) -> None:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content)

    return act


def edited(file: str, **changes: Any) -> Change:
    return lambda folder: pipelines.edit(folder / file, **changes)


def gone(file: str) -> Change:
    return lambda folder: (folder / file).unlink()


def pickled(file: str) -> Change:
    def act(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).with_suffix(".bin").write_bytes(b"\x80\x02}q\x00.")

    return act


def indexed(part: str, **weight_map: Any) -> Change:
    def act(folder: Path) -> None:
        file = folder / part
        file.rename(file.with_name("one.safetensors"))
        listed = {"a": "one.safetensors"} | weight_map
        file.with_suffix(".safetensors.index.json").write_text(json.dumps({"weight_map": listed}))

    return act


def twice(folder: Path) -> None:
    file = folder / UNET
    state = load_file(file)
    file.unlink()
    names = sorted(state)
    half = {name: state[name] for name in names[: len(names) // 2]}
    rest = {name: state[name] for name in [*names[len(names) // 2 :], names[0]]}
    save_file(half, file.with_name("a.safetensors"))
    save_file(rest, file.with_name("b.safetensors"))
    listed = {name: "a.safetensors" for name in half} | {name: "b.safetensors" for name in rest}
    file.with_suffix(".safetensors.index.json").write_text(json.dumps({"weight_map": listed}))


def header(file: str, change: Callable[[dict[str, Any]], Any]) -> Change:
    def act(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        values = json.loads(content[8 : 8 + size])
        change(values)
        text = json.dumps(values).encode()
        (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])

    return act


def overlapping(values: dict[str, Any]) -> None:
    first, second = sorted(values, key=lambda n: values[n].get("data_offsets", [0])[0])[1:3]
    size = values[second]["data_offsets"][1] - values[second]["data_offsets"][0]
    start = values[first]["data_offsets"][0]
    values[second]["data_offsets"] = [start, start + size]


def of_another(other: str, file: str) -> Change:
    """The file of a pipeline of another family, which the test puts beside."""
    return lambda folder: (folder / file).write_bytes((folder.parent / other / file).read_bytes()) and None


RES, ATT, MID = "down_blocks.0.resnets.0.conv1.weight", "down_blocks.1.attentions.0", "mid_block.resnets.1.norm2.bias"
KEY = {
    "sd-1.5": f"{ATT}.transformer_blocks.0.attn1.to_k.weight",
    "sdxl-base": f"{ATT}.transformer_blocks.1.attn2.to_v.weight",
    "if-i-m": f"{ATT}.add_k_proj.weight",
    "x4-upscaler": f"{ATT}.transformer_blocks.0.attn1.to_k.weight",
}
PORT = {
    "sd-1.5": "time_embedding.linear_1.weight",
    "sdxl-base": "add_embedding.linear_2.weight",
    "if-i-m": "encoder_hid_proj.weight",
    "x4-upscaler": "class_embedding.weight",
}


def of_every_kind(name: str) -> dict[str, tuple[Change, str]]:
    """What can befall every pipeline: the change, and what its message must name."""
    key, port = KEY[name], PORT[name]
    cases: dict[str, tuple[Change, str]] = {}
    for label, tensor in (("resnet", RES), ("attention", key), ("middle", MID), ("port", port)):
        place = ".".join(tensor.split(".")[:2])
        cases[f"{label} removed"] = removed(UNET, tensor), f"{place}.*is missing"
        cases[f"{label} renamed"] = renamed(UNET, tensor), f"{place}.*is missing"
        cases[f"{label} reshaped"] = reshaped(UNET, tensor), f"{place}.*expected"
    other = "if-i-m" if name != "if-i-m" else "sd-1.5"
    return cases | {
        "an integer": (typed(UNET, RES, torch.int32), f"{RES} is I32, expected one of F32"),
        "a double": (typed(UNET, RES, torch.float64), f"{RES} is F64, expected one of F32"),
        "one more": (added(UNET, "lora.up"), "lora: lora.up is not expected"),
        "cut in half": (cut(UNET, 0.5), "the file is cut"),
        "cut in its header": (cut(UNET, 0.001), "safetensors file"),
        "empty": (cut(UNET, 0.0), "the file is empty"),
        "another's unet config": (of_another(other, "unet/config.json"), "unet"),
        "another's weights": (of_another(other, UNET), "does not fit its config"),
        "a pickle": (pickled(UNET), "refused: a Python pickle"),
        "no unet config": (gone("unet/config.json"), "unet/config.json: no such file"),
        "no scheduler": (gone("scheduler/scheduler_config.json"), "scheduler_config.json: no such file"),
    }


SD_ONLY: dict[str, tuple[Change, str]] = {
    "index: escapes": (indexed(UNET, b="../../etc/x.safetensors"), r"weight_map: expected names.*'\.\./\.\./etc"),
    "index: absolute": (indexed(UNET, b="/etc/x.safetensors"), "weight_map: expected names"),
    "index: no text": (indexed(UNET, b=3), "weight_map|index"),
    "index: a pickle": (indexed(UNET, b="x.bin"), "weight_map: expected names"),
    "index: missing": (indexed(UNET, b="two.safetensors"), "names two.safetensors, which is not in the folder"),
    "index: a tensor twice": (twice, "is in another file of the set too"),
    "index: of the vae escapes": (indexed(VAE, b="../unet/x.safetensors"), "weight_map: expected names"),
    "index: of the text escapes": (indexed("text_encoder/model.safetensors", b="../x.safetensors"), "weight_map"),
    "vae: removed": (removed(VAE, "decoder.conv_in.weight"), "vae: does not fit.*decoder.conv_in.weight"),
    "vae: reshaped": (reshaped(VAE, "decoder.conv_in.bias"), "vae: does not fit.*decoder.conv_in.bias"),
    "vae: cut": (cut(VAE, 0.7), "the file is cut"),
    "vae: an integer": (typed(VAE, "decoder.conv_in.bias", torch.int64), "decoder.conv_in.bias is I64"),
    "vae: a pickle": (pickled(VAE), "refused: a Python pickle"),
    "vae: another class": (edited("vae/config.json", _class_name="VQModel"), "_class_name: expected 'AutoencoderKL'"),
    "vae: wider": (edited("vae/config.json", latent_channels=8), "in_channels, out_channels: expected at least 8"),
    "vae: another width": (edited("vae/config.json", block_out_channels=[16, 16]), "vae: does not fit"),
    "vae: a mean a channel": (edited("vae/config.json", latents_mean=[0.1] * 4), "latents_mean: expected null"),
    "vae: a std a channel": (edited("vae/config.json", latents_std=[0.1] * 4), "latents_std: expected null"),
    "vae: no scale": (edited("vae/config.json", scaling_factor=0), "scaling_factor: expected a number above 0, got 0"),
    "vae: scale NaN": (
        edited("vae/config.json", scaling_factor=float("nan")),
        "scaling_factor: expected a number above",
    ),
    "text: removed": (
        removed("text_encoder/model.safetensors", "final_layer_norm.weight"),
        "text encoder.*final_layer_norm.weight",
    ),
    "text: cut": (cut("text_encoder/model.safetensors", 0.6), "text_encoder/model.safetensors.*the file is cut"),
    "text: a pickle": (pickled("text_encoder/model.safetensors"), "only there as model.bin"),
    "text: config no JSON": (written("text_encoder/config.json", b"{"), "config.json"),
    "text: another model": (edited("text_encoder/config.json", model_type="gpt2"), "model_type 'gpt2'"),
    "text: no tokenizer": (gone("tokenizer/tokenizer.json"), "no tokenizer in it"),
    "json: none": (written("model_index.json", b"no"), "model_index.json: not JSON"),
    "json: a list": (written("model_index.json", b"[]"), "model_index.json: expected a mapping"),
    "json: bottomless": (written("unet/config.json", b"[" * 100_000), "unet/config.json"),
    "json: endless": (written("unet/config.json", b" " * (2 << 20)), "unet/config.json: 2097152 bytes"),
    "index: another class": (edited("model_index.json", _class_name="FluxPipeline"), "_class_name.*'FluxPipeline'"),
    "index: a class of code": (edited("model_index.json", unet=["evil", "Evil"]), r"unet: expected \[library, UNet2D"),
    "index: no vae": (edited("model_index.json", vae=None), "vae: expected"),
    "index: XL": (edited("model_index.json", _class_name="StableDiffusionXLPipeline"), "text_encoder_2: expected"),
    "index: inpainting": (
        edited("model_index.json", _class_name="StableDiffusionInpaintPipeline"),
        "Stable Diffusion inpainting: expected 9 .*got 4",
    ),
    "index: x4": (
        edited("model_index.json", _class_name="StableDiffusionUpscalePipeline"),
        "x4 upscaler: expected 7 .*got 4",
    ),
    "scheduler: flow": (
        edited("scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
        "_class_name: expected a scheduler of DDPM",
    ),
    "scheduler: its betas": (edited("scheduler/scheduler_config.json", beta_schedule="exp"), "beta_schedule: expected"),
    "scheduler: a list": (edited("scheduler/scheduler_config.json", trained_betas=[0.1]), "trained_betas: expected"),
    "scheduler: zero SNR": (
        edited("scheduler/scheduler_config.json", rescale_betas_zero_snr=True),
        "rescale_betas_zero_snr: expected False",
    ),
    "scheduler: EDM": (
        edited("scheduler/scheduler_config.json", _class_name="EDMDPMSolverMultistepScheduler"),
        "_class_name: expected a scheduler of DDPM's noise levels, got 'EDM",
    ),
    "scheduler: none": (
        edited("scheduler/scheduler_config.json", _class_name=None),
        "_class_name: expected a scheduler",
    ),
    "scheduler: continuous": (
        edited("scheduler/scheduler_config.json", timestep_type="continuous"),
        "timestep_type: expected 'discrete'",
    ),
    "scheduler: log variance": (
        edited("scheduler/scheduler_config.json", variance_type="learned"),
        "variance_type: expected",
    ),
    "scheduler: sample": (edited("scheduler/scheduler_config.json", prediction_type="sample"), "prediction_type"),
    "scheduler: backwards": (edited("scheduler/scheduler_config.json", beta_start=0.5), "expected 0 < start"),
    "scheduler: words": (edited("scheduler/scheduler_config.json", beta_start="low"), "scheduler_config.json"),
    "unet: size": (edited("unet/config.json", sample_size="big"), "sample_size: expected"),
    "unet: huge": (edited("unet/config.json", sample_size=100_000), "sample_size: expected"),
    "unet: widths": (edited("unet/config.json", block_out_channels=[8, 16, 16]), "expected 3 entries"),
    "unet: words": (edited("unet/config.json", layers_per_block="two"), "blocks: expected"),
    "unet: less": (edited("unet/config.json", layers_per_block=1), "does not fit its config"),
    "unet: matrices that are convolutions": (
        edited("unet/config.json", use_linear_projection=True),
        r"down_blocks.0.attentions.0: .*proj_in.weight is \[8, 8, 1, 1\], expected \[8, 8\]",
    ),
    "unet: linear": (
        edited("unet/config.json", use_linear_projection=True, num_class_embeds=7),
        "num_class_embeds: Stable Diffusion: expected neither",
    ),
    "header: 2^60": (written(UNET, struct.pack("<Q", 1 << 60) + b"{" * 100), "header claims"),
    "header: overlap": (header(UNET, overlapping), "shares bytes"),
    "header: dtype": (header(UNET, lambda v: v[RES].update(dtype="F7")), "has the dtype 'F7'"),
    "header: HTML": (written(UNET, b"<html><body>404</body></html>"), "an HTML or XML text"),
    "header: LFS": (written(UNET, b"version https://git-lfs.github.com/spec/v1\noid"), "a Git LFS pointer"),
}
CASES = [(name, label) for name in KINDS for label in of_every_kind(name)] + [("sd-1.5", label) for label in SD_ONLY]


def test_there_are_about_a_hundred() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("name, label", CASES)
def test_a_damaged_folder_is_refused_by_name(
    name: str, label: str, folders: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    change, message = (of_every_kind(name) | (SD_ONLY if name == "sd-1.5" else {}))[label]
    other = "if-i-m" if name != "if-i-m" else "sd-1.5"
    if label.startswith("another's"):
        (tmp_path / other).symlink_to(folders[other])
    folder = pipelines.copied(folders[name], tmp_path / "it")
    change(folder)
    start = time.process_time()
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        model = guided.load(folder)
        # What is in an encoder's tensors is seen with the first prompt; its files before.
        assert label in ("text: removed", "text: another model") and isinstance(model, Model)
        model.generate("a cat", steps=1)
    assert str(folder) in str(caught.value) or "text encoder" in str(caught.value)
    assert time.process_time() - start < 5
    if label in ("resnet removed", "text: cut", "a pickle"):
        out = tmp_path / "out"
        assert main(["generate", "a cat", "--model", str(folder), "--steps", "1", "--out", str(out)]) == 2
        assert "Traceback" not in capsys.readouterr().err and not list(tmp_path.glob("out/*.png"))


def test_a_sound_folder_is_not(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in KINDS:
        guided.load(pipelines.copied(folders[name], tmp_path / name))


ODD = (None, -1, 0, 10**9, 1.5, True, "x", [], [1], [8, "x", 16, 24], {}, [10**9] * 4, ["CrossAttnDownBlock2D"] * 4)


@pytest.mark.parametrize("name", KINDS)
def test_odd_values_of_a_config_are_refused_or_harmless(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Every entry of every config in turn: what is wrong is told as such, and nothing is built that has no end."""
    folder = pipelines.copied(folders[name], tmp_path / "it")
    refused = 0
    for file in sorted([*folder.glob("unet/*.json"), *folder.glob("vae/*.json"), *folder.glob("*scheduler/*.json")]):
        values = json.loads(file.read_text())
        for key in (*DEFAULTS, *values) if file.parent.name == "unet" else values:
            for odd in ODD:
                file.write_text(json.dumps({**values, key: odd}))
                try:
                    facts(folder)
                except ValueError as error:
                    assert str(folder) in str(error)
                    refused += 1
        file.write_text(json.dumps(values))
    assert refused > 300
    facts(folder)


def test_odd_values_of_an_autoencoder_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = pipelines.copied(folders["sd-1.5"] / "vae", tmp_path / "vae")
    values = json.loads((folder / "config.json").read_text())
    for key in values:
        for odd in ODD:
            (folder / "config.json").write_text(json.dumps({**values, key: odd}))
            with contextlib.suppress(ValueError):
                open_autoencoder(folder)
