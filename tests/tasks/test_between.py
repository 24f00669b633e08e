"""Inversion and interpolation, against Gaussians and against the photos themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from guided import sample
from guided.tasks.between import slerp
from tests.model import build
from tests.tasks.test_methods import MEANS, STD, gaussians, photo, x0_of


def test_inversion_is_the_flow_of_a_gaussian_and_comes_back() -> None:
    model, given = gaussians(), [photo(1), photo(2)]
    found = model.invert(given, labels="low", steps=80, solver="heun")
    hi = float(found.path[0])
    x0 = torch.cat([x0_of(one) for one in given])
    want = MEANS[0] + (x0 - MEANS[0]) * math.hypot(STD, hi) / STD
    assert float((found.x - want).abs().max()) < 0.01 * float(want.abs().max())
    back = sample(model.denoiser, found.x, found.path, found.cond, solver=found.solver)
    assert float((back - x0).abs().max()) < 5e-3


def test_between_two_photos_lies_the_great_circle() -> None:
    """The flow is linear: what a noise of the circle becomes is known."""
    model, ends = gaussians(), [photo(1), photo(2)]
    found = model.interpolate(*ends, labels="low", n=5, steps=80, solver="heun")
    a, b = ((x0_of(one) - MEANS[0]).double() for one in ends)
    for i, picture in enumerate(found.tensor):
        share = i / 4
        hi = math.hypot(STD, float(model.denoiser.hi))
        noisy = [MEANS[0] + end * hi / STD for end in (a, b)]
        sizes = [float(x.norm()) for x in noisy]
        angle = math.acos(float((noisy[0] * noisy[1]).sum()) / sizes[0] / sizes[1])
        mixed = (
            math.sin((1 - share) * angle) * noisy[0] / sizes[0] + math.sin(share * angle) * noisy[1] / sizes[1]
        ) / (math.sin(angle))
        mixed = mixed * ((1 - share) * sizes[0] + share * sizes[1])
        want = MEANS[0] + (mixed - MEANS[0]) * STD / hi
        assert float((picture - want[0]).abs().max()) < 0.01
    assert [record["share"] for record in found.records] == [0, 0.25, 0.5, 0.75, 1]


def test_slerp_keeps_lengths_and_meets_its_ends() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1, 3, 8, 8, generator=rng, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    assert float(slerp(a, b, 0.3).norm()) == pytest.approx(0.7 * float(a.norm()) + 0.3 * float(b.norm()))
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)


def test_each_half_hears_its_own_prompt_and_photos_of_any_size_are_seen() -> None:
    model = build.words_model()
    ends = [np.asarray(photo(seed))[:, :12] for seed in (1, 2)]
    found = model.interpolate(*ends, ["red cat", "blue dog"], n=4, steps=6)
    assert len(found) == 4 and found.records[0]["prompt"] == "red cat"
    with pytest.raises(ValueError, match="one size, got 16 x 16 and 16 x 8"):
        model.invert([photo(1), photo(2)[:8]], "cat")
    with pytest.raises(ValueError, match="at least 2, got 1"):
        model.interpolate(photo(1), photo(2), "cat", steps=1)
    with pytest.raises(ValueError, match="one prompt"):
        model.invert([photo(1), photo(2)], ["a", "b", "c"])
    with pytest.raises(ValueError, match="two photos"):
        model.interpolate(photo(1), photo(2), "cat", n=1)
