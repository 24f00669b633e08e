"""Counted noise: a function of (stream, seed, index), one image at a time."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guided.noise import Noise, key

SHAPE = (3, 8, 8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=16), st.integers(0, 1000), st.data())
def test_an_image_has_the_same_bits_alone_or_in_any_batch(seeds: list[int], index: int, data) -> None:
    place = data.draw(st.integers(0, len(seeds) - 1))
    assert torch.equal(Noise(seeds)(index, SHAPE)[place], Noise([seeds[place]])(index, SHAPE)[0])


def test_the_bits_are_fixed_for_ever() -> None:
    assert key("x", 0, 0) == 3544587741217258709
    assert Noise([7])(3, (2,)).tolist() == [[-0.574068009853363, -1.3960453271865845]]


def test_streams_seeds_and_indices_do_not_meet() -> None:
    noise = Noise([0, 1])
    draws = [noise(0, SHAPE), noise(1, SHAPE), noise.child("sr")(0, SHAPE), Noise([2, 3])(0, SHAPE)]
    rows = torch.cat([d.flatten(1) for d in draws])
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.35  # 192 numbers each: 5 sigma is 0.36


def test_it_is_standard_normal() -> None:
    x = torch.cat([Noise(range(50))(i, (400,)).flatten() for i in range(5)])
    n = len(x)
    assert abs(x.mean()) < 4 / n**0.5 and abs(x.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((x**4).mean() - 3) < 4 * (96 / n) ** 0.5


def test_rows_pick_images() -> None:
    noise = Noise([5, 6, 7])
    assert torch.equal(noise.rows([2, 0])(4, SHAPE), noise(4, SHAPE)[[2, 0]])
    assert torch.equal(noise.rows(slice(1, 3))(4, SHAPE), noise(4, SHAPE)[1:])
