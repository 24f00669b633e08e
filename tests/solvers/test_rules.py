"""What every solver keeps to: steps to 0, what is remembered and when, and the promised number of evaluations."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from guided import path, solvers
from guided.cond import Cond
from guided.noise import Noise
from guided.sampling import sample
from tests.solvers.problems import F64, NAMES, NOISE_FORM, ORDERS, legs, mixture, start

DATA_FORM = [name for name in NAMES if isinstance(solvers.by_name(name), solvers.DataForm)]
TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda p: p,
    "ancestral": path.ancestral,
    "ancestral 0.5": lambda p: path.ancestral(p, 0.5),
    "churn": lambda p: path.churn(p, 0.3),
    "restart": lambda p: path.restart(p, float(p[-2]), float(p[0]), 2) if len(p) > 2 else p,
    "repaint": lambda p: path.ancestral(path.resample(p, 3, 2)),
    "lcm": path.lcm,
    "langevin": lambda p: path.langevin(path.ancestral(p)),
}


class Counting:
    """A cheap denoiser that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        self.calls += 1
        return x / (1 + float(sigma) ** 2)


def keeps_its_promise(name: str, route: Tensor) -> None:
    denoise = Counting()
    x = route[0].float() * torch.ones(1, 1)
    final = sample(denoise, x, route, solver=name, noise=lambda index, shape: torch.ones(1, 1))
    assert denoise.calls == path.nfe(route, solvers.by_name(name)), (name, len(route))
    assert bool(torch.isfinite(final).all()), (name, len(route))


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_steps_and_strength_costs_what_is_promised(name: str) -> None:
    for steps in (1, 2, 3, 4, 7, 25, 333):
        for strength in (1e-4, 0.03, 0.5, 0.97, 1.0) if steps < 30 else (0.6,):
            keeps_its_promise(name, path.at_strength(steps, 0.002, 80.0, strength))
    for transform in TRANSFORMS.values():
        for steps in (1, 2, 5, 12):
            keeps_its_promise(name, transform(path.karras(steps, 0.002, 80.0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_numbers_of_steps_and_strengths_cost_what_is_promised(name: str) -> None:
    """Few steps at every strength; above 64, an eighth of all numbers for each solver, another for its neighbour."""
    strengths = [1e-6, 1e-3, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999, 1.0]
    for steps in (*range(1, 65), *range(65 + NAMES.index(name) % 8, 1000, 8), 1000):
        for strength in strengths if steps < 65 else strengths[steps % 11 :: 11]:
            keeps_its_promise(name, path.at_strength(steps, 0.002, 80.0, strength))


@pytest.mark.parametrize("name", NAMES)
def test_a_constant_denoiser_is_solved_exactly_and_where_d_stands_still_0_is_d_itself(name: str) -> None:
    target = torch.randn(3, 2, generator=torch.Generator().manual_seed(1))
    x = target + 9 * torch.randn(3, 2, generator=torch.Generator().manual_seed(2))
    still = lambda x, sigma, cond: target  # noqa: E731
    for transform in TRANSFORMS.values():
        route = transform(path.karras(7, 0.01, 9.0))
        assert torch.equal(sample(still, x, route, solver=name, noise=Noise([0, 1, 2])), target)
    near = sample(still, x, torch.tensor([9.0, 5.0, 2.0, 1.0, 0.5]), solver=name)
    assert torch.allclose(near, target + 0.5 / 9 * (x - target), atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_lcm_is_the_denoiser_and_fresh_noise_whatever_the_solver(name: str) -> None:
    data, route, noise = mixture(), path.lcm(path.karras(6, 0.1, 20.0)), Noise(range(64))
    found = sample(data.denoiser(), start(0, 20.0), route, solver=name, noise=noise)
    assert torch.equal(found, sample(data.denoiser(), start(0, 20.0), route, solver="euler", noise=noise))


def step(name: str, levels: tuple[float, float, float], memory: object = None) -> tuple[Tensor, object]:
    """One step of the mixture from levels[0] to levels[1], with levels[2] the level of the next evaluation."""
    here, there, level = (torch.tensor(level, dtype=F64) for level in levels)
    return solvers.by_name(name)(mixture().denoiser(), start(0, 3.0), here, there, Cond(), memory, level)


@pytest.mark.parametrize("name", [name for name in NAMES if ORDERS[name] > 1])
def test_what_is_remembered_when_the_path_rises(name: str) -> None:
    remembered = step(name, (5.0, 3.0, 3.0))[1]
    multistep = name in (*NOISE_FORM, *DATA_FORM)
    assert (remembered is not None) == multistep
    # fresh noise on the way: the noise form forgets, the data form does not
    assert (step(name, (3.0, 2.0, 2.5), remembered)[1] is not None) == (name in DATA_FORM)
    # back to sigma or above: nothing is kept, and the step is the one that no rise follows
    for level in (3.0, 4.0):
        found, memory = step(name, (3.0, 2.0, level), remembered)
        assert memory is None
        assert torch.equal(found, step(name, (3.0, 2.0, 2.0), remembered)[0])
    # an integration upwards is no rise of the path
    assert (step(name, (3.0, 5.0, 5.0))[1] is not None) == multistep


@pytest.mark.parametrize("name", [name for name in DATA_FORM if ORDERS[name] > 1 and name != "unipc1"])
def test_the_data_form_extrapolates_to_the_level_of_the_next_evaluation(name: str) -> None:
    remembered = step(name, (5.0, 3.0, 3.0))[1]
    near, far = (step(name, (3.0, 1.0, level), remembered)[0] for level in (2.0, 1.0))
    assert (near - far).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["eab2_data", "eab3_data"])
def test_after_fresh_noise_a_step_to_0_is_d_itself(name: str) -> None:
    data, noise = mixture(), Noise(range(64))
    grid = path.karras(6, 0.1, 20.0)
    finals = {}
    for kind, route in {"noisy": path.ancestral(grid), "plain": grid}.items():
        seen = []
        log = lambda x, sigma, cond, seen=seen: seen.append(data.denoise(x, sigma)) or seen[-1]  # noqa: E731
        found = sample(log, start(0, 20.0), route, solver=name, noise=noise)
        finals[kind] = torch.equal(found, seen[-1])
    assert finals == {"noisy": True, "plain": False}


@pytest.mark.parametrize("name", NAMES)
def test_an_integration_that_turns_round_comes_back(name: str) -> None:
    """Every move is a step, up or down; what was remembered on the way down lies ahead on the way up."""
    data, x, memory = mixture(), start(0, 5.0), None
    levels = torch.cat([legs(40, 0.5, 5.0), legs(40, 0.5, 5.0).flip(0)[1:]])
    for here, there in pairwise(levels):
        x, memory = solvers.by_name(name)(data.denoiser(), x, here, there, Cond(), memory, there)
    error = (x - start(0, 5.0)).norm(dim=1).median() / start(0, 5.0).norm(dim=1).median()
    assert error < {1: 0.1, 2: 0.01}.get(ORDERS[name], 0.005)


@pytest.mark.parametrize("name", NAMES)
def test_what_one_image_gets_is_independent_of_its_batch(name: str) -> None:
    data, x, route = mixture(), start(0, 20.0), path.karras(6, 0.1, 20.0)
    together = sample(data.denoiser(), x, route, solver=name)
    assert torch.allclose(sample(data.denoiser(), x[:3], route, solver=name), together[:3], rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: solvers.by_name("hein"), "heun"),
        (lambda: solvers.eab(5), "orders 1 to 4"),
        (lambda: solvers.eab(2, "v"), '"noise" or "data"'),
        (lambda: solvers.LMS(0), "orders 1 to 4"),
        (lambda: solvers.UniPC(4), "orders 1 to 3"),
        (lambda: solvers.SA(1), "2 and 3"),
        (lambda: solvers.DPMpp(4), "order 2 or 3"),
    ],
)
def test_bad_solvers_are_refused_with_what_is_known(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
