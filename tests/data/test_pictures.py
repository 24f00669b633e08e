"""What the network sees, and what happens where a picture is broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from guided import data
from tests.data.test_sources import png, put


def folder(root: Path, broken: tuple[int, ...] = ()) -> data.Source:
    return data.open(put(root, {f"{k:02d}.png": b"junk" if k in broken else png(20 * k) for k in range(8)}))


def test_values_and_cache(tmp_path: Path) -> None:
    pictures = data.Pictures(folder(tmp_path), (4, 6))
    assert pictures[3].dtype == torch.uint8 and pictures[3].shape == (3, 4, 6) and (pictures[3] == 60).all()
    pictures[3].fill_(0)  # a copy: what a caller does to it harms no one
    (tmp_path / "03.png").unlink()
    assert (pictures[3] == 60).all()
    with pytest.raises(data.BadPicture, match=r"03\.png"):
        data.Pictures(pictures.source, 4, cache=False)[3]
    with pytest.raises(IndexError):
        pictures[8]


def test_emoji_are_box_averages_on_white(shared_data: Path) -> None:
    source = data.open(shared_data / "emoji")
    pictures = data.Pictures(source, 32)
    for i in (0, 500, 3000):
        rgba = data.decode(source.bytes(i), channels=4).array.astype(float)
        a = rgba[..., 3:] / 255
        on_white = rgba[..., :3] * a + 255 * (1 - a)
        mean = on_white.reshape(32, 4, 32, 4, 3).mean((1, 3)).transpose(2, 0, 1)
        assert np.abs(pictures[i].numpy() - mean).max() <= 1.01  # rounded twice


def test_a_broken_picture_has_a_replacement(tmp_path: Path) -> None:
    source = folder(tmp_path, (2, 3, 7))
    pictures = data.Pictures(source, 4)
    with pytest.raises(data.BadPicture, match=r"02\.png: not a picture"):
        pictures[2]
    assert pictures.broken.keys() == {2}
    assert [pictures.replacement(i) for i in (2, 3, 7)] == [4, 4, 0]
    # Independent of what was read before, and never outside the training part.
    assert data.Pictures(source, 4).replacement(2) == 4
    assert pictures.replacement(2, among=[1, 2, 3, 6]) == 6
    assert pictures.replacement(7, among=[2, 5, 7]) == 5
    with pytest.raises(data.BadPicture, match="no sound picture"):
        pictures.replacement(2, among=[2, 3, 7])


def test_rendered_sources_and_channels(tmp_path: Path) -> None:
    shapes = data.Pictures(data.open("shapes"), 32)
    assert shapes[0].shape == (3, 32, 32) and torch.equal(shapes[0], data.Pictures(data.open("shapes"), 32)[0])
    assert data.Pictures(folder(tmp_path), 4, channels=1)[2].shape == (1, 4, 4)
