"""The learning rate at every counter, the optimizers' state in and out, and Muon's update beside its formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from guided.train import muon, optimizer
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


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_goes_on_as_if_never_saved(device: str, name: str) -> None:
    def make() -> tuple[dict[str, nn.Module], torch.optim.Optimizer]:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(2, 16, 3), nn.Conv2d(16, 16, 1), nn.GroupNorm(1, 16))
        modules: dict[str, nn.Module] = {"network": layers.to(device)}
        return modules, optimizer.make(modules, section(weight_decay=0.1, optimizer=name))

    def steps(modules: dict[str, nn.Module], adam: torch.optim.Optimizer, first: int, last: int) -> None:
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
    adam = optimizer.make({"network": nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))}, section(weight_decay=0.1))
    decays = {group["weight_decay"]: [p.ndim for p in group["params"]] for group in adam.param_groups}
    assert decays == {0.1: [2], 0.0: [1, 1, 1]}


def test_muon_takes_what_lies_between_wide_layers_and_adamw_the_rest() -> None:
    layers = {"in": nn.Conv2d(3, 32, 3), "between": nn.Conv2d(32, 16, 3), "table": nn.Embedding(40, 32)}
    layers |= {"norm": nn.GroupNorm(4, 16), "linear": nn.Linear(16, 48), "out": nn.Linear(48, 3)}
    taken = muon.hidden({"network": nn.ModuleDict(layers)})
    assert taken == {layers["between"].weight, layers["linear"].weight}
    made = optimizer.make({"network": nn.ModuleDict(layers)}, section(optimizer="muon"))
    assert sum(len(group["params"]) for group in made.param_groups) == len(list(nn.ModuleDict(layers).parameters()))


def test_orthogonal_is_the_polynomial_of_the_singular_values() -> None:
    draw = torch.Generator().manual_seed(0)
    for shape in ((20, 50), (50, 20)):
        matrix = torch.randn(shape, generator=draw, dtype=torch.float64)
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        s = s / matrix.norm()
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        assert float(s.min()) > 0.65 and float(s.max()) < 1.25
        assert torch.allclose(muon.orthogonal(matrix), (u * s) @ v, atol=1e-12)


def test_muons_step_is_nesterovs_momentum_made_orthogonal() -> None:
    draw = torch.Generator().manual_seed(1)
    layer = nn.Conv2d(16, 32, 3, bias=False, dtype=torch.float64)
    first, made = layer.weight.detach().clone(), optimizer.make({"network": layer}, section(optimizer="muon", lr=0.1))
    gradients = [torch.randn(layer.weight.shape, generator=draw, dtype=torch.float64) for _ in range(3)]
    momentum, expected = torch.zeros_like(first), first
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        made.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        ahead = 0.05 * gradient + 0.95 * momentum
        expected = expected - 0.1 * 0.2 * 144**0.5 * muon.orthogonal(ahead.reshape(32, 144)).reshape(first.shape)
    assert torch.allclose(layer.weight, expected, atol=1e-12)
