"""Changes of head: at the first step the network says what it said before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from guided.cond import Cond
from guided.nn import UNet
from guided.tune.heads import changed
from tests.model.build import network

X = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
LEVEL = torch.tensor([100.0, -200.0, 300.0])


def said(net: UNet, **cond: Any) -> Tensor:
    with torch.no_grad():
        return net(X, LEVEL, Cond(**cond))


@pytest.fixture(scope="module")
def classed() -> UNet:
    return network("tiny-class", classes=4)


@pytest.fixture(scope="module")
def worded() -> UNet:
    return network("tiny-text", token_width=12, vector_width=6)


def test_known_classes_say_what_they_said_and_new_ones_what_no_class_said(classed: UNet) -> None:
    made = changed(classed, {"classes": 6})
    for label in ([0, 1, 2], [3, -1, 0]):
        labels = torch.tensor(label)
        assert torch.equal(said(made, label=labels), said(classed, label=labels))
    nothing = said(classed, label=torch.tensor([-1, -1, -1]))
    assert torch.equal(said(made, label=torch.tensor([4, 5, -1])), nothing)
    assert not torch.equal(nothing, said(classed, label=torch.tensor([0, 0, 0])))


def test_classes_come_to_a_network_that_knew_none() -> None:
    plain = network("tiny")
    made = changed(plain, {"classes": 2})
    assert torch.equal(said(made, label=torch.tensor([0, 1, -1])), said(plain))


@pytest.mark.parametrize("patch", [1, 2])
def test_a_picture_that_is_shown_changes_nothing_yet(patch: int) -> None:
    plain = network("tiny", patch=patch, coordinates=True)
    made = changed(plain, {"image_channels": 3, "presence": True, "aug": True})
    image = torch.randn(3, 3, 16, 16)
    for cond in ({"image": image, "aug": torch.tensor([0.1, 0.2, 0.3])}, {"image": image}, {}):
        # A convolution sums more channels, of zero: the sums of the others may be grouped anew.
        torch.testing.assert_close(said(made, **cond), said(plain), rtol=0, atol=1e-6 * float(said(plain).abs().max()))
    # It is in the gradient that the picture counts from the first step on.
    made(X, LEVEL, Cond(image=image)).square().sum().backward()
    assert bool(made.conv_in.weight.grad.abs().sum((0, 2, 3)).bool().all())


def test_a_level_of_augmentation_changes_nothing_bit_for_bit(classed: UNet) -> None:
    made = changed(classed, {"aug": True})
    labels = torch.tensor([0, 1, -1])
    for aug in (None, torch.tensor([0.1, 0.5, torch.nan])):
        assert torch.equal(said(made, label=labels, aug=aug), said(classed, label=labels))


@pytest.mark.parametrize("width", [20, 12])
def test_whatever_another_encoder_says_says_what_no_text_said(worded: UNet, width: int) -> None:
    made = changed(worded, {"token_width": width, "vector_width": 9}, text=True)
    before = said(worded)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    cond = {"tokens": torch.randn(3, 5, width), "mask": mask, "vector": torch.randn(3, 9)}
    torch.testing.assert_close(said(made, **cond), before, rtol=0, atol=1e-6 * float(before.abs().max()))
    torch.testing.assert_close(said(made), before, rtol=0, atol=1e-6 * float(before.abs().max()))
    made(X, LEVEL, Cond(**cond)).square().sum().backward()
    assert float(made.sequence.project.weight.grad.abs().max()) > 0


def test_the_old_network_stays_as_it_was(classed: UNet) -> None:
    before = {name: value.clone() for name, value in classed.state_dict().items()}
    made = changed(classed, {"classes": 9, "image_channels": 3})
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in classed.state_dict().items())


def test_what_no_first_output_could_equal_is_refused(classed: UNet) -> None:
    with pytest.raises(ValueError, match="classes: the network knows 4"):
        changed(classed, {"classes": 2})
    with pytest.raises(ValueError, match="widths"):
        changed(classed, {"widths": (8, 8)})
    published = network("tiny-text", token_width=12, null_token=False)
    with pytest.raises(ValueError, match="no null token"):
        changed(published, {"token_width": 20}, text=True)
