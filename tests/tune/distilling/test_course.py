"""Levels and stages: where, for how long, in which order."""

from __future__ import annotations

import itertools

import pytest
import torch

from guided import path as paths
from guided.tune import Settings
from guided.tune.distilling.course import Course
from guided.tune.distilling.stages import Stage, stages

COURSE = Course(paths.default(32, 0.02, 40.0, 4.0))


def test_a_course_is_its_path_and_falls_between() -> None:
    u = torch.arange(33, dtype=torch.float64) / 32
    assert torch.allclose(COURSE.at(u), COURSE.path, atol=1e-12)
    fine = COURSE.at(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert bool((fine.diff() < 0).all()) and float(fine[-1]) == 0
    assert torch.equal(COURSE.levels(4), COURSE.path[::8])


@pytest.mark.parametrize(("kind", "moves", "rows"), [("guidance", 32, 2), ("halving", 4, 3)])
def test_a_stage_stands_on_its_own_levels_mostly(kind: str, moves: int, rows: int) -> None:
    found = COURSE.drawn(Stage(kind, moves, 0, 4000), 0, range(4000))
    assert found.shape == (rows, 4000) and bool((found.diff(dim=0) < 0).all())
    own = COURSE.levels(moves)
    on = (found[0][:, None] - own[None]).abs().amin(1) < 1e-9
    assert 0.7 < float(on.double().mean()) < 0.8
    # On the path the moves are those of the path, every one of them equally often.
    if kind == "halving":
        longer = COURSE.levels(2 * moves)
        counts = []
        for at in range(moves):
            here = on & ((found[0] - own[at]).abs() < 1e-9)
            assert torch.allclose(found[:, here], longer[2 * at : 2 * at + 3, None].expand(-1, int(here.sum())))
            counts.append(int(here.sum()))
        assert max(counts) < 1.2 * min(counts)


def test_levels_are_functions_of_seed_and_counter() -> None:
    stage = Stage("halving", 8, 0, 100)
    whole = COURSE.drawn(stage, 5, range(64))
    assert torch.equal(whole[:, 16:32], COURSE.drawn(stage, 5, range(16, 32)))
    assert not torch.equal(whole, COURSE.drawn(stage, 6, range(64)))


def test_every_level_means_the_whole_range() -> None:
    found = COURSE.drawn(Stage("consistency", 0, 0, 100), 0, range(2000))[0]
    assert float(found.max()) > 39 and 0.012 < float(found.min()) < 0.025


def test_progressive_is_guidance_then_halvings_twice_as_long_each() -> None:
    found = stages(Settings(method="progressive", images=32_000, batch=32), guided=True)
    assert [(stage.kind, stage.moves) for stage in found] == [
        ("guidance", 32), ("halving", 16), ("halving", 8), ("halving", 4),
    ]  # fmt: skip
    assert found[0].begin == 0 and found[-1].end == 32_000
    assert all(a.end == b.begin for a, b in itertools.pairwise(found))
    assert all(stage.end % 32 == 0 and stage.images > 0 for stage in found)
    assert found[2].images / found[1].images == pytest.approx(2, abs=0.05)
    unguided = stages(Settings(method="progressive", images=32_000), guided=False)
    assert [stage.kind for stage in unguided] == ["halving"] * 3 and unguided[0].begin == 0


def test_a_trajectory_follows_guidance_where_there_is_a_guide() -> None:
    found = stages(Settings(images=24_000, batch=32), guided=True)
    assert [(stage.kind, stage.begin, stage.end) for stage in found] == [
        ("guidance", 0, 16_000), ("trajectory", 16_000, 24_000),
    ]  # fmt: skip
    assert [stage.kind for stage in stages(Settings(), guided=False)] == ["trajectory"]


def test_other_methods_have_one_stage_and_tiny_runs_a_batch_each() -> None:
    assert [s.kind for s in stages(Settings(method="guidance"), True)] == ["guidance"]
    assert [s.kind for s in stages(Settings(method="consistency"), False)] == ["consistency"]
    tiny = stages(Settings(method="progressive", images=8, batch=8), True)
    assert [stage.images for stage in tiny] == [8, 8, 8, 8]


def test_the_teachers_steps_are_a_power_of_two_times_the_students() -> None:
    assert [Settings(method="progressive", steps=n).long for n in (1, 2, 4, 6, 8, 40)] == [32, 32, 32, 48, 32, 40]
    assert [s.moves for s in stages(Settings(method="progressive", steps=6), True)] == [48, 24, 12, 6]
    with pytest.raises(ValueError, match="nothing is left to distil"):
        stages(Settings(method="progressive", steps=32), guided=False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "adversarial"}, "method: expected one of trajectory, progressive, guidance, consistency"),
        ({"steps": 0}, "steps: expected a whole number >= 1"),
        ({"steps": 1}, "steps: a trajectory has at least 2, got 1; for one step ask for method consistency"),
        ({"images": 2.5}, "images"),
        ({"lr": 0}, "lr: expected a number above 0"),
        ({"drop": 1}, "drop"),
        ({"w_range": (3.0, 1.0)}, "w_range: expected a lower and a higher weight"),
        ({"steps": 4, "teacher_steps": 24}, "4 steps times a power of two, such as 32"),
        ({"precision": "fp16"}, "precision: expected one of float32, bf16"),
    ],
)
def test_bad_settings_are_named(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Settings(**given)
