"""What one picture gets depends neither on its batch nor on what other threads do with the same guide."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from guided import path
from guided.cond import Cond
from guided.guide import Guide, Term, apg, between, cfg, gradient, independent, perp_neg, perturbed, rescale, tfg
from guided.guide import threshold as limited
from guided.noise import Noise
from guided.sampling import sample
from tests.guide.methods import BANK, METHODS, NOISY, Method, bowl, joined, one
from tests.guide.problem import Net, batch

GRID = path.karras(4, 0.1, 6)
F32 = torch.float32


def drawn(guide: Guide | Term, net: object, rows: list[int], route: Tensor, solver: str = "dpmpp_2m") -> Tensor:
    x, cond = batch(4, F32)
    noise = Noise((11, 12, 13, 14)).rows(rows)
    return sample(guide(net), x[rows], route, cond.index(rows), solver=solver, noise=noise)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_picture_is_the_same_in_any_batch(method: Method) -> None:
    # Once the class is settled, D_c - D_null is rounding, and its direction, which Perp-Neg divides by, is chance.
    route = method.route(GRID) if method is not METHODS["perp-neg"] else path.karras(4, 4, 20)
    net = Net(dtype=F32)
    whole = drawn(method.guide, net, [0, 1, 2, 3], route)
    for rows in ([2], [3, 1]):
        assert torch.allclose(drawn(method.guide, net, rows, route), whole[rows], rtol=1e-5, atol=1e-5)


W = torch.tensor([0.5, 3.0, 1.0, 2.0])
OWN: dict[str, Callable[[Tensor], Guide | Term]] = {
    "cfg": cfg,
    "shaped": lambda w: cfg(w) >> apg(r=0.3) >> rescale() >> limited(0.9),
    "several": lambda w: cfg(w) + perp_neg(w, (one(3), w)).during(1.5) + perturbed("skip", w),
    "others": lambda w: between(Net(9, F32), w) + independent(w, BANK),
    "pushes": lambda w: gradient(NOISY, scale=w) + tfg(bowl, rho=w / 10, mu=w / 10),
    "functions": lambda w: cfg(lambda sigma, next_sigma: w * (sigma < 2)),
}


@pytest.mark.parametrize("make", OWN.values(), ids=OWN)
def test_so_is_one_with_weights_of_its_own(make: Callable[[Tensor], Guide | Term]) -> None:
    whole = drawn(make(W), Net(dtype=F32), [0, 1, 2, 3], GRID)
    for rows in ([0], [2], [3, 1]):
        assert torch.allclose(drawn(make(W[rows]), Net(dtype=F32), rows, GRID), whole[rows], rtol=1e-5, atol=1e-5)


class Jitter(Net):
    """A denoiser that is late by chance: without it threads take turns, and what they share is not seen."""

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        time.sleep(random.random() / 500)
        found = super().__call__(x, sigma, cond)
        time.sleep(random.random() / 500)
        return found


KINDS = ("perp-neg", "autoguidance", "clean classifier", "loss-guided", "pigdm", "apg", "ddnm")
SHARED: dict[str, Any] = {
    "state and perturbations": (cfg(3) + perturbed("identity") + perturbed("skip") >> apg() >> rescale(), "dpmpp_2m"),
    "all kinds": (joined(*(METHODS[name] for name in KINDS)), "euler"),
}


@pytest.mark.parametrize(("guide", "solver"), SHARED.values(), ids=SHARED)
def test_eight_threads_with_one_model_and_one_guide_draw_what_one_would(guide: Guide, solver: str) -> None:
    net, rows = Jitter(dtype=F32), [[i % 4] if i % 2 else [i % 4, (i + 1) % 4] for i in range(8)]
    guided = guide(net)
    alone = [drawn(lambda _: guided, net, each, GRID, solver) for each in rows]  # type: ignore[arg-type]
    start = threading.Barrier(8)

    def work(each: list[int]) -> Tensor:
        start.wait()
        return drawn(lambda _: guided, net, each, GRID, solver)  # type: ignore[arg-type]

    with ThreadPoolExecutor(8) as pool:
        for wanted, found in zip(alone, pool.map(work, rows), strict=True):
            assert torch.equal(wanted, found)
