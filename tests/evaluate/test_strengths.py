"""What a strength trades, against the closed form of SDEdit on Gaussians; and the plot of it."""

from __future__ import annotations

import json
import math
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from guided.bench import plots
from guided.cli import main
from guided.denoiser import EDM, Denoiser
from guided.evaluate import Figure, Options, strength_curve
from guided.evaluate.report import Report
from guided.evaluate.strengths import curves, strokes
from tests.model import build
from tests.tasks.test_editing import Gauss

STD = 0.3
Capture = pytest.CaptureFixture[str]


def noise(folder: pathlib.Path, n: int = 80) -> pathlib.Path:
    """Pictures that are nothing but noise about mid-grey, each pixel of a std of 0.3."""
    folder.mkdir()
    for i in range(n):
        array = np.random.default_rng(i).normal(0, STD, (16, 16, 3))
        Image.fromarray(((array + 1) * 127.5).round().clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def test_the_curve_is_that_of_the_exact_flow(tmp_path: pathlib.Path) -> None:
    """x = (x0 + s n) k with k = (1 + s^2 / c^2)^(-1/2), of strokes that are the means of four pixels each."""
    model = build.plain_model()
    model.denoiser = Denoiser(Gauss(STD), EDM(), 0.02, 20.0).eval()
    report = strength_curve(model, noise(tmp_path / "noise"), Options(n=60, steps=12))
    distances = [f for f in report.figures if f.name != "FD"]
    fd = [f.value for f in report.figures if f.name == "FD"]
    assert len(distances) == 20 and len(fd) == 21 and all(f.n == 60 for f in distances)
    for i, figure in enumerate(distances, 1):
        t = i / 20
        level = 20.0 if t == 1 else min(t / (1 - t), 20.0)
        k = 1 / math.hypot(1, level / STD)
        strokes_std = STD / 2  # the mean of four pixels
        want = math.hypot(strokes_std * (1 - k), level * k) / 2
        assert figure.at == f"strength {t:g}" and figure.value == pytest.approx(want, rel=0.08)
        assert figure.low < figure.value < figure.high
    values = [f.value for f in distances]
    assert values == sorted(values)
    assert fd[0] > fd[4] > fd[10] and max(fd[15:]) < 0.1 * fd[0]


def test_strokes_are_flat_tiles_of_the_mean_colour() -> None:
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 32, 16), dtype=np.uint8))
    found = strokes(picture)
    for y in range(0, 32, 4):
        for x in range(0, 16, 2):
            tile = found[0, :, y : y + 4, x : x + 2]
            mean = picture[0, :, y : y + 4, x : x + 2].double().mean((1, 2))
            assert bool((tile == tile[:, :1, :1]).all()) and float((tile[:, 0, 0] - mean).abs().max()) <= 0.5


def test_both_curves_end_in_one_picture() -> None:
    figures = [Figure("FD", 8.0, 7, 9, 4, "strength 0, the strokes")]
    for t, far, fd in ((0.5, 0.1, 4.0), (1.0, 0.4, 1.0)):
        figures += [
            Figure("distance to the source", far, 0, 1, 4, f"strength {t:g}"),
            Figure("FD", fd, 0, 9, 4, f"strength {t:g}"),
        ]
    found = curves(Report("a", "b", {}, tuple(figures)))
    assert found == {
        "distance to the source, at most 0.4": [(0.5, 0.25), (1.0, 1.0)],
        "FD, at most 8": [(0.0, 1.0), (0.5, 0.5), (1.0, 0.125)],
    }


def test_a_plain_plot_puts_shares_where_they_belong(tmp_path: pathlib.Path) -> None:
    plots.plot(tmp_path / "p.png", "t", "x", "y", {"a": [(0.0, 0.0), (0.5, 1.0), (1.0, 0.5)]}, shares=True)
    with Image.open(tmp_path / "p.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    left, right = (plots.SHARES.place(x, 0)[0] for x in (0, 1))
    bottom, top = (plots.SHARES.place(0, y)[1] for y in (0, 1))
    assert plots.SHARES.place(0.5, 0.5) == pytest.approx(((left + right) / 2, (bottom + top) / 2))
    for x, y in ((0.0, 0.0), (0.5, 1.0), (1.0, 0.5)):
        across, down = plots.SHARES.place(x, y)
        assert pixels[round(down), round(across)].tolist() == [0x1B, 0x6C, 0xA8]


def test_one_command_draws_the_curve_of_a_model(tmp_path: pathlib.Path, capsys: Capture) -> None:
    model = str(build.plain_model().save(tmp_path / "m"))
    data, plot, out = noise(tmp_path / "noise", 60), tmp_path / "curve.png", tmp_path / "report.json"
    words = [
        "eval",
        model,
        "--against",
        str(data),
        "--strengths",
        str(plot),
        "--steps",
        "1",
        "--n",
        "50",
        "--out",
        str(out),
    ]
    assert main(words) == 0
    assert "strength 0.05" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert len(report["figures"]) == 41 and {f["n"] for f in report["figures"]} == {50}
    with Image.open(plot) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 16) or ()) > 3
    for more, message in (
        (["--cas"], "leave out --cas"),
        (["--w", "1,2"], "one curve has one guide"),
        (["--strengths", str(tmp_path / "c.jpg")], "is a .png file"),
        (["--n", "9"], "at least 48"),
    ):
        assert main([*words, *more]) == 2, more
        assert message in capsys.readouterr().err
    assert main(["eval", str(data), *words[2:]]) == 2
    assert "no model" in capsys.readouterr().err
