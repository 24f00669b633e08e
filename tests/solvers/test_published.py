"""Solvers against diffusers' schedulers, where conventions match: same levels, same denoiser, same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guided import path, solvers
from guided.noise import Noise
from guided.sampling import sample
from tests.solvers.problems import F64, mixture, start

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore")
LEVELS = path.karras(12, 0.1, 20.0)[:-1]
X = start(0, 20.0)[:8]
VP = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}


def twice(levels: Tensor) -> Tensor:
    """The list as diffusers' second-order schedulers hold it: every level but the first stands for two evaluations."""
    return torch.cat([levels[:1], levels[1:].repeat_interleave(2)])


def halves(levels: Tensor) -> Tensor:
    """Every level and the geometric mean of it and the next."""
    middle = (levels[:-1] * levels[1:]).sqrt()
    return torch.cat([torch.stack([levels[:-1], middle], 1).flatten(), levels[-1:]])


def drive(name: str, held: Tensor, seen: Tensor, x: Tensor, vp: bool = True, **config) -> Tensor:
    """Run a scheduler over its levels `held`, with the denoiser evaluated at `seen`; x and the result in our frame."""
    config = {"beta_schedule": "scaled_linear", "prediction_type": "epsilon", **config}
    scheduler = getattr(diffusers, name)(num_train_timesteps=1000, **config)
    scheduler.set_timesteps(len(held) - 1)
    # Its own rounded levels make way for ours, in float64.
    scheduler.sigmas, scheduler.timesteps = held.clone(), torch.arange(len(held) - 1, 0, -1, dtype=F64)
    scheduler.num_inference_steps = len(held) - 1
    data, one = mixture(), torch.ones((), dtype=F64)
    scale = lambda sigma: (1 + sigma**2).rsqrt() if vp else one  # noqa: E731
    z = x * scale(held[0])
    for i, t in enumerate(scheduler.timesteps):
        here = z / scale(seen[i])
        noise = (here - data.denoise(here, seen[i])) / seen[i]
        if hasattr(scheduler, "is_scale_input_called"):
            scheduler.is_scale_input_called = True
        z = scheduler.step(noise, t, z).prev_sample
    return z / scale(held[-1])


def close(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs().max() < 1e-6 * LEVELS[0])


@pytest.mark.parametrize(
    ("name", "scheduler", "config"),
    [
        ("dpmpp_2m", "DPMSolverMultistepScheduler", {**VP, "solver_order": 2}),
        ("dpmpp_3m", "DPMSolverMultistepScheduler", {**VP, "solver_order": 3}),
        *((f"deis{k}", "DEISMultistepScheduler", {"lower_order_final": False, "solver_order": k}) for k in (1, 2, 3)),
        *((f"unipc{k}", "UniPCMultistepScheduler", {**VP, "solver_order": k}) for k in (1, 2, 3)),
        ("euler", "EulerDiscreteScheduler", {"vp": False}),
        ("lms4", "LMSDiscreteScheduler", {"vp": False}),
    ],
)
def test_multistep(name: str, scheduler: str, config: dict) -> None:
    theirs = drive(scheduler, LEVELS, LEVELS, X, **config)
    assert close(sample(mixture().denoiser(), X, LEVELS, solver=name), theirs)


def test_eab_in_the_noise_is_deis() -> None:
    ours = [sample(mixture().denoiser(), X, LEVELS, solver=name) for name in ("eab3", "deis3")]
    assert torch.equal(*ours)


def test_heun() -> None:
    held = twice(LEVELS)
    seen = torch.stack([LEVELS[:-1], LEVELS[1:]], 1).flatten()
    theirs = drive("HeunDiscreteScheduler", held, seen, X, vp=False)
    assert close(sample(mixture().denoiser(), X, LEVELS, solver="heun"), theirs)


def test_dpmpp_2s() -> None:
    held = halves(LEVELS)
    theirs = drive("DPMSolverSinglestepScheduler", held, held, X, **VP, solver_order=2)
    assert close(sample(mixture().denoiser(), X, LEVELS, solver="dpmpp_2s"), theirs)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_sa_with_its_noise(order: int, tau: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """tau is the path's: its move down ends at level * exp(-tau^2 h), and the move up draws what the paper draws."""
    noise = Noise(range(8))
    draws = iter(range(2, 2 * len(LEVELS), 2))
    module = diffusers.schedulers.scheduling_sasolver
    monkeypatch.setattr(module, "randn_tensor", lambda shape, **rest: noise(next(draws), shape[1:]).double())
    theirs = drive(
        "SASolverScheduler",
        LEVELS,
        LEVELS,
        X,
        predictor_order=order,
        corrector_order=order,
        tau_func=lambda t: tau,
        lower_order_final=False,
    )
    route = LEVELS
    if tau:
        down = LEVELS[1:] * (LEVELS[1:] / LEVELS[:-1]) ** tau**2
        route = torch.cat([LEVELS[:1], torch.stack([down, LEVELS[1:]], 1).flatten()])
    assert tau != 1 or torch.allclose(route, path.ancestral(LEVELS), rtol=1e-12)
    assert close(sample(mixture().denoiser(), X, route, solver=solvers.SA(order), noise=noise), theirs)
