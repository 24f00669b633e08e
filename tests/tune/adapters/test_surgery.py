"""Adapters on networks of every family: put on and off without a trace, added, and merged."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from guided.model.adapted import original
from guided.model.store import hash_of
from guided.tune import adapters
from guided.tune.adapters import LowRank
from tests.tune.adapters.build import FAMILIES, delta, network, random, said, shaken, there

KINDS = pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
EVERY = pytest.mark.parametrize("family", FAMILIES)


@EVERY
@KINDS
def test_on_and_off_leaves_no_trace(family: str, dora: bool) -> None:
    net = network(family)
    before, digest, names = said(net), hash_of(net), list(net.state_dict())
    frozen = {name: value.requires_grad for name, value in net.named_parameters()}
    modules = [(name, id(module)) for name, module in net.named_modules()]
    adapter = random(net, dora)
    adapters.inject(net, adapter, name="a")
    adapters.inject(net, random(network(family), False, 1), 0.5, "b")
    assert (said(net) - before).abs().max() > 1e-2
    assert hash_of(net) == digest  # of the weights alone, whatever is on them
    adapters.eject(net, "a")
    adapters.eject(net, "b")
    assert torch.equal(said(net), before) and list(net.state_dict()) == names and hash_of(net) == digest
    assert [(name, id(module)) for name, module in net.named_modules()] == modules
    assert {name: value.requires_grad for name, value in net.named_parameters()} == frozen
    assert not hasattr(net, "peft_config") and "adapters_held" not in net.__dict__


@EVERY
@KINDS
def test_merged_is_as_injected(family: str, dora: bool) -> None:
    net = network(family)
    before, digest, names = said(net), hash_of(net), list(net.state_dict())
    adapters.inject(net, random(net, dora), 0.7, "a")
    adapters.inject(net, random(network(family), False, 1), -0.5, "b")
    injected = said(net)
    adapters.merge(net)
    assert (said(net) - injected).abs().max() < 1e-5 * max(1.0, injected.abs().max().item())
    assert (said(net) - before).abs().max() > 1e-2 and list(net.state_dict()) == names and hash_of(net) != digest


def merged(net: nn.Module, given: Sequence[tuple[adapters.Adapter, float]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each adapted layer its weight after merging, float64, and W + sum w (W_i - W), computed apart."""
    plain = copy.deepcopy(net)
    for i, (adapter, w) in enumerate(given):
        adapters.inject(net, adapter, w, str(i))
    adapters.merge(net)
    for place in given[0][0].layers["unet"]:
        weight = original(plain, place).weight
        exact = weight.double() + sum(w * delta(one.layers["unet"][place], weight) for one, w in given)
        yield original(net, place).weight.double(), exact


@EVERY
@KINDS
def test_the_weights_are_those_of_the_formula(family: str, dora: bool) -> None:
    """Several adapters with weights of their own."""
    net = network(family)
    given = [(random(net, dora, 0), 0.8), (random(net, False, 1), -0.5), (random(net, dora, 2), 0.3)]
    for found, exact in merged(net, given):
        assert (found - exact).abs().max() < 1e-5


@KINDS
def test_weights_of_half_precision_are_rounded_once(dora: bool) -> None:
    given = [(random(network("ours"), dora, 0), 0.8), (random(network("ours"), False, 1), -0.5)]
    for found, exact in merged(network("ours").bfloat16(), given):
        # Eight bits: half of the last is 2^-9 of the leading one, which is more than half of the value.
        assert ((found - exact).abs() <= exact.abs() * 2**-8 + 1e-7).all()


def test_reweighted_is_injected_so() -> None:
    net, other = network("ours"), network("ours")
    first, second = random(net, True, 0), random(net, False, 1)
    for name, adapter in (("a", first), ("b", second)):
        adapters.inject(net, adapter, 1.0, name)
    adapters.reweight(net, {"a": 0.25, "b": -1.0})
    adapters.inject(other, first, 0.25, "a")
    adapters.inject(other, second, -1.0, "b")
    assert torch.equal(said(net), said(other))
    adapters.reweight(net, {"a": 0.0, "b": 0.0})
    assert (said(net) - said(network("ours"))).abs().max() < 1e-5
    with pytest.raises(ValueError, match="no adapter 'c' is on it; there are a, b"):
        adapters.reweight(net, {"c": 1.0})


@EVERY
@KINDS
def test_a_fresh_one_changes_nothing_and_is_trained_alone(family: str, dora: bool) -> None:
    net = network(family)
    before = said(net)
    drawn = torch.get_rng_state()
    made = adapters.fresh(net, 2, targets=there(net), dora=dora, seed=3)
    assert torch.equal(torch.get_rng_state(), drawn)  # nobody's random numbers depend on it
    # A layer with an adapter no longer adds what follows it in its own pass: the last bits may differ.
    assert (said(net) - before).abs().max() < 1e-5
    assert {id(value) for value in net.parameters() if value.requires_grad} == {id(value) for value in made.values()}
    again = adapters.fresh(network(family), 2, targets=there(net), dora=dora, seed=3)
    other = adapters.fresh(network(family), 2, targets=there(net), dora=dora, seed=4)
    assert all(torch.equal(made[name], again[name]) for name in made)
    assert any(not torch.equal(made[name], other[name]) for name in made)


def test_a_checkpoint_of_one_in_training_comes_back() -> None:
    net, other = network("sd-1.5"), network("sd-1.5")
    shaken(adapters.fresh(net, 2, targets="all", dora=True))
    adapters.fresh(other, 2, targets="all", dora=True)
    held = {name: value.clone() for name, value in adapters.tensors(net).items()}
    adapters.load_tensors(other, held)
    assert torch.equal(said(net), said(other))
    name = next(iter(held))
    with pytest.raises(ValueError, match=f"differ in 1 names, the first is '{name}'"):
        adapters.load_tensors(other, {key: value for key, value in held.items() if key != name})
    with pytest.raises(ValueError, match="expected the shape"):
        adapters.load_tensors(other, held | {name: held[name][:1]})


def test_targets_are_kinds_and_patterns() -> None:
    chosen = {
        kind: {name.rpartition(".")[0] for name in adapters.fresh(network("sd-1.5"), 1, targets=kind)}
        for kind in ("attention", "convolutions", "all")
    }
    assert all(name.rpartition(".")[2] in ("qkv", "q", "kv", "out") for name in chosen["attention"])
    assert "conv_in" in chosen["convolutions"] and not chosen["convolutions"] & chosen["attention"]
    assert chosen["all"] > chosen["attention"] | chosen["convolutions"]
    some = adapters.fresh(network("sd-1.5"), 1, targets=["down.0.*.conv1"])
    assert {name.split(".")[-2] for name in some} == {"conv1"}
    with pytest.raises(ValueError, match=r"targets: 'nothing.\*' fits no layer; expected attention"):
        adapters.fresh(network("sd-1.5"), 1, targets=["nothing.*"])


def test_a_dora_without_a_direction_is_refused() -> None:
    net = network("ours")
    with torch.no_grad():
        net.conv_out.weight[1].zero_()
    with pytest.raises(ValueError, match="dora: conv_out has outputs whose weights are all zero"):
        adapters.fresh(net, 1, targets=["conv_out"], dora=True)


def test_one_in_training_stands_alone() -> None:
    net = network("ours")
    adapter = random(net)
    adapters.fresh(net, 1)
    with pytest.raises(ValueError, match=r"already|in training"):
        adapters.inject(net, adapter, name="b")
    adapters.eject(net)
    adapters.inject(net, adapter, name="b")
    with pytest.raises(ValueError, match=r"there is an adapter on this network \(b\): merge or eject it first"):
        adapters.fresh(net, 1)
    with pytest.raises(ValueError, match="there is an adapter 'b' already"):
        adapters.inject(net, adapter, name="b")


def test_names_and_shapes_of_another_base_are_refused_and_nothing_is_changed() -> None:
    net = network("sd-1.5")
    before = said(net)
    good = random(net).layers["unet"]
    place, change = next((name, one) for name, one in good.items() if name.endswith("qkv"))
    wide = LowRank(torch.randn(2, 768), torch.randn(8, 2))
    cases = {
        r"1 of \d+ layers .* not in the network's unet, the first is 'down_blocks.9.to_q'": {
            **good,
            "down_blocks.9.to_q": change,
        },
        "made for another base": {place: LowRank(change.down[:, :-1], change.up)},
        "its rank is 600": {place: LowRank(torch.randn(600, change.down.shape[1]), torch.randn(len(change.up), 600))},
        "text 768 wide, as Stable Diffusion 1 does": {"down_blocks.0.attentions.7.attn2.to_k": wide},
    }
    for message, layers in cases.items():
        with pytest.raises(ValueError, match=message):
            adapters.inject(net, adapters.Adapter({"unet": layers}))
        assert torch.equal(said(net), before)
    with pytest.raises(ValueError, match=r"changes text_encoder .1 layers., and the network has none"):
        adapters.inject(net, adapters.Adapter({"text_encoder": {place: change}}))
    with pytest.raises(TypeError, match="an adapter goes on a Model or a UNet"):
        adapters.inject(torch.nn.Linear(2, 2), adapters.Adapter({"unet": good}))
