"""Networks that were taught to change pictures, on photos: what they are told, and what comes back untouched."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import pytest
import torch

from guided import degrade
from guided.codec import Pixels
from guided.degrade import Translation
from guided.denoiser import EDM, Around
from guided.model import Model
from tests.model import build
from tests.tasks.build_translating import LARGER, QUARTET, answering, larger, quartet


def photo(size: tuple[int, int] = (20, 24), channels: int = 3, seed: int = 0, depth: Any = np.uint8) -> np.ndarray:
    top = int(np.iinfo(depth).max)
    return np.random.default_rng(seed).integers(0, top + 1, (*size, channels)).astype(depth)


def test_the_network_is_shown_the_photo_and_told_the_task() -> None:
    model, network = answering(QUARTET)
    given = photo((16, 16))
    done = model.translate(given, task="jpeg")
    assert np.array_equal(done.arrays[0], given), "what it answers is what it was shown: the photo itself"
    assert [int(label) for _, _, label in network.calls] == [3, 3, 3] and done.records[0]["nfe"] == 3
    assert done.records[0]["translation"] == "jpeg(5, 30)" and done.records[0]["task"] == "translate"
    grey = model.translate(given, task="colourise").arrays[0]
    wanted = (given @ np.array([0.299, 0.587, 0.114])).round()
    assert np.abs(grey - wanted[..., None]).max() <= 1
    assert int(network.calls[-1][2]) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["inpaint", "uncrop", "colourise", "jpeg"])
def test_what_a_mask_keeps_comes_back_bit_for_bit(task: str) -> None:
    model = quartet()
    rng = np.random.default_rng(1)
    for seed in range(6):
        given = photo((int(rng.integers(9, 50)), int(rng.integers(9, 50))), seed=seed)
        mask = rng.random(given.shape[:2]) < 0.3
        done = model.translate(given, task=task, mask=mask, steps=2, seed=seed)
        assert np.array_equal(done.arrays[0][~mask], given[~mask])
        assert not np.array_equal(done.arrays[0][mask], given[mask])


def test_holes_are_declared_absent_and_beyond_the_border_too() -> None:
    model, network = answering(QUARTET)
    seen: list[torch.Tensor] = []
    plain = network.forward
    network.forward = lambda x, c, cond: (seen.append(cond.image), plain(x, c, cond))[1]  # type: ignore[method-assign]
    given = photo((16, 16))
    mask = np.zeros((16, 16), bool)
    mask[4:9, 5:12] = True
    model.translate(given, task="inpaint", mask=mask)
    assert np.array_equal(seen[0][0].isnan().any(0).numpy(), mask)
    done = model.translate(given, task="uncrop", expand=(8, 0, 0, 4))
    assert done[0].size == (24, 20) and np.array_equal(done.arrays[0][:16, 8:], given)


def test_a_colourised_photo_is_rgb_whatever_it_was() -> None:
    model = quartet()
    for given in (photo(channels=1), photo(channels=1, depth=np.uint16), photo(channels=2), photo(channels=4)):
        done = model.translate(given, task="colourise", steps=2)
        array = done.arrays[0]
        assert array.dtype == given.dtype and array.shape == (*given.shape[:2], 3 + (given.shape[2] in (2, 4)))
        if given.shape[2] in (2, 4):
            assert np.array_equal(array[..., -1], given[..., -1]), "alpha stays"
        opaque = array[array[..., -1] > 0] if given.shape[2] in (2, 4) else array.reshape(-1, 3)
        assert not np.array_equal(opaque[..., 0], opaque[..., 1])


def test_half_transparent_grey_keeps_its_grey() -> None:
    """A network that answers with what it is shown leaves a photo with alpha as it is, in three channels."""
    model, _ = answering(QUARTET)
    given = photo((16, 16), channels=2)
    done = model.translate(given, task="jpeg").arrays[0]
    assert np.array_equal(done[..., -1], given[..., -1])
    assert np.array_equal(done[..., :3], given[..., :1].repeat(3, -1))


def test_a_local_task_works_at_the_photos_own_size_and_a_global_one_at_the_models() -> None:
    model, network = answering(QUARTET)
    big = photo((300, 270))
    done = model.translate(big, task="jpeg")
    shapes = {shape for shape, _, _ in network.calls}
    assert shapes == {(1, 3, 256, 256)} and len(network.calls) == 3 * 4
    assert np.array_equal(done.arrays[0], big)
    network.calls.clear()
    model.translate(big, task="colourise")
    assert {shape for shape, _, _ in network.calls} == {(1, 3, 16, 16)}


def test_several_photos_get_what_each_would_alone() -> None:
    model = quartet()
    one, two = photo(seed=1), photo(seed=2)
    both = model.translate([one, two], task="jpeg", steps=2, seed=5)
    alone = model.translate(two, task="jpeg", steps=2, seed=6)
    assert np.array_equal(both.arrays[1], alone.arrays[0])
    again = model.translate(one, task="jpeg", n=2, steps=2, seed=5)
    assert np.array_equal(again.arrays[0], both.arrays[0]) and not np.array_equal(again.arrays[0], again.arrays[1])


def test_words_are_heard_and_no_must() -> None:
    taught = Translation((degrade.JPEG(),))
    config: dict[str, Any] = {"image_channels": 3}
    model = build.model("tiny-text", {"text": build.Words()}, {"translate": taught.card()}, **config)
    given = photo((16, 16))
    plain, cat, dog = (model.translate(given, words, steps=2).tensor for words in (None, "a cat", "a dog"))
    assert not torch.equal(plain, cat) and not torch.equal(cat, dog)
    assert (model.translate(given, "", steps=2, w=1).tensor - plain).abs().max() < 1e-5


REFUSED: list[tuple[Model, str, dict[str, Any], str]] = [
    (quartet(), "translate", {}, "several tasks: give task="),
    (quartet(), "translate", {"task": "jpgg"}, "is not one of what this model learnt"),
    (quartet(), "translate", {"task": "inpaint"}, "give mask="),
    (quartet(), "translate", {"task": "jpeg", "expand": (4, 0, 0, 0)}, "paints nothing beyond the borders"),
    (quartet(), "upscale", {}, "makes no pictures larger"),
    (quartet(), "generate", {}, "use model.translate"),
    (larger(), "translate", {}, "use model.upscale"),
    (larger(), "generate", {}, "use model.upscale"),
    (build.plain_model(), "translate", {"task": "jpeg"}, "was not taught to change them"),
    (build.plain_model(), "upscale", {}, "was not taught to change them"),
    (larger(), "upscale", {"scale": 3}, "a divisor of 4, got 3"),
    (larger(), "upscale", {"scale": 1}, "a whole number from 2 on"),
    (larger(), "upscale", {"scale": 4**6}, "give a picture of at most"),
    (larger(), "upscale", {"level": 0.7}, "expected 0 to 0.5"),
    (larger(Translation(LARGER.tasks)), "upscale", {"level": 0.1}, "without augmentation"),
    (larger(Translation((degrade.Down(4, "bicubic"),))), "upscale", {"exact": True}, "means of squares"),
]


@pytest.mark.parametrize(("model", "verb", "options", "said"), REFUSED)
def test_what_a_model_was_not_taught_is_refused(model: Model, verb: str, options: dict[str, Any], said: str) -> None:
    given = [] if verb == "generate" else [photo()]
    with pytest.raises(ValueError, match=said):
        getattr(model, verb)(*given, **options)


def test_a_card_that_its_network_does_not_fit_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="a network that sees image, label"):
        build.model("tiny-local", card={"translate": QUARTET.card()})
    with pytest.raises(ValueError, match="a network that sees aug, image"):
        build.model("tiny-local", card={"translate": LARGER.card()})
    again = Model.open(quartet().save(tmp_path / "m"))
    assert again.translation is not None and repr(again.translation) == repr(QUARTET)


def test_what_is_known_is_known_at_every_step() -> None:
    model, network = answering(QUARTET)
    states: list[torch.Tensor] = []
    plain = network.forward
    network.forward = lambda x, c, cond: (states.append(x), plain(x, c, cond))[1] * 0  # type: ignore[method-assign]
    given = photo((16, 16))
    mask = np.zeros((16, 16), bool)
    mask[:, 8:] = True
    done = model.translate(given, task="inpaint", mask=mask, steps=4, seed=1)
    assert float(done.tensor[..., 8:].abs().max()) == 0, "it answers 0 where nothing is known"
    # Late states hold what is known: their scaled form is near the photo there, far from it in the hole.
    late = states[-1]
    seen = torch.from_numpy(given).permute(2, 0, 1) / 127.5 - 1
    known = torch.corrcoef(torch.stack([late[0, :, :, :8].flatten(), seen[:, :, :8].flatten()]))[0, 1]
    assert float(known) > 0.9


def test_a_network_of_differences_begins_at_what_it_is_shown() -> None:
    taught = Translation((degrade.JPEG(),))
    model = build.model("tiny-local", card={"translate": taught.card()})
    around = Model(Around(model.denoiser.network, EDM(0.1), 0.02, 1.0), Pixels(), {}, model.card)
    given = photo((16, 16))
    one = around.translate(given, steps=2)
    again = Model.open(around.save(tempfile.mkdtemp() + "/m"))
    assert isinstance(again.denoiser, Around)
    assert torch.equal(again.translate(given, steps=2).tensor, one.tensor)
    network = model.denoiser.network
    torch.nn.init.zeros_(network.conv_out.weight)  # type: ignore[union-attr, arg-type]
    torch.nn.init.zeros_(network.conv_out.bias)  # type: ignore[union-attr, arg-type]
    # A network that adds nothing leaves a denoised difference of nought: the photo, but for what a few steps leave.
    still = around.translate(given, steps=8).tensor
    seen = torch.from_numpy(given).permute(2, 0, 1) / 127.5 - 1
    assert float((still - seen).abs().mean()) < 0.1 and not torch.equal(still, one.tensor)


def drawn_grey(taught: Translation, **card: Any) -> Model:
    """A model of 16 x 16 that answers mid-grey whatever it is shown."""
    model, network = answering(taught)
    plain = network.forward
    network.forward = lambda x, c, cond: plain(x, c, cond) * 0  # type: ignore[method-assign]
    return Model(model.denoiser, model.codec, {}, {**model.card, **card})


def test_lines_and_pairs_leave_nothing_of_themselves_in_what_is_drawn() -> None:
    """A photo larger than the network keeps its detail where it is coloured, and none where it is drawn from lines."""
    given = photo((64, 48))
    for word in ("edges", "pairs"):
        done = drawn_grey(Translation((degrade.parse(word),))).translate(given).arrays[0]
        assert done.shape == given.shape and np.abs(done.astype(int) - 127.5).max() <= 0.5, word
    coloured = drawn_grey(Translation((degrade.Colourise(),))).translate(given).arrays[0]
    assert coloured.std() > 0.8 * given.std()


@pytest.mark.parametrize(
    ("crop", "shapes"), [(0.0, {(1, 3, 64, 48)}), (0.3, {(1, 3, 20, 12)}), (None, {(1, 3, 20, 12)})]
)
def test_pairs_are_seen_at_the_scale_that_they_were_learnt_at(crop: float | None, shapes: set[tuple[int, ...]]) -> None:
    model, network = answering(Translation((degrade.Pairs(),)))
    recipe = {"recipe": {"data": {"path": "x", **({} if crop is None else {"crop": crop})}}}
    given = photo((64, 48))
    Model(model.denoiser, model.codec, {}, {**model.card, **recipe}).translate(given)
    assert {shape for shape, _, _ in network.calls} == shapes


def test_a_network_of_grey_pictures_takes_no_colours_away() -> None:
    restorer = build.model("tiny-local", card={"translate": Translation((degrade.JPEG(),)).card()}, **GREY)
    larger_grey = build.model("tiny-local", card={"translate": Translation((degrade.Down(4),)).card()}, **GREY)
    for call in (restorer.translate, larger_grey.upscale):
        with pytest.raises(ValueError, match="works on grey pictures: make the photo grey first"):
            call(photo())
        done = call(photo(channels=1).repeat(3, -1), steps=1).arrays[0]
        assert np.array_equal(done[..., 0], done[..., 1])


GREY: dict[str, Any] = {"in_channels": 1, "out_channels": 1, "image_channels": 1}
