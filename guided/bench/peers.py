"""diffusers' schedulers as peers: each from the same x, with its own timesteps and its own arithmetic."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guided._compat import ensure_torchvision
from guided.bench.problems import Problem

# What a grid is called in diffusers. All of them start at the schedule's highest level, as x does; "leading", its
# default in some schedulers, does not.
GRIDS: dict[str, dict[str, Any]] = {
    "karras": {"use_karras_sigmas": True, "timestep_spacing": "linspace"},
    "exponential": {"use_exponential_sigmas": True, "timestep_spacing": "linspace"},
    "lu": {"use_lu_lambdas": True, "timestep_spacing": "linspace"},
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
}
# These hold x = x0 + sigma n, the others the variance-preserving x / sqrt(1 + sigma^2).
_EXPLODING = ("LMSDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler")
_MULTISTEP = ("karras", "exponential", "linspace", "trailing")
# name, class, options, grids
_FAMILIES: tuple[tuple[str, str, dict[str, Any], tuple[str, ...]], ...] = (
    ("LMS", "LMSDiscreteScheduler", {}, _MULTISTEP),
    ("Euler", "EulerDiscreteScheduler", {}, _MULTISTEP),
    ("Heun", "HeunDiscreteScheduler", {}, _MULTISTEP),
    ("DDIM", "DDIMScheduler", {"clip_sample": False}, ("linspace", "trailing")),
    ("PNDM", "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}, ("linspace", "trailing")),
    ("DPM++2M", "DPMSolverMultistepScheduler", {"solver_order": 2}, (*_MULTISTEP, "lu")),
    ("DPM++3M", "DPMSolverMultistepScheduler", {"solver_order": 3}, (*_MULTISTEP, "lu")),
    ("DEIS2", "DEISMultistepScheduler", {"solver_order": 2}, _MULTISTEP),
    ("DEIS3", "DEISMultistepScheduler", {"solver_order": 3}, _MULTISTEP),
    ("UniPC2", "UniPCMultistepScheduler", {"solver_order": 2}, _MULTISTEP),
    ("UniPC3", "UniPCMultistepScheduler", {"solver_order": 3}, _MULTISTEP),
)


@dataclass(frozen=True)
class Peer:
    """One scheduler of diffusers on one of its grids."""

    name: str
    kind: str
    options: tuple[tuple[str, Any], ...]

    def __call__(self, problem: Problem, evaluations: int) -> Tensor | None:
        """Its end of the problem for at most so many evaluations; None where the scheduler breaks."""
        try:
            with _quiet():
                return _follow(self, problem, evaluations)
        except (IndexError, AssertionError, ValueError, ZeroDivisionError):
            # Its rounded timesteps collide at the top of the cosine schedule, and its step counter runs off the list.
            return None


def installed() -> bool:
    """Whether diffusers is there to compare with."""
    return importlib.util.find_spec("diffusers") is not None


def peers() -> list[Peer]:
    """Every scheduler with every grid that it takes; empty without diffusers."""
    if not installed():
        return []
    return [
        Peer(f"{name} {grid}", kind, tuple({**options, **GRIDS[grid]}.items()))
        for name, kind, options, grids in _FAMILIES
        for grid in grids
    ]


def _follow(peer: Peer, problem: Problem, evaluations: int) -> Tensor | None:
    import diffusers

    options = dict(peer.options)
    betas = 1 - problem.alphas_bar / torch.cat([problem.alphas_bar.new_ones(1), problem.alphas_bar[:-1]])
    kind = getattr(diffusers, peer.kind)
    known = inspect.signature(kind.__init__).parameters
    if not set(options) <= set(known):
        return None  # another version of diffusers, without this grid
    scheduler = kind(trained_betas=betas.float().numpy(), **options)
    steps = _steps(peer.kind, evaluations)
    if steps < 1:
        return None
    scheduler.set_timesteps(steps)
    exploding = peer.kind in _EXPLODING
    x = problem.x if exploding else problem.x / math.sqrt(1 + problem.hi**2)
    logs = problem.sigmas.log()
    for t in scheduler.timesteps:
        sigma = _sigma(logs, float(t))
        scale = 1.0 if exploding else float((1 + sigma**2).sqrt())
        scheduler.scale_model_input(x, t)
        D = problem.denoise(scale * x, sigma, problem.cond)
        x = scheduler.step((scale * x - D) / sigma, t, x).prev_sample.double()
    return x


def _steps(kind: str, evaluations: int) -> int:
    if kind == "HeunDiscreteScheduler":
        return (evaluations + 1) // 2
    return evaluations - 1 if kind == "PNDMScheduler" else evaluations


def _sigma(logs: Tensor, t: float) -> Tensor:
    """The noise level of a timestep, between the trained ones by ln sigma."""
    t = min(max(t, 0.0), len(logs) - 1.0)
    below = min(int(t), len(logs) - 2)
    return torch.lerp(logs[below], logs[below + 1], t - below).exp()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """diffusers warns of every second option; what comes out is measured here."""
    ensure_torchvision()
    log = logging.getLogger("diffusers")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
