"""The picture of a report: each mark stands where its number belongs, and nothing of it is left out."""

from __future__ import annotations

import math
import pathlib
import time

import numpy as np
import pytest
from PIL import Image, ImageColor

from guided.evaluate import chart as charts
from guided.evaluate import places
from guided.evaluate.chart import better, chart, ends, ticks
from guided.evaluate.figures import Figure
from guided.evaluate.report import Report

FLOOR = "floor (n = 50)"


def marks(picture: Image.Image, colour: str, rows: slice, columns: slice) -> list[float]:
    """The middles, left to right, of what is drawn in a colour in one part of the picture."""
    array = np.asarray(picture)[rows, columns].astype(int)
    hit = (np.abs(array - ImageColor.getrgb(colour)).max(2) < 3).any(0)
    found, start = [], None
    for x, here in enumerate([*hit, False]):
        if here and start is None:
            start = x
        if not here and start is not None:
            found.append(columns.start + (start + x - 1) / 2)
            start = None
    return found


def test_marks_stand_where_their_numbers_are() -> None:
    """Value, interval and floor of two rows, measured in pixels against the axis."""
    card = [
        Figure("FD", 0.3, 0.2, 0.5, 100, "w = 1", {FLOOR: 0.1}),
        Figure("FD", 0.7, 0.65, 0.9, 100, "w = 4", {FLOOR: 0.1}),
    ]
    picture = chart("a", "b", {"real pictures": "32 px"}, card)
    low, high = ends(card)
    left, width = charts._MARGIN + charts._PAD + 6, charts._CARD - 2 * charts._PAD - 12
    top = next(
        y for y in range(100, picture.height) if marks(picture, charts._INTERVAL, slice(y, y + 1), slice(0, 450))
    )
    for row, figure in enumerate(card):
        middle = top + 4 + charts._ROW * row
        part, columns = slice(middle - 1, middle + 2), slice(charts._MARGIN, charts._MARGIN + charts._CARD)
        (dot,) = marks(picture, charts._VALUE, part, columns)
        assert dot == pytest.approx(left + width * (figure.value - low) / (high - low), abs=1)
        (floor,) = marks(picture, charts._REAL[0], part, columns)
        assert floor == pytest.approx(left + width * (0.1 - low) / (high - low), abs=1)
        bar = np.flatnonzero(
            np.abs(np.asarray(picture)[middle, columns].astype(int) - ImageColor.getrgb(charts._INTERVAL)).max(1) < 3
        )
        for end, number in ((bar[0], figure.low), (bar[-1], figure.high)):
            assert columns.start + end == pytest.approx(left + width * (number - low) / (high - low), abs=2)


def test_an_axis_holds_everything_in_round_numbers() -> None:
    many = [
        Figure("PSNR, dB", 24.0, 23.9, 24.3, 9, "", {"baseline": 21.0}),
        Figure("PSNR, dB", 28, math.nan, math.nan, 9),
    ]
    low, high = ends(many)
    assert 20 < low < 21 and 28 < high < 29, "neither cut nor drawn from 0, where nothing would be told apart"
    assert ends([Figure("FD", 0.5, 0.4, 0.6, 9, "", {FLOOR: 0.02})])[0] == 0
    assert ends([Figure("recall", 0.99, 0.97, 1.0, 9, percent=True)])[1] == 1
    left, right = ends([Figure("colour error of channel 0, in 1/255", -0.3, -0.4, -0.2, 9)])
    assert left < -0.4 and right > 0, "0 is what it is held against"
    left, right = ends([Figure("n", 0.0, math.nan, math.nan, 1)])
    assert left <= 0 < right
    for a, b in ((0, 0.31), (-0.002, 0.013), (20.4, 28.6), (0.95, 1), (0, 5e4), (3.351, 3.352)):
        found = ticks(a, b)
        assert 3 <= len(found) <= 7 and all(a - 1e-9 <= tick <= b + 1e-9 for tick in found)
        steps = np.diff(found)
        assert np.allclose(steps, steps[0]) and f"{steps[0]:.1e}"[:3] in ("1.0", "2.0", "2.5", "5.0")


def test_which_way_is_good_is_said() -> None:
    told = {
        "FD": "lower is better",
        "LPIPS": "lower is better",
        "PSNR, dB": "higher is better",
        "density": "1 is as real",
    }
    told |= {"CLIPScore": "higher is better", "ELBO, bits/dim: training pictures": "lower is better", "other": ""}
    told |= {"colour error of channel 0, in 1/255": "0 is best", "consistency PSNR, dB": "higher is better"}
    for name, words in told.items():
        assert better(Figure(name, 1, 1, 1, 1)) == words
    for name, words in (("precision", "higher is better"), ("as near to training as x", "lower is better")):
        assert better(Figure(name, 1, 1, 1, 1, percent=True)) == words
    assert better(Figure("saturation", 0.1, 0, 0.2, 9, percent=True)) == "as real is best"


def test_all_figures_and_the_preprocessing_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = [
        Figure(name, 0.5, 0.4, 0.6, n, at, {"real": 0.4, "next caption": 0.1}, percent)
        for name, percent in (("FD", False), ("recall", True), ("a long name " * 9, False), ("KID", False))
        for n, at in ((100, "w = 1"), (120, "between(early, 2) >> " + "apg() >> " * 20))
    ]
    figures.append(Figure("network evaluations a picture", 48, math.nan, math.nan, 1))
    written: list[str] = []
    write = charts._Page.text

    def noted(page: charts._Page, x: float, y: float, words: str, size: int, colour: str, anchor: str = "la") -> float:
        written.append(words)
        return write(page, x, y, words, size, colour, anchor)

    monkeypatch.setattr(charts._Page, "text", noted)
    settings = {"real pictures": "32 x 32 px, area resize", "features": "word " * 80, "drawn": "steps 3", "seed": "0"}
    picture = chart("runs/" + "long/" * 60, "data", settings, figures)
    for words in (
        "FD",
        "recall",
        "KID",
        "w = 1",
        "50.0 %",
        "0.5",
        "  [0.4, 0.6]",
        "48",
        "real: 0.4",
        "next caption: 10.0 %",
    ):
        assert words in written, words
    assert "lower is better, n = 100 .. 120" in written and "judged against data" in written
    assert {"32 x 32 px, area resize", "steps 3", "real pictures", "seed"} <= set(written)
    assert picture.size[0] == charts._WIDTH and written.count("w = 1") == 4
    page = charts._Page(Image.new("RGB", (1, 1)))
    for words in written:
        assert page.font(12).getlength(words) / 2 < charts._WIDTH - 2 * charts._MARGIN
    assert chart("a", "b", {}, []).size[0] == charts._WIDTH


def test_the_picture_lies_beside_the_json_and_takes_no_time(tmp_path: pathlib.Path) -> None:
    assert places("a/x.json") == places("a/x.png") == (pathlib.Path("a/x.json"), pathlib.Path("a/x.png"))
    assert places("x-1.5") == (pathlib.Path("x-1.5"), pathlib.Path("x-1.5.png"))
    figures = [Figure(f"figure {i}", i, i - 1, i + 1, 9, f"w = {w}") for i in range(15) for w in range(4)]
    report = Report("m", "d", {"real pictures": "32 px"}, tuple(figures))
    start = time.process_time()
    where, shown = report.save(tmp_path / "r.json")
    assert time.process_time() - start < 5, "about half a second"
    assert (where, shown) == (tmp_path / "r.json", tmp_path / "r.png") and where.is_file()
    with Image.open(shown) as picture:
        assert picture.format == "PNG" and picture.width == charts._WIDTH
