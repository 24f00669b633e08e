"""Growth: rows of each axis, plots that show what they are given, and lines that say how it grows."""

from __future__ import annotations

import math
import pathlib

import pytest
from PIL import Image

from guided.bench import cases, machine, networks, plots, scaling
from guided.bench.record import Log, Record


def test_points_lie_where_their_logarithms_do() -> None:
    frame = plots.axes({"a": [(1, 2.0), (100, 200.0)], "b": [(10, 20.0)]})
    (left, low), (middle, half), (right, high) = (frame.place(x, 2.0 * x) for x in (1, 10, 100))
    assert middle == pytest.approx((left + right) / 2) and half == pytest.approx((low + high) / 2)
    assert left < right and low > high
    with pytest.raises(ValueError, match="above 0"):
        plots.axes({"a": [(1, 0.0)]})
    assert plots.axes({"a": [(4, 2.0)]}).x == (2, 8)


def test_a_plot_is_a_picture_with_its_curves(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "deep" / "a.png"
    curves = {"ours": [(1, 1.0), (8, 9.0)], "theirs": [(1, 3.0), (8, 27.0)]}
    plots.plot(file, "time", "batch", "ms", curves)
    picture = Image.open(file).convert("RGB")
    frame = plots.axes(curves)
    for points, colour in zip(curves.values(), ("#1b6ca8", "#d1495b"), strict=False):
        wanted = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        for x, y in ((math.sqrt(8), math.sqrt(points[0][1] * points[1][1])), points[0], points[1]):
            a, b = frame.place(x, y)
            near = {picture.getpixel((round(a) + i, round(b) + j)) for i in (-1, 0, 1) for j in (-1, 0, 1)}
            assert wanted in near, (colour, x, y)


def test_growth_is_drawn_and_said_beside_the_flop(tmp_path: pathlib.Path) -> None:
    size = networks.SIZES["tiny"]
    begin = scaling.title("tiny", "batch", scaling.TIME)
    records = [
        Record(
            "k", "scaling", f"{begin}, {n}: ours / diffusers", 0.01 * n, 0.03 * n**1.5, 3.0, 3.0, 3.0, flops=1e9 * n**2
        )
        for n in (1, 4, 16)
    ]
    (line,) = scaling.drawn(size, records, tmp_path)
    assert line == "time by batch, 1 to 16: ours x 16.00, diffusers, default x 64.00, FLOP x 256.00"
    assert [file.name for file in tmp_path.iterdir()] == ["tiny-time-batch.png"]


def test_every_axis_has_rows_of_time_and_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    pytest.importorskip("diffusers")
    for name, values in (("BATCHES", (1, 2)), ("SIDES", (32, 64)), ("TOKENS", (4, 8)), ("STEPS", (2, 4))):
        monkeypatch.setattr(scaling, name, values)
    size = networks.sized("tiny")
    groups = scaling.groups(size, "cpu")
    found = list(cases.measure(groups, 2, "scaling", machine.here("cpu"), Log()))
    known = {row.name.partition(",")[0] for row in found}
    assert known == {"scaling tiny"} and len(found) in (8, 16)
    flops = {row.name: row.flops for row in found if row.unit == "s"}
    one, two = (flops[f"{scaling.title('tiny', 'steps', 'time')}, {n}: ours / diffusers"] for n in (2, 4))
    assert one and two == 2 * one
    one, two = (flops[f"{scaling.title('tiny', 'batch', 'time')}, {n}: ours / diffusers"] for n in (1, 2))
    assert one and two and two == pytest.approx(2 * one, rel=0.01)
    said = scaling.drawn(size, found, tmp_path)
    assert len(said) == len(list(tmp_path.glob("*.png"))) == len(found) // 2
