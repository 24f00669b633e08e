"""`faithful=`: the target is met, at no more than twice the cost, or said to be out of reach."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from guided.tasks import Changed, Psnr
from guided.tasks.faithful import parse
from tests.model import build
from tests.tasks.test_methods import gaussians, photo


@pytest.mark.parametrize("target", [Psnr(24), Psnr(18.5), Psnr(30), Changed(0.1), Changed(0.45), Changed(0.8)])
def test_the_target_is_met_at_twice_the_cost(target: Psnr | Changed) -> None:
    model, given = gaussians(), photo(1)
    counted: list[int] = []
    model.denoiser.network.register_forward_hook(lambda *_: counted.append(1))
    result = model.edit(given, labels="high", faithful=target, steps=24, seed=3)
    record = result.records[0]
    assert len(counted) == record["nfe"] + record["faithful"]["trials_nfe"] <= 48 and record["nfe"] == 24
    # Measured anew, by another formula than the library's.
    moved = np.abs(result.arrays[0].astype(int) - given)
    if isinstance(target, Psnr):
        assert abs(20 * np.log10(255 / np.sqrt((moved.astype(float) ** 2).mean())) - target.db) < 0.5
    else:
        assert abs((moved.max(-1) > 8).mean() - target.share) < 0.03


def test_a_target_out_of_reach_names_what_is_within() -> None:
    with pytest.raises(ValueError, match=r"0\.5 dB .* at strength 1 it is \d+\.\d dB, .* less is changed"):
        gaussians().edit(photo(), labels="high", faithful=Psnr(0.5), steps=8)


def test_a_target_that_was_missed_is_said() -> None:
    """One step leaves room for no cheap trial: how far off it ends is not hidden, nor said of one that came near."""
    model = gaussians()
    with pytest.warns(UserWarning, match=r"24\.0 dB asked for, \d+\.\d dB; more steps") as told:
        found = model.edit(photo(1), labels="high", faithful=Psnr(24), steps=1, seed=3).records[0]
    assert abs(found["psnr"] - 24) > 0.5 and len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (
            abs(model.edit(photo(1), labels="high", faithful=Psnr(24), steps=24, seed=3).records[0]["psnr"] - 24) < 0.5
        )


def test_what_cannot_be_faithful_is_refused_before_any_work() -> None:
    model = build.plain_model()
    model.denoiser.network.register_forward_hook(lambda *_: pytest.fail("work was begun"))
    for arguments, words in (
        ({"strength": 0.5}, "strength= or faithful="),
        ({"n": 2}, "one picture"),
        ({"steps": 0}, "steps"),
    ):
        with pytest.raises(ValueError, match=words):
            model.edit(photo(), faithful=Changed(0.1), **arguments)


def test_targets_in_words() -> None:
    assert parse("10%") == Changed(0.1) and parse(" 28.5 dB") == Psnr(28.5)
    for text in ("10", "ten%", "0%", "100%", "0dB", "-3dB"):
        with pytest.raises(ValueError, match="faithful"):
            parse(text)
