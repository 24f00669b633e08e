"""diffusers' names for `zoo.network`, with a config and without; and `guided convert` to and from its folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from guided import zoo
from guided.cli import main
from guided.zoo import diffusers_open
from guided.zoo.diffusers_config import to_config
from tests.zoo import pipelines
from tests.zoo.published import PUBLISHED, SMALL

pytest.importorskip("diffusers")


def test_a_checkpoint_with_its_config_is_a_network() -> None:
    state = pipelines.unet("sdxl-base").state_dict()
    before = {name: value.clone() for name, value in state.items()}
    network = zoo.network(state, SMALL["sdxl-base"])
    assert network.config == to_config(SMALL["sdxl-base"])
    with torch.no_grad():
        for value in network.parameters():
            value.zero_()
    assert all(torch.equal(value, state[name]) for name, value in before.items()), "the caller's tensors were taken"
    wrong = {name: value for name, value in state.items() if "conv_out" not in name}
    with pytest.raises(ValueError, match=r"conv_out: conv_out\.weight is missing \(and 1 more\)"):
        zoo.network(wrong, SMALL["sdxl-base"])
    with pytest.raises(ValueError, match=r"conv_in\.bias is int32"):
        zoo.network({**state, "conv_in.bias": state["conv_in.bias"].int()}, SMALL["sdxl-base"])
    with pytest.raises(ValueError, match="no published network has these shapes"):
        zoo.network(state)


@pytest.mark.parametrize("name", ["sd-1.5", "sd-2.1-v", "sd-inpainting", "x4-upscaler", "sdxl-base"])
def test_without_a_config_it_is_the_published_network_of_these_shapes(name: str) -> None:
    import diffusers

    with torch.device("meta"):
        state = diffusers.UNet2DConditionModel.from_config(PUBLISHED[name]).state_dict()
    found = diffusers_open._published({key: tuple(value.shape) for key, value in state.items()})
    expected = to_config(PUBLISHED[name])
    heads = [found.heads or width // found.head_width for width in found.widths]
    assert heads == [expected.heads or width // expected.head_width for width in expected.widths]
    assert (found.widths, found.depth, found.text_only) == (expected.widths, expected.depth, expected.text_only)


def test_convert_there_and_back(tmp_path: Path, capsys: Any) -> None:
    source = pipelines.saved("if-i-m", tmp_path / "source")
    ours, out = str(tmp_path / "ours"), str(tmp_path / "out")
    assert main(["convert", str(source), ours, "--to", "guided"]) == 0
    assert main(["convert", ours, out, "--to", "diffusers"]) == 0
    file = "unet/diffusion_pytorch_model.safetensors"
    before, after = load_file(source / file), load_file(Path(out) / file)
    assert before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    assert main(["inspect", ours]) == 0 and '["text_encoder"]' in capsys.readouterr().out


def test_what_has_no_counterpart_is_not_converted(tmp_path: Path, capsys: Any) -> None:
    from tests.model import build

    folder = build.class_model().save(tmp_path / "model")
    assert main(["convert", str(folder), str(tmp_path / "out"), "--to", "diffusers"]) == 2
    assert "UNet2DConditionModel has no counterpart to one skip a level" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
