"""Files that are damaged, of another kind, or contradict themselves are refused by their key."""

from __future__ import annotations

import json
import pathlib
import pickle
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from guided.tune import adapters

LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
DOWN, UP = f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
GOOD = {DOWN: torch.ones(2, 8), UP: torch.ones(8, 2)}


def put(tmp_path: pathlib.Path, tensors: dict[str, Tensor], **how: Any) -> pathlib.Path:
    file = tmp_path / "a.safetensors"
    save_file(tensors, file, **how)
    return file


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({DOWN: GOOD[DOWN]}, "lora_A.weight': the up half of .*to_q is missing"),
        ({UP: GOOD[UP]}, "lora_B.weight': the down half of .*to_q is missing"),
        ({f"{LAYER}.alpha": torch.tensor(1.0)}, "alpha': the down half"),
        (GOOD | {DOWN: torch.full((2, 8), torch.nan)}, "lora_A.weight': holds NaN or infinity"),
        (GOOD | {f"{LAYER}.alpha": torch.tensor(torch.inf)}, "alpha': holds NaN or infinity"),
        (GOOD | {f"{LAYER}.alpha": torch.ones(2)}, r"alpha': the shape \[2\], expected one number"),
        (
            GOOD | {UP: torch.ones(8, 3)},
            r"lora_B.weight': the shape \[8, 3\], expected \(outputs, 2\) for that of '.*lora_A",
        ),
        (
            GOOD | {DOWN: torch.ones(2, 8, 1)},
            r"lora_A.weight': the shape \[2, 8, 1\], expected \(rank, inputs\) or that",
        ),
        (GOOD | {DOWN: torch.ones(2, 8).int()}, "lora_A.weight': torch.int32, expected floating-point numbers"),
        ({DOWN: torch.ones(20000, 1), UP: torch.ones(1, 20000)}, "its rank is 20000, at most 16384 is believed"),
        (
            GOOD | {f"{LAYER}.dora_scale": torch.ones(7)},
            "dora_scale': the shape .7., expected one number for each of 8",
        ),
        (
            GOOD | {f"{LAYER}.dora_scale": torch.ones(1, 8)},
            "one number an input, which neither peft nor diffusers knows",
        ),
        (
            GOOD | {f"{LAYER}.dora_scale": torch.ones(1, 8, 1, 1)},
            "one number an input, which neither peft nor diffusers knows",
        ),
        (GOOD | {f"{LAYER}.lora.down.weight": torch.ones(2, 8)}, "the same as"),
        (GOOD | {f"{LAYER}.hada_w1_a": torch.ones(2, 8)}, "hada_w1_a': LoHa of LyCORIS, not LoRA"),
        (GOOD | {f"{LAYER}.lokr_w1": torch.ones(2, 8)}, "lokr_w1': LoKr of LyCORIS"),
        (GOOD | {f"{LAYER}.lora_mid.weight": torch.ones(2, 2)}, "a LoCon in Tucker's form"),
        (GOOD | {f"{LAYER}.lora_B.bias": torch.ones(8)}, "a LoRA with biases"),
        (GOOD | {f"{LAYER}.diff": torch.ones(8, 8)}, "whole differences of weights"),
        (GOOD | {f"{LAYER}.lora_C.weight": torch.ones(8, 8)}, "no key of a LoRA that is known"),
    ],
)
def test_a_bad_key_is_named(tensors: dict[str, Tensor], message: str, tmp_path: pathlib.Path) -> None:
    file = put(tmp_path, tensors)
    with pytest.raises(ValueError, match=message) as caught:
        adapters.read(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_a_file_that_is_cut_is_refused(tmp_path: pathlib.Path) -> None:
    file = put(tmp_path, GOOD)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="the file is cut"):
        adapters.read(file)
    save_file({}, file)
    with pytest.raises(ValueError, match="holds no tensor"):
        adapters.read(file)
    with pytest.raises(FileNotFoundError, match="no such file or folder of an adapter"):
        adapters.read(tmp_path / "none")


def test_pickles_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"a": 1}))
    for place in (tmp_path, tmp_path / "x.pt", tmp_path / "pytorch_lora_weights.bin"):
        with pytest.raises(ValueError, match="refused: a Python pickle"):
            adapters.read(place)
    (tmp_path / "peft").mkdir()
    (tmp_path / "peft" / "adapter_config.json").write_text("{}")
    (tmp_path / "peft" / "adapter_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="refused: a Python pickle"):
        adapters.read(tmp_path / "peft")


def test_other_folders_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no adapter in it: none of adapter.json"):
        adapters.read(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type: expected LORA, got 'LOHA'"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save: .*: more than a LoRA"),
        ({"bias": "all"}, "bias: expected 'none'"),
        ({"lora_alpha": "big"}, "lora_alpha, alpha_pattern: expected numbers"),
    ],
)
def test_configs_that_are_more_than_a_lora(config: dict[str, Any], message: str, tmp_path: pathlib.Path) -> None:
    save_file({key.replace("unet.", "base_model.model."): v for key, v in GOOD.items()},
              tmp_path / "adapter_model.safetensors")  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4} | config))
    with pytest.raises(ValueError, match=message):
        adapters.read(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 4}))
    (change,) = adapters.read(tmp_path).layers["unet"].values()
    assert change.scale == 2.0
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{name}": value for name, value in config.items()})}
    file = put(tmp_path, GOOD, metadata=metadata)
    with pytest.raises(ValueError, match=message):
        adapters.read(file)


def test_scales_of_files(tmp_path: pathlib.Path) -> None:
    def scale(tensors: dict[str, Tensor], **how: Any) -> float:
        (change,) = adapters.read(put(tmp_path, tensors, **how)).layers["unet"].values()
        return change.scale

    assert scale(GOOD) == 1.0
    assert scale(GOOD | {f"{LAYER}.alpha": torch.tensor(1.0)}) == 0.5
    kohya = {f"{KOHYA}.lora_down.weight": GOOD[DOWN], f"{KOHYA}.lora_up.weight": GOOD[UP]}
    assert scale(kohya | {f"{KOHYA}.alpha": torch.tensor(4.0)}) == 2.0
    said = {"unet.lora_alpha": 3, "unet.alpha_pattern": {"attn1.to_q": 5}}
    assert scale(GOOD, metadata={"lora_adapter_metadata": json.dumps(said)}) == 2.5
    said = {"unet.lora_alpha": 2, "unet.use_rslora": True}
    assert scale(GOOD, metadata={"lora_adapter_metadata": json.dumps(said)}) == pytest.approx(2**0.5)


def test_an_alpha_may_be_a_whole_number(tmp_path: pathlib.Path) -> None:
    for alpha in (torch.tensor(1), torch.tensor([1])):
        (change,) = adapters.read(put(tmp_path, GOOD | {f"{LAYER}.alpha": alpha})).layers["unet"].values()
        assert change.scale == 0.5


def test_half_precision_is_read_in_float32(tmp_path: pathlib.Path) -> None:
    (change,) = adapters.read(put(tmp_path, {k: v.half() for k, v in GOOD.items()})).layers["unet"].values()
    assert change.down.dtype == change.up.dtype == torch.float32


@pytest.mark.parametrize("pattern", ["(a+)+$", "(", "x" * 10 + "(.*)*y"])
def test_a_pattern_that_is_no_name_is_refused(pattern: str, tmp_path: pathlib.Path) -> None:
    said = {"unet.lora_alpha": 3, "unet.alpha_pattern": {pattern: 5}}
    with pytest.raises(ValueError, match=r"alpha_pattern: .* expected names of layers"):
        adapters.read(put(tmp_path, GOOD, metadata={"lora_adapter_metadata": json.dumps(said)}))
