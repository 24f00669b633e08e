"""Checkpoints that are not whole, not sound or not what they claim: each is refused by name, and none half-loads."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import guided
from guided import zoo
from guided._safetensors import save
from guided.zoo import _unpickle, weights
from guided.zoo.deduce import block_of
from guided.zoo.recognise import recognise
from tests.zoo import adm
from tests.zoo.adm import ADM, CLASSIFIER, SD, SDXL, UPSAMPLER, X4, Flags

NETWORKS = {"adm": ADM, "upsampler": UPSAMPLER, "classifier": CLASSIFIER, "sd": SD, "x4": X4, "sdxl": SDXL}
State = dict[str, Tensor]


def zeros(f: Flags) -> State:
    return {name: torch.zeros(shape) for name, shape in adm.shapes(f).items()}


def picked(f: Flags, many: int = 11) -> list[str]:
    """Tensors from everywhere; a class table alone may be left out, for without it the network is another whole one."""
    names = sorted(name for name in adm.shapes(f) if name != "label_emb.weight")
    return [*names[:: len(names) // many], "input_blocks.0.0.weight", "time_embed.0.weight"]


def removed(state: State, name: str) -> State:
    return {key: value for key, value in state.items() if key != name}


def renamed(state: State, name: str) -> State:
    return {f"{key}s" if key == name else key: value for key, value in state.items()}


def added(state: State, name: str) -> State:
    return state | {f"{name}s": torch.zeros(3)}


def reshaped(state: State, name: str) -> State:
    value = state[name]
    return state | {name: torch.zeros(*value.shape[:-1], value.shape[-1] + 1)}


def flat(state: State, name: str) -> State:
    return state | {name: state[name].reshape(1, *state[name].shape)}


DAMAGE: dict[str, Callable[[State, str], State]] = {
    "removed": removed,
    "renamed": renamed,
    "added": added,
    "reshaped": reshaped,
    "flat": flat,
}
CASES = [(n, d, name) for n, f in NETWORKS.items() for d in DAMAGE for name in picked(f)]


def test_there_are_more_than_200() -> None:
    assert len(CASES) > 300


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_network_that_is_not_whole_is_refused_by_its_block(network: str, damage: str) -> None:
    f = NETWORKS[network]
    whole = zeros(f)
    zoo.network(whole, f.config)
    for name in picked(f):
        with pytest.raises(ValueError) as caught:
            zoo.network(DAMAGE[damage](whole, name), f.config)
        said = str(caught.value)
        assert block_of(name) in said, f"{name}: {said}"
        assert "most like the published" in said or "like none of the published" in said


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("name", ["out.2.weight", "middle_block.0.in_layers.0.bias"])
def test_a_dtype_that_float32_does_not_hold(dtype: torch.dtype, name: str) -> None:
    state = zeros(ADM)
    with pytest.raises(ValueError, match=rf"dtype: expected F32, F16, BF16, but {name} is"):
        zoo.network(state | {name: state[name].to(dtype)}, ADM.config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_channels": 64},
        {"model_channels": 320},
        {"channel_mult": "1,2,4"},
        {"channel_mult": [1, 2, 4, 4]},
        {"num_res_blocks": 2},
        {"in_channels": 9},
        {"out_channels": 3},
        {"class_cond": False},
        {"num_classes": 1000},
        {"num_classes": "sequential"},
        {"learn_sigma": False},
        {"use_scale_shift_norm": False},
        {"resblock_updown": False},
        {"attention_resolutions": [4, 2, 1]},
        {"attention_resolutions": "8,4", "image_size": 8},
        {"context_dim": 768},
        {"adm_in_channels": 2816},
        {"model": {"params": {"unet_config": {"params": {"model_channels": 320, "num_heads": 8}}}}},
        {"num_heads": 3},
        {"num_heads": 4, "num_heads_upsample": 2},
        {"num_head_channels": "many"},
        {"use_new_attention_order": "yes"},
        {"noise_schedule": "sigmoid"},
        {"parameterization": "noise"},
        {"dropout": 2.0},
        {"num_chanels": 32},
        {"_class_name": "UNet2DConditionModel"},
    ],
    ids=str,
)
def test_a_config_of_another_network(wrong: dict[str, Any]) -> None:
    own = {} if {"num_heads", "num_head_channels", "model"} & wrong.keys() else {"num_head_channels": 16}
    with pytest.raises(ValueError, match=r"config: |heads|dropout|schedule"):
        zoo.network(zeros(ADM), {**own, **wrong})


def test_a_config_says_what_no_tensor_does() -> None:
    shapes = adm.shapes(SD)
    yaml = {
        "model": {
            "target": "ldm",
            "params": {
                "linear_start": 0.001,
                "linear_end": 0.02,
                "parameterization": "v",
                "unet_config": {"params": {"image_size": 32, "num_heads": 4, "legacy": False, "model_channels": 32}},
            },
        }
    }
    found = recognise(shapes, yaml)
    assert found.config.heads == 4 and not found.assumed and found.size is None
    assert repr(found.predicts) == "V()" and found.schedule == guided.frames.DDPM("scaled", 0.001, 0.02)


@pytest.mark.parametrize("name", ["lora.weight", "control_model.input_blocks.0.0.weight", "unknown"])
def test_what_belongs_to_something_else_is_not_dropped_in_silence(name: str) -> None:
    whole = {f"model.diffusion_model.{key}": value for key, value in zeros(SD).items()}
    zoo.network(whole | {"first_stage_model.encoder.conv_in.weight": torch.zeros(1), "betas": torch.ones(9)}, SD.config)
    with pytest.raises(ValueError, match=name):
        zoo.network(whole | {name: torch.zeros(3)}, SD.config)


@pytest.mark.parametrize("state", [{}, {"a.weight": torch.zeros(2)}, {"conv_in.weight": torch.zeros(4, 3, 3, 3)}])
def test_names_of_no_layout(state: State) -> None:
    with pytest.raises(ValueError, match=r"empty|names that this version of guided does not know"):
        zoo.network(state)


@pytest.mark.parametrize("name", ["input_blocks.999999999.0.in_layers.2.weight", "input_blocks.998.0.op.weight"])
def test_numbers_of_blocks_without_end(name: str) -> None:
    with pytest.raises(ValueError, match="input_blocks"):
        zoo.network(zeros(ADM) | {name: torch.zeros(1)}, ADM.config)


def test_files_that_are_cut(tmp_path: pathlib.Path) -> None:
    save(adm.weights(ADM), tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    for cut in (0, 7, 8, 300, len(content) // 2, len(content) - 1):
        file = tmp_path / "cut.safetensors"
        file.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"cut\.safetensors"):
            guided.load(file, config=ADM.config)


def sharded(folder: pathlib.Path, state: State) -> tuple[pathlib.Path, dict[str, str]]:
    names = sorted(state)
    where = {name: f"model-{1 + (i > len(names) // 2)}-of-2.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save({name: state[name] for name in names if where[name] == file}, folder / file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index, where


def test_several_files_under_an_index(tmp_path: pathlib.Path) -> None:
    state = adm.weights(ADM)
    index, _ = sharded(tmp_path, state)
    read = weights.read(index)
    assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)
    model = guided.load(index, config={**ADM.config, "image_size": 8, "noise_schedule": "linear"})
    assert model.card["classes"] == list("01234")


@pytest.mark.parametrize(
    "part",
    ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".hidden.safetensors", "x.bin", "", 3, None],
)
def test_an_index_names_its_siblings_alone(part: Any, tmp_path: pathlib.Path) -> None:
    (tmp_path / "in").mkdir()
    state = adm.weights(ADM)
    save(state, tmp_path / "outside.safetensors")
    index, where = sharded(tmp_path / "in", state)
    index.write_text(json.dumps({"weight_map": {**where, "out.0.bias": part}}))
    with pytest.raises(ValueError, match=r"weight_map: out\.0\.bias: expected a \.safetensors file beside it"):
        guided.load(index)


def test_an_index_that_does_not_say_what_its_files_hold(tmp_path: pathlib.Path) -> None:
    index, where = sharded(tmp_path, adm.weights(ADM))
    moved = {**where, "out.0.bias": next(file for file in where.values() if file != where["out.0.bias"])}
    fewer = {name: file for name, file in where.items() if name != "out.0.bias"}
    more = {**where, "another.bias": where["out.0.bias"]}
    for listed in (moved, fewer, more):
        index.write_text(json.dumps({"weight_map": listed}))
        with pytest.raises(ValueError, match=r"hold other tensors than it lists: (out\.0|another)\.bias"):
            weights.read(index)
    for text in ("[]", "{", '{"weight_map": []}', '{"weight_map": {}}'):
        index.write_text(text)
        with pytest.raises(ValueError, match=r"weight_map|not JSON"):
            weights.read(index)
    index.write_text(json.dumps({"weight_map": {**where, "out.0.bias": "gone.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"names gone\.safetensors"):
        weights.read(index)


class Evil:
    """Unpickled, it would leave a mark."""

    def __init__(self, mark: pathlib.Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def hostile(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    mark = folder / "mark"
    made = {name: folder / f"{name}.pt" for name in ("legacy", "zip", "bomb", "sparse", "list", "words", "object")}
    made["legacy"].write_bytes(pickle.dumps(Evil(mark)))
    torch.save({"a.weight": torch.zeros(3), "evil": Evil(mark)}, made["zip"])
    torch.save({"a.weight": torch.zeros(1).expand(10**12)}, made["bomb"])
    torch.save({"a.weight": torch.eye(3).to_sparse()}, made["sparse"])
    torch.save([torch.zeros(3)], made["list"])
    made["words"].write_bytes(b"words, no pickle")
    torch.save({"a.weight": {"b": torch.zeros(2)}}, made["object"])
    return made


def test_pickles_are_refused_unread_unless_asked_for(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("a pickle was read"))
    for file in hostile(tmp_path).values():
        for read in (guided.load, weights.read, weights.entries):
            with pytest.raises(ValueError, match="refused: a Python pickle"):
                read(file)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["legacy", "zip"])
def test_hostile_pickles_run_nothing_even_when_asked_for(name: str, tmp_path: pathlib.Path) -> None:
    file = hostile(tmp_path)[name]
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=rf"{name}\.pt: refused: a pickle that holds more than tensors, or is damaged"):
        guided.load(file, pickle=True)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("name", ["legacy", "zip", "bomb", "sparse", "list", "words", "object", "nothing"])
def test_a_pickles_reader_says_why_in_one_line(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_unpickle, "limit", lambda *_: None)  # they would bind this process
    file = hostile(tmp_path).get(name, tmp_path / "nothing.pt")
    before = sorted(os.listdir(tmp_path))
    assert _unpickle.main(str(file), str(tmp_path / "out"), "1", "1") == 1
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_a_sound_pickle_gives_its_tensors(tmp_path: pathlib.Path) -> None:
    state = adm.weights(ADM)
    shared = state | {"out.0.bias": state["out.0.weight"]}
    torch.save({"state_dict": shared, "global_step": 7}, tmp_path / "a.ckpt")
    (tmp_path / "a.yaml").write_text("num_head_channels: 16\nimage_size: 8\nnoise_schedule: linear\n")
    with pytest.raises(ValueError, match="refused"):
        guided.load(tmp_path / "a.ckpt")
    model = guided.load(tmp_path / "a.ckpt", pickle=True)
    assert isinstance(model, guided.Model)
    assert model.card["provenance"]["assumed"] == {"use_new_attention_order": False}
    wanted = zoo.network(shared, {"num_head_channels": 16}).state_dict()
    found = model.denoiser.network.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_memory_of_a_pickles_reader_is_bounded(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.zeros(1 << 24)}, tmp_path / "a.pt")
    monkeypatch.setattr(weights, "MEMORY", -(4 << 26) + (1 << 20))  # 1 MB more than the process has
    with pytest.raises(ValueError, match=r"a\.pt: refused: .*memory"):
        weights.read(tmp_path / "a.pt", pickle=True)


def test_anothers_notes_beside_a_checkpoint_are_no_config(tmp_path: pathlib.Path) -> None:
    from guided.zoo import opening

    (tmp_path / "a.json").write_text('{"model": "someone\'s notes", "sd version": "SD1"}')
    assert opening.beside(tmp_path / "a.safetensors") is None
    (tmp_path / "a.json").write_text('{"num_heads": 4}')
    assert opening.beside(tmp_path / "a.safetensors") == {"num_heads": 4}
    (tmp_path / "a.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"a\.json: not JSON"):
        opening.beside(tmp_path / "a.safetensors")
