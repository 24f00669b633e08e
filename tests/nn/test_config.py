"""The config: JSON and back, and refusals that say what was wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from guided.nn import PRESETS, UNet, UNetConfig, preset


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json_and_builds(name: str) -> None:
    config = preset(name)
    again = UNetConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    with torch.device("meta"):
        UNet(config)


def test_the_shipped_size_fits_its_budget() -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in UNet(preset("unet32-text")).parameters())
    assert 6e6 < count < 7.9e6  # 16 MB in bf16, with room for the header


def test_tiny_is_tiny() -> None:
    assert sum(p.numel() for p in UNet(preset("tiny-text")).parameters()) < 50_000


def test_preset_takes_changes_and_refuses_unknown_names() -> None:
    assert preset("tiny", classes=7).classes == 7
    assert preset("tiny", widths=[8, 8, 8], blocks=1, depth=[0, 0, 1]).blocks == (1, 1, 1)
    with pytest.raises(ValueError, match=r"no preset 'unet31'.*unet32-text"):
        preset("unet31")
    with pytest.raises(ValueError, match=r"unknown keys.*colour"):
        preset("tiny", colour=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"widths": ()}, "widths: expected at least one level"),
        ({"widths": 8}, "widths: expected one value a level, got 8"),
        ({"widths": (8, 0)}, "widths: expected a whole number >= 1, got 0"),
        ({"widths": (8, "big")}, "widths: expected a whole number >= 1, got 'big'"),
        ({"blocks": (1,)}, "blocks: expected 2 entries"),
        ({"blocks": 1.5}, "blocks: expected one value a level"),
        ({"text_only": (True,)}, "text_only: expected 2 entries"),
        ({"scale_shift": "yes"}, "scale_shift: expected true or false, got 'yes'"),
        ({"classes": True}, "classes: expected a whole number >= 0"),
        ({"dropout": 1.0}, "dropout: expected a number below 1"),
        ({"dropout": -0.1}, "dropout: expected a number >= 0"),
        ({"norm_eps": 0.0}, "norm_eps: expected a number above 0"),
        ({"act": "relu"}, "act: expected one of silu, gelu, got 'relu'"),
        ({"head_width": 5}, "head_width: 5 does not divide the width 16"),
        ({"heads": 3}, "heads: 3 does not divide the width 16"),
        ({"pool_heads": 2}, "pool_heads: expected token_width > 0"),
        ({"attention": "cross"}, "'cross' reads text; give token_width"),
        ({"token_width": 8}, "nothing reads the tokens"),
        ({"attention": "cross", "token_width": 8, "depth": 0, "middle_depth": 0}, "nothing reads the tokens"),
        ({"attention": "cross", "token_width": 8, "pool_heads": 3}, "pool_heads: 3 does not divide token_width 8"),
        ({"attention": "cross", "token_width": 8, "middle_text_only": True}, "text_only: needs text and attention"),
        ({"attention": "cross", "token_width": 8, "context_norm": True}, "context_norm: needs attention 'added'"),
        ({"presence": True}, "presence: needs image_channels"),
    ],
)
def test_what_cannot_be_a_network_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNetConfig.from_dict({**preset("tiny").to_dict(), **change})


def test_accepts_follows_the_ports() -> None:
    config = preset("tiny")
    assert config.accepts == frozenset()
    assert replace(config, classes=2, aug=True).accepts == {"label", "aug"}
    assert preset("tiny-text").accepts == {"tokens", "mask"}
    assert UNet(replace(config, vector_width=3, image_channels=1)).accepts == {"vector", "image"}


def test_a_text_preset_becomes_a_pooled_one_in_three_words() -> None:
    config = preset("unet32-shapes", attention="self", token_width=0, vector_width=384)
    assert config.accepts == {"vector"}
