"""LPIPS against its formula in float64, the files it takes, and its figure in a report."""

from __future__ import annotations

import importlib.util
import pathlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from guided import degrade
from guided.degrade import Translation
from guided.evaluate import Options, evaluate, open_lpips
from tests.evaluate import tiny_judges
from tests.evaluate.test_towers import drawn
from tests.evaluate.test_translations import baseline, saved, value
from tests.model import build
from tests.tasks.build_translating import answering

Array = NDArray[np.float64]
# (place of the convolution in torchvision's `features`, stride, padding), "pool", and "tap" where LPIPS looks.
ALEX = [(0, 4, 2), "tap", "pool", (3, 1, 2), "tap", "pool", (6, 1, 1), "tap", (8, 1, 1), "tap", (10, 1, 1), "tap"]
VGG = [(0, 1, 1), (2, 1, 1), "tap", "pool", (5, 1, 1), (7, 1, 1), "tap", "pool", (10, 1, 1), (12, 1, 1), (14, 1, 1)]
VGG += ["tap", "pool", (17, 1, 1), (19, 1, 1), (21, 1, 1), "tap", "pool", (24, 1, 1), (26, 1, 1), (28, 1, 1), "tap"]
PLANS = {"alex": (ALEX, 3), "vgg": (VGG, 2)}


@pytest.fixture
def heads(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Tensor]]:
    found = tiny_judges.lpips_package(tmp_path / "packages")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    return found


def convolved(x: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], (1, 2))[:, ::stride, ::stride]
    found: Array = np.einsum("chwij,ocij->ohw", windows, weight, optimize=True) + bias[:, None, None]
    return found


def formula(name: str, a: Tensor, b: Tensor, state: dict[str, Tensor], heads: dict[str, Tensor]) -> float:
    """sum over layers of the mean over places of w . (unit(y) - unit(y0))^2 (Zhang et al. 2018, eq. 1)."""
    plan, window = PLANS[name]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    # The paper's code has ImageNet's mean and std on [-1, 1] to three digits.
    shift, scale = np.floor(1000 * (2 * mean - 1) + 0.5) / 1000, 2 * std
    pair = [((x.double().numpy() / 127.5 - 1) - shift[:, None, None]) / scale[:, None, None] for x in (a, b)]
    total, tap = 0.0, 0
    for step in plan:
        if isinstance(step, tuple):
            weight, bias = (state[f"features.{step[0]}.{part}"].double().numpy() for part in ("weight", "bias"))
            pair = [np.maximum(convolved(x, weight, bias, *step[1:]), 0) for x in pair]
        elif step == "pool":
            view = np.lib.stride_tricks.sliding_window_view
            pair = [view(x, (window, window), (1, 2))[:, ::2, ::2].max((3, 4)) for x in pair]
        else:
            first, second = (x / (np.sqrt((x**2).sum(0)) + 1e-10) for x in pair)
            weights = heads[f"lin{tap}.model.1.weight"].double().numpy().reshape(-1, 1, 1)
            total += float((weights * (first - second) ** 2).sum(0).mean())
            tap += 1
    return total


@pytest.mark.parametrize(("name", "shape"), [("alex", (40, 57)), ("alex", (32, 32)), ("vgg", (20, 17))])
def test_it_is_the_papers_formula(
    name: str, shape: tuple[int, int], heads: dict[str, dict[str, Tensor]], tmp_path: pathlib.Path
) -> None:
    state = tiny_judges.backbone(name)
    save_file(state, tmp_path / "net.safetensors")
    judge = open_lpips(str(tmp_path / "net.safetensors"))
    pictures, truth = drawn(2, *shape), drawn(2, *shape, seed=1)
    truth[1] = (truth[1].float() * 0.2 + pictures[1].float() * 0.8).byte()
    found = judge(pictures, truth)
    wanted = [formula(name, a, b, state, heads[name]) for a, b in zip(pictures, truth, strict=True)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-4) and wanted[1] < wanted[0]
    assert torch.equal(judge(truth, truth), torch.zeros(2))
    assert judge(truth, pictures).tolist() == pytest.approx(found.tolist(), rel=1e-5)
    grey = pictures[:, :1]
    assert torch.equal(judge(grey, truth[:, :1]), judge(grey.expand(-1, 3, -1, -1), truth[:, :1].expand(-1, 3, -1, -1)))
    assert f"of {name} (weights " in judge.name and "as they are" in judge.name


def test_the_published_pickle_is_read_on_request_alone(
    heads: dict[str, dict[str, Tensor]], tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "alexnet-owt-7be5be79.pth"
    torch.save(tiny_judges.backbone("alex"), file)
    with pytest.raises(ValueError, match=r"a pickle, which can run code .*--pickle"):
        open_lpips(str(file))
    judge = open_lpips(str(file), pickle=True)
    assert judge.backbone.name == "alex" and torch.equal(
        judge.weights["lin2.model.1.weight"], heads["alex"]["lin2.model.1.weight"]
    )


def test_what_it_does_not_take(
    heads: dict[str, dict[str, Tensor]], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "net.safetensors"
    state = tiny_judges.backbone("alex")
    for wrong, message in (
        ({"features.0.weight": torch.zeros(64, 3, 7, 7)}, r"not torchvision's AlexNet \(alexnet-owt-7be5be79\.pth\)"),
        ({name: each for name, each in state.items() if name != "features.8.bias"}, r"1 missing: features\.8\.bias"),
    ):
        save_file(wrong, file)
        with pytest.raises(ValueError, match=message):
            open_lpips(str(file))
    save_file(state, file)
    judge = open_lpips(str(file))
    with pytest.raises(ValueError, match="31 pixels a side or more, got 40 x 30"):
        judge(drawn(1, 30, 40), drawn(1, 30, 40))
    assert judge(drawn(1, 31, 31), drawn(1, 31, 31, seed=1)).isfinite().all()
    with pytest.raises(ValueError, match="pairs of one size"):
        judge(drawn(1, 40, 40), drawn(1, 40, 41))
    with pytest.raises(FileNotFoundError, match="no such file"):
        open_lpips(str(tmp_path / "no.pth"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps lpips"):
        open_lpips(str(file))


def test_a_report_of_changed_pictures_has_it_beside_the_baselines(
    heads: dict[str, dict[str, Tensor]], tmp_path: pathlib.Path
) -> None:
    save_file(tiny_judges.backbone("alex"), tmp_path / "net.safetensors")
    data = saved(tmp_path / "data", 6, 32)
    model, _ = answering(Translation((degrade.Down(4),)), [32, 32], steps=1)
    model.card["recipe"] = {"data": {"hold_out": None}}
    found = evaluate(model, data, Options(n=6, lpips=tmp_path / "net.safetensors"))
    assert value(found, "LPIPS") == pytest.approx(baseline(found, "LPIPS"), rel=1e-6) and value(found, "LPIPS") > 1e-3
    assert found.settings["LPIPS"].startswith("LPIPS 0.1 of alex")
    small, network = answering(Translation((degrade.Down(4),)), steps=1)
    small.card["recipe"] = {"data": {"hold_out": None}}
    with pytest.raises(ValueError, match="31 pixels a side"):
        evaluate(small, data, Options(n=6, lpips=tmp_path / "net.safetensors"))
    assert not network.calls, "it is refused before anything is drawn"
    with pytest.raises(ValueError, match="lpips: is measured of models that change pictures"):
        evaluate(build.words_model(), data, Options(n=6, lpips=tmp_path / "net.safetensors"))
    with pytest.raises(ValueError, match="lpips one that changes pictures"):
        evaluate(data, data, Options(lpips=tmp_path / "net.safetensors"))
