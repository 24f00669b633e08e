"""What a network is told of the pictures it is shown: task, level, and the disturbance itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from guided import Cond, Noise, degrade
from guided.degrade import Augment, Translation
from guided.degrade.quality import gaussian
from tests.degrade.test_tasks import picture

QUARTET = Translation(tuple(degrade.parse(word) for word in ("colourise", "inpaint", "uncrop", "jpeg")))
LARGER = Translation((degrade.Down(4),), Augment("noise", 0.5, 0.1))


def test_a_sample_is_the_same_in_any_company() -> None:
    x0 = torch.stack([picture(seed) for seed in range(6)])
    cond, known = QUARTET.taught(x0, [10, 11, 12, 13, 14, 15], Cond(), "train")
    alone, _ = QUARTET.taught(x0[3:4], [13], Cond(), "train")
    assert cond.label is not None and cond.image is not None and alone.image is not None and alone.label is not None
    assert torch.equal(cond.image[3].nan_to_num(9), alone.image[0].nan_to_num(9)) and cond.label[3] == alone.label[0]
    for number, there in zip(cond.label.tolist(), known, strict=True):
        assert QUARTET.tasks[number].holes == (there is not None)
    assert cond.aug is None and QUARTET.presence and not LARGER.presence


def test_all_tasks_come_up_evenly() -> None:
    x0 = torch.zeros(400, 3, 8, 8)
    label = QUARTET.taught(x0, list(range(400)), Cond(), "train")[0].label
    assert label is not None
    counts = torch.bincount(label, minlength=4)
    assert int(counts.min()) > 70, counts  # 100 expected, std 8.7


def test_the_network_is_told_the_noise_that_was_put_on() -> None:
    x0 = torch.zeros(300, 1, 16, 16)
    cond, _ = LARGER.taught(x0, list(range(300)), Cond(), "train")
    assert cond.image is not None and cond.aug is not None and cond.label is None
    measured = cond.image.double().flatten(1).std(1)
    assert float((measured / cond.aug - 1).abs().mean()) < 0.06
    # Even on [0, 0.5].
    assert float(cond.aug.max()) < 0.5 and float(cond.aug.mean()) == pytest.approx(0.25, abs=0.03)
    quiet, _ = LARGER.taught(x0[:2], [0, 1], Cond(), "train", disturb=False)
    assert quiet.aug is not None and quiet.image is not None
    assert not bool(quiet.aug.any()) and not bool(quiet.image.any())


def test_a_blur_is_put_on_by_its_level() -> None:
    x = torch.stack([picture(0), picture(1)])
    found = Augment("blur", 3.0, 1.0)(x, torch.tensor([0.0, 1.5]), torch.zeros_like(x))
    assert torch.equal(found[0], x[0]) and torch.equal(found[1], gaussian(x[1], 1.5))


def test_words_stay_and_the_null_keeps_picture_and_task() -> None:
    x0 = torch.zeros(2, 3, 8, 8)
    words = Cond(vector=torch.ones(2, 5))
    cond, _ = QUARTET.taught(x0, [1, 2], words, "train")
    null = cond.null(QUARTET.dropped)
    assert null.label is not None and null.image is not None and null.vector is not None and cond.label is not None
    assert torch.equal(null.label, cond.label) and bool(null.vector.isnan().all())
    assert LARGER.dropped == {"label", "tokens", "vector"}


def test_noise_of_a_call_is_counted() -> None:
    x = torch.zeros(2, 3, 8, 8)
    told = LARGER.told(x, Cond(), [0, 0], [0.2, 0.2], Noise([4, 5]))
    alone = LARGER.told(x[:1], Cond(), [0], [0.2], Noise([5]))
    assert told.image is not None and alone.image is not None
    assert torch.equal(told.image[1], alone.image[0]) and not torch.equal(told.image[0], told.image[1])


def test_a_card_holds_all_of_it() -> None:
    for translation in (QUARTET, LARGER):
        again = Translation.of(translation.card())
        assert repr(again) == repr(translation)
    assert LARGER.down is not None and QUARTET.down is None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"tasks": "jpeg"}, "expected tasks and augment"),
    ({"tasks": []}, "one or several different ones"),
    ({"tasks": ["jpeg", "jpeg"]}, "different ones"),
    ({"tasks": ["pairs", "jpeg"]}, "train them apart"),
    ({"tasks": ["jpeg"], "augment": {"kind": "salt"}}, "noise or blur"),
    ({"tasks": ["jpeg"], "augment": {"level": 2, "most": 1}}, "level <= most"),
    ({"tasks": ["jpeg"], "augment": {"sort": 2}}, "translate.augment"),
    ({"tasks": ["jpeg"], "augment": 5}, "translate.augment: expected kind, most and level, got 5"),
    ({"tasks": ["jpeg"], "augment": {"most": "x"}}, "level 0.1, most 'x'"),
    ({"tasks": ["down(4)", "photo(4)"]}, "at most one of down and photo"),
    ({"tasks": ["inpaint"], "augment": {"kind": "blur"}}, "cannot be blurred"),
    ({"tasks": ["jpeg"], "more": 1}, "expected tasks and augment"),
]


@pytest.mark.parametrize(("values", "said"), WRONG)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Translation.of(values)
    assert math.isfinite(LARGER.augment.level if LARGER.augment else math.nan)
