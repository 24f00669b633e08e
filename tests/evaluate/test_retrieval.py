"""Retrieval on a toy world: a perfect artist gets everything, a deaf one chance, and the parts are told apart."""

from __future__ import annotations

import pytest
import torch

from guided.data import Record, Split, base_caption, tone
from guided.evaluate import measures, retrieval
from guided.evaluate.features import Blur, Thumbnail
from guided.evaluate.retrieval import Gallery
from guided.evaluate.tones import ToneJudge
from tests.evaluate import toy


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return measures._gallery(toy.real())


def test_the_perfect_artist_is_right_in_everything() -> None:
    found = measures.captions(toy.Perfect(), toy.real(), (1.0, 3.0), 60)  # type: ignore[arg-type]
    values = {(f.name, f.at): f for f in found.figures}
    for w in ("w = 1", "w = 3"):
        for part in ("all", "People", "not People"):
            assert values[f"training captions, base right: {part}", w].value == 1
        assert values["training captions, whole caption right: all", w].value == 1
    assert values["training captions, base right: People", "w = 1"].n == 30
    for name in ("tone right: by colours", "tone right: nearest of its base", "base right"):
        figure = values[f"held-out pairs, {name}", "w = 1"]
        assert figure.value > 0.9 and figure.n == 20, figure
    assert values["held-out bases, nearer to its truth than to another", "w = 1"].value == 1
    assert found.shown is not None and len(found.captions) == len(found.shown) == 60
    assert not any("like:" in caption for caption in found.captions)


def test_the_deaf_artist_is_right_by_chance() -> None:
    found = measures.captions(toy.Deaf(), toy.real(), (2.0,), 60)  # type: ignore[arg-type]
    values = {f.name: f for f in found.figures}
    assert values["training captions, base right: all"].value < 0.1
    assert values["held-out pairs, base right"].value < 0.6
    last = values["held-out bases, nearer to its truth than to another"]
    assert 0.2 < last.value < 0.8 and last.beside == {"chance": 0.5}
    assert any("like:" in caption for caption in found.captions)


def test_the_captions_are_fixed_and_half_of_them_are_of_other_groups(gallery: Gallery) -> None:
    rows = retrieval.training_rows(gallery, 40)
    assert rows == retrieval.training_rows(gallery, 40) and len(set(rows)) == 40
    assert set(rows) <= set(gallery.split.train)
    assert [gallery.records[row].extra["group"] for row in rows] == ["People"] * 20 + ["Things"] * 20
    more = retrieval.training_rows(gallery, 60)
    assert set(rows) < set(more), "a longer list holds the shorter one"


def test_held_rows_take_every_base_before_any_twice(gallery: Gallery) -> None:
    held = retrieval.held_rows(gallery, 1000)
    assert sorted(held) == sorted(gallery.split.held_bases)
    bases = [gallery.base(row) for row in held]
    assert len(set(bases[: len(set(bases))])) == len(set(bases))


def test_chance_is_the_share_of_the_bases_in_the_gallery(gallery: Gallery) -> None:
    rows = retrieval.training_rows(gallery, 20)
    figure = retrieval.of_training(Blur(8), gallery, gallery.pictures[rows], rows)[0]
    train = gallery.train
    expected = sum(sum(gallery.base(a) == gallery.base(b) for a in train) for b in rows) / len(rows) / len(train)
    assert figure.beside["chance"] == pytest.approx(expected)


def test_held_bases_are_compared_evenly_by_base() -> None:
    """By hand: gallery of three bases, one with two pictures; the drawn one lies between."""
    records = [Record(name, name) for name in ("a", "b", "c, light skin tone", "c, dark skin tone")]
    pictures = torch.tensor([0, 100, 60, 200], dtype=torch.uint8).view(4, 1, 1, 1)
    gallery = Gallery(pictures, records, Split((), (0, 1, 2, 3), ()))
    drawn = torch.tensor([40], dtype=torch.uint8).view(1, 1, 1, 1)
    figure = retrieval.of_held_bases(Blur(1), gallery, drawn, [0])
    # Own truth at 40; b at 60 is farther; c at 20 and 160: half of it is nearer. Mean of 1 and 1/2.
    assert figure.value == pytest.approx(0.75)
    with pytest.raises(ValueError, match="at least two"):
        retrieval.of_held_bases(Blur(1), Gallery(pictures, records, Split((), (0,), ())), drawn, [0])


def test_the_nearest_training_picture_would_misjudge_the_tone_of_a_held_pair(gallery: Gallery) -> None:
    """Why there is a judge by colours: the right picture itself is missing from the training ones."""
    rows = list(gallery.split.held_pairs)
    space = Thumbnail()
    train = gallery.train
    nearest = retrieval.nearest(space(gallery.pictures[rows]), space(gallery.pictures[train])).tolist()
    told = [tone(gallery.caption(train[i])) == tone(gallery.caption(row)) for i, row in zip(nearest, rows, strict=True)]
    assert sum(told) / len(told) < 0.3


def test_the_judge_of_tones_sees_the_tone_wherever_it_is(gallery: Gallery) -> None:
    rows = [row for row in gallery.train if base_caption(gallery.caption(row)).startswith("worker")]
    judge = ToneJudge(gallery.pictures[rows], [tone(gallery.caption(row)) for row in rows])
    held = list(gallery.split.held_pairs)
    asked = [tone(gallery.caption(row)) for row in held]
    moved = gallery.pictures[held].roll((5, 3), (2, 3)).flip(3)
    assert sum(a == b for a, b in zip(judge(moved), asked, strict=True)) >= 0.9 * len(held)
    with pytest.raises(ValueError, match="there are none of medium-dark"):
        ToneJudge(gallery.pictures[:4], ["light", "medium-light", "medium", "dark"])


def test_a_record_without_a_caption_is_named() -> None:
    gallery = Gallery(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [Record("x.png")], Split((0,), (), ()))
    assert gallery.train == []
    with pytest.raises(ValueError, match=r"x\.png: has no caption"):
        gallery.base(0)
