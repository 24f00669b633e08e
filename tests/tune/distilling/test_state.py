"""What a stage begins with, and what a checkpoint brings back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guided.tune.distilling.stages import stages
from guided.tune.distilling.state import State
from guided.tune.distilling.teaching import student_of
from tests.tune.distilling import tools


def state() -> State:
    settings = tools.settings(None, images=64, batch=8)
    return State(student_of(tools.teacher(), True, 0), settings, stages(settings, True))


def updates(state: State, count: int) -> None:
    for _ in range(count):
        stage = state.begin()
        for weight in state.weights:
            weight.grad = torch.ones_like(weight)
        state.step(state.rate(stage))
        state.counter += state.settings.batch


def test_a_new_stage_begins_with_a_new_optimizer_and_the_student_as_it_stands() -> None:
    there = state()
    updates(there, 4)
    assert there.before is None and there.optimizer.state and there.applied == 4
    ends = {name: value.clone() for name, value in there.student.network.state_dict().items()}
    stage = there.begin()
    assert stage.kind == "halving" and not there.optimizer.state and there.applied == 0
    updates(there, 2)
    assert there.before is not None
    assert all(torch.equal(value, ends[name]) for name, value in there.before.network.state_dict().items())
    assert any(not torch.equal(value, ends[name]) for name, value in there.student.network.state_dict().items())
    assert not any(weight.requires_grad for weight in there.before.parameters())


def test_the_rate_rises_and_falls_to_nothing_in_every_stage() -> None:
    there, rates = state(), []
    while there.counter < there.total:
        rates.append(there.rate(there.begin()))
        there.counter += 8
    falling = [1e-3 * (1 - at / 4) for at in range(4)]
    assert rates == pytest.approx([*falling, *(rate / 8 for rate in falling)])


def test_a_checkpoint_brings_back_student_teacher_and_optimizer(tmp_path: Path) -> None:
    one, other = state(), state()
    one.calibrated = {"levels": [80.0, 0.1, 0.0], "solver": "fitted", "weights": [[], [0.1]], "limits": [0.0, 1 / 3]}
    updates(one, 6)
    other.load(one.save(tmp_path))
    assert (
        other.calibrated == one.calibrated
        and other.counter == 48
        and other.applied == one.applied == 2
        and other.at == 1
    )
    assert one.before is not None and other.before is not None
    for a, b in ((one.student, other.student), (one.before, other.before)):
        assert all(map(torch.equal, a.network.state_dict().values(), b.network.state_dict().values()))
    updates(one, 2)
    updates(other, 2)
    assert all(map(torch.equal, one.student.network.state_dict().values(), other.student.network.state_dict().values()))
