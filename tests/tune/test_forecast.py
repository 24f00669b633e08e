"""What a run will take is counted from what it holds; what cannot fit is refused with what would."""

from __future__ import annotations

import pathlib
import time

import pytest
import torch

from guided import zoo
from guided.train import fit
from guided.tune import Asked, recipe_for
from guided.tune.forecast import Count, activations, forecast, refusal
from guided.tune.preparing import prepare_tuning

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))


def asked(base: pathlib.Path, data: pathlib.Path, out: pathlib.Path, method: str, **changes: object):  # type: ignore[no-untyped-def]
    changes = {
        "tune.replayed": 8,
        "train.precision": "float32",
        **{k.replace("__", "."): v for k, v in changes.items()},
    }
    return recipe_for(zoo.load_model(base), str(base), data, method, out, Asked(images=160, batch_size=8), changes)


def test_a_run_that_cannot_fit_is_refused_with_what_would(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    recipe = asked(words_base, captioned, tmp_path / "run", "full")
    with pytest.raises(ValueError, match=r"would take about .* are free\. What would fit: .*"):
        forecast(recipe, CPU, limit=1_000_000)
    assert not (tmp_path / "run").exists()


def test_what_would_fit_is_the_least_that_does(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    recipe = asked(words_base, captioned, tmp_path / "run", "full")
    count = Count(before=1000, trained=100, kept=50, picture=1000)
    assert count.peak(recipe) == 1000 + round(1.1 * (100 * 5 + 50 + 8 * 1000))
    said = refusal(count, recipe, 7000, lighter=200)
    assert "train.accumulate=2 (" in said and "train.checkpointing=true (" in said and "--method lora" in said
    none = refusal(count, recipe, 1200, lighter=200)
    assert "accumulate" not in none and "checkpointing" not in none


def test_checkpointing_leaves_less_of_a_picture_and_pictures_add_up(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    job = prepare_tuning(asked(words_base, captioned, tmp_path / "run", "full"), CPU, stand_in=True)
    whole = activations(job, CPU)
    job.denoiser.network.checkpointing = True  # type: ignore[assignment]
    assert 0 < activations(job, CPU) < 0.6 * whole
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full", "textual-inversion"])
def test_the_forecast_of_time_is_near_what_happens(
    method: str, words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    recipe = asked(words_base, captioned, tmp_path / "run", method, tune__word="zwx", train__images=1600)
    told = forecast(recipe, CPU).seconds
    begun = time.perf_counter()
    list(fit(recipe, device="cpu"))
    assert told == pytest.approx(time.perf_counter() - begun, rel=0.5)
