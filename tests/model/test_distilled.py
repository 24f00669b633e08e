"""A distilled model: its dial, its path, its card, and every verb of a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from guided.guide import cfg, dial, perturbed, rescale
from guided.model import Model
from guided.model.distilled import Distilled, falling
from guided.model.request import Request, plan
from guided.tasks import FlowEdit, Inversion
from tests.model import build

LEVELS = [20.0, 5.0, 1.0, 0.3, 0.0]
SAID = {"method": "progressive", "guide": "cfg(3)", "steps": 4, "w": [1.0, 4.0]}


def student(said: dict[str, Any] | None = None, **changes: Any) -> Model:
    found = {"4": {"levels": LEVELS, "solver": "euler", "w": 3.0}}
    card = {"classes": build.CLASSES, "distilled": {**SAID, **(said or {})}, "calibrated": found}
    card["defaults"] = {"steps": 4, "w": 3.0, "solver": "euler"}
    if card["distilled"]["method"] == "trajectory":
        rows = [[], [-0.2], [-0.1, 0.0], [-0.3, 0.1]]
        found["4"] |= {"solver": "fitted", "weights": rows, "limits": [0.1, 0.2, 0.3, 0.4]}
        del card["defaults"]["solver"]
    return build.model("tiny-class", card=card, **{"guidance": True, **changes})


def test_a_weight_is_its_dial_in_one_evaluation_a_step_on_its_own_path() -> None:
    model = student()
    for given in ({"w": 2.0}, {"guide": "cfg(2)"}, {"guide": cfg(2.0)}, {"guide": "dial(2)"}):
        found = plan(model, Request(labels="cat", **given))
        assert repr(found.guide) == "dial(2)" and found.w == 2.0
        assert found.path.tolist() == LEVELS and found.solver == "euler"
    record = model.generate(labels="cat", w=2).records[0]
    assert record["nfe"] == 4 and record["guide"] == "dial(2)" and record["w"] == 2.0
    assert plan(model, Request(labels="cat")).w == 3.0
    assert plan(model, Request(labels="cat", w=1.0)).path.tolist() == LEVELS
    assert plan(model, Request(labels="cat", solver="heun")).path.tolist() == LEVELS


def test_the_dial_is_monotone_where_the_network_is() -> None:
    model = student()
    drawn = [model.generate(labels="cat", w=w, seed=5).tensor for w in (1.0, 1.01, 1.05)]
    near, far = (float((other - drawn[0]).abs().mean()) for other in drawn[1:])
    assert 0 < near < far


def test_other_terms_keep_their_meaning_beside_the_dial() -> None:
    model = student()
    found = plan(model, Request(labels="cat", guide=cfg(2).during(0.2, 5) + perturbed("identity", 1) >> rescale(0.7)))
    assert repr(found.guide) == "dial(2).during(0.2, 5) + perturbed('identity', 1) >> rescale(0.7)"
    per_image = plan(model, Request(labels="cat", n=2, guide=dial(torch.tensor([1.0, 2.0]))))
    assert per_image.w is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"w": 4.5}, "learnt guidance weights from 1 to 4, got 4.5; .* --w-range 1,4.5"),
        ({"w": 0.0}, "from 1 to 4, got 0"),
        ({"guide": "cfg(7) >> rescale(0.7)"}, "got 7"),
        ({"guide": dial(torch.tensor([1.0, 9.0])), "n": 2}, "got 9"),
        ({"w": 2.0, "negative": "dog"}, r"is distilled: .*leave out negative="),
        ({"guide": cfg(2, drop={"aug"})}, "leave out negative= .* and drop="),
    ],
)
def test_what_it_did_not_learn_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        student().generate(labels="cat", **given)


def test_one_without_a_dial_is_given_no_weight() -> None:
    model = student({"w": None, "guide": "perturbed('identity', 1)"}, guidance=False)
    found = plan(model, Request(labels="cat"))
    assert found.guide is None and found.w is None and found.path.tolist() == LEVELS
    for given in ({"w": 2.0}, {"guide": "cfg(2)"}, {"negative": "dog"}):
        with pytest.raises(ValueError, match="folded in, which leaves it no dial"):
            plan(model, Request(labels="cat", **given))


def test_a_model_that_is_not_distilled_has_no_dial() -> None:
    with pytest.raises(ValueError, match=r"it has no dial; write cfg\(2\)"):
        build.class_model().generate(labels="cat", guide="dial(2)")


def test_a_consistency_model_is_noised_anew_at_every_level() -> None:
    model = student({"method": "consistency"})
    found = plan(model, Request(labels="cat"))
    assert found.path.tolist() == [20.0, 0.0, 5.0, 0.0, 1.0, 0.0, 0.3, 0.0]
    assert falling(found.path).tolist() == LEVELS and falling(torch.tensor(LEVELS)).tolist() == pytest.approx(LEVELS)
    assert model.generate(labels="cat").records[0]["nfe"] == 4


@pytest.mark.parametrize("method", ["trajectory", "progressive", "consistency", "guidance"])
def test_every_verb_works_and_keeps_what_a_mask_keeps(method: str) -> None:
    model = student({"method": method})
    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    edited = model.edit(photo, labels="cat", strength=0.5, w=2)
    assert edited.records[0]["nfe"] == 4 and edited.records[0]["guide"] == "dial(2)"
    for resample in (1, 2):
        filled = model.inpaint(photo, labels="dog", mask=(0, 0, 8, 16), resample=resample)
        assert np.array_equal(np.asarray(filled[0])[:, 8:], photo[:, 8:])
    wider = model.outpaint(photo, labels="dog", expand=(4, 0, 4, 0))
    assert np.asarray(wider[0]).shape == (16, 24, 3)
    for by in (FlowEdit("cat"), Inversion("cat")):
        assert model.edit(photo, labels="dog", by=by, w=1.5).tensor.isfinite().all()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"method": "magic"}, "distilled.method: expected one of trajectory, progressive"),
        ({"guide": 3}, "distilled.guide: expected a text or null"),
        ({"steps": 0}, "distilled.steps: expected a whole number"),
        ({"w": [4, 1]}, "distilled.w: expected the least and the largest"),
        ({"w": "all"}, "distilled.w"),
    ],
)
def test_a_card_that_lies_is_refused(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Distilled.of({**SAID, **said})
    with pytest.raises(ValueError, match=words):
        student(said)
    assert Distilled.of(Distilled.of(SAID).card()) == Distilled.of(SAID)


def test_a_card_with_weights_needs_a_network_that_is_told_them() -> None:
    with pytest.raises(ValueError, match="the network is told none"):
        student(guidance=False)
