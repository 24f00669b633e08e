"""Pictures in their own shapes: the sizes, who gets which, and batches of one size each."""

from __future__ import annotations

import pathlib
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from guided import data
from guided.data.aspects import BatchOrder, ManySizes, nearest, sizes


@pytest.mark.parametrize(("size", "step"), [((512, 512), 64), ((1024, 1024), 64), ((32, 48), 8)])
def test_sizes_are_multiples_of_the_area_and_the_given_one_is_first(size: tuple[int, int], step: int) -> None:
    found = sizes(size, step)
    assert found[0] == size and len(set(found)) == len(found) >= 2
    for height, width in found:
        assert height % step == width % step == 0 and height * width <= size[0] * size[1]
        assert max(height, width) <= 2 * min(height, width)
        # One step more along the longer side would be too large.
        assert min(height, width) * (max(height, width) + step) > size[0] * size[1]
    assert {(width, height) for height, width in found} | {size} == set(found) | {size[::-1]} or size[0] != size[1]
    with pytest.raises(ValueError, match="is no multiple of"):
        sizes((size[0] + 1, size[1]), step)


def test_the_nearest_shape_is_by_ratio() -> None:
    known = sizes((512, 512), 64)
    assert nearest((300, 300), known) == (512, 512)
    assert nearest((400, 100), known)[0] > nearest((400, 100), known)[1]
    tall, wide = nearest((200, 100), known), nearest((100, 200), known)
    assert tall == wide[::-1] and tall[0] / tall[1] == pytest.approx(2, rel=0.3)


def test_every_batch_is_of_one_size_and_every_picture_is_drawn() -> None:
    a, b, c = (8, 8), (4, 16), (16, 4)
    size_of = [a] * 10 + [b] * 3 + [c] * 6
    order = BatchOrder(size_of, range(19), 4, seed=5)
    drawn = [order[counter] for counter in range(4 * 6 * 20)]
    for start in range(0, len(drawn), 4):
        assert len({size_of[row] for row in drawn[start : start + 4]}) == 1
    # 3, 1 and 2 batches in a round of 6: 12 draws of 10, 4 of 3, 8 of 6.
    counts = Counter(drawn)
    assert all(counts[row] == 24 for row in range(10))
    assert {counts[row] for row in range(10, 13)} <= {26, 27} and {counts[row] for row in range(13, 19)} <= {26, 27}
    assert [BatchOrder(size_of, range(19), 4, seed=5)[counter] for counter in (7, 300, 41)] == [
        drawn[7], drawn[300], drawn[41]
    ]  # fmt: skip
    assert [order[counter] for counter in range(40)] != [BatchOrder(size_of, range(19), 4, 6)[i] for i in range(40)]


def test_pictures_come_in_their_own_shapes_upright(tmp_path: pathlib.Path) -> None:
    draw = np.random.default_rng(0)
    for name, (height, width) in {"a": (40, 40), "b": (60, 30), "c": (30, 60)}.items():
        Image.fromarray(draw.integers(0, 255, (height, width, 3), np.uint8)).save(tmp_path / f"{name}.png")
    turned = Image.fromarray(draw.integers(0, 255, (30, 60, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "d.jpg", exif=exif)
    (tmp_path / "e.png").write_bytes(b"no picture")
    many = ManySizes(data.open(tmp_path), sizes((32, 32), 8), 3, "white", "area")
    assert many.size_of == [(32, 32), (40, 24), (24, 40), (40, 24), (32, 32)]
    assert [tuple(many[i].shape) for i in range(4)] == [(3, 32, 32), (3, 40, 24), (3, 24, 40), (3, 40, 24)]
    with pytest.raises(data.BadPicture):
        many[4]
    assert many.replacement(1) == 3 and many.replacement(4) == 0 and 4 in many.broken
    assert torch.equal(many[2], many[2])
