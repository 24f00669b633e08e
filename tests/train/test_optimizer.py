"""The learning rate at every counter, and AdamW's state in and out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from guided.train import optimizer
from guided.train.recipe import TrainSection


def section(**values: object) -> TrainSection:
    return TrainSection.model_validate(
        {"images": 1000, "batch_size": 10, "lr": 1.0, "warmup": 100, "decay": 0.4, **values}
    )


@pytest.mark.parametrize(
    ("counter", "rate"),
    [(0, 0.1), (40, 0.5), (90, 1.0), (500, 1.0), (590, 1.0), (790, 0.525), (990, 0.05)],
)
def test_rate_rises_stays_and_falls_to_five_per_cent(counter: int, rate: float) -> None:
    assert optimizer.learning_rate(section(), counter) == pytest.approx(rate)


def test_rate_without_rise_or_fall() -> None:
    flat = section(warmup=0, decay=0)
    assert {optimizer.learning_rate(flat, counter) for counter in range(0, 1000, 10)} == {1.0}


def test_state_goes_on_as_if_never_saved(device: str) -> None:
    def make() -> tuple[dict[str, nn.Module], torch.optim.AdamW]:
        torch.manual_seed(0)
        modules: dict[str, nn.Module] = {"network": nn.Sequential(nn.Conv2d(2, 3, 3), nn.GroupNorm(1, 3)).to(device)}
        return modules, optimizer.adamw(modules, section(weight_decay=0.1))

    def steps(modules: dict[str, nn.Module], adam: torch.optim.AdamW, first: int, last: int) -> None:
        for at in range(first, last):
            adam.zero_grad()
            source = torch.Generator().manual_seed(at)
            modules["network"](torch.randn(4, 2, 5, 5, generator=source).to(device)).square().mean().backward()
            adam.step()

    whole, adam = make()
    steps(whole, adam, 0, 3)
    saved = {name: value.clone() for name, value in optimizer.moments(adam, whole).items()}
    weights = {name: value.clone() for name, value in whole["network"].state_dict().items()}
    steps(whole, adam, 3, 6)
    again, other = make()
    again["network"].load_state_dict(weights)
    optimizer.restore(other, again, saved, 3)
    steps(again, other, 3, 6)
    for a, b in zip(whole["network"].parameters(), again["network"].parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_matrices_decay() -> None:
    adam = optimizer.adamw({"network": nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))}, section(weight_decay=0.1))
    decays = {group["weight_decay"]: [p.ndim for p in group["params"]] for group in adam.param_groups}
    assert decays == {0.1: [2], 0.0: [1, 1, 1]}
