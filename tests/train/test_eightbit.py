"""Moments of 8 bits beside AdamW's formula in float64, in and out of a checkpoint, and what is said where they are not
to be had. What runs the optimizer itself needs bitsandbytes, and is skipped without it."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from guided.train import eightbit, fit, load_recipe, optimizer
from guided.train.recipe import TrainSection
from tests.train.conftest import Trainers
from tests.train.tools import digest, tiny


def _absent() -> bool:
    try:
        eightbit.require()
    except ImportError:
        return True
    return False


needs = pytest.mark.skipif(_absent(), reason="bitsandbytes >= 0.50 is not installed: pip install 'guided[memory]'")
LR, BETAS, DECAY, EPS = 1e-2, (0.9, 0.99), 0.1, 1e-8


def section(**values: object) -> TrainSection:
    common = {"images": 100, "batch_size": 1, "lr": LR, "betas": BETAS, "weight_decay": DECAY}
    return TrainSection.model_validate({**common, "optimizer": "adamw8bit", **values})


def gradient(at: int, shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(at))


def made() -> tuple[dict[str, nn.Module], torch.optim.Optimizer]:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(80, 64), nn.Conv2d(16, 32, 3), nn.Linear(8, 8), nn.LayerNorm(8))
    modules: dict[str, nn.Module] = {"network": layers}
    return modules, optimizer.make(modules, section())


def steps(modules: dict[str, nn.Module], adam: torch.optim.Optimizer, first: int, last: int) -> None:
    for at in range(first, last):
        for place, weight in enumerate(modules["network"].parameters()):
            weight.grad = gradient(1000 * at + place, weight.shape)
        adam.step()


def adamw(weight: torch.Tensor, place: int, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The weight and its moments after so many updates, by the formula (Loshchilov and Hutter 2019, algorithm 2)."""
    decay = DECAY if weight.ndim > 1 else 0.0
    weight = weight.double()
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for at in range(count):
        g = gradient(1000 * at + place, weight.shape).double()
        m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g**2
        unbiased = m / (1 - BETAS[0] ** (at + 1)), v / (1 - BETAS[1] ** (at + 1))
        weight = weight - LR * (unbiased[0] / (unbiased[1].sqrt() + EPS) + decay * weight)
    return weight, m, v


@needs
def test_the_first_update_is_adamws_and_so_are_all_of_small_weights() -> None:
    modules, adam = made()
    before = [weight.detach().clone() for weight in modules["network"].parameters()]
    steps(modules, adam, 0, 1)
    for place, (old, new) in enumerate(zip(before, modules["network"].parameters(), strict=True)):
        torch.testing.assert_close(new.detach().double(), adamw(old, place, 1)[0], rtol=1e-5, atol=1e-6)
    steps(modules, adam, 1, 9)
    small = 0
    for place, (old, new) in enumerate(zip(before, modules["network"].parameters(), strict=True)):
        wanted = adamw(old, place, 9)[0]
        if old.numel() < 4096:
            small += 1
            torch.testing.assert_close(new.detach().double(), wanted, rtol=1e-5, atol=1e-5)
        else:  # nine updates of about LR each; 8 bits stray from them by a few hundredths of one
            assert 0 < float((new.detach().double() - wanted).square().mean().sqrt()) < 0.1 * LR
    assert small == 6


@needs
def test_moments_of_large_weights_are_codes_of_8_bits_near_the_true_ones() -> None:
    modules, adam = made()
    before = [weight.detach().clone() for weight in modules["network"].parameters()]
    steps(modules, adam, 0, 3)
    weights = list(modules["network"].parameters())
    for place in (0, 2):
        state, (_, m, v) = adam.state[weights[place]], adamw(before[place], place, 3)
        for codes, scales, table, true in (("state1", "absmax1", "qmap1", m), ("state2", "absmax2", "qmap2", v)):
            assert state[codes].dtype == torch.uint8 and len(state[scales]) == weights[place].numel() // 256
            read = state[table][state[codes].long()].view(-1, 256) * state[scales][:, None]
            # Codes lie at most 1/64 of a block's largest value apart; three updates have rounded.
            wrong = (read - true.view(-1, 256)).abs().amax(1) / true.view(-1, 256).abs().amax(1)
            assert 1e-4 < float(wrong.max()) < 3 / 64


@needs
def test_its_size_is_counted_as_it_is() -> None:
    modules, adam = made()
    steps(modules, adam, 0, 1)
    held = optimizer.moments(adam, modules).values()
    assert optimizer.size(modules, section()) == sum(t.numel() * t.element_size() for t in held)


def test_its_size_is_a_quarter_of_adamws_and_a_block_each_64_bits_more() -> None:
    weight = torch.empty(320, 320)
    assert eightbit.size(weight) == 2 * 320 * 320 + 8 * 400
    assert eightbit.size(torch.empty(4095)) == 8 * 4095
    modules: dict[str, nn.Module] = {"network": nn.Linear(320, 320)}
    assert optimizer.size(modules, section()) == 2 * 320 * 320 + 8 * 400 + 8 * 320
    assert optimizer.size(modules, section(optimizer="adamw")) == 8 * 321 * 320
    assert optimizer.size(modules, section(optimizer="muon")) == 4 * 320 * 320 + 8 * 320


@needs
def test_state_goes_on_as_if_never_saved_through_a_file(tmp_path: Path) -> None:
    whole, adam = made()
    steps(whole, adam, 0, 3)
    safetensors.torch.save_file(optimizer.moments(adam, whole), tmp_path / "optimizer.safetensors")
    weights = {name: value.clone() for name, value in whole["network"].state_dict().items()}
    steps(whole, adam, 3, 6)
    again, other = made()
    again["network"].load_state_dict(weights)
    optimizer.restore(other, again, safetensors.torch.load_file(tmp_path / "optimizer.safetensors"), 3)
    steps(again, other, 3, 6)
    for a, b in zip(whole["network"].parameters(), again["network"].parameters(), strict=True):
        assert torch.equal(a, b)
    for name, moment in optimizer.moments(adam, whole).items():
        assert torch.equal(moment, optimizer.moments(other, again)[name]), name


@needs
def test_weights_keep_one_layout_from_the_first_update_on() -> None:
    layer = nn.Conv2d(16, 32, 3).to(memory_format=torch.channels_last)
    optimizer.make({"network": layer}, section())
    assert layer.weight.is_contiguous()


@needs
@pytest.mark.parametrize("updates", [1, 7, 20])
def test_a_killed_run_goes_on_bit_for_bit(updates: int, trainers: Trainers, data: Path, tmp_path: Path) -> None:
    def recipe(name: str) -> dict[str, object]:
        return tiny(data, tmp_path / name, model__widths=[16, 32], train__optimizer="adamw8bit")

    status, words = trainers.run(recipe("whole"), tmp_path / "log")
    assert status == 0, words
    wanted = digest(tmp_path / "whole")
    moments = safetensors.torch.load_file(next((tmp_path / "whole" / "checkpoints").glob("*/optimizer.safetensors")))
    assert {value.dtype for value in moments.values()} == {torch.uint8, torch.float32}
    child, losses = trainers.start(recipe("killed"), tmp_path / "log"), tmp_path / "killed" / "losses.jsonl"
    limit = time.monotonic() + 60
    while not (losses.exists() and losses.read_bytes().count(b"\n") >= updates):
        assert time.monotonic() < limit, (tmp_path / "log").read_text()
        time.sleep(1e-3)
    os.kill(child, signal.SIGKILL)
    assert trainers.status(child) == -signal.SIGKILL
    status, words = trainers.run(recipe("killed"), tmp_path / "log")
    assert status == 0, words
    assert digest(tmp_path / "killed") == wanted


@pytest.mark.parametrize(("found", "said"), [(None, "not installed"), ("0.49.2", "got 0.49.2")])
def test_without_it_a_run_says_what_to_install_before_any_work(
    found: str | None, said: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name != "bitsandbytes":
            return real(name)
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr("guided.train.setup.prepare", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(ImportError, match=rf"bitsandbytes >= 0\.50, .*{said}.*pip install"):
        next(fit(tiny(data, tmp_path / "run", train__optimizer="adamw8bit"), device="cpu"))
    for enough in ("0.50.0", "1.0", "0.100.1"):
        monkeypatch.setattr(importlib.metadata, "version", lambda _, v=enough: v)
        eightbit.require()


def test_float64_is_refused(data: Path, tmp_path: Path) -> None:
    values = tiny(data, tmp_path / "run", train__optimizer="adamw8bit", train__precision="float64")
    with pytest.raises(ValueError, match=r"train: .*adamw8bit computes in float32"):
        load_recipe(values)
