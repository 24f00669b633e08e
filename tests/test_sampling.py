"""Sampling: paths as a verb reads them, DDPM's own posterior step, final moments, resuming."""

from __future__ import annotations

import threading

import pytest
import torch
from scipy import stats
from torch import Tensor

from guided import path
from guided.cond import Cond
from guided.noise import Noise
from guided.oracle import GaussianMixture
from guided.sampling import sample, trajectory

F64 = torch.float64


def mixture() -> GaussianMixture:
    g = torch.Generator().manual_seed(0)
    return GaussianMixture(torch.randn(3, 2, 3, generator=g, dtype=F64), torch.tensor([0.3, 0.5, 0.4]), torch.ones(3))


def test_euler_on_an_ancestral_path_is_the_ddpm_posterior() -> None:
    abar = (1 - torch.linspace(1e-4, 0.02, 50, dtype=F64)).cumprod(0)
    data, noise = mixture(), Noise([3, 4])
    levels = path.from_alphas(abar)
    x = levels[0] * noise(0, (2, 3)).double()
    z = x * abar[-1].sqrt()
    for i, t in enumerate(reversed(range(50))):
        # Ho et al. 2020, eq. 6 and 7
        before = abar[t - 1] if t else torch.ones((), dtype=F64)
        alpha, beta = abar[t] / before, 1 - abar[t] / before
        x0 = data.denoise(z / abar[t].sqrt(), (1 / abar[t] - 1).sqrt())
        mean = before.sqrt() * beta / (1 - abar[t]) * x0 + alpha.sqrt() * (1 - before) / (1 - abar[t]) * z
        variance = beta * (1 - before) / (1 - abar[t])
        z = mean + variance.sqrt() * noise(2 * i + 2, (2, 3)).double()
    found = sample(data.denoiser(), x, path.ancestral(levels), solver="euler", noise=noise)
    assert (found - z).abs().max() < 1e-12


class Learned:
    """An oracle that also says the std of the posterior step: Nichol & Dhariwal 2021, eq. 15, for a given v."""

    def __init__(self, v: Tensor) -> None:
        self.data, self.v, self.asked = mixture(), v, 0

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        return self.data.denoise(x, sigma)

    def std(self, x: Tensor, sigma: Tensor, level: Tensor, cond: Cond) -> Tensor:
        self.asked += 1
        now, before = 1 / (1 + sigma**2), 1 / (1 + level**2)
        beta = 1 - now / before
        low = beta * (1 - before) / (1 - now)
        v = (self.v + x.tanh()) / 2
        return (0.5 * (v * beta.log() + (1 - v) * low.log())).exp() / before.sqrt()


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m"])
def test_a_learned_variance_makes_the_published_posterior_step(solver: str) -> None:
    abar = (1 - torch.linspace(1e-4, 0.02, 50, dtype=F64)).cumprod(0)
    v = torch.rand(2, 3, generator=torch.Generator().manual_seed(4), dtype=F64)
    learned, noise = Learned(v), Noise([3, 4])
    levels = path.from_alphas(abar)
    x = levels[0] * noise(0, (2, 3)).double()
    z = x * abar[-1].sqrt()
    for i, t in enumerate(reversed(range(50))):
        before = abar[t - 1] if t else torch.ones((), dtype=F64)
        alpha, beta = abar[t] / before, 1 - abar[t] / before
        x0 = learned.data.denoise(z / abar[t].sqrt(), (1 / abar[t] - 1).sqrt())
        mean = before.sqrt() * beta / (1 - abar[t]) * x0 + alpha.sqrt() * (1 - before) / (1 - abar[t]) * z
        if t:
            share = (v + (z / abar[t].sqrt()).tanh()) / 2
            log_variance = share * beta.log() + (1 - share) * (beta * (1 - before) / (1 - abar[t])).log()
            mean = mean + (0.5 * log_variance).exp() * noise(2 * i + 2, (2, 3)).double()
        z = mean
    found = sample(learned, x, path.ancestral(levels), solver=solver, noise=noise)
    assert (found - z).abs().max() < 1e-10
    plain = sample(mixture().denoiser(), x, path.ancestral(levels), solver="euler", noise=noise)
    assert (found - plain).abs().max() > 1e-3


def test_a_learned_variance_is_for_ddpms_steps_alone() -> None:
    learned, noise = Learned(torch.zeros(2, 3, dtype=F64)), Noise([3, 4])
    grid = path.karras(8, 0.1, 10)
    x = 10 * noise(0, (2, 3)).double()
    for route in (grid, path.ancestral(grid, 0.5), path.churn(grid, 0.1), path.lcm(grid), path.langevin(grid)):
        found = sample(learned, x, route, solver="euler", noise=noise)
        assert learned.asked == 0
        assert torch.equal(found, sample(learned.data.denoiser(), x, route, solver="euler", noise=noise))
    route = path.ancestral(grid)
    states = [x] + [state for _, state, _ in trajectory(learned, x, route, noise=noise)]
    assert learned.asked == 7
    assert torch.equal(sample(learned, states[4], route, noise=noise, start=4), states[-1])
    with pytest.raises(ValueError, match="start=3 lies within a posterior step"):
        sample(learned, states[3], route, noise=noise, start=3)


def test_a_wrapper_may_forward_that_there_is_no_std() -> None:
    class Wrapper(Learned):
        std = None

    noise, route = Noise([3, 4]), path.ancestral(path.karras(8, 0.1, 10))
    x = 10 * noise(0, (2, 3)).double()
    wrapped = sample(Wrapper(torch.zeros(1)), x, route, noise=noise)
    assert torch.equal(wrapped, sample(mixture().denoiser(), x, route, noise=noise))


PATHS = {
    "plain": lambda p: p,
    "ancestral": path.ancestral,
    "ancestral 0.5": lambda p: path.ancestral(p, 0.5),
    "churn": lambda p: path.churn(p, 0.02, 0.05, 50),
    "resample": lambda p: path.ancestral(path.resample(p, 50, 3)),
    "restart": lambda p: path.restart(p, 0.05, 2.0, 3),
    "restart ancestral": lambda p: path.ancestral(path.restart(p, 0.05, 2.0, 2)),
}


def test_final_moments_on_every_path() -> None:
    """One joint chi-square over mean, variance and lag correlation of 10,000 numbers on every path at 1,000 steps."""
    n, mean, std = 10_000, 0.4, 0.6
    data = GaussianMixture(torch.full((1, n), mean, dtype=F64), torch.tensor([std], dtype=F64), torch.ones(1))
    scores = []
    for number, (name, make) in enumerate(PATHS.items()):
        noise = Noise([number], stream="moments")
        route = make(path.karras(1000, 0.002, 80))
        # exact at the start: the data's own law blurred by the first level
        x = mean + (std**2 + 80.0**2) ** 0.5 * noise(0, (n,)).double()
        final = (
            sample(data.denoiser(), x, route, solver="dpmpp_2m" if name == "plain" else "euler", noise=noise) - mean
        ) / std
        scores += [final.mean() * n**0.5, (final.var() - 1) * (n / 2) ** 0.5]
        scores += [(final[:, 1:] * final[:, :-1]).mean() * n**0.5]
    total = sum(float(s) ** 2 for s in scores)
    chance = stats.chi2.sf(total, len(scores))
    assert 1e-3 < chance < 1 - 1e-3, (chance, [round(float(s), 2) for s in scores])


def test_a_langevin_corrector_is_the_published_step() -> None:
    data, noise, level, snr = mixture(), Noise([1, 2]), torch.tensor(1.7, dtype=F64), 0.16
    x = level * noise(0, (2, 3)).double()
    route = path.langevin(torch.stack([level, level]), snr)[1:]
    assert route.tolist() == pytest.approx([1.7, 1.7 * (1 - 2 * snr**2), 1.7])
    size, z = 2 * (snr * level) ** 2, noise(2, (2, 3)).double()
    # Song et al. 2021, algorithm 4, but for the last term of the variance
    want = x + size * data.score(x, level) + (2 * size - (size / level) ** 2) ** 0.5 * z
    assert (sample(data.denoiser(), x, route, solver="euler", noise=noise) - want).abs().max() < 1e-12


def test_langevin_correctors_mend_a_wrong_distribution() -> None:
    """From a single point, at one level, to the data's own law: the variance of a Gaussian in closed form."""
    std, level, n = 0.7, 0.5, 300
    data = GaussianMixture(torch.zeros(1, 1, dtype=F64), torch.tensor([std], dtype=F64), torch.ones(1))
    route = path.langevin(torch.tensor([level, level]), 0.16, times=n)[1:]
    # A linear problem: one image a draw, each the response to that draw alone; draw k is index 2 k.
    impulse = lambda index, shape: torch.eye(n, dtype=F64)[:, index // 2 - 1, None]  # noqa: E731
    found = sample(data.denoiser(), torch.zeros(n, 1, dtype=F64), route, solver="euler", noise=impulse)
    truth, q = std**2 + level**2, 1 - 2 * 0.16**2
    stationary = truth * (1 + q) / (2 - (1 - q) * level**2 / truth)
    assert abs(found.square().sum() / stationary - 1) < 1e-4
    assert abs(stationary / truth - 1) < 0.02


def test_lcm_has_its_closed_form_variance_on_a_gaussian() -> None:
    n, std = 200_000, 0.6
    data = GaussianMixture(torch.zeros(1, n, dtype=F64), torch.tensor([std], dtype=F64), torch.ones(1))
    grid, noise = path.karras(4, 0.5, 10), Noise([0])
    x = (std**2 + 100) ** 0.5 * noise(0, (n,)).double()
    found = sample(data.denoiser(), x, path.lcm(grid), noise=noise).var()
    variance = std**2
    for level in grid[:-1]:
        gain = std**2 / (std**2 + float(level) ** 2)
        variance = gain**2 * (variance + float(level) ** 2)
    assert abs(found / variance - 1) < 5 * (2 / n) ** 0.5


def test_every_move_is_yielded_and_nothing_yielded_is_overwritten() -> None:
    data, noise = mixture(), Noise([0, 1])
    route = path.ancestral(path.karras(6, 0.1, 10))
    x = 10 * noise(0, (2, 3)).double()
    seen, copies = [], []
    for sigma, state, D in trajectory(data.denoiser(), x, route, noise=noise):
        seen.append((sigma, state, D))
        copies.append(state.clone())
    assert [s for s, _, _ in seen] == route[1:].tolist()
    assert all(torch.equal(a[1], b) for a, b in zip(seen, copies, strict=True))
    assert torch.equal(seen[-1][1], sample(data.denoiser(), x, route, noise=noise))
    assert all(D.shape == x.shape for _, _, D in seen)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_a_run_resumed_at_any_move_ends_in_the_same_bits(solver: str) -> None:
    data, noise = mixture(), Noise([5, 6])
    route = path.ancestral(path.resample(path.karras(8, 0.1, 10), 2, 2))
    x = 10 * noise(0, (2, 3))
    states = [x] + [state for _, state, _ in trajectory(data.denoiser(), x, route, solver=solver, noise=noise)]
    for move in range(len(states) - 1):
        assert torch.equal(
            sample(data.denoiser(), states[move], route, solver=solver, noise=noise, start=move), states[-1]
        )


def test_state_belongs_to_the_caller() -> None:
    """A stateful guide sees one update a step, and a fresh state where the path returns to the last level or above."""
    calls = []

    class Counting:
        def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            raise AssertionError("sample must call evaluate")

        def evaluate(self, x, sigma, cond, next_sigma, state):
            calls.append((float(sigma), None if next_sigma is None else float(next_sigma), state))
            return torch.zeros_like(x), (state or 0) + 1

    sample(Counting(), torch.ones(1, 1), torch.tensor([4.0, 2.0, 1.0, 2.0, 0.0]), solver="heun", noise=Noise([0]))
    assert calls == [(4, 2, None), (2, None, None), (2, 1, 1), (1, None, 1), (2, 0, None)]


def test_eight_threads_share_one_model_and_one_guide() -> None:
    from guided.guide import cfg

    data = GaussianMixture(
        torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=F64),
        torch.full((4,), 0.3),
        torch.ones(4),
        [0, 1, 0, 1],
    )
    guided = cfg(3.0).during(0.2, 5)(data.denoiser())
    route = path.ancestral(path.karras(20, 0.05, 10))

    def run(seed: int) -> Tensor:
        noise = Noise([seed])
        return sample(guided, 10 * noise(0, (6,)).double(), route, Cond(label=torch.tensor([seed % 2])), noise=noise)

    serial = [run(seed) for seed in range(8)]
    found: dict[int, Tensor] = {}
    threads = [threading.Thread(target=lambda s=seed: found.update({s: run(s)})) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[seed], serial[seed]) for seed in range(8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(1, 2, dtype=torch.bfloat16)}, "bfloat16"),
        ({"path": torch.tensor([[1.0, 0.0]])}, "1-D"),
        ({"path": torch.tensor([1.0, float("nan")])}, "finite"),
        ({"path": torch.tensor([1.0, 2.0, 0.0])}, "noise=guided.Noise"),
        ({"start": 5}, "start"),
        ({"solver": "nope"}, "known: "),
    ],
)
def test_bad_calls_are_refused_before_any_evaluation(change: dict, words: str) -> None:
    def never(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        raise AssertionError("evaluated")

    call = {"x": torch.zeros(1, 2), "path": torch.tensor([1.0, 0.0]), **change}
    with pytest.raises(ValueError, match=words):
        sample(never, call.pop("x"), call.pop("path"), **call)
