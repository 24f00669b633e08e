"""What a run will take is counted from what it holds; what cannot fit is refused with what would."""

from __future__ import annotations

import pathlib
import time

import pytest
import torch

from guided import zoo
from guided.model import Model
from guided.train import fit
from guided.tune import Asked, recipe_for
from guided.tune import forecast as forecasts
from guided.tune.budget import Watched
from guided.tune.forecast import due, forecast

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


class Ledger:
    """A clock that only what is drawn and looked at moves on: what the parts of a run take, without a real clock."""

    CALL, STEP, LEARN, LOOK = 3.0, 0.25, 7.0, 2.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.drawn = self.looked = 0.0
        generate, learn, look = Model.generate, Watched.learn, Watched.__call__

        def costly(model: Model, prompts=None, n=1, **words):  # type: ignore[no-untyped-def]
            result = generate(model, prompts, n, **words)
            self.drawn += self.CALL + self.STEP * (words.get("steps") or 2) * len(result)
            return result

        def heard(watched: Watched, *args: object) -> None:
            self.looked += self.LEARN
            learn(watched, *args)  # type: ignore[arg-type]

        def seen(watched: Watched, *args: object) -> object:
            self.looked += self.LOOK
            return look(watched, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(Model, "generate", costly)
        monkeypatch.setattr(Watched, "learn", heard)
        monkeypatch.setattr(Watched, "__call__", seen)

    def perf_counter(self) -> float:
        return self.drawn + self.looked


@pytest.mark.parametrize(("held_every", "preview_every"), [(16, 40), (50, 45), (160, 0)])
def test_a_run_draws_and_looks_for_as_long_as_was_said(
    held_every: int,
    preview_every: int,
    words_base: pathlib.Path,
    captioned: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    often = {"train__held_every": held_every, "train__preview_every": preview_every}
    recipe = asked(words_base, captioned, tmp_path / "run", "lora", tune__replayed=20, tune__patience=1000, **often)
    ledger = Ledger(monkeypatch)
    monkeypatch.setattr(forecasts, "time", ledger)
    told = forecast(recipe, CPU)
    before = ledger.drawn, ledger.looked
    list(fit(recipe, device="cpu"))
    assert told.drawing == pytest.approx(ledger.drawn - before[0], rel=1e-9)
    assert told.checks == pytest.approx(ledger.looked - before[1], rel=1e-9)


def test_a_run_without_checks_is_forecast(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    recipe = asked(words_base, captioned, tmp_path / "run", "lora", train__held_every=0)
    assert forecast(recipe, CPU).checks == 0


def test_what_is_due_is_counted_as_a_run_counts_it() -> None:
    for every in (0, 1, 7, 8, 16, 50, 200):
        for images in (8, 16, 96, 160):
            done = sum(
                every > 0 and (now // every > (now - 8) // every or now == images) for now in range(8, images + 1, 8)
            )
            assert due(every, images, 8) == done


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
