"""Students that learn, held against a teacher in closed form."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from guided import path as paths
from guided.cond import Cond
from guided.denoiser import Denoise, Denoiser
from guided.guide import cfg, dial
from guided.sampling import sample
from guided.solvers import Fitted
from guided.tune.calibration import calibrate
from guided.tune.distilling import teaching
from guided.tune.distilling.course import Course
from guided.tune.distilling.rollout import Rollout, finer
from guided.tune.distilling.stages import Stage
from guided.tune.distilling.teaching import Lesson
from tests.tune.distilling.tools import mixture, plane

N = 512


def learn(
    student: Denoiser,
    teach: Denoise,
    stage: Stage,
    course: Course,
    updates: int,
    lr: float = 3e-3,
    rollout: Rollout | None = None,
) -> None:
    """Adam with the losses of a stage; the learning rate falls to 0."""
    data = mixture()
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    lesson = Lesson(stage, teach, data=False, seed=0, rollout=rollout)
    for at in range(updates):
        draw = torch.Generator().manual_seed(at)
        label = torch.randint(0, 2, (N,), generator=draw)
        x0 = torch.stack([data.sample(N, draw, c).float() for c in (0, 1)])[label, torch.arange(N)]
        noise = torch.randn(N, 2, generator=draw)
        weight = 1 + 3 * torch.rand(N, generator=draw)
        levels = course.drawn(stage, 0, range(at * N, (at + 1) * N))
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - at / updates)
        optimizer.zero_grad()
        for losses in lesson.losses(student, x0, noise, levels, Cond(label=label, guidance=weight), at * N):
            losses.mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def guided_oracle(x: torch.Tensor, sigma: torch.Tensor, cond: Cond) -> torch.Tensor:
    assert cond.guidance is not None
    plain = dataclasses.replace(cond, guidance=None)
    return cfg(cond.guidance.double())(mixture().denoiser())(x.double(), sigma, plain).to(x.dtype)


def test_guidance_becomes_an_input_and_steps_are_halved() -> None:
    """One evaluation matches the guided oracle at w = 1, 2, 4; then 64 -> 32 -> 16 -> 8 steps end where 64 do."""
    torch.set_num_threads(1)
    course = Course(paths.karras(64, 0.02, 10.0))
    student = plane()
    learn(student, guided_oracle, Stage("guidance", 0, 0, 1), course, 1500)
    label = torch.arange(1000) % 2
    x = course.path[0].float() * torch.randn(1000, 2, generator=torch.Generator().manual_seed(7))
    draw = torch.Generator().manual_seed(3)
    of_class = torch.stack([mixture().sample(1000, draw, c).float() for c in (0, 1)])[label, torch.arange(1000)]
    with torch.no_grad():
        for w in (1.0, 2.0, 4.0):
            for sigma in (0.1, 0.5, 2.0, 8.0):
                at = of_class + sigma * x / 10
                cond = Cond(label=label)
                wanted = cfg(w)(mixture().denoiser())(at, torch.tensor(sigma), cond)
                found = dial(w)(student)(at, torch.tensor(sigma), cond)
                assert float((found - wanted).square().mean()) < 3e-3, (w, sigma)
    for moves in (32, 16, 8):
        teacher = teaching.frozen(student)
        learn(student, teacher, Stage("halving", moves, 0, 1), course, 500, 1e-3)
        with torch.no_grad():
            ends = [
                sample(dial(3.0)(who), x, course.levels(n), Cond(label=label), solver="euler")
                for who, n in ((teacher, 2 * moves), (student, moves))
            ]
        assert float((ends[0] - ends[1]).square().mean()) < 1e-3, moves


def test_consistency_leads_where_the_guided_path_ends_in_one_step() -> None:
    torch.set_num_threads(1)
    course, updates = Course(paths.karras(64, 0.02, 10.0)), 800
    student = plane()
    learn(student, guided_oracle, Stage("guidance", 0, 0, 1), course, 600)
    stage = Stage("consistency", 0, 0, updates * N)
    label = torch.arange(1000) % 2
    x = course.path[0].float() * torch.randn(1000, 2, generator=torch.Generator().manual_seed(7))
    cond = Cond(label=label)
    end = sample(cfg(2)(mixture().denoiser()), x, paths.karras(200, 0.02, 10.0), cond, solver="heun")

    def astray(path: torch.Tensor) -> float:
        with torch.no_grad():
            return float((sample(dial(2.0)(student), x, path, cond, solver="euler") - end).square().mean())

    before = astray(course.levels(1))
    learn(student, guided_oracle, stage, course, updates, 2e-3)
    assert astray(course.levels(1)) < 0.15 * before


def test_four_steps_of_a_student_end_where_the_guided_teacher_does() -> None:
    """A student of the guided D with four fitted steps is astray; drawing whole pictures leads it to the teacher's."""
    torch.set_num_threads(1)
    course, label = Course(paths.karras(64, 0.02, 10.0)), torch.arange(1000) % 2
    student = plane()
    learn(student, guided_oracle, Stage("guidance", 0, 0, 1), course, 1500)
    draw = torch.Generator().manual_seed(5)
    told = Cond(label=label[:64], guidance=torch.full((64,), 3.0))
    found = calibrate(
        teaching.frozen(student), 10 * torch.randn(64, 2, generator=draw), 0.02, 10.0, 4, told, w=3.0, fitted=True
    )
    assert isinstance(found.solver, Fitted)
    x = 10 * torch.randn(1000, 2, generator=torch.Generator().manual_seed(7))
    cond, long = Cond(label=label), paths.karras(200, 0.02, 10.0)
    ends = {w: sample(cfg(w)(mixture().denoiser()), x, long, cond, solver="heun") for w in (1.0, 2.0, 3.0, 4.0)}

    def astray(w: float) -> float:
        return float((sample(dial(w)(student), x, found.levels, cond, solver=found.solver) - ends[w]).square().mean())

    before = {w: astray(w) for w in ends}
    rollout = Rollout(guided_oracle, found.solver, 0.02)
    learn(student, guided_oracle, Stage("trajectory", 0, 0, 1), course, 600, 1e-3, rollout)
    after = {w: astray(w) for w in ends}
    # Where the steps were fitted little is left to gain, beyond it much; what the small network misses stays.
    assert all(after[w] < 0.7 * before[w] for w in ends) and after[4.0] < 0.25 * before[4.0]


def test_a_path_is_cut_by_equal_ratios_and_the_teacher_is_seen_at_the_students_levels() -> None:
    fine = finer((10.0, 2.0, 0.5, 0.0), 4, 0.02)
    assert fine[::4].tolist() == [10.0, 2.0, 0.5, 0.0] and float(fine[-2]) == pytest.approx(0.02)
    assert (fine[1:5] / fine[:4]).tolist() == pytest.approx([0.2**0.25] * 4)
    assert bool((fine.diff() < 0).all()) and bool((finer((1.0, 0.01, 0.0), 4, 0.02).diff() < 0).all())
    x = 10 * torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    cond = Cond(label=torch.arange(500) % 2, guidance=torch.linspace(1, 4, 500))
    solver = Fitted((10.0, 2.0, 0.5, 0.0), ((), (), ()), (0.0,) * 3)
    goals = Rollout(guided_oracle, solver, 0.02).goals(x, cond)
    for goal, low in zip(goals, (2.0, 0.5, 0.0), strict=True):
        levels = torch.tensor([*torch.logspace(1, -1.7, 300, dtype=torch.float64).tolist(), 0.0])
        levels = torch.cat([levels[levels > low], torch.tensor([low], dtype=torch.float64)])
        truth = sample(guided_oracle, x, levels, cond, solver="heun")
        assert float((goal - truth).square().mean().sqrt()) < 0.02


def test_each_step_is_measured_where_the_student_came_to_itself() -> None:
    """Losses in float64 by hand: of a student D = a x, by Euler's steps, against a teacher whose D is always 0."""
    solver, a = Fitted((4.0, 1.0, 0.5, 0.0), ((), (), ()), (0.0,) * 3), torch.tensor(0.3, dtype=torch.float64)
    x = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rollout = Rollout(lambda x, sigma, cond: torch.zeros_like(x), solver, 0.1)
    found = list(rollout.losses(lambda x, sigma, cond: a * x, 4 * x, Cond()))
    state, teacher = 4 * x, 4 * x
    for loss, (here, there) in zip(found, itertools.pairwise(solver.levels), strict=True):
        ratio = there / here
        state, teacher = a * state + ratio * (1 - a) * state, ratio * teacher
        missed = (state - teacher) / (1 - ratio)
        weight = max(1.0, 1 / here**2)
        assert torch.allclose(loss, weight * missed.square().flatten(1).mean(1), rtol=1e-9, atol=0)
