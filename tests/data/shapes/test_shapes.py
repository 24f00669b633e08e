"""The renderer draws what its sentences say, and the parser reads it back, and nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from guided.data import Pictures, Record
from guided.data.shapes import (
    COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Object,
    Scene,
    ShapesSource,
    caption,
    held_pairs,
    look,
    parse,
    read,
    render,
    score,
)
from guided.data.shapes.render import cover

ONE = ShapesSource(600, seed=11)
TWO = ShapesSource(600, seed=12, objects=2)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("source", [ONE, TWO], ids=["one", "two"])
def test_every_render_is_read_back(source: ShapesSource, size: int) -> None:
    wrong = []
    for i in range(500):
        image = source.image(i, (size, size))
        marks = score(image, source.records[i].caption or "")
        if not all(marks.values()):
            wrong.append((source.records[i].caption, marks))
    assert wrong == []


def test_a_single_object_parses_to_its_scene() -> None:
    for i in range(100):
        assert parse(ONE.image(i, (32, 32))) == ONE.scenes[i]


def changed(scene: Scene, k: int) -> Scene:
    """The scene with one attribute, the k-th, exchanged for another value."""
    thing = scene.objects[0]
    fields = ["colour", "shape"] if scene.relation else ["colour", "shape", "size", "place"]
    if scene.relation and k % 3 == 2:
        return Scene(scene.objects, next(r for r in RELATIONS if r != scene.relation))
    name = fields[k % len(fields)]
    known = {"colour": COLOURS, "shape": SHAPES, "size": SIZES, "place": PLACES}[name]
    others = [value for value in known if value != getattr(thing, name)]
    values = {f: getattr(thing, f) for f in ("colour", "shape", "size", "place")} | {name: others[k % len(others)]}
    return Scene((Object(**values), *scene.objects[1:]), scene.relation)


@pytest.mark.parametrize("source", [ONE, TWO], ids=["one", "two"])
def test_wrong_captions_are_refused(source: ShapesSource) -> None:
    passed = sum(all(score(source.image(i, (32, 32)), changed(source.scenes[i], i)).values()) for i in range(500))
    assert passed == 0


def noise(i: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(i)
    kind = i % 3
    if kind == 0:
        return rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
    if kind == 1:
        return np.clip(245 + rng.normal(0, 40, (size, size, 3)), 0, 255).astype(np.uint8)
    blobs = rng.integers(0, 256, (4, 4, 3)).repeat(size // 4, 0).repeat(size // 4, 1)
    return blobs.astype(np.uint8)


def half(i: int, size: int) -> np.ndarray:
    """A render with one half of its object, on any of four sides, wiped out."""
    image = ONE.image(i, (size, size)).copy()
    (thing,) = look(image) or ()
    x, y = round(thing.x * size), round(thing.y * size)
    window = [np.s_[:y], np.s_[y:], np.s_[:, :x], np.s_[:, x:]][i % 4]
    image[window] = image[0, 0]
    return image


@pytest.mark.parametrize("made", [noise, half])
@pytest.mark.parametrize("size", [32, 64])
def test_noise_and_half_drawn_shapes_are_refused(made: object, size: int) -> None:
    passed = sum(all(score(made(i, size), ONE.scenes[i]).values()) for i in range(500))  # type: ignore[operator]
    assert passed <= 25 / 5  # the claim is 5 %; measured 0 to 1 %


def test_a_sampler_s_softness_and_grain_are_forgiven() -> None:
    rng = np.random.default_rng(0)
    kernel = np.array([0.25, 0.5, 0.25])
    right = 0
    for i in range(200):
        image = ONE.image(i, (32, 32)).astype(float)
        for axis in (0, 1):
            moved = [np.roll(image, k, axis) for k in (-1, 0, 1)]
            image = sum(w * m for w, m in zip(kernel, moved, strict=True))
        image += rng.normal(0, 5, image.shape)
        right += all(score(image.round().clip(0, 255).astype(np.uint8), ONE.scenes[i]).values())
    assert right >= 196


def test_marks_are_separate() -> None:
    scene = read("a small red circle in the top left")
    image = render(scene, 32, 0)
    for text, wrong in (
        ("a small blue circle in the top left", "colour"),
        ("a small red square in the top left", "shape"),
        ("a large red circle in the top left", "size"),
        ("a small red circle in the bottom left", "place"),
    ):
        assert [name for name, right in score(image, text).items() if not right] == [wrong]
    two = render(read("a red circle left of a blue square"), 32, 1)
    assert all(score(two, "a blue square right of a red circle").values())
    assert not score(two, "a blue square left of a red circle")["relation"]
    swapped = score(two, "a blue circle left of a red square")
    assert not all(swapped.values()) and swapped["count"]
    assert not any(score(two, scene).values())


def test_areas_are_exact() -> None:
    """Areas of the drawn shapes against their closed forms (r = 40, lines of one pixel at the edge)."""
    r = 40.0
    areas = {
        "circle": np.pi * (0.95 * r) ** 2,
        "square": (1.7 * r) ** 2,
        "triangle": (1.9 * r) ** 2 / 2,
        "diamond": 2 * r**2,
        "cross": (2 * r) ** 2 * 5 / 9,
        "ring": np.pi * r**2 * (1 - 0.48**2),
    }
    for name, area in areas.items():
        assert abs(cover(name, 100, 100, 50.3, 49.8, r).sum() / area - 1) < 0.01, name


def test_the_same_scene_at_any_resolution() -> None:
    scene = read("a large green triangle in the bottom right")
    big = render(scene, 128, 5).reshape(32, 4, 32, 4, 3).mean((1, 3))
    assert np.abs(big - render(scene, 32, 5)).mean() < 1.5
    assert not np.array_equal(render(scene, 32, 5), render(scene, 32, 6))
    assert np.array_equal(render(scene, 32, 5), render(scene, (32, 32), 5))
    assert parse(render(scene, (48, 96), 5)) == scene


def test_captions_are_read_back() -> None:
    for source in (ONE, TWO):
        assert all(read(caption(scene)) == scene for scene in source.scenes)
    assert caption(Scene((Object("orange", "ring"),))) == "an orange ring"
    for text in ("a red apple", "a red circle in the middle", "a red circle beside a blue square", ""):
        with pytest.raises(ValueError, match="no scene"):
            read(text)
    with pytest.raises(ValueError, match="colour: expected one of red"):
        Object("mauve", "circle")
    with pytest.raises(ValueError, match="relation"):
        Scene((Object("red", "circle"), Object("blue", "ring")))


def test_pairs_are_kept_out() -> None:
    held = set(ONE.held_pairs())
    assert len(held) == round(0.2 * len(COLOURS) * len(SHAPES)) and len(COLOURS) >= 8 and len(SHAPES) >= 6
    shown = {(thing.colour, thing.shape) for scene in ONE.scenes for thing in scene.objects}
    assert not shown & held and {c for c, _ in shown} == set(COLOURS) and {s for _, s in shown} == set(SHAPES)
    test = ShapesSource(300, seed=11, held=True)
    assert {(t.colour, t.shape) for scene in test.scenes for t in scene.objects} == held
    assert held_pairs(0.2, 11) == ONE.held_pairs() != held_pairs(0.2, 12)
    for wrong in ({"objects": 3}, {"n": 0}, {"hold_out": 0.9}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ShapesSource(**wrong)  # type: ignore[arg-type]


def test_scenes_depend_on_seed_and_index_alone() -> None:
    again = ShapesSource(50, seed=11)
    assert again.scenes == ONE.scenes[:50] and np.array_equal(again.image(7, (32, 32)), ONE.image(7, (32, 32)))
    assert isinstance(ONE.records[0], Record) and torch.equal(Pictures(again, 32)[7], Pictures(ONE, 32)[7])
    counts = Counter(scene.objects[0].place for scene in ShapesSource(4500, seed=3).scenes)
    assert set(counts) == set(PLACES) and max(counts.values()) < 1.25 * min(counts.values())
    for scene in TWO.scenes:
        a, b = scene.objects
        assert a.colour != b.colour and a.shape != b.shape
