"""New words, and prompts encoded with gradient."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import guided
from guided import text
from guided.tune import adapters
from guided.tune.adapters.words import names
from tests.text import tiny
from tests.tune.adapters.build import apart, our_answer, pipeline, shaken, their_words, theirs
from tests.zoo import pipelines

PROMPT = "a <dog> runs"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    root = tmp_path_factory.mktemp("pipes")
    return {name: pipelines.saved(name, root / name) for name in ("sd-1.5", "sdxl-base")}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", ["sd-1.5", "sdxl-base"])
def test_a_word_is_read_as_diffusers_reads_it(
    name: str, count: int, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    _, model = pipeline(name, folders[name])
    encoder = model.encoders["text"]
    before, key = our_answer(model, PROMPT), encoder.key
    widths = [tower.get_input_embeddings().weight.shape[1] for tower in adapters.towers(encoder).values()]
    rows = [torch.randn(count, width, generator=torch.Generator().manual_seed(i)) for i, width in enumerate(widths)]
    pipe = theirs(name, folders[name])
    if len(rows) == 1:
        save_file({"<dog>": rows[0]}, tmp_path / "learned_embeds.safetensors")
        pipe.load_textual_inversion(tmp_path, weight_name="learned_embeds.safetensors")
        adapters.with_words(model, {"<dog>": tmp_path / "learned_embeds.safetensors"})
    else:
        ends = zip(("", "_2"), rows, strict=True)
        for end, vectors in ends:
            given = {"text_encoder": getattr(pipe, f"text_encoder{end}"), "tokenizer": getattr(pipe, f"tokenizer{end}")}
            pipe.load_textual_inversion({"<dog>": vectors}, token="<dog>", **given)
        adapters.with_words(model, {"<dog>": {"clip_l": rows[0], "clip_g": rows[1]}})
    assert apart(our_answer(model, PROMPT)[:-1], their_words(pipe, PROMPT)) < 1e-5
    assert apart(our_answer(model, PROMPT), before) > 1e-3 and encoder.key != key
    adapters.save(model, tmp_path / "word", name="words")
    opened = guided.load(tmp_path / "word")
    assert apart(our_answer(opened, PROMPT), our_answer(model, PROMPT)) == 0
    assert opened.adapters[0]["words"] == ["<dog>"]
    with pytest.raises(ValueError, match="holds new words, which no weights hold"):
        adapters.merge(opened)
    adapters.eject(model)
    assert apart(our_answer(model, PROMPT), before) == 0 and encoder.key == key


def test_the_end_of_a_prompt_is_its_end_whatever_the_new_words_number(tmp_path: pathlib.Path) -> None:
    """Old configs of CLIP name no end, and the largest number is taken for it."""
    import transformers

    parts = pipelines.clip("", True, 8, 4)
    parts["text_encoder"].config.eos_token_id = 2
    parts["text_encoder"].save_pretrained(tmp_path / "text_encoder")
    parts["tokenizer"].save_pretrained(tmp_path / "tokenizer")
    encoder = text.open({"towers": [{"from": str(tmp_path / "text_encoder"), "layer": -2, "pooled": True}]})
    before = encoder(["a cat"]).vector
    rows = torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    adapters.fresh_words(encoder, {"<w>": {"text_encoder": rows}})
    assert torch.equal(encoder(["a cat"]).vector, before)
    right = transformers.CLIPTextModelWithProjection.from_pretrained(tmp_path / "text_encoder")
    right.text_model.eos_token_id = parts["tokenizer"].eos_token_id
    right.resize_token_embeddings(len(parts["tokenizer"]) + 1)
    right.get_input_embeddings().weight.data[-1] = rows[0]
    tokenizer = parts["tokenizer"]
    tokenizer.add_tokens(["<w>"])
    ids = tokenizer("a <w>", padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert (encoder(["a <w>"]).vector - right(ids).text_embeds).abs().max() < 1e-5


def test_forms_of_files(tmp_path: pathlib.Path, folders: dict[str, pathlib.Path]) -> None:
    save_file({"emb_params": torch.ones(2, 12)}, tmp_path / "style.safetensors")
    assert adapters.read(tmp_path / "style.safetensors").words["style"]["text_encoder"].shape == (2, 12)
    save_file({"clip_l": torch.ones(2, 4), "clip_g": torch.ones(2, 8)}, tmp_path / "both.safetensors")
    assert {k: tuple(v.shape) for k, v in adapters.read(tmp_path / "both.safetensors").words["both"].items()} == {
        "text_encoder": (2, 4),
        "text_encoder_2": (2, 8),
    }
    model = guided.load(folders["sd-1.5"])
    for message, words in {
        "(1 to 75, 12): made for another base": {"<x>": torch.ones(1, 768)},
        "hold NaN or infinity": {"<x>": torch.full((1, 12), torch.nan)},
        "knows this word already": {"a</w>": torch.ones(1, 12)},
        "'A': text_encoder knows this word already": {"A": torch.ones(1, 12)},
        "reads two of <x>, <X> as one word": {"<x>": torch.ones(1, 12), "<X>": torch.ones(1, 12)},
        "expected a word without spaces": {" x": torch.ones(1, 12)},
        "has vectors for text_encoder_2": {"<x>": {"clip_g": torch.ones(1, 12)}},
    }.items():
        with pytest.raises(ValueError, match=re.escape(message)):
            adapters.with_words(model, words)
        assert model.adapters == () and names(model.encoders["text"]) == []


def test_a_word_within_another_is_not_read_for_it(folders: dict[str, pathlib.Path]) -> None:
    model = guided.load(folders["sd-1.5"])
    rows = {"<z": torch.ones(2, 12), "<zz>": torch.full((1, 12), 2.0)}
    alone = guided.load(folders["sd-1.5"])
    adapters.with_words(model, rows)
    adapters.with_words(alone, {"<zz>": rows["<zz>"]})
    assert apart(our_answer(model, "a <zz> runs"), our_answer(alone, "a <zz> runs")) == 0


@pytest.mark.parametrize("word", ["Cat", "lighthouse"])
def test_a_word_that_is_known_in_another_spelling_or_place_is_not_lost(word: str, tmp_path: pathlib.Path) -> None:
    encoder = text.open(str(tiny.clip_folder(tmp_path)))
    before = encoder([f"a {word} runs"]).tokens
    with pytest.raises(ValueError, match=f"'{word}': text_encoder knows this word already"):
        adapters.fresh_words(encoder, {word: 2})
    assert torch.equal(encoder([f"a {word} runs"]).tokens, before)


@pytest.mark.parametrize("kind", ["clip", "t5", "bert", "towers"])
def test_live_is_the_call_with_gradient(kind: str, tmp_path: pathlib.Path, folders: dict[str, pathlib.Path]) -> None:
    make = {"clip": tiny.clip_folder, "t5": tiny.t5_folder, "bert": tiny.bert_folder}
    encoder: Any = (
        guided.load(folders["sdxl-base"]).encoders["text"] if kind == "towers" else text.open(str(make[kind](tmp_path)))
    )
    texts = ["a red circle", "a cat and more", ""]
    plain = encoder(texts)
    found = adapters.live(encoder, texts)
    assert torch.equal(found.tokens, plain.tokens) and not found.tokens.requires_grad
    made = adapters.fresh_text(encoder, 2, seed=1)
    assert torch.equal(adapters.live(encoder, texts).tokens, plain.tokens)
    shaken(made)
    found = adapters.live(encoder, texts)
    again = encoder(texts)
    assert (found.tokens - again.tokens).abs().max() < 1e-6 and not again.tokens.requires_grad
    if found.vector is not None:
        assert (found.vector - again.vector).abs().max() < 1e-6
    found.tokens.square().sum().backward()
    assert sum(value.grad is not None and bool(value.grad.any()) for value in made.values()) > len(made) // 2
    for tower in adapters.towers(encoder).values():
        trained = {id(value) for value in made.values()}
        assert all(value.grad is None for value in tower.parameters() if id(value) not in trained)


def test_new_words_are_trained_alone(folders: dict[str, pathlib.Path]) -> None:
    model = guided.load(folders["sdxl-base"])
    encoder = model.encoders["text"]
    plain = encoder(["a cat"]).tokens
    made = adapters.fresh_words(encoder, {"<cat>": "cat", "<new>": 2}, seed=1)
    assert {name: value.shape[0] for name, value in made.items()} == {
        "text_encoder.words": 5,
        "text_encoder_2.words": 5,
    }
    # A word begins as the tokens of its text: at first it reads the same.
    assert torch.equal(encoder(["a <cat>"]).tokens, plain)
    adapters.live(encoder, ["a <new>"]).tokens.square().sum().backward()
    grads = made["text_encoder.words"].grad
    assert bool(grads[3:].any()) and not bool(grads[:3].any())
    shaken(made)
    assert not torch.equal(encoder(["a <cat>"]).tokens, plain) and torch.equal(encoder(["a cat"]).tokens, plain)
    found = adapters.adapter_of(model)
    assert torch.equal(found.words["<new>"]["text_encoder"], made["text_encoder.words"][3:].detach())


def test_an_encoder_with_an_adapter_moves_with_it(folders: dict[str, pathlib.Path]) -> None:
    """On another device it is not opened anew, without what was put on it."""
    model = guided.load(folders["sd-1.5"])
    shaken(adapters.fresh_text(model.encoders["text"], 2))
    before = model.encoders["text"](["a cat"]).tokens
    moved = model.encoders["text"].to("meta")
    assert moved.changed and moved.is_open
    assert next(iter(adapters.towers(moved).values())).device.type == "meta"
    with pytest.raises(ValueError, match="save: an adapter is on"):
        adapters.fresh(model.denoiser.network, 1)
        model.save("nowhere")
    assert before.shape[-1] == 12


def test_what_was_saved_is_in_diffusers_form(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    model = guided.load(folders["sd-1.5"])
    adapters.fresh_words(model.encoders["text"], {"<a>": 2, "<b>": 1})
    adapters.save(model, tmp_path / "words")
    held = load_file(tmp_path / "words" / "learned_embeds.safetensors")
    assert {name: tuple(value.shape) for name, value in held.items()} == {"<a>": (2, 12), "<b>": (1, 12)}


def test_words_in_training_outlive_others_and_a_checkpoint(folders: dict[str, pathlib.Path]) -> None:
    model = guided.load(folders["sd-1.5"])
    encoder = model.encoders["text"]
    made = adapters.fresh_words(encoder, {"<a>": 2}, name="a")
    shaken(made)
    (tower,) = adapters.towers(encoder).values()
    held = {name: value.clone() for name, value in adapters.tensors(tower).items()}
    assert torch.equal(held["words"], made["text_encoder.words"].detach())
    states = encoder(["an <a>"]).tokens
    adapters.with_words(model, {"<b>": torch.ones(1, 12)}, name="b")
    assert torch.equal(encoder(["an <a>"]).tokens, states)
    adapters.eject(model, "b")
    assert torch.equal(encoder(["an <a>"]).tokens, states)
    adapters.eject(model)
    adapters.fresh_words(encoder, {"<a>": 2}, name="a")
    adapters.load_tensors(tower, held)
    assert torch.equal(encoder(["an <a>"]).tokens, states)
    with pytest.raises(ValueError, match="there are new words on this encoder"):
        adapters.fresh_words(encoder, {"<c>": 1})
