"""Each method of guidance against the formula of its paper in float64."""

from __future__ import annotations

import pytest
import torch

from guided.guide import (
    Guide,
    Term,
    apg,
    cfg,
    clip,
    frequency,
    gradient,
    mmps,
    perturbed,
    pigdm,
    rescale,
    tfg,
    threshold,
)
from tests.guide.methods import BOX, BOX_Y, METHODS, NOISY, Method, formula, misfit
from tests.guide.problem import F64, At, Counting, Net, batch

ALL = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
LEVELS = [(4.0, 2.5), (1.3, 0.8), (0.3, 0.0)]


def level(sigma: float) -> torch.Tensor:
    return torch.tensor(sigma, dtype=F64)


def test_there_are_at_least_24() -> None:
    assert len(METHODS) >= 24


@ALL
@pytest.mark.parametrize(("s", "t"), LEVELS)
def test_a_method_is_the_formula_of_its_paper(method: Method, s: float, t: float) -> None:
    x, cond = batch()
    found = method.guide(Net()).evaluate(x, level(s), cond, level(t), None)[0]
    assert torch.allclose(found, formula(At(Net(), x, s, t, cond), method), rtol=1e-9, atol=1e-9)


@ALL
def test_a_method_changes_the_estimate_at_its_default(method: Method) -> None:
    x, cond = batch()
    found = method.guide(Net()).evaluate(x, level(1.3), cond, level(0.8), None)[0]
    assert ((found - Net()(x, level(1.3), cond)).flatten(1).abs().amax(1) > 1e-3).all()


DEFAULTS = {
    "perturbed": [perturbed("identity"), perturbed("blur"), perturbed("skip")],
    "gradient": [gradient(NOISY), gradient(NOISY, "x"), tfg(misfit)],
    "observation": [pigdm(BOX, BOX_Y, 0.1, 1), mmps(BOX, BOX_Y, 0.1)],
    "shaping": [cfg(3) >> shape for shape in (apg(), frequency(), rescale(), threshold(), clip())],
}


@pytest.mark.parametrize("guides", DEFAULTS.values(), ids=DEFAULTS)
def test_so_does_one_of_which_nothing_is_said(guides: list[Guide | Term]) -> None:
    x, cond = batch()
    for guide in guides:
        plain = Guide(guide.terms) if isinstance(guide, Guide) else cfg(1)
        moved = guide(Net())(x, level(1.3), cond) - plain(Net())(x, level(1.3), cond)
        assert (moved.flatten(1).abs().amax(1) > 1e-3).all(), guide


NEUTRAL = {name: method.neutral for name, method in METHODS.items() if method.neutral is not None}


@torch.no_grad()
@pytest.mark.parametrize("guide", NEUTRAL.values(), ids=NEUTRAL)
def test_a_neutral_guide_is_bitwise_the_conditional_model_with_one_evaluation(guide: Guide | Term) -> None:
    x, cond = batch()
    for sigma in (level(1.3), torch.tensor([0.3, 1.3, 4.0], dtype=F64)):
        net = Counting(Net())
        assert torch.equal(guide(net)(x, sigma, cond), Net()(x, sigma, cond))
        assert net.rows == [3]
