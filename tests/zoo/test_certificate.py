"""`guided inspect` of pipeline folders: what is said and assumed, and the certificate of parity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guided.cli import main
from guided.zoo.certificate import LEVELS, describe, parity
from guided.zoo.pipeline import facts
from tests.zoo import pipelines
from tests.zoo.published import SMALL

pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {name: pipelines.saved(name, root / name) for name in SMALL}


@pytest.mark.parametrize("name", SMALL)
def test_the_certificate(name: str, folders: dict[str, Path]) -> None:
    found = parity(facts(folders[name]))
    assert set(found) == set(LEVELS) and max(found.values()) < 1e-5


def test_what_inspect_says(folders: dict[str, Path], capsys: Any) -> None:
    assert main(["inspect", "--json", "--verify", str(folders["sdxl-base"])]) == 0
    told = json.loads(capsys.readouterr().out)
    count = sum(value.numel() for value in pipelines.unet("sdxl-base").state_dict().values())
    assert told["parameters"]["unet"] == f"{count:,} (F32)"
    assert told["family"] == "Stable Diffusion XL" and told["size"] == "16 x 16"
    assert told["predicts"] == "the noise" and "sigma 0.02917 to 14.61" in told["noise levels"]
    assert told["conditioning"] == [
        "text, 12 wide (CLIPTextModel + CLIPTextModelWithProjection)",
        "pooled text and six sizes, 34 wide",
    ]
    assert told["assumed"] == "nothing" and told["parity"].startswith("relative difference at most ")
    assert describe(folders["if-i-m"])["predicts"] == "the noise, and its variance"
    assert describe(folders["sd-2.1-v"])["predicts"] == "v"
    assert describe(folders["sd-inpainting"])["conditioning"][-1] == "a mask and masked latents"


def test_what_was_assumed_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = pipelines.copied(folders["sd-1.5"], tmp_path / "copy")
    pipelines.edit(copy / "scheduler" / "scheduler_config.json", prediction_type=None, num_train_timesteps=None)
    assert describe(copy)["assumed"] == {"num_train_timesteps": 1000, "prediction_type": "epsilon"}
