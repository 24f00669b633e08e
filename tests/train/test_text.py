"""Training on captions: any encoder by its folder, and no encoder at all where the cache is complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import guided
from guided import text
from guided.train import fit, load_recipe, setup
from tests.text.tiny import bert_folder
from tests.train.tools import pictures, tiny

CAPTIONS = ["a red circle", "blue square", "a photo of a cat", "circle left of square"]


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures with captions, one of them blank."""
    folder = pictures(tmp_path_factory.mktemp("captioned"), 12)
    rows = [
        {"file_name": str(file.relative_to(folder)), "text": "" if at == 5 else f"{CAPTIONS[at % 4]}, {at}"}
        for at, file in enumerate(sorted(folder.rglob("*.png")))
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bert_folder(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture
def recipe(captioned: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))
    values = tiny(captioned, tmp_path / "run", data__condition="text", text={"encoder": str(encoder)})
    values["model"] = {"preset": "tiny-text", "widths": [8, 8], "head_width": 8}
    values["train"] |= {"images": 16, "save_every": 8, "preview_every": 16, "held_every": 0}
    values["sample"] = {"steps": 2, "prompts": ["a red circle", "a green cat"]}
    return values


def test_captions_train_save_and_draw(recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = fit(recipe, device="cpu")
    assert next(steps).images == 4
    while next(steps).saved is None:
        pass
    steps.close()  # type: ignore[attr-defined]

    def absent(*_: object, **__: object) -> None:
        raise ImportError("no transformers here")

    with monkeypatch.context() as patch:
        patch.setattr(text, "open", absent)
        rest = list(fit(recipe, device="cpu"))
    assert rest[0].note == "resuming at 8 images" and rest[-1].images == 16
    trained = rest[-1].model
    assert trained is not None
    opened = guided.Model.open(tmp_path / "run")
    a, b = (model.generate("a red circle", steps=2, seed=0).tensor for model in (trained, opened))
    assert torch.equal(a, b)
    assert (tmp_path / "run" / "previews" / "000000016.png").stat().st_size > 100


def test_conditions_are_the_encoders_states(recipe: dict[str, Any], encoder: Path) -> None:
    job = setup.prepare(load_recipe(recipe), torch.device("cpu"))
    captions = [record.caption for record in job.source.records]
    assert captions[5] is None
    cond = job.conditions([5, 2])
    truth = text.open(str(encoder))([str(captions[2])])
    assert cond.tokens is not None and cond.mask is not None
    assert not bool(cond.mask[0].any()), "a blank caption is an absent one"
    assert torch.equal(cond.tokens[1][cond.mask[1]], truth.tokens[0])
    assert cond.vector is None, "this network does not see it"


def test_the_pooled_vector_alone(recipe: dict[str, Any]) -> None:
    changes = ["model.preset=tiny", "model.vector_width=32", "train.images=4"]
    job = setup.prepare(load_recipe(recipe, changes), torch.device("cpu"))
    assert job.config.accepts == {"vector"} and job.conditions([0]).tokens is None
    assert list(fit(recipe, changes, device="cpu"))[-1].model is not None


def test_a_network_that_reads_no_text_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sees no text condition"):
        setup.prepare(load_recipe(recipe, ["model.preset=tiny"]), torch.device("cpu"))


def test_wrong_width_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="token_width: 7 does not fit the data, which needs 32"):
        setup.prepare(load_recipe(recipe, ["model.token_width=7"]), torch.device("cpu"))


def test_nothing_held_out_is_drawn(recipe: dict[str, Any]) -> None:
    job = setup.prepare(load_recipe(recipe, ["data.hold_out.share=0.3"]), torch.device("cpu"))
    assert job.held
    drawn = set(job.samples.__getitems__(range(200)).names)
    assert drawn == {job.source.records[row].name for row in job.split.train}
