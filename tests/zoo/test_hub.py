"""Pipelines of the hub: which files are fetched, and how they are found again without a connection."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import guided
from guided.model import Model
from guided.zoo import hub
from tests.zoo import pipelines

SD15 = [
    *("README.md", "model_index.json", "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", ".gitattributes"),
    *("feature_extractor/preprocessor_config.json", "safety_checker/config.json", "safety_checker/model.safetensors"),
    *("scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.fp16.safetensors"),
    *("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin", "tokenizer/merges.txt"),
    *("tokenizer/special_tokens_map.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json"),
    *("unet/config.json", "unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.safetensors"),
    *("unet/diffusion_pytorch_model.non_ema.safetensors", "unet/diffusion_pytorch_model.safetensors"),
    *("vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors"),
]


def test_only_what_is_read_is_fetched() -> None:
    assert hub.choose("a/b", SD15) == sorted(
        [
            *("model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json"),
            *("text_encoder/model.safetensors", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json"),
            *("tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "unet/config.json", "vae/config.json"),
            *("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"),
        ]
    )


def test_shards_and_variants() -> None:
    index = "unet/diffusion_pytorch_model.safetensors.index.fp16.json"
    shards = [f"unet/diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    files = ["model_index.json", "unet/config.json", index, *shards]
    assert hub.choose("a/b", files) == sorted(files)
    plain = "unet/diffusion_pytorch_model.safetensors.index.json"
    whole = [f"unet/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert hub.choose("a/b", [*files, plain, *whole]) == sorted(["model_index.json", "unet/config.json", plain, *whole])


def test_no_pipeline_and_no_safetensors() -> None:
    with pytest.raises(ValueError, match=r"no model_index\.json in it"):
        hub.choose("a/b", ["config.json"])
    with pytest.raises(ValueError, match="unet: its weights are there as pickles alone"):
        hub.choose("a/b", ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"])


def test_what_the_cache_holds_opens_without_a_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    pytest.importorskip("diffusers")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    revision = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--someone--tiny" / "snapshots" / revision
    place.parent.mkdir(parents=True)
    shutil.move(pipelines.saved("if-i-m", tmp_path / "saved"), place)
    refs = tmp_path / "models--someone--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text(revision)
    model = guided.load("someone/tiny")
    assert isinstance(model, Model) and model.source == model.name == "someone/tiny"
    assert model.card["provenance"]["revision"] == revision
    assert model.generate("a cat", steps=1).tensor.shape == (1, 3, 16, 16)
    with pytest.raises(FileNotFoundError, match="someone/other: no such model folder here, and the hub does not give"):
        guided.load("someone/other")
