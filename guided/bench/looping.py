"""`guided bench sample`: a whole text-to-image loop with classifier-free guidance, ours and as a pipeline runs it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from guided.bench import mine, speed, tuned
from guided.bench.cases import Case, Group, Made, Side, no_grad
from guided.bench.networks import Inputs, Pair, Size, inputs, library
from guided.bench.tuned import Setting
from guided.cond import Cond
from guided.denoiser import FromVP
from guided.frames import DDPM
from guided.guide import Guide, Term, cfg
from guided.sampling import sample

STEPS, W = 25, 5.0
SHARE = 0.4
"""The part of the steps that a guidance interval covers."""
PUBLISHED = DDPM("scaled", 0.00085, 0.012)
"""Stable Diffusion's schedule."""


def groups(size: Size, batches: Sequence[int], device: str, steps: int = STEPS) -> list[Group]:
    """Whole runs, by batch."""
    pair = Pair(size, device)
    return [_group(pair, batch, steps) for batch in batches]


def scheduler(kind: str, steps: int) -> Any:
    """One of diffusers' schedulers on Stable Diffusion's schedule, its timesteps set; they are whole numbers."""
    alphas = torch.as_tensor(PUBLISHED.alphas_bar(), dtype=torch.float64)
    betas = 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])
    options = {"clip_sample": False} if kind == "DDIMScheduler" else {}
    made = getattr(library(), kind)(trained_betas=betas.float().numpy(), timestep_spacing="trailing", **options)
    made.set_timesteps(steps)
    return made


def path(steps: int) -> Tensor:
    """The noise levels that diffusers' Euler goes through, (steps + 1,) float64."""
    levels: Tensor = scheduler("EulerDiscreteScheduler", steps).sigmas.double().cpu()
    return levels


def interval(levels: Tensor, share: float = SHARE) -> tuple[float, float]:
    """(lo, hi) such that lo < sigma <= hi holds for `share` of the steps, those in the middle."""
    steps = len(levels) - 1
    count = round(share * steps)
    first = (steps - count) // 2
    return float(levels[first + count]), float(levels[first])


def pipeline(forward: tuned.Forward, batch: Inputs, null: Tensor, steps: int, kind: str, w: float = W) -> Tensor:
    """What diffusers' pipelines do between the text and the decoder, batched guidance included."""
    rule = scheduler(kind, steps)
    x: Tensor = batch.x * rule.init_noise_sigma
    tokens = torch.cat([null, batch.tokens])
    for t in rule.timesteps:
        seen = rule.scale_model_input(torch.cat([x] * 2), t)
        out = forward(Inputs(seen, t.expand(len(seen)).to(x.device), tokens)).to(x.dtype)
        without, given = out.chunk(2)
        x = rule.step(without + w * (given - without), t, x, return_dict=False)[0]
    return x


def _group(pair: Pair, count: int, steps: int) -> Group:
    batch = inputs(pair.size, count, pair.device)
    null = inputs(pair.size, count + 1, pair.device).tokens[:1].expand_as(batch.tokens)
    device, levels = pair.device.partition(":")[0], path(steps)
    whole = cfg(W, negative=Cond(tokens=null[:1], mask=torch.ones_like(null[:1, :, 0], dtype=torch.bool)))
    lo, hi = interval(levels)
    ours = _ours("ours", pair, batch, levels, whole)
    part = _ours(f"ours, guided in {SHARE:.0%} of the steps", pair, batch, levels, whole.during(lo, hi), SHARE)

    def peers(name: str, settings: Sequence[Setting]) -> tuple[str, tuple[Side, ...]]:
        return name, tuple(_theirs(name, pair, batch, null, steps, setting) for setting in settings)

    against = [
        peers("diffusers float32 default", [tuned.default()]),
        peers("diffusers float32 best-tuned", tuned.best(device)),
        peers("diffusers float32 best-tuned, fp32_precision flag", tuned.best(device, faster_matmul=True)),
        ("ours, guided in every step", (ours,)),
    ]
    title = f"sample {pair.size.name}, {steps} Euler steps, guidance {W:g}, float32"
    listed = [(ours, one) for one in against[:3]] + [(part, one) for one in (against[3], *against[:3])]
    cases = tuple(
        Case(f"{title}, batch {count}: {side.name} / {name}", side, sides, f"{title}: {side.name} / {name}")
        for side, (name, sides) in listed
    )
    exact = functools.partial(_exact, pair, batch, null, steps)
    group = speed.group(pair, cases, lambda: 2 * steps * speed.flops(pair, batch), torch.float32, exact)
    return replace(group, warm=1)  # the first run calls the network often enough


def _ours(name: str, pair: Pair, batch: Inputs, levels: Tensor, guide: Term | Guide, share: float = 1.0) -> Side:
    """Our loop, guided in a share of its steps; where that is not 1 its pictures are others, and not compared."""

    def make() -> Made:
        run = our_run(pair, batch, levels, guide)
        return no_grad(run) if share == 1 else Made(run)

    return Side(name, f"float32, {guide!r}", make, (1 + share) / 2)


def our_run(pair: Pair, batch: Inputs, levels: Tensor, guide: Term | Guide) -> Callable[[], Tensor]:
    """`guided.sample` from the same noise, along the same levels."""
    denoise = guide(FromVP(mine.network(pair), PUBLISHED.alphas_bar()).to(pair.device))
    x = batch.x * float(levels[0])
    return lambda: sample(denoise, x, levels, batch.cond, solver="euler")


def _theirs(name: str, pair: Pair, batch: Inputs, null: Tensor, steps: int, setting: Setting) -> Side:
    def make() -> Made:
        forward = setting.prepared(pair)
        return no_grad(lambda: pipeline(forward, batch, null, steps, "EulerDiscreteScheduler"))

    return Side(name, f"EulerDiscreteScheduler, batched guidance, {setting}", make)


def _exact(pair: Pair, batch: Inputs, null: Tensor, steps: int) -> Tensor:
    """The pictures by the peer's network in float64 and Euler's rule written out."""
    levels, one = path(steps), batch.first(1).to(torch.float64)
    tokens = torch.cat([null[:1], batch.tokens[:1]]).double()
    times = scheduler("EulerDiscreteScheduler", steps).timesteps
    x = one.x * levels[0]
    network = pair.exact_network()
    for i, t in enumerate(times):
        seen = torch.cat([x] * 2) / (1 + levels[i] ** 2).sqrt()
        with torch.no_grad():
            without, given = network(Inputs(seen, t.long().expand(2).to(x.device), tokens)).chunk(2)
        x = x + (levels[i + 1] - levels[i]) * (without + W * (given - without))
    return x
