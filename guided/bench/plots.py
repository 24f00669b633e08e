"""Curves on logarithmic or plain axes, as PNG, by Pillow alone."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Points = Sequence[tuple[float, float]]
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM, _RIGHT = 640, 440, 76, 40, 56, 20
_COLOURS = ("#1b6ca8", "#d1495b", "#6b6b6b", "#3a7d44", "#8a4fa3")


@dataclass(frozen=True)
class Axes:
    """From data to pixels, both axes logarithmic, or neither; low and high of x, then of y."""

    x: tuple[float, float]
    y: tuple[float, float]
    plain: bool = False

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies, in pixels from the top left."""
        share = _plain_share if self.plain else _share
        along, up = (share(value, *ends) for value, ends in ((x, self.x), (y, self.y)))
        return (
            _LEFT + along * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )


SHARES = Axes((0.0, 1.0), (0.0, 1.05), True)


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _plain_share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low)


def axes(curves: Mapping[str, Points]) -> Axes:
    """Logarithmic axes that hold all points, with some room above and below; ValueError where there is none."""
    points = [point for curve in curves.values() for point in curve]
    if not points or min(min(point) for point in points) <= 0:
        raise ValueError("a logarithmic plot needs points, all above 0")
    (left, right), (low, high) = ((min(v), max(v)) for v in zip(*points, strict=True))
    if left == right:
        left, right = left / 2, right * 2
    return Axes((left, right), (low / 1.3, high * 1.3))


def plot(file: pathlib.Path, title: str, x: str, y: str, curves: Mapping[str, Points], shares: bool = False) -> None:
    """Draw curves with a legend; every x of the first is marked on its axis, and 1, 2, 5, 10, ... on the other.

    shares: x and y lie in [0, 1], and both axes are plain, marked in fifths.
    """
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw, font, frame = ImageDraw.Draw(picture), ImageFont.load_default(13), (SHARES if shares else axes(curves))
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    fifths = [i / 5 for i in range(6)]
    for tick in fifths if shares else _ticks(*frame.y):
        level = frame.place(frame.x[0], tick)[1]
        draw.line([(_LEFT, level), (right, level)], "#e4e4e4")
        draw.text((_LEFT - 6, level), f"{tick:g}", "black", font, anchor="rm")
    for tick in fifths if shares else [point[0] for point in next(iter(curves.values()))]:
        column = frame.place(tick, frame.y[0])[0]
        draw.line([(column, bottom), (column, bottom + 4)], "black")
        draw.text((column, bottom + 6), f"{tick:g}", "black", font, anchor="mt")
    draw.line([(_LEFT, _TOP), (_LEFT, bottom), (right, bottom)], "black")
    for (name, points), colour in zip(curves.items(), _COLOURS, strict=False):
        pixels = [frame.place(*point) for point in points]
        draw.line(pixels, colour, 2)
        for a, b in pixels:
            draw.ellipse([a - 3, b - 3, a + 3, b + 3], colour)
        place, left, row = list(curves).index(name), _LEFT, _TOP + 6
        if shares:  # they fill the frame, and are told above it, side by side
            left, row = left + place * (_WIDTH - left) // len(curves), row - 12
        else:
            row += 17 * place
        draw.line([(left + 10, row + 6), (left + 34, row + 6)], colour, 2)
        draw.text((left + 40, row), name, "black", font)
    draw.text((_WIDTH / 2, 10), title, "black", ImageFont.load_default(15), anchor="mt")
    draw.text(((_LEFT + right) / 2, _HEIGHT - 22), x, "black", font, anchor="mt")
    draw.text((10, 14), y, "black", font)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, optimize=True)


def _ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [factor * 10.0**decade for decade in decades for factor in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high]
