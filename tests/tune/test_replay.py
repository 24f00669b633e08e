"""What is replayed: how often, of what, and that it is drawn once."""

from __future__ import annotations

import json
import pathlib

import pytest

from guided import data
from guided.data import Record
from guided.data.order import Order
from guided.train import load_recipe
from guided.tune import replay
from tests.model.build import CLASSES, class_model, words_model
from tests.train.tools import pictures


@pytest.mark.parametrize("share", [0.5, 0.25, 1 / 3, 0.9])
def test_a_share_of_all_counters_is_replayed_evenly_and_every_order_is_kept(share: float) -> None:
    own, second = Order.uniform(range(7), 1), Order.uniform(range(100, 111), 2)
    mixed = replay.Mixed(own, second, share)
    drawn = [mixed[counter] for counter in range(600)]
    replayed = [row for row in drawn if row >= 100]
    for start in range(0, 600, 60):
        part = sum(row >= 100 for row in drawn[start : start + 60])
        assert abs(part - 60 * share) <= 1
    assert replayed == second.take(0, len(replayed))
    assert [row for row in drawn if row < 100] == own.take(0, 600 - len(replayed))


def recipe(out: pathlib.Path, **tune: object):  # type: ignore[no-untyped-def]
    return load_recipe({"out": str(out), "data": {"path": "x"}, "tune": {"base": "b", "replayed": 6, **tune}})


def test_classes_are_asked_for_in_turn_and_prompts_by_card_or_recipe(tmp_path: pathlib.Path) -> None:
    asked = replay.subjects(class_model(), recipe(tmp_path))
    assert [label for _, label in asked] == [0, 1, 2, 3, 0, 1]
    model = words_model()
    with pytest.raises(ValueError, match="does not say what it was trained on"):
        replay.subjects(model, recipe(tmp_path))
    model.card["captions"] = ["a cat", "a dog"]
    assert [prompt for prompt, _ in replay.subjects(model, recipe(tmp_path))] == ["a cat", "a dog"] * 3
    assert replay.subjects(model, recipe(tmp_path, prompts=["a hat"]))[5] == ("a hat", None)


def test_replayed_pictures_are_drawn_once_and_kept(tmp_path: pathlib.Path) -> None:
    model, asked = class_model(), recipe(tmp_path)
    source = replay.drawn(model, asked, tmp_path / "replay")
    assert [record.label for record in source.records] == [0, 1, 2, 3, 0, 1]
    first = [source.bytes(i) for i in range(6)]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "replay").iterdir()}
    again = replay.drawn(model, asked, tmp_path / "replay")
    assert [again.bytes(i) for i in range(6)] == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "replay").iterdir()} == before
    expected = model.generate(labels=CLASSES[:1], steps=4, seed=replay.STREAM, batch=16)
    assert len(first[0]) > 50 and expected.records[0]["seed"] == replay.STREAM
    next(file for file in (tmp_path / "replay").glob("*.png")).unlink()
    (tmp_path / "replay" / "metadata.jsonl").write_text(json.dumps({"file_name": "00001.png", "text": None}) + "\n")
    with pytest.raises(ValueError, match="expected 6 pictures, found 1"):
        replay.drawn(model, asked, tmp_path / "replay")


def test_what_a_run_left_that_never_began_is_drawn_anew(tmp_path: pathlib.Path) -> None:
    """Killed before its recipe was written down, a run leaves pictures that another one must not take for its own."""
    model = words_model()
    before = replay.drawn(model, recipe(tmp_path, prompts=["a cat"]), tmp_path / "replay").bytes(0)
    wanted = replay.drawn(model, recipe(tmp_path, prompts=["a hat"]), tmp_path / "other").bytes(0)
    assert wanted != before
    assert replay.drawn(model, recipe(tmp_path, prompts=["a hat"]), tmp_path / "replay").bytes(0) == wanted


def test_own_pictures_come_first_and_the_others_after_them(tmp_path: pathlib.Path) -> None:
    own = data.open(pictures(tmp_path / "own", 4))
    second = replay.Repeated(own, [Record("a"), Record("b"), Record("c")])
    joined = replay.Joined(own, second)
    assert len(joined.records) == 7 and joined.records[4].name == "replay/a"
    assert joined.bytes(2) == own.bytes(2) and joined.bytes(5) == own.bytes(1)
