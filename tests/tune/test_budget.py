"""What is forgotten is measured as it is defined; the best state, the end and the verdict follow from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import X0, Denoiser
from guided.noise import Noise
from guided.train.loss import loss
from guided.tune.budget import Watched, best_of, ending, pull, verdict


class Affine(torch.nn.Module):
    """F(z) = gain z + shift."""

    accepts = frozenset()

    def __init__(self, gain: float, shift: float) -> None:
        super().__init__()
        # Of 64 bits from the start: 0.9 in 32 is another number, and a rise is a small difference.
        self.gain, self.shift = (torch.nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (gain, shift))

    def forward(self, z: Tensor, level: Tensor, cond: Cond) -> Tensor:
        return self.gain * z + self.shift


def denoiser(gain: float, shift: float) -> Denoiser:
    return Denoiser(Affine(gain, shift), X0(), 0.01, 10.0).double()


def objective(*given: Any) -> Tensor:
    denoise, *rest = given
    return loss(denoise, lambda sigma: 2 + sigma, *rest)


def test_forgotten_is_the_rise_of_the_loss_and_moved_the_change_of_the_estimates() -> None:
    x0 = torch.randn(5, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigmas, seeds = [0.1, 1.0, 3.0], [3, 4, 5, 6, 7]
    watched = Watched(x0, Cond(), sigmas, seeds)
    base, tuned = denoiser(0.9, 0.0), denoiser(0.8, 0.1)
    assert not watched.learnt
    watched.learn(base, objective)
    found = watched(tuned, objective)
    noise = Noise(seeds, "tune/watched")(0, (2, 4, 4)).double()
    before, after, moved = 0.0, 0.0, 0.0
    for sigma in sigmas:
        z = (x0 + sigma * noise) / (1 + sigma**2) ** 0.5
        a, b = 0.9 * z, 0.8 * z + 0.1
        before += (2 + sigma) * float((a - x0).square().mean())
        after += (2 + sigma) * float((b - x0).square().mean())
        moved += (2 + sigma) * float((b - a).square().mean())
    assert found.rise == pytest.approx(after / before - 1, rel=1e-9)
    assert found.moved == pytest.approx(moved / before, rel=1e-9)
    same = watched(base, objective)
    assert (same.rise, same.moved) == (0.0, 0.0)


def check(images: int, held: float, forgotten: float | None = None) -> dict[str, Any]:
    return {"images": images, "held_out": held} | ({} if forgotten is None else {"forgotten": forgotten})


def test_the_best_state_lies_within_the_budget_or_forgot_least() -> None:
    checks = [check(1, 5.0, 0.3), check(2, 3.0, 0.2), check(3, 4.0, 0.04), check(4, 3.5, 0.05), check(5, 1.0, 0.06)]
    assert best_of(checks, 0.05) is checks[3]
    assert best_of(checks[:2], 0.05) is checks[1]
    assert best_of(checks, None) is checks[4]
    assert best_of(checks[:3], 0.05) is checks[2]
    assert best_of([checks[3], dict(checks[3])], 0.05) is not None
    assert best_of([], 0.05) is None


def test_a_run_ends_when_no_check_was_better_for_so_long() -> None:
    falling = [check(i, 10.0 - i, 0.0) for i in range(8)]
    assert ending(falling, 0.05, 3) is None
    turned = [*falling, *(check(8 + i, 5.0 + i, 0.0) for i in range(2))]
    assert ending(turned, 0.05, 3) is None
    turned.append(check(20, 9.0, 0.0))
    assert ending(turned, 0.05, 3) == "the held-out loss turned"
    won_back = [*falling, *(check(8 + i, 1.0, rise) for i, rise in enumerate((0.1, 0.4, 0.3, 0.2, 0.25)))]
    assert ending(won_back, 0.05, 3) is None
    broke = [*falling, *(check(8 + i, 1.0, 0.2) for i in range(4))]
    assert ending(broke, 0.05, 3) == "forgetting passed the budget"
    assert ending(broke, None, 3) == "the held-out loss turned"


@pytest.mark.parametrize(
    ("checks", "ended", "short"),
    [
        ([check(i, 10.0 - i, 0.0) for i in range(9)], None, "steps"),
        ([check(i, 10.0 if i == 0 else 5.0, 0.0) for i in range(9)], None, "nothing"),
        ([check(i, 10.0, 0.0) for i in range(9)], None, "rank"),
        ([check(i, 10.0 - i, 0.0) for i in range(5)], "the held-out loss turned", "data"),
        ([check(i, 10.0 - i, 0.5) for i in range(5)], None, "data"),
        ([check(1, 2.0, 0.0)], None, "steps"),
    ],
)
def test_the_verdict_names_what_was_short(checks: list[dict[str, Any]], ended: str | None, short: str) -> None:
    assert verdict(checks, 0.05, ended)["short"] == short


def test_the_verdict_is_true_of_runs_that_look_alike() -> None:
    flat = [check(i, 5.0, 0.0) for i in range(9)]
    assert verdict(flat, 0.05, None, before=10.0)["short"] == "nothing"  # all was learnt before the first check
    assert verdict(flat, 0.05, None, before=5.0)["short"] == "rank"
    worse = verdict(flat, 0.05, "the held-out loss turned", before=4.0)
    assert worse["short"] == "data" and "never came down to what it was before" in worse["why"]
    # Still falling, but only beyond the budget: more steps would not be kept either.
    barred = [check(i, 10.0 - i, 0.0 if i < 4 else 0.2) for i in range(9)]
    found = verdict(barred, 0.05, None, before=11.0)
    assert found["short"] == "data" and "what came after 3 images forgot more" in found["why"]
    assert verdict(barred, None, None, before=11.0)["short"] == "steps"
    # Judged by the pictures that it learns, a loss falls for ever.
    falling = [check(i, 10.0 - i, 0.0) for i in range(9)]
    few = verdict(falling, 0.05, None, before=11.0, held=False)
    assert few["short"] == "data" and "none was kept out" in few["why"]


def test_replayed_pictures_pull_harder_while_the_budget_is_passed() -> None:
    def after(*rises: float) -> float:
        return pull([check(i, 1.0, rise) for i, rise in enumerate(rises)], 0.05)

    assert after() == 1.0 and after(0.0, 0.01) == 1.0
    assert after(0.1) == 2.0 and after(0.1, 0.2) == 4.0 and after(*[0.5] * 9) == 4.0
    assert after(0.1, 0.2, 0.04) == 4.0 and after(0.1, 0.2, 0.02) == 2.0 and after(0.1, 0.0, 0.0) == 1.0
    assert pull([check(1, 1.0, 9.0)], None) == 1.0
