"""Targets and weights against the papers' formulas, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from guided import path as paths
from guided.cond import Cond
from guided.guide import cfg
from guided.sampling import sample
from guided.tune.distilling import targets
from tests.tune.distilling.tools import mixture


def points(n: int = 64) -> torch.Tensor:
    return torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("levels", [[10.0, 4.0, 1.5], [1.5, 0.7, 0.2], [0.4, 0.1, 0.0]])
def test_the_target_is_the_papers_and_one_step_of_it_lands_where_two_do(levels: list[float]) -> None:
    teacher = cfg(3)(mixture().denoiser())
    cond = Cond(label=torch.arange(64) % 2)
    start, _, end = levels
    x = start * points()
    D = targets.jump(teacher, x, torch.tensor(levels, dtype=torch.float64)[:, None].expand(-1, 64), cond)
    two = sample(teacher, x, torch.tensor(levels), cond, solver="euler")
    published = (two - end / start * x) / (1 - end / start)
    assert torch.allclose(D, published, atol=1e-12)
    assert torch.allclose(D + end / start * (x - D), two, atol=1e-12)
    one = targets.jump(teacher, x, torch.tensor([start, end], dtype=torch.float64)[:, None].expand(-1, 64), cond)
    assert torch.allclose(one, teacher(x, torch.tensor(start), cond), atol=1e-12)
    assert not torch.allclose(one, D, atol=1e-3)


def test_images_of_a_batch_have_levels_of_their_own() -> None:
    teacher, x = mixture().denoiser(), points(4)
    levels = torch.tensor([[9.0, 2.0, 1.0, 0.5], [3.0, 1.0, 0.5, 0.2], [1.0, 0.4, 0.2, 0.0]], dtype=torch.float64)
    together = targets.jump(teacher, x, levels, Cond())
    alone = [targets.jump(teacher, x[i : i + 1], levels[:, i : i + 1], Cond()) for i in range(4)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-12)


def test_near_levels_lose_no_precision() -> None:
    """In float32, from 40 to a hair below: the quotient of the paper would lose four digits."""
    teacher, x = mixture().denoiser(), 40 * points().float()
    levels = torch.tensor([40.0, 39.9995, 39.999], dtype=torch.float64)[:, None].expand(-1, 64)
    D = targets.jump(teacher, x, levels, Cond())
    assert torch.allclose(D, teacher(x, torch.tensor(40.0), Cond()), atol=1e-4)


def test_a_student_that_is_the_exact_function_makes_half_the_steps() -> None:
    """64 -> 32 -> 16 -> 8, each student the exact target of the one before: all end at the same points."""
    path, cond = paths.karras(64, 0.02, 10.0), Cond(label=torch.arange(64) % 2)
    teacher = cfg(2)(mixture().denoiser())
    x = path[0] * points()
    end = sample(teacher, x, path, cond, solver="euler")

    def halved(before, levels):
        def student(x, sigma, cond):
            at = int((levels - float(sigma.flatten()[0])).abs().argmin())
            return targets.jump(before, x, levels[at : at + 3, None].expand(-1, len(x)), cond)

        return student

    student = teacher
    for _ in range(3):
        student, path = halved(student, path), path[::2]
        there = sample(student, x, path, cond, solver="euler")
        assert float((there - end).square().mean()) < 1e-20
    assert len(path) == 9


def test_weights_are_the_truncated_signal_to_noise_ratio() -> None:
    sigma = torch.tensor([0.1, 0.5, 1.0, 7.0], dtype=torch.float64)
    assert targets.weight(sigma).tolist() == pytest.approx([100.0, 4.0, 1.0, 1.0])
    error = torch.full((4, 3, 2, 2), 0.5)
    assert targets.squared(error, torch.zeros_like(error), sigma).tolist() == pytest.approx([25.0, 1.0, 0.25, 0.25])


@pytest.mark.parametrize(
    ("t", "tick", "r"),
    [(1.0, 0, 0.0), (1.0, 3, 0.8030297), (0.1, 3, 0.0640625), (10.0, 0, 4.9981841), (10.0, 7, 9.9609233)],
)
def test_ect_brings_its_levels_closer_tick_by_tick(t: float, tick: int, r: float) -> None:
    by_hand = t * max(0.0, 1 - (1 + 8 / (1 + math.exp(t))) / 2 ** (tick + 1))
    found = float(targets.nearer(torch.tensor([t], dtype=torch.float64), tick))
    assert found == pytest.approx(by_hand, rel=1e-12)
    if t != 0.1:
        assert found == pytest.approx(r, abs=1e-6)


def test_the_gap_never_closes_and_never_widens() -> None:
    t = torch.logspace(-2, 2, 50, dtype=torch.float64)
    found = torch.stack([targets.nearer(t, tick) for tick in range(8)])
    assert bool((found < t).all()) and bool((found.diff(dim=0) >= 0).all()) and bool((found >= 0).all())


def test_ects_loss_is_a_length_over_the_gap() -> None:
    target = torch.zeros(2, 3, 4, 4)
    found = torch.stack([torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), 1.0)])
    t, r = torch.tensor([2.0, 4.0]), torch.tensor([1.0, 0.0])
    assert targets.huber(found, target, t, r).tolist() == pytest.approx([0.5, 0.25], rel=2e-3)
    assert targets.huber(target, target, t, r).tolist() == [0.0, 0.0]
