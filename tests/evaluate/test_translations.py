"""Networks that change pictures, judged: a perfect one, the trivial answer, and a spoilt one."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from guided import degrade
from guided.codec import Pixels
from guided.degrade import Translation
from guided.denoiser import X0, Denoiser
from guided.evaluate import Options, evaluate
from guided.evaluate.features import Bands, perceptual
from guided.evaluate.report import Report
from guided.model import Model
from tests.tasks.build_translating import Shown, answering, larger, quartet


def saved(folder: pathlib.Path, count: int = 200, side: int = 16) -> pathlib.Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        coarse = rng.uniform(30, 225, (side // 4, side // 4, 3)).repeat(4, 0).repeat(4, 1)
        array = (coarse + rng.normal(0, 12, (side, side, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(array).save(folder / f"{i:03d}.png")
    return folder


def value(report: Report, name: str, at: str | None = None) -> float:
    found = [figure for figure in report.figures if figure.name == name and at in (None, figure.at)]
    return found[0].value


def baseline(report: Report, name: str) -> float:
    return next(figure for figure in report.figures if figure.name == name).beside["baseline"]


class Knows(Shown):
    """It answers with the truth of the picture it is shown, found among all of them."""

    def __init__(self, config: Any, truths: Tensor) -> None:
        super().__init__(config)
        self.truths, self.small = truths, degrade.box(truths, 4)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Any) -> Tensor:
        small = degrade.box(cond.image, 4)
        return self.truths[(small[:, None] - self.small[None]).square().mean((2, 3, 4)).argmin(1)]


def test_the_trivial_answer_equals_its_baseline_and_the_truth_is_perfect(tmp_path: pathlib.Path) -> None:
    data = saved(tmp_path / "data")
    taught = Translation((degrade.Down(4),))
    plain, _ = answering(taught, steps=1)
    plain.card["recipe"] = {"data": {"hold_out": None}}
    found = evaluate(plain, data, Options(n=200))
    for name in ("FD", "perceptual distance", "PSNR, dB"):
        assert value(found, name) == pytest.approx(baseline(found, name), rel=1e-6), name
    truths = torch.stack([torch.from_numpy(np.asarray(Image.open(f))).permute(2, 0, 1) for f in sorted(data.iterdir())])
    network = Knows(plain.denoiser.network.config, truths / 127.5 - 1)  # type: ignore[union-attr]
    knows = Model(Denoiser(network, X0(), 0.02, 20.0), Pixels(), {}, plain.card)
    best = evaluate(knows, data, Options(n=200, steps=1), sheet=tmp_path / "sheet.png")
    assert value(best, "FD") == pytest.approx(0, abs=1e-6) and value(best, "perceptual distance") == 0
    assert value(best, "PSNR, dB") == 80 and value(best, "consistency PSNR, dB") == 80
    assert value(best, "colour error of channel 0, in 1/255") == 0
    assert Image.open(tmp_path / "sheet.png").height > 4 * 16
    assert baseline(best, "FD") > 0.05 and baseline(best, "perceptual distance") > 0.01


def test_a_drift_of_colours_is_measured(tmp_path: pathlib.Path) -> None:
    data = saved(tmp_path / "data", 20)
    model, network = answering(Translation((degrade.Down(4),)), steps=1)
    model.card["recipe"] = {"data": {"hold_out": None}}
    plain = network.forward
    shift = torch.tensor([0.0, 8.0, 0.0])[:, None, None] / 127.5
    network.forward = lambda x, c, cond: plain(x, c, cond) * 0.5 + shift  # type: ignore[method-assign]
    found = evaluate(model, data, Options(n=20))
    colours = [value(found, f"colour error of channel {c}, in 1/255") for c in range(3)]
    assert colours[1] - (colours[0] + colours[2]) / 2 == pytest.approx(8, abs=2.5)


def test_every_task_has_its_figures(tmp_path: pathlib.Path) -> None:
    data = saved(tmp_path / "data", 30)
    model = quartet()
    model.card["recipe"] = {"data": {"hold_out": None, "crop": 0.6}}
    found = evaluate(model, data, Options(n=12, steps=2))
    ats = {figure.at for figure in found.figures}
    assert ats == {repr(task) for task in model.translation.tasks}  # type: ignore[union-attr]
    for at in ats:
        assert value(found, "PSNR, dB", at) < 30
    again = evaluate(model, data, Options(n=12, steps=2))
    assert [figure.value for figure in again.figures] == [figure.value for figure in found.figures]


def test_guides_are_judged_side_by_side_with_what_they_cost(tmp_path: pathlib.Path) -> None:
    data = saved(tmp_path / "data", 30)
    model = larger(Translation((degrade.Down(4),)))
    weak = {name: 0.5 * tensor for name, tensor in model.denoiser.network.state_dict().items()}
    model = Model(model.denoiser, Pixels(), {}, {**model.card, "recipe": {"data": {"hold_out": None}}}, early=weak)
    alone = evaluate(model, data, Options(n=10, steps=2))
    ways = ("between(early, 1)", "between(early, 3)")
    found = evaluate(model, data, Options(n=10, steps=2, guide=ways), sheet=tmp_path / "sheet.png")
    name, at = "PSNR, dB", [f"down(4), {way}" for way in ways]
    assert value(found, name, at[0]) == pytest.approx(value(alone, name, "down(4)"), abs=1e-6)
    assert abs(value(found, name, at[1]) - value(found, name, at[0])) > 0.01
    assert [value(found, "network evaluations a picture", way) for way in ways] == [2, 4]
    assert ways[1] in found.settings["sheet"]
    assert found.settings["sheet"] == f"a row each: as given, baseline, drawn ({ways[0]}, {ways[1]}), truth"
    (single,) = {f.at for f in evaluate(model, data, Options(n=2, steps=1, w=(1.0,))).figures}
    assert single == "down(4), w = 1", "a figure says how its pictures came about"
    with pytest.raises(ValueError, match="cgf"):
        evaluate(model, data, Options(n=10, guide=("cgf(3)",)))


def test_what_a_model_cannot_be_asked_is_refused_before_anything_is_drawn(tmp_path: pathlib.Path) -> None:
    data = saved(tmp_path / "data", 4)
    model, network = answering(Translation((degrade.Down(4), degrade.parse("jpeg"))), steps=1)
    model.card["recipe"] = {"data": {"hold_out": None}}
    for options, told in (
        (Options(w=(1.0, 2.0)), "unconditional: there is nothing for w="),
        (Options(guide=("cfg(1)", "between(early, 2)")), "no early snapshot"),
        (Options(likelihood=2), "likelihood: is measured of models that draw"),
    ):
        with pytest.raises(ValueError, match=told):
            evaluate(model, data, options)
    assert not network.calls


def test_few_pictures_still_stand_a_row_each(tmp_path: pathlib.Path) -> None:
    data = saved(tmp_path / "data", 3)
    model, _ = answering(Translation((degrade.Down(4),)), steps=1)
    model.card["recipe"] = {"data": {"hold_out": None}}
    evaluate(model, data, Options(n=3), sheet=tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[:2] == (6 + 4 * (96 + 6 + 13), 6 + 3 * (96 + 6))
    truth = np.asarray(Image.open(data / "000.png")).repeat(6, 0).repeat(6, 1)
    last = 6 + 3 * (96 + 6 + 13)
    assert np.array_equal(sheet[last : last + 96, 6:102], truth), "the truth begins the last row"


def test_bands_see_what_is_missing_and_what_is_too_much(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(1)
    truth = torch.from_numpy(rng.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8))
    blurred = (
        torch.stack([degrade.enlarge(degrade.box(one.float(), 2), (32, 32)) for one in truth]).clamp(0, 255).byte()
    )
    loud = ((truth.float() - 127.5) * 1.5 + 127.5).clamp(0, 255).byte()
    space = Bands(4)
    assert space(truth).shape == (8, 16 * (3 + 3))
    same, less, more = (float(perceptual(space, other, truth).mean()) for other in (truth, blurred, loud))
    assert same == 0 and less > 0.05 and more > 0.01
    # Written anew: the finest octave of the first place.
    x = truth[0].double() / 127.5 - 1
    coarse = x.reshape(3, 16, 2, 16, 2).mean((2, 4)).repeat_interleave(2, 1).repeat_interleave(2, 2)
    wanted = np.log(0.03 + float((x - coarse).abs().mean(0)[:8, :8].mean()))
    assert float(space(truth)[0, 48]) == pytest.approx(wanted, abs=1e-5)


def test_windows_are_cut_at_the_scale_that_was_learnt_and_pairs_are_refused(tmp_path: pathlib.Path) -> None:
    from guided.evaluate.material import real
    from guided.evaluate.translations import _pictures

    data = saved(tmp_path / "data", 6, 32)
    found = real(str(data), (16, 16), {"data": {"hold_out": None}})
    windows, rows = _pictures(found, range(6), 6, 0.0, 0)
    for window, row in zip(windows, rows, strict=True):
        whole = np.asarray(Image.open(sorted(data.iterdir())[row]))
        every = np.lib.stride_tricks.sliding_window_view(whole, (16, 16, 3))[:, :, 0]
        assert (every == window.permute(1, 2, 0).numpy()).all((2, 3, 4)).sum() == 1
    model, _ = answering(Translation((degrade.Pairs(),)), steps=1)
    with pytest.raises(ValueError, match="learnt from pairs"):
        evaluate(model, data, Options(n=4))
