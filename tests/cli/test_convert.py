"""`guided convert` and what `guided inspect` says of published checkpoints."""

from __future__ import annotations

import json
import pathlib
import struct

import pytest
import torch
from torch import Tensor

import guided
from guided import zoo
from guided._safetensors import load, save
from guided.cli import main
from guided.denoiser import EDM, Denoiser
from guided.model import Model, card
from guided.nn import preset
from guided.zoo.families import FAMILIES
from guided.zoo.recognise import expected
from tests.model import build
from tests.nn.tools import awake
from tests.zoo import adm
from tests.zoo.adm import ADM, CLASSIFIER, SDXL, UPSAMPLER, Flags

Capture = pytest.CaptureFixture[str]


def published(folder: pathlib.Path, f: Flags, dtype: torch.dtype, prefix: str = "") -> pathlib.Path:
    state = {prefix + name: value.to(dtype) for name, value in adm.weights(f).items()}
    if dtype == torch.float16:  # as guided-diffusion saves it: the edges stay float32
        edges = ("time_embed", "label_emb", "out.")
        state |= {name: value.float() for name, value in state.items() if name[len(prefix) :].startswith(edges)}
    save(state, folder / "published.safetensors")
    said = {**f.config, "image_size": 8, "noise_schedule": "cosine"}
    (folder / "published.json").write_text(json.dumps(said))
    return folder / "published.safetensors"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["adm", "new order", "upsampler", "classifier", "prefix"])
def test_original_to_guided_to_original_is_the_same_file(
    name: str, dtype: torch.dtype, tmp_path: pathlib.Path, capsys: Capture
) -> None:
    flags = {"upsampler": UPSAMPLER, "classifier": CLASSIFIER, "new order": Flags(new_order=True)}.get(name, ADM)
    file = published(tmp_path, flags, dtype, "model.diffusion_model." if name == "prefix" else "")
    folder, back = tmp_path / "folder", tmp_path / "back.safetensors"
    assert main(["convert", str(file), str(folder), "--to", "guided"]) == 0
    assert (folder / "card.json").is_file()
    assert main(["convert", str(folder), str(back), "--to", "original", "--json"]) == 0
    assert back.read_bytes() == file.read_bytes()
    assert json.loads(capsys.readouterr().out.partition("\n")[2]) == {"written": [str(back)]}
    assert main(["convert", str(folder), str(back), "--to", "original"]) == 2, "nothing is written over"
    assert "is there already" in capsys.readouterr().err


@torch.no_grad()
def test_what_was_trained_since_is_not_rounded_and_not_dropped(tmp_path: pathlib.Path, capsys: Capture) -> None:
    file = published(tmp_path, ADM, torch.float16)
    model = guided.load(file)
    assert isinstance(model, Model)
    network = model.denoiser.network
    stem = network.conv_in.weight  # type: ignore[union-attr]
    stem.add_(1e-5)
    model.save(tmp_path / "trained")
    command = ["convert", str(tmp_path / "trained"), str(tmp_path / "back.safetensors"), "--to", "original"]
    assert main(command) == 0
    back, before = load(tmp_path / "back.safetensors"), load(file)
    assert torch.equal(back["input_blocks.0.0.weight"], stem)
    assert {name for name in before if back[name].dtype != before[name].dtype} == {"input_blocks.0.0.weight"}
    network.vector.label.weight[-1] = 1  # type: ignore[union-attr]
    model.save(tmp_path / "trained")
    assert main([*command[:2], str(tmp_path / "again.safetensors"), *command[3:]]) == 2
    assert "no counterpart of vector.label: what stands for none has been trained" in capsys.readouterr().err


def test_a_pickle_becomes_safetensors_when_asked(tmp_path: pathlib.Path, capsys: Capture) -> None:
    state = {f"model.diffusion_model.{name}": value for name, value in adm.weights(SDXL).items()}
    state["betas"] = torch.ones(3)  # beside the network: kept
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    (tmp_path / "b.yaml").write_text("num_head_channels: 16")
    command = ["convert", str(tmp_path / "a.ckpt"), str(tmp_path / "c.safetensors"), "--to", "original"]
    assert main(command) == 2
    assert "refused: a Python pickle" in capsys.readouterr().err
    assert main([*command, "--pickle", "--config", str(tmp_path / "b.yaml")]) == 0
    found = load(tmp_path / "c.safetensors")
    assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)


def own_model(name: str = "unet128-class", **changes: object) -> Model:
    network = awake(preset(name, **changes))
    denoiser = Denoiser(network, EDM(), 0.02, 20.0)
    classes = ["cat", "dog", "bird"] if network.config.classes else None
    return Model(denoiser, card.codec({}), {}, {"name": name, "size": [16, 16], "classes": classes})


def test_a_model_of_our_own_goes_to_the_original_layout(tmp_path: pathlib.Path, capsys: Capture) -> None:
    model = own_model(widths=(32, 32, 64, 64, 64), classes=3, head_width=32)
    model.save(tmp_path / "mine")
    target = tmp_path / "mine.safetensors"
    assert main(["convert", str(tmp_path / "mine"), str(target), "--to", "original"]) == 0
    assert capsys.readouterr().out.split() == [str(target), str(target.with_suffix(".json"))]
    back = zoo.network(load(target), json.loads(target.with_suffix(".json").read_text()))
    wanted: dict[str, Tensor] = model.denoiser.network.state_dict()
    assert all(torch.equal(back.state_dict()[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{mine}", "x.safetensors", "--to", "original"], "no counterpart of .*one skip a level"),
        (["{mine}", "x.pt", "--to", "original"], "expected the name of a .safetensors file"),
        (["{mine}", "x", "--to", "onnx"], "--to: expected one of guided, original"),
        (["{mine}", "x", "--to", "guided"], "expected a published checkpoint's file"),
        (["{mine}", "x.safetensors", "--to", "original", "--config", "c.json"], "--config: belongs to a checkpoint"),
        (["nowhere", "x.safetensors", "--to", "original"], "no such model folder"),
        (["nowhere", "x", "--to", "guided"], "expected a published checkpoint's file"),
        (["{mine}", "x"], "--to"),
    ],
)
def test_what_cannot_be_converted(
    arguments: list[str], message: str, tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    build.class_model().save(tmp_path / "mine")
    assert main(["convert", *(word.format(mine=tmp_path / "mine") for word in arguments)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def header_only(path: pathlib.Path, name: str, prefix: str = "", without: str = "") -> pathlib.Path:
    """A sound file of a published network's names and shapes whose bytes are a hole in the disk."""
    family = next(family for family in FAMILIES if family.name == name)
    at, listed = 0, {}
    for key, shape in expected(family.config, family.options, family.size if family.classifier else None).items():
        if key != without:
            end = at + 2 * torch.Size(shape).numel()
            listed[prefix + key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
            at = end
    text = json.dumps(listed).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return path


@pytest.mark.parametrize(
    ("name", "prefix", "facts"),
    [
        (
            "adm-64",
            "",
            {
                "size": "pictures of 64 x 64",
                "parameters of the network": 295904454,
                "conditioning": "1000 classes",
                "predicts": "eps and its variance",
                "assumed": {
                    "head_width": 64,
                    "dropout": 0.1,
                    "use_new_attention_order": True,
                    "schedule": "DDPM(schedule='cosine', start=0.0001, end=0.02, steps=1000)",
                    "predicts": "Eps()",
                },
            },
        ),
        (
            "adm-classifier-512",
            "",
            {"network": "classifier in the original layout", "conditioning": "tells 1000 classes"},
        ),
        (
            "sd-2",
            "model.diffusion_model.",
            {
                "size": "latents of 96 x 96",
                "conditioning": "text, 1024 wide",
                "predicts": "v",
                "prefix": "model.diffusion_model.",
                "parameters of the network": 865910724,
            },
        ),
        (
            "sdxl-base",
            "",
            {"conditioning": "text, 2048 wide, a vector of 2816", "parameters of the network": 2567463684},
        ),
    ],
)
def test_inspect_tells_a_published_network(
    name: str, prefix: str, facts: dict[str, object], tmp_path: pathlib.Path, capsys: Capture
) -> None:
    file = header_only(tmp_path / "a.safetensors", name, prefix)
    assert main(["inspect", "--json", str(file)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["family"] == name and shown["kind"] == "safetensors, sound"
    assert {key: shown.get(key) for key in facts} == facts


def test_inspect_says_what_a_network_lacks(tmp_path: pathlib.Path, capsys: Capture) -> None:
    file = header_only(tmp_path / "a.safetensors", "adm-64", without="middle_block.1.qkv.bias")
    assert main(["inspect", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "middle_block.1: 1 missing (qkv.bias)" in shown and "most like the published adm-64 (99.8 %" in shown
    with pytest.raises(ValueError, match=r"middle_block\.1: 1 missing"):
        guided.load(file)


def test_inspect_reads_an_index(tmp_path: pathlib.Path, capsys: Capture) -> None:
    state = adm.weights(ADM)
    save(state, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, "one.safetensors")}))
    assert main(["inspect", "--json", str(index)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["kind"] == "safetensors in 1 files, sound" and shown["tensors"] == len(state)
    assert "num_head_channels" in shown["network"]
