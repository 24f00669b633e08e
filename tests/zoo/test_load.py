"""`guided.load`: what opens, and what is refused with a reason."""

from __future__ import annotations

import pathlib

import pytest
import torch

import guided
from guided import zoo
from tests.model import build


def test_a_model_folder_and_a_run_open_the_same(tmp_path: pathlib.Path) -> None:
    model = build.class_model()
    model.save(tmp_path / "run" / "model")
    for path in (tmp_path / "run" / "model", str(tmp_path / "run")):
        opened = guided.load(path)
        assert torch.equal(opened.generate(labels="cat").tensor, model.generate(labels="cat").tensor)
        assert opened.source == str(path)


def test_what_is_no_model_of_ours(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"and no shipped model \(emoji, emoji-up, emoji-128\)"):
        guided.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no such model folder here, and the hub does not give it"):
        guided.load("someone/something")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model_index\.json: _class_name: expected one of StableDiffusionPipeline"):
        guided.load(tmp_path)
    for name, message in (
        ("a.ckpt", "refused: a Python pickle"),
        ("a.txt", "not a model"),
        ("a.gguf", "weights alone"),
    ):
        (tmp_path / name).write_bytes(b"words")
        with pytest.raises(ValueError, match=message):
            guided.load(tmp_path / name)


def test_the_shipped_model_opens_or_says_what_is_missing(tmp_path: pathlib.Path) -> None:
    folder = pathlib.Path(zoo.__file__).parent.parent / "assets" / "emoji"
    if (folder / "card.json").is_file():
        model = guided.load("emoji")
        assert model.source == "emoji" and model.size == (32, 32)
        assert model.card["text"] and model.early() is not None
    else:
        with pytest.raises(FileNotFoundError, match="lacks its shipped model"):
            guided.load("emoji")


def test_the_shipped_cascade_fits_is_small_and_draws_at_128() -> None:
    assets = pathlib.Path(zoo.__file__).parent.parent / "assets"
    if not (assets / "emoji-up" / "card.json").is_file():
        pytest.skip("this install lacks the shipped models")
    up = guided.load("emoji-up")
    assert sum(weight.numel() for weight in up.denoiser.parameters()) < 6e6 and up.card["defaults"]["steps"] <= 8
    files = [file.stat().st_size for file in assets.rglob("*.safetensors")]
    assert max(files) < 16e6 and sum(files) < 44e6
    cascade = guided.load("emoji-128")
    assert isinstance(cascade, guided.Cascade) and cascade.sizes == [(32, 32), (128, 128)]
    small = cascade.stages[0].generate("red apple", steps=4, seed=1).tensor
    drawn = cascade.generate("red apple", steps=4, seed=1).tensor
    # The large picture is the small one with detail: its means are near the small one's pixels.
    assert float((guided.degrade.box(drawn, 4) - small).abs().mean()) < 0.03
