"""Cascades: independent stages, each with noise of its own, that fit or are refused."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import guided
from guided import Cascade, Noise, degrade, sample
from guided import path as paths
from guided.cond import Cond
from guided.degrade import Augment, Translation
from guided.model import Model
from tests.model import build
from tests.tasks.build_translating import LARGER, answering, larger
from tests.tasks.test_translating import photo


def base(**card: Any) -> Model:
    return build.model("tiny-class", card={"classes": build.CLASSES, **card})


def up(**card: Any) -> Model:
    return build.model("tiny-local", card={"translate": LARGER.card(), "size": [64, 64], **card}, aug=True, seed=3)


def test_a_picture_is_what_its_stages_make_of_it_by_hand() -> None:
    first, second = base(), up()
    cascade = Cascade([first, second], [0.2])
    found = cascade.generate(labels="dog", seed=7, steps=3, w=1.5)
    assert found[0].size == (64, 64) == cascade.size
    small = first.generate(labels="dog", seed=7, steps=3, w=1.5).tensor
    noise = Noise([7], "x/stage1")
    image = degrade.enlarge(small, (64, 64)) + 0.2 * noise.child("augment")(0, (3, 64, 64))
    levels = paths.default(4, second.denoiser.lo, second.denoiser.hi, 1.0)
    cond = Cond(image=image, aug=torch.tensor([0.2]))
    wanted = sample(second.denoiser, levels[0] * noise(0, (3, 64, 64)), levels, cond).clamp(-1, 1)
    assert float((found.tensor - wanted).abs().max()) < 1e-5


def test_stages_have_noise_of_their_own_and_pictures_that_of_their_seed() -> None:
    model, network = answering(LARGER)
    seen: list[torch.Tensor] = []
    plain = network.forward
    network.forward = lambda x, c, cond: (seen.append(x), plain(x, c, cond))[1]  # type: ignore[method-assign]
    Cascade([base(), model], [0.0]).generate(labels=0, seed=5, steps=2)
    own = Noise([5])(0, (3, 16, 16))
    # The same counter would give the same first numbers, whatever the shape.
    first = torch.stack([seen[0].flatten()[: own.numel()], own.flatten()])
    assert abs(float(torch.corrcoef(first)[0, 1])) < 0.1
    cascade = Cascade([base(), up()])
    both = cascade.generate(labels=["cat", "dog"], seed=3, steps=2)
    alone = cascade.generate(labels="dog", seed=4, steps=2)
    assert torch.equal(both.tensor[1:], alone.tensor)


def test_a_class_is_the_same_in_every_stage_whatever_its_number() -> None:
    taught = Translation((degrade.Down(4),))
    model, network = answering(taught, steps=1)
    network.config = dataclasses.replace(network.config, classes=4)
    last = Model(model.denoiser, model.codec, {}, {**model.card, "classes": build.CLASSES[::-1]})
    cascade = Cascade([base(), last])
    cascade.generate(labels=["dog", 0], steps=1, w=1.0)
    assert [int(label) for _, _, label in network.calls] == [2, 3]  # type: ignore[arg-type]


def test_its_level_is_the_cards_unless_one_is_given() -> None:
    model, network = answering(LARGER)
    Cascade([base(), model]).generate(labels=0, steps=2)
    assert {round(float(aug), 6) for _, aug, _ in network.calls} == {0.1}  # type: ignore[arg-type]
    network.calls.clear()
    Cascade([base(), model], [0.0]).generate(labels=0, steps=2)
    assert {float(aug) for _, aug, _ in network.calls} == {0.0}  # type: ignore[arg-type]


def test_three_stages_say_how_each_made_its_part(tmp_path: pathlib.Path) -> None:
    second = larger(Translation((degrade.Down(2),)))
    cascade = Cascade([base(), second, up()])
    assert cascade.sizes == [(16, 16), (32, 32), (128, 128)]
    found = cascade.generate(labels="cat", steps=2, seed=1)
    record = found.records[0]
    assert found[0].size == (128, 128) and record["size"] == [128, 128] and len(record["stages"]) == 3
    assert record["nfe"] == sum(stage["nfe"] for stage in record["stages"]) == 2 + 4 + 4
    assert record["class"] == "cat" and record["stages"][2]["level"] == 0.1
    assert json.dumps(record)


def test_saved_and_loaded_it_draws_the_same(tmp_path: pathlib.Path) -> None:
    cascade = Cascade([base(), up()], [0.3], name="both", folders=["small", "large"])
    cascade.save(tmp_path / "c")
    said = json.loads((tmp_path / "c" / "cascade.json").read_text())
    assert [stage["folder"] for stage in said["stages"]] == ["small", "large"] and said["size"] == [64, 64]
    again = Cascade.load(tmp_path / "c")
    assert again.levels == (0.3,) and again.name == "both" and again.hash == cascade.hash
    wanted = cascade.generate(labels="cat", steps=2).tensor
    assert torch.equal(again.generate(labels="cat", steps=2).tensor, wanted)
    opened = guided.load(tmp_path / "c")
    assert isinstance(opened, Cascade) and opened.source == str(tmp_path / "c")
    # Each stage opens alone.
    alone = Model.open(tmp_path / "c" / "large")
    assert alone.translation is not None and alone.upscale(photo((4, 4)), steps=2)[0].size == (16, 16)


def test_a_stage_that_was_trained_again_is_noticed(tmp_path: pathlib.Path) -> None:
    Cascade([base(), up()]).save(tmp_path / "c")
    build.model("tiny-local", card={"translate": LARGER.card(), "size": [64, 64]}, aug=True, seed=9).save(
        tmp_path / "c" / "stage2"
    )
    with pytest.raises(ValueError, match="not those that the manifest proves to fit"):
        Cascade.load(tmp_path / "c")


def test_editing_reaches_every_stage_and_the_mask_is_kept_bit_for_bit() -> None:
    cascade = Cascade([base(), up()])
    rng = np.random.default_rng(0)
    for seed in range(4):
        given = photo((int(rng.integers(40, 150)), int(rng.integers(40, 150))), seed=seed)
        mask = rng.random(given.shape[:2]) < 0.4
        done = cascade.edit(given, labels="cat", strength=0.7, mask=mask, steps=3, seed=seed)
        assert np.array_equal(done.arrays[0][~mask], given[~mask])
        assert not np.array_equal(done.arrays[0][mask], given[mask])
        assert done.records[0]["changed_outside"] == 0 and len(done.records[0]["stages"]) == 2


def test_a_painted_hole_is_recorded_as_one() -> None:
    from guided.cascade import editing
    from guided.model import Request

    given, mask = photo((40, 50), seed=1), np.ones((40, 50), bool)
    for task in ("edit", "inpaint"):
        moves = editing.run(Cascade([base(), up()]), given, Request(labels="cat", steps=1), 1.0, mask, task)
        assert [move.result for move in moves][-1].records[0]["task"] == task


def test_the_later_stages_know_what_is_kept() -> None:
    """Where the mask keeps a pixel, the last stage's own estimate is that pixel, before anything is pasted."""
    from guided.cascade import editing
    from guided.model import Request, drawing
    from guided.tasks.editing import Edit, opened

    cascade = Cascade([base(), up()])
    given = photo((64, 64))
    mask = np.zeros((64, 64), bool)
    mask[:, :32] = True
    edit = Edit(given, Request(labels="cat", steps=3), 0.7, mask)
    stage, _, request = opened(cascade.stages[1], edit)
    plan = cascade.enlarging(1, torch.zeros(1, 3, 16, 16), request)
    found = editing._from_photo(cascade, 1, edit, stage, plan)
    last = list(drawing.run(cascade.stages[1], found))[-1].result
    assert last is not None
    wanted = torch.from_numpy(given).permute(2, 0, 1)[None] / 127.5 - 1
    assert float((last.tensor - wanted)[..., 32:].abs().max()) < 1e-5
    assert float((last.tensor - wanted)[..., :32].abs().max()) > 0.1


def test_strength_zero_is_the_photo_and_more_changes_more() -> None:
    cascade = Cascade([base(), up()])
    given = (photo((16, 16), seed=2).repeat(4, 0).repeat(4, 1) // 2 + 60).astype(np.uint8)
    assert np.array_equal(cascade.edit(given, labels=0, strength=0).arrays[0], given)
    moved = [
        float(np.abs(cascade.edit(given, labels=0, strength=s, steps=4).arrays[0].astype(float) - given).mean())
        for s in (0.05, 0.3, 0.8)
    ]
    assert moved == sorted(moved), moved


def test_upscale_runs_the_enlarging_stages() -> None:
    second = larger(Translation((degrade.Down(2),)))
    cascade = Cascade([base(), second, up()])
    given = photo((6, 5), channels=4)
    done = cascade.upscale(given, seed=3)
    assert done.arrays[0].shape == (48, 40, 4)
    with pytest.raises(ValueError, match="no stage that enlarges"):
        Cascade([base()]).upscale(given)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "CMYK", "P"])
def test_what_stages_hand_on_keeps_the_photos_mode(mode: str) -> None:
    cascade = Cascade([base(), larger(Translation((degrade.Down(2),))), up()])
    given = Image.fromarray(photo((6, 5))).convert(mode)
    done, one = cascade.upscale(given), up().upscale(given)
    assert done[0].mode == one[0].mode and done[0].size == (40, 48)


def test_an_enlarged_photo_says_how_each_stage_made_its_part(tmp_path: pathlib.Path) -> None:
    cascade = Cascade([base(), larger(), up()], [0.3, 0.2], name="three", source="three")
    Image.fromarray(photo((3, 2))).save(tmp_path / "a.png")
    record = cascade.upscale(tmp_path / "a.png", seed=4).records[0]
    assert record["name"] == "three" and record["model_sha256"] == cascade.hash and record["scale"] == 16
    assert record["photo"] == str(tmp_path / "a.png") and record["size"] == [48, 32] and record["nfe"] == 8
    assert [stage.get("level") for stage in record["stages"]] == [None, 0.2], "the photo is real, what is drawn is not"
    assert json.dumps(record)


def test_enlarging_stages_hear_the_level_of_what_was_drawn_and_have_noise_of_their_own() -> None:
    (second, near), (third, far) = answering(LARGER, steps=1), answering(LARGER, steps=1)
    seen: list[torch.Tensor] = []
    for network in (near, far):
        plain = network.forward
        network.forward = lambda x, c, cond, plain=plain: (seen.append(x), plain(x, c, cond))[1]  # type: ignore
    Cascade([base(), second, third], [0.3, 0.2]).upscale(photo((3, 3)))
    told = [round(float(network.calls[0][1]), 6) for network in (near, far)]  # type: ignore[arg-type]
    assert told == [0.0, 0.2]
    first, after = (part.flatten()[: seen[0].numel()] for part in seen)
    assert abs(float(torch.corrcoef(torch.stack([first, after]))[0, 1])) < 0.2


def test_what_is_too_large_for_the_last_stage_is_refused_before_the_first() -> None:
    model, network = answering(LARGER)
    with pytest.raises(ValueError, match="enlarged by 16 are more than 128 million"):
        Cascade([base(), model, model]).upscale(np.zeros((800, 700, 3), np.uint8))
    assert not network.calls


BICUBIC = Translation((degrade.Down(4, "bicubic"),), Augment())
WRONG: list[tuple[list[Model], list[float | None] | None, str]] = [
    ([], None, "at least one stage"),
    ([up(), up()], None, "the first stage draws them"),
    ([base(), base()], None, "was not taught to make pictures larger"),
    ([base(), up()], [2.0], "levels from 0 to 0.5, got 2"),
    ([base(), larger(Translation((degrade.Down(4),)))], [0.1], "without augmentation"),
    ([base(), up()], [0.1, 0.1], "one for each enlarging stage, 1, got 2"),
    ([base(recipe={"data": {"path": "x"}}), larger(BICUBIC)], None, "draws such made by 'area'"),
    ([base(), *[larger(Translation((degrade.Down(64),)))] * 2], None, "at most 8192 a side"),
]


@pytest.mark.parametrize(("stages", "levels", "said"), WRONG)
def test_stages_that_do_not_fit_are_refused(stages: list[Model], levels: list[float | None] | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Cascade(stages, levels)


BROKEN = {
    "format": ("guided-cascade/9", "format: expected"),
    "stages": ([], "a list of 1 to 8"),
    "folder": ("../elsewhere", "the name of a folder beside the manifest"),
    "sha256": (3, "the hash of the stage's weights"),
    "level": ("much", "null or a number"),
}


@pytest.mark.parametrize("entry", BROKEN)
def test_a_wrong_manifest_is_refused_by_name(entry: str, tmp_path: pathlib.Path) -> None:
    Cascade([base(), up()]).save(tmp_path / "c")
    file = tmp_path / "c" / "cascade.json"
    values = json.loads(file.read_text())
    value, said = BROKEN[entry]
    if entry in ("format", "stages"):
        values[entry] = value
    else:
        values["stages"][1][entry] = value
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=said):
        Cascade.load(tmp_path / "c")
