"""Encoders of published pipelines: one length for all prompts, towers side by side, padding that is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from guided import text
from guided.text import PromptCut
from tests.text import tiny

transformers = pytest.importorskip("transformers")
PROMPTS = ["a red circle", "two astronauts ride a horse on the moon"]


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("towers")
    return {
        "plain": tiny.clip_folder(root / "plain"),
        "projected": tiny.clip_folder(root / "projected", projected=True, seed=1),
        "t5": tiny.t5_folder(root / "t5"),
    }


def spec(*towers: dict[str, Any], **rest: Any) -> dict[str, Any]:
    return {"towers": list(towers), **rest}


@torch.no_grad()
def test_the_states_are_those_of_the_padded_prompt(towers: dict[str, Path]) -> None:
    encoder = text.open(spec({"from": str(towers["plain"]), "layer": -2}))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(towers["plain"])
    model = transformers.CLIPTextModel.from_pretrained(towers["plain"]).eval()
    ids = tokenizer(PROMPTS, padding="max_length", max_length=77, return_tensors="pt").input_ids
    want = model(ids, output_hidden_states=True).hidden_states[-2]
    said = encoder(PROMPTS)
    assert said.tokens.shape == (2, 77, 32) and bool(said.mask.all()) and said.vector is None
    assert torch.allclose(said.tokens, want, atol=1e-5)
    assert torch.equal(encoder(PROMPTS[:1]).tokens[0], said.tokens[0])
    assert encoder.length == 77 and encoder.width == 32 and encoder.vector_width == 0


@torch.no_grad()
def test_t5_does_not_attend_to_its_padding_and_reads_lower_case(towers: dict[str, Path]) -> None:
    encoder = text.open(spec({"from": str(towers["t5"])}, length=20))
    model = transformers.T5EncoderModel.from_pretrained(towers["t5"]).eval()
    tokenizer = transformers.T5Tokenizer.from_pretrained(towers["t5"])
    given = tokenizer(PROMPTS[0], padding="max_length", max_length=20, return_tensors="pt")
    want = model(input_ids=given.input_ids, attention_mask=given.attention_mask).last_hidden_state
    said = encoder([PROMPTS[0], f" {PROMPTS[0].upper()} "])
    assert torch.allclose(said.tokens[:1], want, atol=1e-5) and torch.equal(said.tokens[0], said.tokens[1])


def test_towers_stand_side_by_side_and_one_gives_the_vector(towers: dict[str, Path]) -> None:
    first, second = {"from": str(towers["plain"])}, {"from": str(towers["projected"]), "pooled": True}
    encoder = text.open(spec(first, second, null="zeros"))
    said = encoder(PROMPTS)
    assert said.tokens.shape == (2, 77, 64) and encoder.vector_width == 24
    assert said.vector is not None and said.vector.shape == (2, 24)
    assert torch.equal(said.tokens[..., :32], text.open(spec(first))(PROMPTS).tokens)
    nothing = encoder.nothing(3)
    assert nothing.tokens.shape == (3, 77, 64) and not nothing.tokens.any() and bool(nothing.mask.all())
    assert nothing.vector is not None and not nothing.vector.any()
    assert torch.equal(text.open(spec(first)).nothing(2).tokens, text.open(spec(first))(["", ""]).tokens)


def test_a_long_prompt_is_cut_with_a_warning(towers: dict[str, Path]) -> None:
    encoder = text.open(spec({"from": str(towers["plain"])}, length=5))
    with pytest.warns(PromptCut, match='not read: "square'):
        said = encoder(["a red circle square"])
    assert said.tokens.shape == (1, 5, 32) and said.cut[0] is not None and "square" in said.cut[0]


def test_a_spec_opens_the_same_encoder_wherever_it_lies(towers: dict[str, Path], tmp_path: Path) -> None:
    encoder = text.open(spec({"from": str(towers["plain"])}))
    moved = tiny.clip_folder(tmp_path / "moved")
    there = {**encoder.spec, "towers": [{**encoder.spec["towers"][0], "from": str(moved)}]}
    assert text.open(there).key == encoder.key
    other = tiny.clip_folder(tmp_path / "other", seed=5)
    with pytest.raises(ValueError, match=r"its weights is .*, expected"):
        text.open({**there, "towers": [{**there["towers"][0], "from": str(other)}]})


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"towers": []}, "towers: expected a list of encoders"),
        ({"towers": [{"layer": -1}]}, "towers: expected .* of each"),
        ({"towers": [{"from": "x", "code": "y"}]}, "towers: expected .* of each"),
        ({"towers": [{"from": "x", "layer": 3}]}, "layer counts from the end"),
        ({"towers": [{"from": "x"}], "null": "learned"}, "null empty or zeros"),
        ({"towers": [{"from": "x"}], "dtype": "int8"}, "a dtype"),
        ({"towers": [{"from": "x"}], "length": 0}, "length is a whole number"),
        ({"towers": [{"from": "x"}], "wings": 1}, "expected"),
    ],
)
def test_a_wrong_spec_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text.open(wrong)


def test_towers_that_do_not_fit_are_refused(towers: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="it has no projection"):
        text.open(spec({"from": str(towers["plain"]), "pooled": True}))
    with pytest.raises(ValueError, match="read different lengths"):
        text.open(spec({"from": str(towers["plain"])}, {"from": str(towers["t5"])}))
    with pytest.raises(ValueError, match="length is between 1 and 77"):
        text.open(spec({"from": str(towers["plain"])}, length=78))
