"""A guided-diffusion file as a model: its noise levels, its learned variance, its classifier, and its folder."""

from __future__ import annotations

import itertools
import json
import math
import pathlib
from typing import Any

import pytest
import torch
from torch import Tensor

import guided
from guided import path as paths
from guided._safetensors import save
from guided.cond import Cond
from guided.denoiser import FromVP, LearnedVariance
from guided.frames import DDPM, Framed
from guided.model import Model, NoisyClassifier
from guided.model import card as cards
from guided.noise import Noise
from guided.zoo import opening
from tests.zoo import adm
from tests.zoo.adm import ADM, CLASSIFIER, Flags, Published

F64 = torch.float64
SAID: dict[str, Any] = {"image_size": 8, "noise_schedule": "cosine"}


def written(folder: pathlib.Path, f: Flags, **said: Any) -> pathlib.Path:
    """A checkpoint with its config beside it, as `guided.load` finds it."""
    file = folder / "published.safetensors"
    save(adm.weights(f), file)
    (folder / "published.json").write_text(json.dumps({**f.config, **SAID, **said}))
    return file


def schedule(name: str, steps: int = 1000) -> Tensor:
    """abar as the papers define it."""
    if name == "linear":
        return (1 - torch.linspace(1e-4, 0.02, steps, dtype=F64)).cumprod(0)
    curve = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(steps + 1)]
    found, product = [], 1.0
    for before, after in itertools.pairwise(curve):
        product *= 1 - min(1 - after / before, 0.999)
        found.append(product)
    return torch.tensor(found, dtype=F64)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_published_noise_levels(name: str) -> None:
    frame, abar = DDPM(name), schedule(name)
    assert ((frame.alphas_bar() - abar) / abar).abs().max() < 1e-9
    sigmas = (1 / abar - 1).sqrt()
    assert frame.lo == pytest.approx(float(sigmas[0])) and frame.hi == pytest.approx(float(sigmas[-1]))
    assert (frame.shown(sigmas) - torch.arange(1000, dtype=F64)).abs().max() < 1e-6
    assert frame.shown(torch.tensor([1e-9, 1e9], dtype=F64)).tolist() == [0.0, 999.0]


def test_stable_diffusions_levels_rise_linearly_in_the_root() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=F64) ** 2
    frame = DDPM("scaled", 0.00085, 0.012)
    assert (frame.alphas_bar() - (1 - betas).cumprod(0)).abs().max() < 1e-12
    assert frame.hi == pytest.approx(14.61, abs=0.01)


@pytest.mark.parametrize("wrong", [{"schedule": "sigmoid"}, {"start": 0.03}, {"end": 1.0}, {"steps": 1}])
def test_schedules_that_give_no_rising_noise(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"schedule|start|steps"):
        DDPM(**wrong)


def test_the_frame_is_from_vp() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
            return x * 0.3 + t[:, None].sin()

    frame = DDPM("linear")
    x, sigma = torch.randn(4, 3, dtype=F64), torch.tensor([1e-3, 0.1, 7.0, 500.0], dtype=F64)
    ours = guided.Denoiser(Net(), Framed(frame, frame.predicts), frame.lo, frame.hi)
    assert (ours(x, sigma, Cond()) - FromVP(Net(), frame.alphas_bar())(x, sigma, Cond())).abs().max() < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_ancestral_sampling_with_the_learned_variance_is_the_published_step(name: str, tmp_path: pathlib.Path) -> None:
    """Nichol and Dhariwal 2021, eq. 15, on every 100th level, each step from the state before it."""
    model = guided.load(written(tmp_path, ADM, noise_schedule=name))
    assert isinstance(model, Model) and isinstance(model.denoiser, LearnedVariance)
    model.denoiser.double()
    network = Published({key: value.double() for key, value in adm.weights(ADM).items()}, ADM)
    chosen = torch.arange(0, 1000, 111)
    abar = schedule(name)[chosen]
    noise, label = Noise([3, 4]), torch.tensor([1, 4])
    levels = torch.cat(((1 / abar - 1).sqrt().flip(0), torch.zeros(1, dtype=F64)))
    x = noise(0, (3, 8, 8)).double() / abar[-1].sqrt()
    z, published = x * abar[-1].sqrt(), []
    for i, k in enumerate(reversed(range(len(abar)))):
        before = abar[k - 1] if k else torch.ones((), dtype=F64)
        alpha, beta = abar[k] / before, 1 - abar[k] / before
        eps, v = network(z, torch.full((2,), int(chosen[k]), dtype=F64), label).chunk(2, 1)
        x0 = (z - (1 - abar[k]).sqrt() * eps) / abar[k].sqrt()
        z = before.sqrt() * beta / (1 - abar[k]) * x0 + alpha.sqrt() * (1 - before) / (1 - abar[k]) * z
        if k:
            low, share = (beta * (1 - before) / (1 - abar[k])).log(), (v + 1) / 2
            z = z + (0.5 * (share * beta.log() + (1 - share) * low)).exp() * noise(2 * i + 2, (3, 8, 8)).double()
        published.append(z / before.sqrt())
    moves = list(guided.trajectory(model.denoiser, x, paths.ancestral(levels), Cond(label=label), noise=noise))
    ends = [state for _, state, _ in moves[1:-1:2]] + [moves[-1][1]]
    assert len(ends) == len(published)
    for ours, theirs in zip(ends, published, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-9


def test_a_model_draws_saves_and_opens(tmp_path: pathlib.Path) -> None:
    model = guided.load(written(tmp_path, ADM))
    assert isinstance(model, Model)
    assert model.classes == ("0", "1", "2", "3", "4") and model.size == (8, 8) and model.channels == 3
    drawn = model.generate(labels=["2", 4], steps=3, seed=5)
    assert drawn.tensor.shape == (2, 3, 8, 8)
    model.save(tmp_path / "folder")
    opened = Model.open(tmp_path / "folder")
    assert isinstance(opened.denoiser, LearnedVariance)
    assert opened.denoiser.parametrization == model.denoiser.parametrization
    assert opened.card["layout"] == model.card["layout"] and opened.card["layout"]["dtype"] == "F32"
    assert torch.equal(opened.generate(labels=["2", 4], steps=3, seed=5).tensor, drawn.tensor)


@torch.no_grad()
def test_a_classifier_tells_saves_and_opens(tmp_path: pathlib.Path) -> None:
    found = guided.load(written(tmp_path, CLASSIFIER))
    assert isinstance(found, NoisyClassifier) and found.card["size"] == [8, 8] and len(found.classes) == 7
    x, sigma = torch.randn(2, 3, 8, 8, dtype=F64), torch.tensor([0.5, 3.0], dtype=F64)
    exact = Published({key: value.double() for key, value in adm.weights(CLASSIFIER).items()}, CLASSIFIER)
    t = DDPM("cosine").shown(sigma)
    want = exact(x / (1 + sigma**2).sqrt()[:, None, None, None], t)
    assert (found.double()(x, sigma) - want).abs().max() < 1e-9
    found.float().save(tmp_path / "folder")
    again = guided.load(tmp_path / "folder")
    assert isinstance(again, NoisyClassifier) and again.parametrization == found.parametrization
    assert torch.equal(again(x.float(), sigma), found(x.float(), sigma))


def test_what_a_network_alone_lacks_is_said(tmp_path: pathlib.Path) -> None:
    save(adm.weights(ADM), tmp_path / "a.safetensors")
    for config, lack in (
        (ADM.config, "size stands in no tensor: give config= with image_size"),
        ({**ADM.config, "image_size": 8}, "give config= with noise_schedule"),
        (None, "number of heads stands in no tensor"),
    ):
        with pytest.raises(ValueError, match=lack):
            guided.load(tmp_path / "a.safetensors", config=config)
    save(adm.weights(adm.SD), tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"works on latents.*zoo\.network gives the U-Net"):
        guided.load(tmp_path / "b.safetensors", config={"num_heads": 4, "image_size": 8})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variance": "fixed"}, "variance: expected null or 'learned'"),
        ({"parametrization": {"class": "Eps", "frame": {"class": "VP"}}}, "frame: expected one of DDPM"),
        ({"parametrization": {"class": "Eps", "frame": {"class": "DDPM", "steps": "a"}}}, "frame: DDPM takes"),
        ({"parametrization": {"class": "Eps", "frame": {"class": "DDPM", "schedule": "x"}}}, "schedule: expected"),
        ({"parametrization": {"class": "Eps", "frame": {"class": "DDPM", "steps": 10**9}}}, "steps: expected"),
        ({"parametrization": {"class": "Eps", "frame": [1]}}, "frame: expected a mapping"),
        ({"layout": 3}, "layout: expected a mapping"),
    ],
)
def test_a_card_is_checked(change: dict[str, Any], message: str, tmp_path: pathlib.Path) -> None:
    guided.load(written(tmp_path, ADM)).save(tmp_path / "folder")
    card = tmp_path / "folder" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        Model.open(tmp_path / "folder")


def test_a_learned_variance_needs_twice_the_channels() -> None:
    state = adm.weights(Flags(out_channels=3))
    network = opening.network(state, Flags().config)
    values = {"variance": "learned", "parametrization": {"class": "Eps"}, "range": [0.01, 80.0]}
    with pytest.raises(ValueError, match="3 channels of output for 3"):
        cards.denoiser(values, network)
