"""`dial`: the weight is told to the network, in one evaluation, and composes like any term."""

from __future__ import annotations

import pytest
import torch

from guided.cond import Cond
from guided.guide import cfg, dial, perturbed, rescale
from guided.guide.expression import parse
from guided.perturbation import active


class Student:
    """Answers x + the weight it was told + 100 where it is disturbed; counts its calls and rows."""

    accepts = frozenset({"label", "guidance"})

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, cond: Cond) -> torch.Tensor:
        self.rows.append(len(x))
        weight = torch.full((len(x),), torch.nan) if cond.guidance is None else cond.guidance
        told = torch.where(weight.isnan(), 1.0, weight).to(x)
        return x + told[:, None] + (100.0 if active() is not None else 0.0)


X, SIGMA, COND = torch.zeros(3, 2, dtype=torch.float64), torch.tensor(1.0), Cond(label=torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("w", [1.0, 2.5, torch.tensor([1.0, 2.0, 3.0]), lambda s, t: 2.0 * s])
def test_the_weight_reaches_the_network_in_one_evaluation(w: object) -> None:
    student = Student()
    found = dial(w)(student)(X, SIGMA, COND)  # type: ignore[arg-type]
    expected = w(SIGMA, None) if callable(w) else w
    assert torch.equal(found, X + torch.as_tensor(expected, dtype=torch.float64).expand(3)[:, None])
    assert student.rows == [3]


def test_outside_its_interval_the_network_is_told_nothing() -> None:
    student = Student()
    term = dial(3).during(0.5, 2)
    assert torch.equal(term(student)(X, torch.tensor(1.0), COND), X + 3)
    assert torch.equal(term(student)(X, torch.tensor(3.0), COND), X + 1)
    mixed = term(student)(X, torch.tensor([0.1, 1.0, 3.0]), COND)
    assert mixed[:, 0].tolist() == [1.0, 3.0, 1.0]


def test_it_adds_up_with_other_terms_and_is_shaped_with_them() -> None:
    student = Student()
    found = (dial(3) + perturbed("identity", 0.5))(student)(X, SIGMA, COND)
    # PAG pushes away from the disturbed conditional model: 0.5 ((x + 1) - (x + 101)).
    assert torch.allclose(found, X + 3 - 50)
    assert repr(dial(3) >> rescale(0.7)) == "dial(3) >> rescale(0.7)"


def test_a_guide_around_a_dial_contrasts_the_told_network() -> None:
    student = Student()
    found = cfg(2)(dial(3)(student))(X, SIGMA, COND)
    assert torch.allclose(found, X + 3)  # with and without the label it says the same here
    assert sum(student.rows) == 6


def test_a_network_without_a_dial_is_left_as_it_is() -> None:
    student = Student()
    student.accepts = frozenset({"label"})
    assert torch.equal(dial(3)(student)(X, SIGMA, COND), X + 1)


def test_it_is_read_as_it_is_written() -> None:
    for text in ("dial(3)", "dial(2.5).during(0.3, 5)", "dial(4) + perturbed('identity', 1) >> rescale(0.7)"):
        assert repr(parse(text)) == repr(parse(repr(parse(text))))
    assert repr(parse("dial(3)")) == "dial(3)"
    with pytest.raises(ValueError, match="one an image"):
        dial(torch.ones(2, 1, 4, 4))
    with pytest.raises(TypeError):
        2 * dial(3)
