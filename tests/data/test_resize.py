"""Resizing against an independent average over exact areas."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guided.data import fit
from guided.data.resize import centre, overlaps


def naive(line: list[int], new: int) -> list[Fraction]:
    """Averages of a step function over equal intervals, in exact fractions."""
    old, out = len(line), []
    for i in range(new):
        low, high = Fraction(i * old, new), Fraction((i + 1) * old, new)
        shares = [max(Fraction(0), min(high, Fraction(j + 1)) - max(low, Fraction(j))) for j in range(old)]
        out.append(sum((s * v for s, v in zip(shares, line, strict=True)), Fraction(0)) / (high - low))
    return out


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_area_is_the_exact_average_rounded_half_up(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 40))
    new = data.draw(st.integers(1, width))
    line = data.draw(st.lists(st.integers(0, 255), min_size=width, max_size=width))
    array = np.array(line, np.uint8)[None, :, None].repeat(width, 0)
    got = fit(array[:, :, :], (width, new), crop="pad") if new == width else None
    half = [int(value + Fraction(1, 2)) for value in naive(line, new)]
    if got is None:
        got = fit(array, (new, new))  # square to square: no crop; rows are alike
    assert got[0, :, 0].tolist() == half


def test_weights_cover_everything_once() -> None:
    for old, new in ((7, 3), (128, 32), (5, 5), (100, 7)):
        w = overlaps(old, new)
        assert (w.sum(1) == old).all() and (w.sum(0) == new).all()


def test_sixteen_bits_scale_to_255() -> None:
    array = np.arange(256, dtype=np.uint16).reshape(16, 16, 1) * 257
    assert fit(array, (16, 16)).ravel().tolist() == list(range(256))
    assert fit(np.full((64, 64, 1), 65535, np.uint16), (32, 32)).min() == 255


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 40), st.integers(1, 40), st.sampled_from(["centre", "pad"])
)
def test_any_shape_fits_and_a_constant_stays(h: int, w: int, a: int, b: int, crop: str) -> None:
    for resize in ("area", "bicubic"):
        got = fit(np.full((h, w, 3), 93, np.uint8), (a, b), resize, crop, fill=93)
        assert got.shape == (a, b, 3) and (got == 93).all()


def test_centre_crop_and_pad() -> None:
    array = np.arange(10, dtype=np.uint8)[None, :, None].repeat(4, 0)
    assert centre(array, (1, 1))[0, :, 0].tolist() == [3, 4, 5, 6]
    padded = fit(array, (10, 10), crop="pad", fill=255)
    assert (padded[[0, 1, 2, 7, 8, 9]] == 255).all() and padded[4, :, 0].tolist() == list(range(10))


def test_wrong_arguments() -> None:
    array = np.zeros((4, 4, 3), np.uint8)
    for bad in ({"resize": "lanczos"}, {"crop": "random"}, {"size": (0, 4)}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            fit(array, **{"size": (4, 4), **bad})
