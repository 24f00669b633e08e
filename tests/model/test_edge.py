"""The edge of published networks: what is absent, sizes, and the picture that is enlarged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from guided.cond import Cond
from guided.frames import DDPM
from guided.model import edge
from guided.nn import UNetConfig
from guided.text import Encoded

BASE: dict[str, Any] = {
    "widths": (8,),
    "blocks": (1,),
    "depth": (1,),
    "attention": "transformer",
    "groups": 4,
    "head_width": 8,
}
TEXT = UNetConfig(**BASE, token_width=6, null_token=False, vector_width=4 + 12)
ENLARGES = UNetConfig(**BASE, image_channels=3, aug=True, aug_scale=1.0)
TABLE = UNetConfig(**BASE, image_channels=3, classes=1000)
PAINTS = UNetConfig(**BASE, image_channels=4)
LOW = {"schedule": "linear", "start": 1e-4, "end": 0.02, "steps": 1000}


class Words:
    """An encoder whose null can be told from everything."""

    calls = 0

    def nothing(self, n: int) -> Encoded:
        Words.calls += 1
        tokens = torch.full((n, 5, 6), 7.0)
        return Encoded(tokens, torch.ones(n, 5, dtype=torch.bool), torch.full((n, 4), 9.0), (None,) * n)


class Half:
    """A codec that keeps every other pixel, of one channel more than a grey."""

    limit, factor = None, 2

    def encode(self, images: Tensor) -> Tensor:
        return images[..., ::2, ::2] + 0.25

    def decode(self, x: Tensor) -> Tensor:
        return x


def made(config: UNetConfig, values: dict[str, Any], encoder: Any = None) -> edge.Edge:
    return edge.of(values, config, Half(), encoder)


def test_rows_without_text_hear_the_null_and_the_others_their_own() -> None:
    at = made(TEXT, {"sizes": 2}, Words())
    Words.calls = 0
    tokens, mask = torch.randn(3, 5, 6), torch.tensor([[True] * 5, [False] * 5, [True] * 3 + [False] * 2])
    vector = torch.randn(3, 4)
    vector[1] = torch.nan
    x = torch.zeros(3, 3, 6, 8)
    seen = at(x, Cond(tokens=tokens, mask=mask, vector=vector))
    assert seen.tokens is not None and seen.mask is not None and seen.vector is not None
    assert torch.equal(seen.tokens[[0, 2]], tokens[[0, 2]]) and torch.equal(seen.mask[2], mask[2])
    assert bool((seen.tokens[1] == 7).all()) and bool(seen.mask[1].all())
    assert torch.equal(seen.vector[[0, 2], :4], vector[[0, 2]]) and bool((seen.vector[1, :4] == 9).all())
    # Cosine, then sine, of the six numbers: a picture of 12 by 16 pixels.
    six = torch.tensor([12.0, 16, 0, 0, 12, 16])
    assert torch.allclose(seen.vector[0, 4:], torch.stack((six.cos(), six.sin()), 1).flatten())
    for cond in (Cond(), Cond(tokens=tokens, mask=mask).null()):
        seen = at(x, cond)
        assert seen.tokens is not None and bool((seen.tokens == 7).all()) and seen.tokens.shape == (3, 5, 6)
        assert seen.vector is not None and bool((seen.vector[:, :4] == 9).all())
    assert Words.calls == 1
    whole = torch.randn(3, 16)
    seen = at(x, Cond(vector=whole))
    assert seen.vector is not None and torch.equal(seen.vector, whole)


def test_the_picture_to_enlarge_is_shown_at_unit_variance_with_its_level() -> None:
    at, frame = made(ENLARGES, {"low": LOW}), DDPM()
    x, image = torch.zeros(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    level = frame.log_sigmas()[[300, 20]].exp()
    seen = at(x, Cond(image=image, aug=level.float()))
    assert seen.aug is not None and torch.allclose(seen.aug, torch.tensor([300.0, 20.0]), atol=1e-2)
    assert seen.image is not None
    assert torch.allclose(seen.image, image / (1 + level.float()[:, None, None, None] ** 2).sqrt(), atol=1e-5)
    plain = at(x, Cond(image=image))
    assert plain.image is not None and torch.equal(plain.image, image)
    assert plain.aug is not None and plain.aug.tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"it needs cond\.image"):
        at(x, Cond())


def test_a_table_of_levels_takes_their_index() -> None:
    at, x = made(TABLE, {"low": LOW}), torch.zeros(2, 3, 4, 4)
    image, level = torch.randn(2, 3, 4, 4), DDPM().log_sigmas()[[300, 20]].exp()
    assert at.accepts == {"label", "image", "aug"}
    seen = at(x, Cond(image=image, aug=level.float()))
    assert seen.label is not None and seen.label.tolist() == [300, 20] and seen.aug is None
    seen = at(x, Cond(image=image, label=torch.tensor([250, -1])))
    assert seen.label is not None and seen.label.tolist() == [250, 0]


def test_painting() -> None:
    picture, mask = torch.rand(1, 3, 4, 4) * 2 - 1, torch.zeros(1, 1, 4, 4)
    mask[..., 2:] = 1
    image = edge.painting(Half(), picture, mask)
    assert image.shape == (1, 4, 2, 2)
    assert image[0, 0].tolist() == [[0, 1], [0, 1]]
    known = torch.where(mask > 0, 0.0, picture)
    assert torch.equal(image[:, 1:], known[..., ::2, ::2] + 0.25)
    at, x = made(PAINTS, {"paint": True}), torch.zeros(2, 3, 2, 2)
    seen = at(x, Cond())
    assert seen.image is not None
    assert torch.equal(seen.image, edge.painting(Half(), torch.zeros(2, 3, 4, 4), torch.ones(1, 1, 4, 4)))
    assert at(x, Cond(image=image.expand(2, -1, -1, -1))).image is not None


@pytest.mark.parametrize(
    "config, values, message",
    [
        (TEXT, {"wings": 1}, "edge: expected sizes, low and paint alone"),
        (TEXT, {"sizes": 3}, r"edge\.sizes: expected a width of which six fit into 16"),
        (TEXT, {"sizes": "2"}, r"edge\.sizes"),
        (TEXT, {"low": LOW}, r"edge\.low: the network takes no image"),
        (ENLARGES, {"low": {"schedule": "exp"}}, r"edge\.low: schedule: expected"),
        (ENLARGES, {"low": {"speed": 1}}, r"edge\.low"),
        (TABLE, {"low": {**LOW, "steps": 2000}}, r"edge\.low: 2000 levels of noise, the network's table knows 1000"),
        (ENLARGES, {"paint": True}, r"edge\.paint: expected 4 image channels, got 3"),
    ],
)
def test_a_card_that_says_otherwise_is_refused(config: UNetConfig, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(config, values)
