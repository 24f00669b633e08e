"""As few evaluations as a guide allows, counted by hand: rows a call, and which of the calls autograd watches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from guided import path
from guided.cond import Cond
from guided.denoiser import Denoise
from guided.guide import (
    Guide,
    Term,
    apg,
    between,
    cfg,
    cfgpp,
    class_log_prob,
    compose,
    gradient,
    independent,
    mmps,
    nested,
    perp_neg,
    perturbed,
    pigdm,
    project,
    rescale,
    tfg,
    threshold,
)
from guided.sampling import sample
from tests.guide.methods import BANK, BOX, BOX_Y, MASK, MASK_Y, NOISY, bowl, one
from tests.guide.problem import F64, Counting, Net, batch

NO, NEG, TWO = one(3), one(3), nested((3, {"label"}), (1.5, {"image"}))
Make = Callable[[Denoise], Guide | Term]
# (the rows of each call, those of the weak network, the calls that are differentiated)
TABLE: dict[str, tuple[Make, list[int], list[int], int]] = {
    "cfg": (lambda weak: cfg(3), [2], [], 0),
    "the null alone": (lambda weak: cfg(0), [1], [], 0),
    "neutral": (lambda weak: cfg(1) + perturbed("skip", 0) + 0 * gradient(NOISY), [1], [], 0),
    "outside its interval": (lambda weak: cfg(3).during(2, 9) + gradient(NOISY).during(2, 9), [1], [], 0),
    "weights that cancel": (lambda weak: cfg(3) + cfg(-1), [1], [], 0),
    "shared null": (lambda weak: cfg(3) + cfg(2), [2], [], 0),
    "another null": (lambda weak: cfg(3) + cfg(2, negative=NEG), [3], [], 0),
    "one negative twice": (lambda weak: cfg(3, negative=NEG) + cfg(2, negative=NEG), [2], [], 0),
    "compose": (lambda weak: compose([(NO, 2), (NEG, 1.5)]), [3], [], 0),
    "compose without its null": (lambda weak: compose([(NO, 2), (NEG, -1)]), [2], [], 0),
    "compose beside cfg": (lambda weak: compose([(NO, 2)]) + cfg(3), [3], [], 0),
    "nested": (lambda weak: TWO, [3], [], 0),
    "nested without its text": (lambda weak: nested((1, {"label"}), (1.5, {"image"})), [3], [], 0),
    "nested without its image": (lambda weak: nested((3, {"label"}), (1, {"image"})), [2], [], 0),
    "nested beside cfg": (lambda weak: TWO + cfg(3), [3], [], 0),
    "autoguidance": (lambda weak: between(weak, 2), [1], [1], 0),
    "autoguidance twice": (lambda weak: between(weak, 2) + between(weak, 2), [1], [1], 0),
    "autoguidance beside cfg": (lambda weak: between(weak, 2) + cfg(3), [2], [1], 0),
    "independent": (lambda weak: independent(3, BANK), [2], [], 0),
    "perturbed": (lambda weak: perturbed("identity"), [1, 1], [], 0),
    "perturbed twice": (lambda weak: perturbed("identity") + 2 * perturbed("identity"), [1, 1], [], 0),
    "perturbed two ways": (lambda weak: perturbed("identity") + perturbed("blur"), [1, 1, 1], [], 0),
    "perturbed beside cfg": (lambda weak: perturbed("identity") + cfg(3), [2, 1], [], 0),
    "perp-neg": (lambda weak: perp_neg(3, (NO, 1), (NEG, 0.5)), [4], [], 0),
    "perp-neg of nothing": (lambda weak: perp_neg(3, (NO, 0)), [2], [], 0),
    "perp-neg beside cfg": (lambda weak: perp_neg(3, (NEG, 1)) + cfg(3) + cfg(2, negative=NEG), [3], [], 0),
    "a classifier of x": (lambda weak: cfg(0) + gradient(NOISY, reads="x"), [1], [], 0),
    "a classifier of x beside cfg": (lambda weak: cfg(3) + gradient(NOISY, reads="x"), [2], [], 0),
    "a classifier of D": (lambda weak: gradient(NOISY), [1], [], 1),
    "a classifier of D from the null": (lambda weak: cfg(0) + gradient(NOISY), [1, 1], [], 1),
    "pushes": (
        lambda weak: gradient(NOISY) + tfg(bowl) + pigdm(BOX, BOX_Y, 0.1, 1) + mmps(BOX, BOX_Y, 0.1), [1], [], 1
    ),
    "pushes beside cfg": (lambda weak: cfg(3) + perturbed("skip") + gradient(NOISY) + tfg(bowl), [1, 1, 1], [], 1),
    "mean guidance": (lambda weak: tfg(bowl, rho=0, mu=0.1) + cfg(3), [2], [], 0),
    "exact": (lambda weak: project(MASK, MASK_Y), [1], [], 0),
    "shaped": (lambda weak: cfg(3) >> apg() >> rescale(), [2], [], 0),
    "shaped null": (lambda weak: cfg(0) >> rescale(), [2], [], 0),
    "thresholded null": (lambda weak: cfg(0) >> threshold(), [1], [], 0),
    "shaped neutral": (lambda weak: cfg(1) >> apg() >> rescale(), [1], [], 0),
    "everything": (
        lambda weak: cfg(3) + TWO + between(weak, 2) + perturbed("skip") + gradient(NOISY) + project(MASK, MASK_Y),
        [2, 1, 1], [1], 1,
    ),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("make", "rows", "weak_rows", "graphs"), TABLE.values(), ids=TABLE)
def test_evaluations_are_the_minimum_that_was_derived_by_hand(
    make: Make, rows: list[int], weak_rows: list[int], graphs: int
) -> None:
    x, cond = batch(1)
    for sigma in (torch.tensor(1.3, dtype=F64), torch.tensor([1.3], dtype=F64)):
        net, weak = Counting(Net()), Counting(Net(9))
        make(weak)(net)(x, sigma, cond)
        assert sorted(net.rows) == sorted(rows) and weak.rows == weak_rows
        assert sum(net.graphs) == graphs and not any(weak.graphs)


NESTS: dict[str, tuple[Make, Make, list[int], list[int]]] = {
    "cfg in cfg": (lambda weak: cfg(2), lambda weak: cfg(3), [2], []),
    "cfg in the negative of cfg": (lambda weak: cfg(2, negative=NEG), lambda weak: cfg(3), [3], []),
    "a negative in cfg": (lambda weak: cfg(2), lambda weak: cfg(3, negative=NEG), [3], []),
    "a negative in a null without its image": (
        lambda weak: cfg(2, drop={"label", "image"}), lambda weak: cfg(3, negative=NEG), [4], [],
    ),
    "nested in a negative": (lambda weak: cfg(2, negative=NEG), lambda weak: TWO, [4], []),
    "autoguidance in cfg": (lambda weak: cfg(2), lambda weak: between(weak, 3), [2], [2]),
    "cfg in autoguidance": (lambda weak: between(weak, 3), lambda weak: cfg(2), [2], [1]),
    "cfg in perturbed": (lambda weak: perturbed("skip"), lambda weak: cfg(2), [2, 2], []),
    "perturbed in perturbed": (lambda weak: perturbed("skip"), lambda weak: perturbed("blur"), [1, 1, 1], []),
    "an interval in cfg": (lambda weak: cfg(2), lambda weak: cfg(3).during(2, 9), [2], []),
    "shaped in cfg": (lambda weak: cfg(2), lambda weak: cfg(3) >> rescale(), [4], []),
    "cfg in shaped": (lambda weak: cfg(2) >> rescale(), lambda weak: cfg(3), [4], []),
    "a push in cfg": (lambda weak: cfg(2), lambda weak: gradient(NOISY, reads="x"), [2], []),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("outer", "inner", "rows", "weak_rows"), NESTS.values(), ids=NESTS)
def test_guides_inside_one_another_are_what_they_are_apart_and_linear_ones_are_one_sum(
    outer: Make, inner: Make, rows: list[int], weak_rows: list[int]
) -> None:
    x, cond = batch(1)
    sigma = torch.tensor(1.3, dtype=F64)
    net, weak = Counting(Net()), Counting(Net(9))
    found = outer(weak)(inner(weak)(net))(x, sigma, cond)
    assert sorted(net.rows) == sorted(rows) and weak.rows == weak_rows

    class Apart:
        accepts = Net.accepts

        def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            return inner(Net(9))(Net())(x, sigma, cond)

    assert torch.allclose(found, outer(Net(9))(Apart())(x, sigma, cond), atol=1e-12)


def test_a_condition_in_place_of_the_calls_keeps_what_stands_beside_it() -> None:
    """As in the null, the picture to work from stays; unless the condition has its own."""
    seen: list[Cond] = []

    class Looks(Net):
        def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            seen.append(cond)
            return super().__call__(x, sigma, cond)

    x, cond = batch(3)
    sigma = torch.tensor(1.3, dtype=F64)
    cfg(2, negative=one(3))(Looks())(x, sigma, cond)
    assert seen[-1].label.tolist() == [0, 1, 2, 3, 3, 3] and torch.equal(seen[-1].image[3:], cond.image)
    own = Cond(label=torch.tensor([3]), image=cond.image[:1])
    compose([(own, 2), (one(1), 1)])(Looks())(x, sigma, cond)
    assert torch.equal(seen[-1].image[:3], cond.image[:1].expand(3, -1, -1, -1))
    assert torch.equal(seen[-1].image[3:6], cond.image) and torch.equal(seen[-1].image[6:], cond.image)
    with pytest.raises(ValueError, match="a condition of a guide has 2 images, the call 3: give one for all"):
        cfg(2, negative=own.index([0, 0]))(Net())(x, sigma, cond)


def test_a_whole_run_costs_what_the_path_and_the_intervals_say() -> None:
    x, cond = batch(1)
    net = Counting(Net())
    route = path.karras(10, 0.05, 20)
    inside = int(((route > 0.5) & (route <= 5)).sum())
    sample(cfg(3).during(0.5, 5)(net), x, route, cond, solver="dpmpp_2m")
    assert sorted(net.rows) == [1] * (10 - inside) + [2] * inside and 0 < inside < 10
    net.rows.clear()
    sample(cfgpp(0.6)(net), x, route, cond, solver="euler")
    assert net.rows == [2] * 10


def test_a_classifier_of_an_unconditional_network_costs_that_network_alone() -> None:
    x, _ = batch(1)
    net = Counting(Net())
    blind = Counting(lambda x, sigma, cond: Net()(x, sigma, Cond()))
    blind.inner.accepts = frozenset()  # type: ignore[attr-defined]
    guide = cfg(0) + gradient(class_log_prob(Net().data.class_log_prob, 1), reads="x")
    with torch.no_grad():
        guide(blind)(x, torch.tensor(1.3, dtype=F64), Cond())
    assert blind.rows == [1] and net.rows == []
