"""Memorised pictures: planted copies are found, fresh ones are not; the sheet shows the worst first."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from guided.data import Pictures, Split
from guided.evaluate import Options, evaluate
from guided.evaluate.features import Blur, Features, Thumbnail
from guided.evaluate.material import Real
from guided.evaluate.memory import contact, memorised
from tests.evaluate.test_report import write_captions
from tests.evaluate.toy import Captioned, picture
from tests.model import build


def world(n: int = 900, held: int = 300) -> Real:
    """Things of one picture each, the first of them kept out."""
    source = Captioned(0, n)
    return Real(source, Pictures(source, 16), Split(tuple(range(held, n)), tuple(range(held)), ()))


def things(start: int, n: int) -> Tensor:
    return torch.stack([picture(f"thing {i}") for i in range(start, start + n)])


@pytest.mark.parametrize("space", [Thumbnail(), Blur(8)], ids=lambda space: space.name)
def test_every_copy_is_flagged_and_fresh_pictures_are_not(space: Features) -> None:
    real = world()
    drawn = torch.cat([things(5000, 300), things(420, 40)])
    panel = memorised(space, drawn, real, "w = 2")
    assert bool(panel.flagged[300:].all()), "copies"
    assert float(panel.flagged[:300].double().mean()) <= 0.05, "fresh ones"
    assert panel.nearest[300:].tolist() == list(range(420, 460)) and float(panel.distance[300:].max()) == 0
    assert set(panel.order[:40]) == set(range(300, 340)), "the most suspicious first"
    figure = panel.figure
    assert figure.at == "w = 2" and figure.n == 340 and figure.value == float(panel.flagged.double().mean())
    assert 0 < figure.beside["real, held out"] <= 0.02
    assert all(part in panel.told for part in (space.name, "nearest of 600 training pictures", "of 300 kept out"))


def test_copies_that_were_touched_are_flagged_too() -> None:
    touched = things(420, 40).double() + 3 * torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    panel = memorised(Thumbnail(), touched.clamp(0, 255).round().to(torch.uint8), world())
    assert bool(panel.flagged.all()) and panel.nearest.tolist() == list(range(420, 460))


def test_the_nearest_is_looked_for_by_brute_force() -> None:
    real, drawn, space = world(700, 60), things(5000, 30), Thumbnail()
    panel = memorised(space, drawn, real)
    a, b = space(drawn).double(), space(things(60, 640)).double()
    away = (a[:, None] - b[None]).norm(dim=2)
    assert panel.nearest.tolist() == (60 + away.argmin(1)).tolist()
    assert torch.allclose(panel.distance, away.min(1).values)
    own = (space(things(0, 60)).double()[:, None] - b[None]).norm(dim=2).min(1).values
    assert panel.threshold == pytest.approx(float(own.min())), "of sixty, the 1st percentile is the nearest"


def test_the_sheet_shows_each_beside_its_nearest() -> None:
    real = world(160, 60)
    drawn = torch.cat([things(5000, 3), things(77, 1)])
    panel = memorised(Thumbnail(), drawn, real)
    page = np.asarray(contact(panel, drawn, real, ["a", "b", "c", "the copy"]))
    cell = page[23 : 23 + 96, 6 : 6 + 96], page[23 : 23 + 96, 108 : 108 + 96]
    assert np.array_equal(*cell) and np.array_equal(cell[0][::6, ::6], picture("thing 77").permute(1, 2, 0).numpy())


def test_a_report_with_a_sheet(tmp_path: pathlib.Path) -> None:
    data = write_captions(tmp_path / "data", 10, 200)
    model = build.words_model(card={"recipe": {"data": {"hold_out": {"share": 0.4, "pairs": 4}}}})
    report = evaluate(model, data, Options(n=8, w=(1.0,), steps=1), memory=tmp_path / "m.png")
    figure = report.figures[-1]
    assert (
        figure.name == "as near to training as the nearest 1 % of real ones" and figure.n == 8 and figure.at == "w = 1"
    )
    assert Thumbnail().name in report.settings["memory"] and Image.open(tmp_path / "m.png").width > 700
    with pytest.raises(ValueError, match="memory: tiny-text is judged on scenes that are rendered without end"):
        evaluate(model, "shapes", Options(n=2, steps=1), memory=tmp_path / "no.png")
    assert not (tmp_path / "no.png").exists()
    with pytest.raises(ValueError, match="memory: needs at least 59 real pictures that were kept out"):
        memorised(Thumbnail(), things(0, 4), world(100, 58))


def test_a_folder_that_copies(tmp_path: pathlib.Path) -> None:
    data, drawn = tmp_path / "data", tmp_path / "drawn"
    for folder, start, n in ((data, 0, 1300), (drawn, 1100, 400)):
        folder.mkdir()
        for i in range(n):
            Image.fromarray(picture(f"thing {start + i}").permute(1, 2, 0).numpy()).save(folder / f"{start + i}.png")
    report = evaluate(drawn, data, memory=tmp_path / "m.png")
    figure = report.figures[-1]
    # 200 of the 400 are in the data; some of those are among the kept out, which are no training pictures.
    assert 0.45 < figure.value < 0.52 and "8 px means" in report.settings["memory"]
