"""`Model.generate` against the plain composition of the core, and what a picture may depend on."""

from __future__ import annotations

import dataclasses
import shlex

import numpy as np
import pytest
import torch

import guided
from guided.cli import again
from guided.codec import Pixels
from guided.cond import Cond
from guided.guide import between, cfg, perturbed, project, rescale, threshold
from guided.model import Model, Request, conditioning
from guided.noise import Noise
from guided.operators import Mask
from tests.model import build

PROMPTS = ["red circle", "a", "a very long sentence about one small cat", "blue", ""]


def by_hand(
    model: Model, prompt: str, seed: int, w: float, negative: str | None = None, path_for: float | None = None
) -> torch.Tensor:
    """One picture, by the core alone, on the path for the weight w (or another)."""
    encoder = build.Words()

    def cond(words: str) -> Cond:
        encoded = encoder([words]) if words else encoder.nothing(1)
        return Cond(tokens=encoded.tokens, mask=encoded.mask)

    path = guided.path.default(4, 0.02, 20.0, w if path_for is None else path_for)
    x = float(path[0]) * Noise([seed])(0, (3, 16, 16))
    guide = cfg(w, negative=None if negative is None else cond(negative))
    return guided.sample(guide(model.denoiser), x, path, cond(prompt)).clamp(-1, 1)


def test_it_is_the_composition_of_the_core() -> None:
    model = build.words_model()
    result = model.generate(PROMPTS, n=2, seed=5)
    for i, prompt in enumerate(p for p in PROMPTS for _ in range(2)):
        assert torch.equal(result.tensor[i : i + 1], by_hand(model, prompt, 5 + i, 2.0)), (i, prompt)
    assert [record["seed"] for record in result.records] == list(range(5, 15))
    assert [record["prompt"] for record in result.records] == [p for p in PROMPTS for _ in range(2)]


def test_prompts_and_weights_matter() -> None:
    model = build.words_model()
    cat, dog = (model.generate(prompt).tensor for prompt in ("cat", "dog"))
    assert not torch.equal(cat, dog)
    assert not torch.equal(cat, model.generate("cat", w=5).tensor)
    assert torch.equal(model.generate("cat", w=1).tensor, by_hand(model, "cat", 0, 1.0))
    assert torch.equal(model.generate("cat", w=0).tensor, model.generate("dog", w=0).tensor)


def test_a_negative_prompt_takes_the_place_of_the_null() -> None:
    model = build.words_model()
    found = model.generate(["red cat", "dog"], w=3, negative="blurred picture of nothing")
    assert torch.equal(found.tensor[1:], by_hand(model, "dog", 1, 3.0, "blurred picture of nothing"))
    assert found.records[0]["negative"] == "blurred picture of nothing"
    with pytest.warns(UserWarning, match="at w = 1 a negative prompt or class has no effect"):
        model.drawing(Request("dog", w=1, negative="cat"))


def test_the_mean_of_the_data_stands_under_the_noise() -> None:
    model = build.words_model(card={"mean": [0.5, -0.25, 0.0]})
    path = guided.path.default(4, 0.02, 20.0)
    x = 20.0 * Noise([0])(0, (3, 16, 16)) + torch.tensor([0.5, -0.25, 0.0]).reshape(3, 1, 1)
    want = guided.sample(model.denoiser, x, path, Cond()).clamp(-1, 1)
    torch.testing.assert_close(model.generate("", w=1).tensor, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("where", [0, 7, 15])
def test_alone_as_in_a_batch_of_16(where: int, device: str) -> None:
    model = build.words_model().to(device)
    prompts = [" ".join(["word", "cat", "red", "of"][j % 4] for j in range(1 + i % 9)) for i in range(16)]
    prompts[where] = "one red circle"
    batch = model.generate(prompts, seed=100, batch=16)
    alone = model.generate("one red circle", seed=100 + where)
    assert np.abs(batch.arrays[where].astype(int) - alone.arrays[0].astype(int)).max() <= 1
    assert batch.records[where]["batch"] == 16
    if device == "cpu":
        assert torch.equal(model.generate(prompts, seed=100).tensor[where], alone.tensor[0])


def test_the_same_call_gives_the_same_bits(device: str) -> None:
    model = build.class_model().to(device)
    first = model.generate(labels=["cat", "dog"], n=3, seed=4, batch=4)
    again = model.generate(labels=[0, 1], n=3, seed=4, batch=4)
    assert torch.equal(first.tensor, again.tensor)
    assert not torch.equal(first.tensor[0], first.tensor[1])


def test_guides_with_a_weight_or_a_condition_for_each_image_are_cut_to_the_batch() -> None:
    model = build.words_model()
    weights = torch.tensor([1.0, 2.0, 5.0])
    result = model.generate(["cat", "cat", "dog"], guide=cfg(weights), batch=2)
    for i, (prompt, w) in enumerate(zip(["cat", "cat", "dog"], [1.0, 2.0, 5.0], strict=True)):
        torch.testing.assert_close(result.tensor[i : i + 1], by_hand(model, prompt, i, w, None, 1.0), atol=1e-4, rtol=0)
    encoded = build.Words()(["red", "blue", "green"])
    negative = Cond(tokens=encoded.tokens, mask=encoded.mask)
    both = model.generate(["cat", "cat", "dog"], guide=cfg(3.0, negative=negative) + cfg(1.0).during(1.0), batch=2)
    torch.testing.assert_close(both.tensor[2:], by_hand(model, "dog", 2, 3.0, "green"), atol=1e-4, rtol=0)


def test_a_guide_may_be_text_and_the_picture_says_so() -> None:
    model = build.words_model()
    text = "cfg(3, negative='blue') + perturbed('blur', 2).during(0.5) >> rescale(0.5) >> threshold(0.9)"
    away = conditioning.negative(model, "blue")
    guide = cfg(3, negative=away) + perturbed("blur", 2).during(0.5) >> rescale(0.5) >> threshold(0.9)
    found = model.generate(PROMPTS, guide=text)
    assert torch.equal(found.tensor, model.generate(PROMPTS, guide=guide).tensor)
    assert not torch.equal(found.tensor, model.generate(PROMPTS, w=3).tensor)
    record = {**found.records[0], "model": "emoji", "solver": "euler"}
    assert record["expression"] == text and record["guide"] == repr(guide)
    words = shlex.split(again.command(record))
    assert words[words.index("--guide") + 1] == text and "--w" not in words


def test_autoguidance_by_the_early_snapshot_of_the_model() -> None:
    model = build.words_model()
    early = {name: 0.5 * tensor for name, tensor in model.denoiser.network.state_dict().items()}
    model = Model(model.denoiser, model.codec, model.encoders, model.card, early=early)
    found = model.generate("cat", guide="between(early, 2)").tensor
    assert torch.equal(found, model.generate("cat", guide=between(model.early(), 2)).tensor)
    with pytest.raises(ValueError, match="no early snapshot"):
        build.words_model().generate("cat", guide="between(early, 2)")


def test_a_threshold_takes_the_range_of_what_is_drawn() -> None:
    model = build.words_model()
    model.codec = Pixels(limit=None)
    with pytest.raises(ValueError, match="no fixed range; give the limit"):
        model.generate("cat", guide=cfg(3) >> threshold(0.9))
    assert model.generate("cat", guide=cfg(3) >> threshold(0.9, limit=4)).tensor.isfinite().all()


@pytest.mark.parametrize("axes", [2, 3, 4], ids=["(H, W)", "(C, H, W)", "(B, C, H, W)"])
def test_what_is_known_stays_with_its_picture_in_batches(axes: int) -> None:
    model = build.words_model()
    known = torch.zeros(16, 3, 16, 16, dtype=torch.bool)  # as many pictures as rows
    known[..., :8] = True
    known = (known[0, 0], known[0], known)[axes - 2]
    y = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    result = model.generate(["cat"] * 16, guide=cfg(2) + project(Mask(known), y), steps=2, batch=5)
    assert torch.equal(result.tensor[..., :8], y[..., :8]) and not torch.equal(result.tensor, y)
    with pytest.raises(ValueError, match="is for 16 images, this call draws 3"):
        model.generate(["cat"] * 3, guide=cfg(2) + project(Mask(known), y))


def test_a_path_and_a_solver_of_ones_own() -> None:
    model = build.words_model()
    path = guided.path.ancestral(guided.path.log_snr(5, 0.02, 20.0))
    found = model.generate("cat", path=path, solver="euler", guide=cfg(2), seed=3)
    noise = Noise([3])
    cond = Cond(tokens=build.Words()(["cat"]).tokens, mask=build.Words()(["cat"]).mask)
    x = float(path[0]) * noise(0, (3, 16, 16))
    want = guided.sample(cfg(2)(model.denoiser), x, path, cond, solver="euler", noise=noise)
    assert torch.equal(found.tensor, want.clamp(-1, 1))
    assert found.records[0]["path"] == path.tolist()
    assert found.records[0]["nfe"] == 5
    assert "steps" not in found.records[0]
    assert found.records[0]["w"] == 2.0


def test_any_size_that_fits() -> None:
    model = build.words_model()
    assert model.generate("cat", size=(8, 20)).tensor.shape == (1, 3, 8, 20)
    assert model.generate("cat", size=9).tensor.shape == (1, 3, 9, 9)


def test_each_distinct_prompt_is_encoded_once() -> None:
    model = build.words_model()
    model.generate(["cat", "dog", "cat", ""], n=3)
    assert model.encoders["text"].calls == [["cat", "dog"]]


def test_drawing_tells_how_far_it_is() -> None:
    model = build.class_model()
    seen = list(model.drawing(Request(labels=["cat"] * 3, steps=5, batch=2)))
    assert [p.done for p in seen] == [*range(1, 11), 10]
    assert {p.total for p in seen} == {10}
    assert [p.result is not None for p in seen] == [False] * 10 + [True]


def test_bf16_runs_the_network_in_bf16_and_keeps_the_state_in_float32(device: str) -> None:
    model = build.class_model().to(device)
    exact = model.generate(labels="cat")
    model.denoiser.autocast = torch.bfloat16
    rough = model.generate(labels="cat")
    assert rough.records[0]["dtype"] == "bfloat16"
    assert 0 < float((exact.tensor - rough.tensor).abs().max()) < 0.2


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("class", {"prompts": "cat"}, "draws classes, not prompts.*known classes: cat, dog"),
        ("class", {"labels": "cta"}, "unknown class 'cta'; known classes: cat, dog, red bird, 7; did you mean 'cat'"),
        ("class", {"labels": 4}, "unknown class 4"),
        ("class", {"labels": -1}, "unknown class -1"),
        ("class", {"labels": []}, "list of prompts is empty"),
        ("class", {}, "needs labels="),
        ("text", {"labels": "cat"}, "draws prompts, not classes"),
        ("text", {"prompts": []}, "list of prompts is empty"),
        ("text", {}, "needs a prompt"),
        ("plain", {"prompts": "cat"}, "unconditional"),
        ("plain", {"w": 2.0}, "nothing for w="),
        ("text", {"prompts": "a", "n": 0}, "at least 1 picture"),
        ("text", {"prompts": "a", "steps": 0}, "steps: expected a whole number"),
        ("text", {"prompts": "a", "steps": 10**9}, "steps: expected a whole number"),
        ("text", {"prompts": "a", "size": (0, 16)}, "size: expected"),
        ("text", {"prompts": "a", "size": 10**6}, "size: expected"),
        ("text", {"prompts": "a", "solver": "magic"}, "unknown solver 'magic'"),
        ("text", {"prompts": "a", "w": float("nan")}, "w: expected a finite number"),
        ("text", {"prompts": "a", "w": 2.0, "guide": cfg(2)}, "guide=, or w="),
        ("text", {"prompts": "a", "steps": 3, "path": [1.0, 0.0]}, "path= or steps="),
        ("text", {"prompts": "a", "batch": 0}, "batch: expected at least 1"),
        ("text", {"prompts": "a", "path": [1.0]}, "path: expected a list of two noise levels or more"),
        ("text", {"prompts": "a", "path": [[1.0, 0.0]]}, "path: expected a list"),
        ("text", {"prompts": "a", "path": [1.0, float("nan")]}, "path: expected a list"),
        (
            "text",
            {"prompts": "a", "n": 2, "guide": cfg(torch.ones(3))},
            r"w of cfg.* is for 3 images, this call draws 2",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said_before_any_work(kind: str, arguments: dict, message: str) -> None:
    model = {"class": build.class_model, "text": build.words_model, "plain": build.plain_model}[kind]()
    with pytest.raises(ValueError, match=message):
        model.drawing(Request(**arguments))


def test_a_network_that_changes_a_picture_is_not_left_to_draw_from_none() -> None:
    """An upsampler of ADM, shown zeros, would draw as if they were the small picture."""
    with pytest.raises(ValueError, match=r"changes a picture of 3 channels.*Cond\(image=...\)"):
        build.model("tiny", image_channels=3).generate()
    assert len(build.model("tiny", image_channels=3, presence=True).generate(steps=1)) == 1


def test_a_class_called_7_is_a_name_before_it_is_a_number() -> None:
    model = build.class_model()
    assert model.generate(labels="7").records[0]["label"] == 3
    assert model.generate(labels="2").records[0]["class"] == "red bird"


def test_a_codec_that_shrinks_says_which_size_fits() -> None:
    @dataclasses.dataclass(frozen=True)
    class Half:
        factor: int = 2
        limit: float | None = None

        def encode(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.avg_pool2d(images, 2)

        def decode(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.interpolate(x, scale_factor=2.0)

    model = build.plain_model()
    model.codec = Half()
    assert model.generate(size=(8, 12)).tensor.shape == (1, 3, 8, 12)
    with pytest.raises(ValueError, match="15 x 16 is no multiple of 2; 16 x 16 would fit"):
        model.generate(size=(15, 16))


def test_nan_never_becomes_a_picture() -> None:
    model = build.plain_model()
    with torch.no_grad():
        model.denoiser.network.conv_out.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="seed 3 holds NaN"):
        model.generate(seed=3)
