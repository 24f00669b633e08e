"""Every encoder: masks, padding, the null, cuts, and a spec that opens it again."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from guided.text import Encoded, PromptCut, open
from guided.text.encoder import FrozenEncoder, stack

PROMPTS = ["a red circle", "a", "a Photo of a cat, left", "", "a red circle"]
LONG = "A red  Circle left of a Blue square, a photo of a cat left of a red square; blue circle left of it all"


def same(a: Encoded, b: Encoded) -> bool:
    vectors = a.vector is b.vector is None or (
        a.vector is not None and b.vector is not None and torch.equal(a.vector, b.vector)
    )
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.mask, b.mask) and vectors and a.cut == b.cut


def test_the_mask_marks_the_prompt_and_the_batch_is_as_long_as_the_longest(encoder: FrozenEncoder) -> None:
    out = encoder(PROMPTS)
    lengths = [len(encoder.tokenizer(text).ids) for text in PROMPTS]
    assert out.tokens.shape == (5, max(lengths), encoder.width)
    assert out.tokens.dtype == torch.float32 and not out.tokens.requires_grad
    assert out.mask.tolist() == [[i < n for i in range(max(lengths))] for n in lengths]
    assert (out.tokens[~out.mask] == 0).all() and (out.tokens[out.mask].abs().sum(-1) > 0).all()
    assert (0 if out.vector is None else out.vector.shape[1]) == encoder.vector_width
    assert out.cut == (None,) * 5


def test_a_prompt_is_the_same_alone_and_beside_longer_ones(encoder: FrozenEncoder) -> None:
    batch = encoder(PROMPTS)
    for i, text in enumerate(PROMPTS):
        alone = encoder([text])
        n = alone.tokens.shape[1]
        assert alone.mask.all() and batch.mask[i].sum() == n
        # On a CPU to the last bit, so that what a cache holds does not depend on the company it was made in.
        assert torch.equal(batch.tokens[i, :n], alone.tokens[0])
        assert alone.vector is None or torch.equal(batch.vector[i], alone.vector[0])


def test_no_autocast_and_no_gradient_mode_reaches_in(encoder: FrozenEncoder) -> None:
    plain = encoder(PROMPTS[:2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(encoder(PROMPTS[:2]), plain)
    # Not an inference tensor: training saves it for the backward pass.
    weight = torch.ones(encoder.width, requires_grad=True)
    (plain.tokens * weight).sum().backward()
    assert weight.grad is not None


def test_a_long_prompt_is_cut_and_the_warning_quotes_what_was_dropped(encoder: FrozenEncoder) -> None:
    with pytest.warns(PromptCut) as caught:
        out = encoder([LONG, "a"])
    (dropped, none) = out.cut
    assert none is None and dropped and LONG.endswith(dropped) and f'"{dropped}"' in str(caught[0].message)
    assert out.mask.sum(1).tolist()[0] == encoder.length
    # What is read is exactly the rest: the first of it as encoded, the end token still there.
    kept = LONG[: len(LONG) - len(dropped)]
    ids, whole = encoder.tokenizer(LONG).ids, encoder.tokenizer(kept.rstrip()).ids
    assert len(ids) == encoder.length and ids[-1] == whole[-1]
    assert whole[:-1] == ids[: len(whole) - 1] and len(whole) >= len(ids) - 1


def test_a_prompt_that_just_fits_is_not_cut(encoder: FrozenEncoder) -> None:
    words = "a"
    while len(encoder.tokenizer(words + " a").ids) <= encoder.length and encoder.tokenizer(words + " a").cut is None:
        words += " a"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = encoder([words])
    assert out.mask.sum() == encoder.length and out.cut == (None,)
    assert encoder.tokenizer(words + " a").cut is not None


def test_only_three_of_many_cuts_are_quoted(bert: FrozenEncoder) -> None:
    with pytest.warns(PromptCut, match="; and 2 more") as caught:
        bert([LONG + LONG + str(i) for i in range(5)])
    assert len(caught) == 1


def test_each_declares_its_null(encoder: FrozenEncoder) -> None:
    nothing = encoder.nothing(3)
    assert len(nothing.tokens) == len(nothing.mask) == len(nothing.cut) == 3
    if encoder.null == "empty":
        assert same(nothing, encoder(["", "", ""])) and nothing.mask.all()
    else:
        assert encoder.null == "learned" and not nothing.mask.any()
        assert nothing.vector is not None and nothing.vector.isnan().all()


def test_which_null_is_whose(folder) -> None:
    nulls = {kind: open(str(folder(kind))).null for kind in ("clip", "t5", "bert", "open_clip")}
    assert nulls == {"clip": "empty", "t5": "empty", "bert": "learned", "open_clip": "empty"}


def test_the_spec_is_json_and_opens_the_same_encoder(encoder: FrozenEncoder) -> None:
    again = open(json.loads(json.dumps(encoder.spec)))
    assert again.spec == encoder.spec and again.key == encoder.key and again.length == 16
    assert same(again(PROMPTS), encoder(PROMPTS))


def test_the_key_changes_with_what_changes_the_states_only(bert: FrozenEncoder, folder, tmp_path) -> None:
    moved = tmp_path / "elsewhere"
    moved.symlink_to(folder("bert"))
    assert open(str(moved)).key == bert.key
    others = {
        open(bert.spec, length=8).key,
        open(bert.spec, dtype=torch.bfloat16).key,
        open({**bert.spec, "scale": 2.0}).key,
        open({**bert.spec, "layer": -2}).key,
        open(str(folder("t5"))).key,
    }
    assert len(others - {bert.key}) == 5
    assert open({**bert.spec, "layer": -1}).key == bert.key


@pytest.mark.parametrize("kind", ["clip", "clip_projected", "bert", "t5"])
def test_a_layer_gives_what_the_layers_after_it_make_the_last_of(kind: str, folder) -> None:
    last = open(str(folder(kind)))
    earlier = open({**last.spec, "layer": -2})
    assert open(earlier.spec).spec == earlier.spec
    found, plain = earlier(["a red cat"]), last(["a red cat"])
    assert found.vector is None or torch.equal(found.vector, plain.vector)  # the whole sentence's is the last one's
    model = last.tower.model
    with torch.no_grad():
        if kind == "t5":
            places = model.encoder.block[0].layer[0].SelfAttention.compute_bias(*[found.tokens.shape[1]] * 2)
            states = model.encoder.block[-1](found.tokens, position_bias=places)[0]
            states = model.encoder.final_layer_norm(states)
        elif kind == "bert":
            states = model.encoder.layer[-1](found.tokens)
        else:
            tower = getattr(model, "text_model", model)
            width = found.tokens.shape[1]
            ahead = torch.full((width, width), -torch.inf).triu(1)[None, None]
            states = tower.final_layer_norm(tower.encoder.layers[-1](found.tokens, attention_mask=ahead))
    states = states[0] if isinstance(states, tuple) else states
    torch.testing.assert_close(states, plain.tokens, rtol=1e-5, atol=1e-5)
    assert (found.tokens - plain.tokens).abs().max() > 0.01


def test_scale_multiplies_the_tokens_and_not_the_vector(bert: FrozenEncoder) -> None:
    plain, doubled = bert(["a cat"]), open({**bert.spec, "scale": 2.0})(["a cat"])
    assert torch.equal(doubled.tokens, 2 * plain.tokens) and torch.equal(doubled.vector, plain.vector)


def test_half_precision_is_close_and_comes_out_as_float32(folder) -> None:
    full, half = open(str(folder("t5"))), open(str(folder("t5")), dtype=torch.bfloat16)
    a, b = full(["a red circle"]).tokens, half(["a red circle"]).tokens
    assert b.dtype == torch.float32 and 0 < (a - b).abs().max() < 0.05


def test_devices_agree(device: str, folder) -> None:
    here, there = open(str(folder("clip"))), open(str(folder("clip")), device=device)
    a, b = here(PROMPTS), there(PROMPTS)
    torch.testing.assert_close(b.tokens.cpu(), a.tokens, atol=1e-4, rtol=0)
    torch.testing.assert_close(b.vector.cpu(), a.vector, atol=1e-4, rtol=0)


def test_prompts_are_a_list_of_strings(bert: FrozenEncoder) -> None:
    with pytest.raises(TypeError, match=r"write \['a cat'\]"):
        bert("a cat")
    with pytest.raises(TypeError, match="got int: 3"):
        bert(["a cat", 3])
    assert bert([]).tokens.shape == (0, 1, 32)


def test_states_that_are_not_finite_are_refused(bert: FrozenEncoder) -> None:
    def broken(ids: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.full((*ids.shape, 32), torch.nan), None

    spec = {**bert.spec, "dtype": "float16"}
    sick = FrozenEncoder(bert.tokenizer, broken, spec, 32, 0, "learned", torch.device("cpu"))
    with pytest.raises(ValueError, match="not finite in float16; open it with dtype float32 or bfloat16"):
        sick(["a"])


def test_stack_pads_with_zeros() -> None:
    out = stack([torch.ones(2, 3), torch.ones(1, 3)], [None, None], [None, "x"], 3)
    assert out.tokens[1].tolist() == [[1, 1, 1], [0, 0, 0]] and out.mask.tolist() == [[True] * 2, [True, False]]
    assert out.vector is None and out.cut == (None, "x")
