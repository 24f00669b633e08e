"""Published models tuned on a person's pictures: latents, text towers, cascaded stages."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
import torch

from guided import zoo
from guided.cond import Cond
from guided.train import Step
from guided.tune import Asked, tune
from guided.tune.latents import Latents
from tests.tune.test_tuning import digest
from tests.zoo import pipelines


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))


def run(base: pathlib.Path | str, data: pathlib.Path, out: pathlib.Path, method: str = "lora", **given: Any) -> Step:
    changes = {"tune.replayed": 4, "train.save_every": 8, **given.pop("changes", {})}
    prompts = ("a cat", "a dog")
    asked = Asked(**{"images": 16, "batch_size": 4, "prompts": prompts, "precision": "float32", "lr": 1e-3, **given})
    return list(tune(str(base), data, out, method=method, asked=asked, changes=changes, device="cpu"))[-1]


@pytest.mark.parametrize("name", ["sd-1.5", "sdxl-base", "if-i-m"])
def test_a_pipeline_is_tuned_on_its_network_and_its_text_towers(
    name: str, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    base = pipelines.saved(name, tmp_path / name)
    before = digest(base)
    last = run(base, captioned, tmp_path / "run", size=(16, 16), text_rank=2 if name != "if-i-m" else None)
    assert digest(base) == before and last.model is not None
    opened = zoo.load_model(tmp_path / "run")
    other = zoo.load_model(base)
    assert len(opened.generate("a cat", steps=2, size=16, seed=1)) == 1
    x = torch.randn(1, other.channels, 8, 8)
    with torch.no_grad():
        a, b = (model.denoiser(x, torch.tensor(1.0), Cond()) for model in (opened, other))
    assert bool(a.isfinite().all()) and not torch.equal(a, b)
    said = json.loads((tmp_path / "run" / "model" / "adapter.json").read_text())
    assert said["base"]["source"] == str(base)


def test_latents_are_encoded_once_and_again_where_a_picture_changed(
    captioned: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guided import data
    from guided.data import Pictures

    model = zoo.load_model(pipelines.saved("sd-1.5", tmp_path / "sd"))
    source = data.open(captioned)
    pictures = Pictures(source, 16)
    first = Latents(pictures, model.codec, tmp_path / "latents")  # type: ignore[arg-type]
    x = pictures[3].float()[None] / 127.5 - 1
    torch.testing.assert_close(first[3][None], model.codec.encode(x), rtol=1e-4, atol=1e-5)
    files = {file.name for file in (tmp_path / "latents").iterdir()}
    assert len(files) == 9
    encode = type(model.codec).encode
    asked: list[int] = []

    def counting(self: Any, images: torch.Tensor) -> torch.Tensor:
        asked.append(len(images))
        return encode(self, images)

    monkeypatch.setattr(type(model.codec), "encode", counting)
    again = Latents(Pictures(source, 16), model.codec, tmp_path / "latents")  # type: ignore[arg-type]
    assert not asked and torch.equal(again[3], first[3])
    changed = Pictures(source, 16)
    changed._kept[2] = 255 - changed[2]  # type: ignore[index]
    Latents(changed, model.codec, tmp_path / "latents")  # type: ignore[arg-type]
    assert asked == [1] and {file.name for file in (tmp_path / "latents").iterdir()} > files


def test_a_stage_of_a_cascade_is_tuned_with_its_own_task(captioned: pathlib.Path, tmp_path: pathlib.Path) -> None:
    last = run("emoji-up", captioned, tmp_path / "run", size=(32, 32), prompts=None, images=8)
    assert last.model is not None
    opened = zoo.load_model(tmp_path / "run")
    assert opened.translation is not None and opened.adapters


def test_original_checkpoints_are_tuned_too(tmp_path: pathlib.Path) -> None:
    from tests.train.tools import pictures
    from tests.zoo.adm import ADM
    from tests.zoo.test_adm import written

    file, data = written(tmp_path, ADM), pictures(tmp_path / "pictures", 8)
    for old, new in (("round", "1"), ("square", "3")):
        (data / old).rename(data / new)
    last = run(file, data, tmp_path / "run", prompts=None)
    assert last.model is not None
    assert zoo.load_model(tmp_path / "run").adapters
