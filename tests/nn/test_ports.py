"""The three ports: absent in every form is one thing, sample by sample; padding has no influence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from guided.cond import Cond
from guided.nn import UNet, preset
from guided.nn.ports import SpacePort, places
from tests.nn.tools import FULL, TEXT, awake, inputs

FORMS = {
    "label": lambda v: torch.full_like(v, -1),
    "vector": lambda v: torch.full_like(v, math.nan),
    "image": lambda v: torch.full_like(v, math.nan),
    "aug": lambda v: torch.full_like(v, math.nan),
    "mask": lambda v: torch.zeros_like(v),
}
NAMES = ("label", "tokens", "mask", "vector", "image", "aug")


@torch.no_grad()
def run(network: UNet, x: Tensor, t: Tensor, cond: Cond, **changes: Tensor | None) -> Tensor:
    fields = {name: getattr(cond, name) for name in NAMES} | changes
    return network(x, t, Cond(**fields))


@pytest.mark.parametrize("field", FORMS)
def test_absent_forms_agree_and_differ_from_present(field: str, device: str) -> None:
    network = awake(FULL, device)
    x, t, cond = inputs(FULL, device=device)
    present = run(network, x, t, cond)
    value = getattr(cond, field)
    absent = run(network, x, t, cond, **{field: FORMS[field](value)})
    none = run(network, x, t, cond, **({"tokens": None, "mask": None} if field == "mask" else {field: None}))
    torch.testing.assert_close(absent, none, rtol=1e-5, atol=1e-5)
    assert absent.isfinite().all()
    assert ((absent - present).abs().amax((1, 2, 3)) > 1e-3).all()
    mixed = FORMS[field](value)
    mixed[0] = value[0]
    one = run(network, x, t, cond, **{field: mixed})
    torch.testing.assert_close(one[0], present[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one[1:], absent[1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("field", ["vector", "image", "aug"])
def test_zero_is_not_absent(field: str) -> None:
    network = awake(FULL)
    x, t, cond = inputs(FULL)
    zeros = run(network, x, t, cond, **{field: torch.zeros_like(getattr(cond, field))})
    assert (zeros - run(network, x, t, cond, **{field: None})).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["cross", "added", "transformer"])
@pytest.mark.parametrize("junk", [100.0, math.nan, math.inf])
def test_padding_has_no_influence(kind: str, junk: float, device: str) -> None:
    config = replace(TEXT, attention=kind, pool_heads=2, cross_width=12)
    network = awake(config, device)
    x, t, cond = inputs(config, device=device)
    before = run(network, x, t, cond)
    assert cond.tokens is not None and cond.mask is not None
    after = run(network, x, t, cond, tokens=torch.where(cond.mask[..., None], cond.tokens, junk))
    assert torch.equal(before, after)
    longer = torch.cat((cond.tokens, torch.full_like(cond.tokens, junk)), 1)
    mask = torch.cat((cond.mask, torch.zeros_like(cond.mask)), 1)
    torch.testing.assert_close(run(network, x, t, cond, tokens=longer, mask=mask), before, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(run(network, x, t, cond, mask=torch.ones_like(cond.mask)), before, atol=1e-3)


def test_every_text_layer_reads_its_text() -> None:
    for kind in ("cross", "added", "transformer"):
        config = replace(TEXT, attention=kind)
        network = awake(config)
        x, t, cond = inputs(config)
        network(x, t, cond).square().sum().backward()
        assert network.sequence is not None and network.sequence.null.grad.abs().sum() > 0
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_without_a_null_token_an_empty_row_is_still_finite() -> None:
    config = replace(TEXT, null_token=False)
    network = awake(config)
    x, t, cond = inputs(config)
    assert cond.mask is not None
    empty = run(network, x, t, cond, mask=torch.zeros_like(cond.mask))
    assert empty.isfinite().all()
    torch.testing.assert_close(empty, run(network, x, t, cond, tokens=None, mask=None), rtol=1e-5, atol=1e-5)


def test_the_presence_channel_says_where() -> None:
    network = awake(FULL)
    x, _, cond = inputs(FULL)
    assert cond.image is not None
    image = cond.image.clone()
    image[0, :, :3] = math.nan
    joined = network.space(x, Cond(image=image))[:, :-2]  # the last two are the pixels' places
    assert torch.equal(joined[0, -1, :, 0], torch.tensor([0.0] * 3 + [1.0] * 5))
    assert joined.isfinite().all() and bool((joined[1:, -1] == 1).all())


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("tokens", torch.zeros(3, 5, 9), r"cond.tokens: expected \(3, T, 8\) from the text encoder"),
        ("vector", torch.zeros(3, 4), r"cond.vector: expected the shape \(3, 5\)"),
        ("image", torch.zeros(3, 2, 4, 8), r"cond.image: expected the shape \(3, 2, 8, 8\)"),
        ("label", torch.zeros(2, dtype=torch.long), r"cond.label: expected the shape \(3,\)"),
        ("aug", torch.zeros(2), r"cond.aug: expected the shape \(3,\)"),
    ],
)
def test_wrong_shapes_are_named(field: str, value: Tensor, words: str) -> None:
    x, t, _ = inputs(FULL)
    cond = Cond(tokens=value, mask=torch.ones(3, 5) > 0) if field == "tokens" else Cond(**{field: value})
    with pytest.raises(ValueError, match=words):
        UNet(FULL)(x, t, cond)


def test_the_level_reaches_the_output_in_full_precision() -> None:
    # bf16 cannot tell 700 from 701; the sinusoid must be taken before the cast.
    network = awake(TEXT, dtype=torch.bfloat16)
    x, _, _ = inputs(TEXT)
    x = x.bfloat16()
    port = network.vector
    assert not torch.equal(port(x, torch.tensor(700.0), Cond()), port(x, torch.tensor(701.0), Cond()))


def test_normed_tokens_reach_attention_in_unit_size() -> None:
    port = UNet(TEXT).sequence
    assert port is not None
    x, _, cond = inputs(TEXT)
    assert cond.tokens is not None
    for size in (0.01, 100.0):
        context, _ = port(x, Cond(tokens=cond.tokens * size, mask=torch.ones(3, 5) > 0))
        assert (context.tokens[:, 1:].std(-1) - 1).abs().max() < 0.2


def test_coordinates_are_the_pixel_centres_and_reach_the_network() -> None:
    found = places(torch.zeros(5, 3, 2, 4))
    assert found[0, 0].tolist() == [[-0.75, -0.25, 0.25, 0.75]] * 2
    assert found[0, 1].tolist() == [[-0.5] * 4, [0.5] * 4]
    seen = SpacePort(preset("tiny", coordinates=True))(torch.zeros(5, 3, 2, 4), Cond())
    assert torch.equal(seen[3, 3:], found[0]) and not seen[:, :3].any()
