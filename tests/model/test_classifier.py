"""The classifier a user holds: probabilities of noisy pictures, their gradients, and its folder."""

from __future__ import annotations

import json
import pathlib

import pytest
import torch
from torch import Tensor, nn

import guided
from guided import zoo
from guided.cli import main
from guided.cond import Cond
from guided.denoiser import EDM, Eps
from guided.model import Model, NoisyClassifier
from guided.nn import EncoderUNet, preset
from tests.model import build
from tests.nn.tools import wake

CLASSES = ["cat", "dog", "red circle", "blue square"]


def classifier(seed: int = 0) -> NoisyClassifier:
    torch.manual_seed(seed)
    network = EncoderUNet(preset("tiny", out_channels=4), (8, 6))
    wake(network)
    return NoisyClassifier(network, EDM(0.4), 0.02, 40.0, {"name": "judge", "classes": CLASSES, "size": [8, 6]}).eval()


@torch.no_grad()
def test_probabilities_of_each_picture_at_its_own_level() -> None:
    judge, x = classifier(), torch.randn(3, 3, 8, 6)
    sigma = torch.tensor([0.1, 1.0, 7.0], dtype=torch.float64)
    found = judge.log_prob(x, sigma)
    assert found.shape == (3, 4) and found.dtype == x.dtype
    torch.testing.assert_close(found.exp().sum(1), torch.ones(3))
    torch.testing.assert_close(found, judge(x, sigma).log_softmax(1))
    for i in range(3):
        torch.testing.assert_close(judge.log_prob(x[i : i + 1], sigma[i])[0], found[i], rtol=1e-5, atol=1e-6)
    assert (judge.log_prob(x, torch.tensor(1.0)) - found)[[0, 2]].abs().amax(1).min() > 1e-3, "the level is read"


@torch.no_grad()
def test_the_network_sees_what_a_denoisers_would() -> None:
    class Seen(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
            return torch.stack((x.square().mean((1, 2, 3)), c_noise), 1)

    x = torch.randn(4, 3, 8, 6, dtype=torch.float64)
    sigma = torch.tensor([0.001, 0.5, 3.0, 100.0], dtype=torch.float64)
    for kind, total in ((EDM(0.4), sigma**2 + 0.16), (Eps(), sigma**2 + 1)):
        found = NoisyClassifier(Seen(), kind, 0.02, 40.0)(x, sigma)
        torch.testing.assert_close(found[:, 0], x.square().mean((1, 2, 3)) / total)
        torch.testing.assert_close(found[:, 1], 250 * sigma.clamp(0.02, 40.0).log())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_gradient_is_finite_at_all_levels(dtype: torch.dtype) -> None:
    judge = classifier().requires_grad_(False)
    base = torch.randn(1, 3, 8, 6, dtype=dtype)
    for sigma in (0.0, 1e-4, 0.02, 1.0, 40.0, 1e3, 1e5):
        x = (base * max(sigma, 0.5)).requires_grad_()
        (gradient,) = torch.autograd.grad(judge.log_prob(x, torch.tensor(sigma))[:, 1].sum(), x)
        assert gradient.dtype == dtype and bool(gradient.isfinite().all()) and gradient.abs().max() > 0, sigma


def test_a_folder_gives_the_same_bits(tmp_path: pathlib.Path) -> None:
    judge, x, sigma = classifier(), torch.randn(2, 3, 8, 6), torch.tensor(0.7)
    folder = judge.save(tmp_path / "judge")
    again = guided.load(folder)
    assert isinstance(again, NoisyClassifier)
    assert torch.equal(again.log_prob(x, sigma), judge.log_prob(x, sigma))
    assert again.classes == tuple(CLASSES) and again.name == "judge" and (again.lo, again.hi) == (0.02, 40.0)
    assert again.parametrization == EDM(0.4) and not any(p.requires_grad for p in again.parameters())
    assert again.save(tmp_path / "copy").joinpath("card.json").read_bytes() == (folder / "card.json").read_bytes()


def test_what_is_no_model_and_what_is_no_classifier(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = classifier().save(tmp_path / "judge")
    with pytest.raises(ValueError, match="a classifier of noisy pictures, which draws none"):
        Model.open(judge)
    with pytest.raises(ValueError, match=r"judge: a classifier of noisy pictures \(4 classes\): it draws none"):
        zoo.load_model(judge)
    assert main(["inspect", str(judge)]) == 0 and main(["generate", "x", "--model", str(judge)]) == 2
    said = capsys.readouterr()
    assert "nothing; it tells 4 classes: cat, dog" in said.out and "it draws none" in said.err
    model = build.class_model().save(tmp_path / "model")
    with pytest.raises(ValueError, match="holds no classifier"):
        NoisyClassifier.open(model)
    assert isinstance(guided.load(model), Model) and isinstance(zoo.load_model(model), Model)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": CLASSES[:3]}, "it names 3 classes, the network knows 4"),
        ({"size": [16, 16]}, "does not fit the network of its card"),
        ({"sha256": {"model.safetensors": "0" * 64}}, "damaged, or replaced"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(tmp_path: pathlib.Path, change: dict[str, object], message: str) -> None:
    card = classifier().save(tmp_path) / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        guided.load(tmp_path)
