"""Configs that no author wrote: each entry in turn is refused as what it is, or harmless; nothing else is raised."""

from __future__ import annotations

import contextlib
import math
import pathlib
from typing import Any

import pytest
import torch

import guided
from guided import zoo
from guided._safetensors import load, save
from guided.zoo import export, settings, weights
from guided.zoo.deduce import deduce
from guided.zoo.diffusers_config import DEFAULTS, to_config
from guided.zoo.recognise import recognise
from tests.zoo import adm
from tests.zoo.adm import ADM, SD
from tests.zoo.published import SMALL

ODD: tuple[Any, ...] = (
    *(None, -1, 0, 1.5, 10**9, 10**400, math.nan, math.inf, True, "", "x", "0", "1,x", "nan", b"x"),
    *([], [0], [1], ["a"], [None], [[1]], [8, "x"], (1,), {}, {"a": 1}, [10**9] * 4),
)


def refusals(act: Any, values: dict[str, Any], keys: Any) -> int:
    """How many odd values are refused; whatever is raised beside ValueError is the test's failure."""
    count = 0
    for key in keys:
        for odd in ODD:
            try:
                act({**values, key: odd})
            except ValueError:
                count += 1
    return count


@pytest.mark.parametrize("flags", [ADM, SD], ids=["adm", "sd"])
def test_settings_of_the_originals(flags: adm.Flags) -> None:
    keys = (*settings._HIDDEN, *settings._NOISE, *settings._CHECKED, *settings._SAME)
    found = deduce(adm.shapes(flags))

    def act(values: dict[str, Any]) -> None:
        said = settings.Settings.of(values)
        said.check(found.config, found.linear)
        said.heads(), said.schedule(), said.predicts(), said.text_only(3), said.flag("null_class")

    told = {**flags.config, "image_size": 8, "noise_schedule": "linear"}
    assert refusals(act, told, keys) > 400
    for odd in ODD:
        for whole in (odd, {"model": odd}, {"model": {"params": odd}}, {"params": {"unet_config": {"params": odd}}}):
            with contextlib.suppress(ValueError):
                recognise(adm.shapes(flags), whole)


@pytest.mark.parametrize("name", SMALL)
def test_entries_of_a_unet2dconditionmodel(name: str) -> None:
    assert refusals(to_config, SMALL[name], DEFAULTS) > 400


def test_a_config_that_is_no_mapping() -> None:
    own = {"vector.time.inner.weight": torch.zeros(8, 8)}
    for state in (own, adm.weights(ADM), {"time_embedding.linear_1.weight": torch.zeros(8, 8)}):
        with pytest.raises(ValueError, match="expected a mapping"):
            zoo.network(state, [1])  # type: ignore[arg-type]


def test_a_yaml_without_end_is_not_unrolled(tmp_path: pathlib.Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    (tmp_path / "a.yaml").write_text("\n".join([*lines, "num_heads: *a39"]))
    with pytest.raises(ValueError, match=r"not YAML that is read here \(an alias"):
        weights.config_of(tmp_path / "a.yaml")
    save(adm.weights(ADM), tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="an alias"):
        guided.load(tmp_path / "a.safetensors")


def test_rewriting_loses_nothing_but_moving_averages(tmp_path: pathlib.Path) -> None:
    """A U-Net with its text encoder but no autoencoder is no model, yet none of it is dropped."""
    state = {f"model.diffusion_model.{name}": value for name, value in adm.weights(SD).items()}
    state |= {"cond_stage_model.transformer.a": torch.ones(2), "betas": torch.ones(3)}
    save(state | {"model_ema.decay": torch.ones(1)}, tmp_path / "a.safetensors")
    export.rewrite(tmp_path / "a.safetensors", tmp_path / "b.safetensors", config=SD.config)
    back = load(tmp_path / "b.safetensors")
    assert back.keys() == state.keys() and all(torch.equal(back[name], value) for name, value in state.items())
