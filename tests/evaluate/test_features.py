"""The fixed spaces: what they keep, what they do not see, and that pictures find themselves in them."""

from __future__ import annotations

import pathlib

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from guided.evaluate.features import Blur, Thumbnail, jpeg, levels, nearest, noise_pictures, self_retrieval, unit
from guided.evaluate.material import real


def patterns(n: int, seed: int = 0, size: int = 32) -> Tensor:
    """Smooth random pictures, uint8 (n, 3, size, size)."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(n, 3, 5, 5, generator=rng)
    return levels(F.interpolate(coarse, size, mode="bicubic") * 0.5)


def test_means_are_those_of_the_cells() -> None:
    pictures = patterns(3)
    found = Blur(16)(pictures).reshape(3, 3, 16, 16)
    expected = (pictures.double() / 127.5 - 1).reshape(3, 3, 16, 2, 16, 2).mean((3, 5))
    assert torch.allclose(found.double(), expected, atol=1e-6)


def test_a_thumbnail_has_length_1_and_no_contrast() -> None:
    images = unit(patterns(8)).double() * 0.5
    space = Thumbnail(colour=0.0)
    full, faint = space(levels(images)), space(levels(0.5 * images + 0.2))
    assert torch.allclose(full.norm(dim=1), torch.ones(8))
    assert float((full * faint).sum(1).min()) > 0.995
    coloured = Thumbnail(colour=0.75)
    assert float((coloured(levels(images)) * coloured(levels(images + 0.4))).sum(1).max()) < 0.95


def test_an_empty_picture_has_no_pattern() -> None:
    nearly = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    nearly[0, 0, 3, 3] = 254
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    assert torch.allclose(Thumbnail()(nearly), Thumbnail()(white), atol=0.01)


def test_levels_round_to_the_nearest_and_undo_unit() -> None:
    pictures = patterns(2)
    assert torch.equal(levels(unit(pictures)), pictures)
    assert levels(torch.tensor([[[[-3.0, 3.0]]]])).flatten().tolist() == [0, 255]
    with pytest.raises(TypeError, match="uint8"):
        unit(pictures.float())


def test_nearest_is_brute_force() -> None:
    rng = torch.Generator().manual_seed(1)
    a, b = torch.randn(700, 5, generator=rng), torch.randn(90, 5, generator=rng)
    expected = ((a[:, None] - b[None]) ** 2).sum(2).argmin(1)
    assert torch.equal(nearest(a, b), expected)
    with pytest.raises(ValueError, match="empty"):
        nearest(a, b[:0])


def test_jpeg_changes_a_picture_little_and_keeps_grey() -> None:
    pictures = patterns(4)
    changed = jpeg(pictures, 50)
    assert changed.shape == pictures.shape and 0 < float((changed.float() - pictures.float()).abs().mean()) < 8
    assert jpeg(pictures[:, :1], 50).shape == (4, 1, 32, 32)


def test_self_retrieval_of_pictures_that_differ_and_of_twins() -> None:
    shifted, compressed, meant, most = self_retrieval(Thumbnail(), patterns(200), noises=200)
    assert shifted.value > 0.99 and compressed.value > 0.99 and meant.value < 0.05 and most.value < 0.2
    assert shifted.n == 800 and most.n == 200
    twins = patterns(100).repeat_interleave(2, 0)
    assert self_retrieval(Thumbnail(), twins, noises=10)[0].value == pytest.approx(0.5, abs=0.02)


def test_noise_pictures_are_uniform_and_gaussian() -> None:
    noise = unit(noise_pictures(200, (3, 16, 16)))
    assert float(noise[:100].var()) == pytest.approx(1 / 3, rel=0.02)
    assert 0.2 < float(noise[100:].var()) < 0.25 and 0.02 < float((noise[100:].abs() == 1).float().mean()) < 0.06


@pytest.mark.slow
def test_real_emoji_find_themselves(shared_data: pathlib.Path) -> None:
    """The space in which retrieval is judged was fixed on these figures, before any training."""
    pictures = real(str(shared_data / "emoji"), (32, 32))
    every, _ = pictures.read(range(len(pictures.records)))
    shifted, compressed, meant, most = self_retrieval(Thumbnail(), every)
    assert shifted.value >= 0.95 and compressed.value >= 0.95
    assert meant.value <= 0.02 and most.value <= 0.02
