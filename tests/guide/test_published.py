"""Whole steps as papers write them, in their own frame, and published code where its conventions match."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from guided import path
from guided.cond import Cond
from guided.denoiser import EDM, Denoiser
from guided.guide import apg, cfg, cfgpp, dps, frequency, independent, perturbed, project, rescale, tfg
from guided.nn import preset
from guided.noise import Noise
from guided.oracle import GaussianMixture
from guided.sampling import sample, trajectory
from tests.guide.methods import BOX, BOX_Y, MASK, MASK_Y, apg_of, bowl, bowl_grad, misfit_grad
from tests.guide.problem import F64, At, Net, batch, draw
from tests.nn.tools import awake

NOISE = Noise((1, 2, 3))
GRID = torch.tensor([4.0, 2.5, 1.3, 0.6, 0.0], dtype=F64)


def level(sigma: float) -> Tensor:
    return torch.tensor(sigma, dtype=F64)


def bar(sigma: float) -> float:
    """alpha_bar of the variance-preserving frame."""
    return 1 / (1 + sigma**2)


def ddpm(z: Tensor, x0: Tensor, s: float, t: float) -> tuple[Tensor, float]:
    """Mean and std of q(z' | z, x0) (Ho et al. 2020, eq. 7)."""
    a, b = bar(s), bar(t)
    alpha = a / b
    mean = math.sqrt(b) * (1 - alpha) / (1 - a) * x0 + math.sqrt(alpha) * (1 - b) / (1 - a) * z
    return mean, math.sqrt((1 - b) / (1 - a) * (1 - alpha))


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_cfgpp_is_the_two_line_update_of_its_paper(eta: float) -> None:
    """Algorithm 2, and with DDIM's sigma_t on ancestral paths: z' = a' x0_lambda + sqrt(b'^2 - v) eps_null + v n."""
    x, cond = batch()
    found = sample(cfgpp(0.6)(Net()), x, path.ancestral(GRID, eta), cond, solver="euler", noise=NOISE)
    z, draws = x * math.sqrt(bar(4.0)), iter(range(2, 9, 2))
    for s, t in pairwise(GRID.tolist()):
        at = At(Net(), z / math.sqrt(bar(s)), s, t, cond)
        null = at.eps(label=None)
        x0 = at.x0(null + 0.6 * (at.eps() - null))
        v = eta * math.sqrt((1 - bar(t)) / (1 - bar(s)) * (1 - bar(s) / bar(t)))
        z = math.sqrt(bar(t)) * x0 + math.sqrt(max(1 - bar(t) - v**2, 0)) * null
        z = z + v * NOISE(next(draws), x.shape[1:]) if v else z
    assert torch.allclose(found, z, atol=1e-9)


def test_cfgpp_is_diffusers_ddim_renoised_with_the_null() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(4)
    bars = [float(scheduler.alphas_cumprod[i]) for i in scheduler.timesteps] + [1.0]
    route = torch.tensor([math.sqrt(1 / b - 1) for b in bars], dtype=F64)
    x, cond = batch()
    x = x / 2 * route[0]
    found = sample(cfgpp(0.6)(Net()), x, route, cond, solver="euler")
    z = x * math.sqrt(bars[0])
    for i, t in enumerate(scheduler.timesteps):
        at = At(Net(), z / math.sqrt(bars[i]), float(route[i]), 0.0, cond)
        null = at.eps(label=None)
        step = scheduler.step(null + 0.6 * (at.eps() - null), t, z)
        z = math.sqrt(bars[i + 1]) * step.pred_original_sample + math.sqrt(1 - bars[i + 1]) * null
    assert torch.allclose(found, z, rtol=1e-4, atol=1e-4)  # diffusers' table of alphas is float32


ROUTES = {"a grid": (GRID, [0]), "a restart": (path.restart(GRID, 1.3, 2.5), [0, 2])}


@pytest.mark.parametrize(("route", "anew"), ROUTES.values(), ids=ROUTES)
def test_apg_over_several_steps_is_diffusers_original_formulation(route: Tensor, anew: list[int]) -> None:
    guidance = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    x, cond = batch()
    w, radius = 6.0, 1.5
    guide = cfg(w) >> apg(eta=0.3, beta=-0.5, r=(w - 1) * radius / math.sqrt(32))
    found = [D for _, _, D in trajectory(guide(Net()), x, route, cond, solver="euler", noise=NOISE)]
    states = [x, *(x for _, x, _ in trajectory(guide(Net()), x, route, cond, solver="euler", noise=NOISE))]
    buffer, step = None, 0
    for i, (s, t) in enumerate(pairwise(route.tolist())):
        if t > s:
            continue
        buffer = guidance.MomentumBuffer(-0.5) if step in anew else buffer
        at, step = At(Net(), states[i], s, t, cond), step + 1
        wanted = guidance.normalized_guidance(at.D(), at.D(label=None), w - 1, buffer, 0.3, radius, True)
        assert torch.allclose(found[i], wanted, atol=1e-9)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_apg_is_algorithm_1_with_the_momentum_of_first_evaluations(solver: str) -> None:
    x, cond = batch()
    guide = cfg(3) >> apg(beta=-0.75, r=2 * 1.0 / math.sqrt(32))
    found = sample(guide(Net()), x, GRID, cond, solver=solver)
    running = torch.zeros_like(x)

    def guided(x: Tensor, s: float) -> tuple[Tensor, Tensor]:
        at = At(Net(), x, s, 0.0, cond)
        delta = at.D() - at.D(label=None) - 0.75 * running
        return apg_of(delta, at.D(), 1.0), delta

    for s, t in pairwise(GRID.tolist()):
        D, after = guided(x, s)
        slope = (x - D) / s
        if solver == "heun" and t > 0:
            middle = x + (t - s) * slope
            slope = (slope + (middle - guided(middle, t)[0]) / t) / 2
        x, running = x + (t - s) * slope, after
    assert torch.allclose(found, x, atol=1e-9)


def test_rescale_is_diffusers() -> None:
    published = pytest.importorskip("diffusers.guiders.guider_utils").rescale_noise_cfg
    x, cond = batch()
    for s in (4.0, 1.3, 0.3):
        at = At(Net(), x, s, 0.0, cond)
        guided = at.D(label=None) + 7.5 * (at.D() - at.D(label=None))
        found = (cfg(7.5) >> rescale(0.7))(Net())(x, level(s), cond)
        assert torch.allclose(found, published(guided, at.D(), 0.7), atol=1e-9)


def test_dps_is_algorithm_1() -> None:
    x, cond = batch()
    found = sample(dps(BOX, BOX_Y, 0.3)(Net()), x, GRID, cond, solver="euler")
    z = x * math.sqrt(bar(4.0))
    for s, t in pairwise(GRID.tolist()):
        at = At(Net(), z / math.sqrt(bar(s)), s, t, cond)
        z = at.step(at.eps()) + 0.3 * at.pulled(misfit_grad(at.D())) / at.a
    assert torch.allclose(found, z, atol=1e-9)


def test_freedom_is_its_step_with_time_travel() -> None:
    """Yu et al. 2023, algorithm 1: z' = DDIM - rho_t grad_z loss, then back up with fresh noise, `times` - 1 times."""
    x, cond = batch()

    def scale(s: Tensor, t: Tensor | None) -> float:
        s, t = float(s), float(t)
        return 0.2 * math.sqrt((1 + s**2) * (1 + t**2)) / (s**2 * (1 - t / s))

    route = path.resample(GRID, 1, 2)
    found = sample(tfg(bowl, rho=scale)(Net()), x, route, cond, solver="euler", noise=NOISE)
    z = x * math.sqrt(bar(4.0))
    for move, (s, t) in enumerate(pairwise(route.tolist())):
        if t < s:
            at = At(Net(), z / math.sqrt(bar(s)), s, t, cond)
            z = at.step(at.eps()) + 0.2 * at.pulled(bowl_grad(at.D())) / at.a
        else:
            ratio = bar(t) / bar(s)
            z = math.sqrt(ratio) * z + math.sqrt(1 - ratio) * NOISE(move + 1, x.shape[1:])
    assert torch.allclose(found, z, atol=1e-9)


def test_repaint_is_ddpm_with_the_known_pasted_and_jumps_back() -> None:
    x, cond = batch()
    route = path.ancestral(path.resample(GRID, 2, 2))
    found = sample(project(MASK, MASK_Y)(Net()), x, route, cond, solver="euler", noise=NOISE)
    known, levels = MASK.known.to(F64), route.tolist()
    z, s, move = x * math.sqrt(bar(4.0)), levels[0], 0
    while move < len(levels) - 1:
        D = At(Net(), z / math.sqrt(bar(s)), s, 0.0, cond).D()
        up = move + 2 < len(levels)
        t = levels[move + 2] if up else 0.0
        # A posterior step and the jump that may follow it share one draw: of the step's level only the law is known.
        low = math.sqrt(levels[move + 1] * s) if up else 0.0
        z, std = ddpm(z, known * MASK_Y + (1 - known) * D, s, low)
        ratio = bar(t) / bar(low)
        z = math.sqrt(ratio) * z
        z = z + math.sqrt(ratio * std**2 + 1 - ratio) * NOISE(move + 2, x.shape[1:]) if up else z
        s, move = t, move + 2 if up else move + 1
    assert torch.allclose(found, z, atol=1e-9)


def test_what_is_known_has_repaints_law_at_every_level() -> None:
    """q(x_t | x0) = N(y, sigma^2): one image a draw, so that squares add up to the variance."""
    route = path.ancestral(path.resample(GRID, 2, 2))[:-1]
    rises = int((route.diff() > 0).sum())
    start = torch.zeros(rises + 1, 1, dtype=F64)
    start[0] = route[0]
    draws = iter(range(1, rises + 1))
    still = project(MASK, torch.zeros(1, 1, 4, 4))(lambda x, sigma, cond: x)
    unit = lambda i, shape: torch.eye(rises + 1, dtype=F64)[:, next(draws), None, None, None].expand(-1, *shape)  # noqa: E731
    x = sample(still, start[..., None, None].expand(-1, 1, 4, 4), route, solver="euler", noise=unit)
    assert torch.allclose(x.square().sum(0)[:, MASK.known], route[-1] ** 2 * torch.ones(1, dtype=F64), rtol=1e-9)


class ByHand(nn.Module):
    """ADM's attention block by its map: the identity (PAG), rows of the mean query (SEG), or none at all (SLG)."""

    def __init__(self, block: nn.Module, kind: str) -> None:
        super().__init__()
        self.block, self.kind = block, kind

    def forward(self, h: Tensor, *rest: object) -> Tensor:
        if self.kind == "skip":
            return h
        attention = self.block.self_attention
        rows = self.block.norm(h).flatten(2).mT
        q, k, v = (part.unflatten(2, (2, 8)).transpose(1, 2) for part in attention.qkv(rows).chunk(3, 2))
        if self.kind == "blur":
            q = torch.ones_like(q) * q.mean(2, keepdim=True)
        weights = ((q @ k.mT) / math.sqrt(8)).softmax(-1)
        if self.kind == "identity":
            weights = torch.eye(weights.shape[-1], dtype=h.dtype).expand_as(weights)
        mixed = attention.out((weights @ v).transpose(1, 2).flatten(2))
        return h + mixed.mT.reshape(h.shape)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["identity", "blur", "skip"])
def test_perturbed_is_the_network_with_another_attention_in_its_middle(kind: str) -> None:
    network = awake(preset("tiny-class"), dtype=F64)
    x, cond = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=F64), Cond(torch.tensor([0, 3]))
    weak = copy.deepcopy(network)
    for part in ("", kind):
        weak.middle[0].attention[0] = ByHand(network.middle[0].attention[0], part)
        D, other = (Denoiser(net, EDM())(x, level(0.7), cond) for net in (network, weak))
        assert torch.allclose(D, other, rtol=1e-9) or part, "the block by hand is the block"
    found = perturbed(kind, 2.5)(Denoiser(network, EDM()))(x, level(0.7), cond)
    assert torch.allclose(found, D + 2.5 * (D - other), rtol=1e-9, atol=1e-9)
    assert (found - D).abs().max() > 1e-3


def test_an_independent_condition_is_one_of_the_bank_for_the_whole_batch_and_another_at_other_levels() -> None:
    bank = Cond(label=torch.tensor([3, 4, 1]))
    x, cond = Net().data.sample(2, torch.Generator().manual_seed(0), 0), Cond(label=torch.zeros(2, dtype=torch.long))
    seen = []
    for s in torch.linspace(2, 6, 45, dtype=F64).tolist():
        at = At(Net(), x, s, 0.0, cond)
        found = independent(2, bank)(Net())(x, level(s), cond)
        gaps = [(found - (2 * at.D() - at.D(label=int(label)))).abs().max() for label in bank.label]
        seen.append(min(range(3), key=gaps.__getitem__))
        assert gaps[seen[-1]] < 1e-9
        again = independent(2, bank)(Net())(x[1:], level(s), cond.index([1]))
        assert torch.allclose(again, found[1:], atol=1e-9)
    assert all(7 <= seen.count(k) <= 24 for k in range(3))


def test_smoothing_widens_a_gaussian_by_the_variance_of_its_draws() -> None:
    """E over n of N(D + gamma s n; 0, v) is N(D; 0, v + gamma^2 s^2)."""
    data = GaussianMixture(torch.zeros(1, 1, dtype=F64), torch.ones(1), torch.ones(1))
    x, s = torch.tensor([[1.5]], dtype=F64), 0.8
    guide = tfg(lambda D, cond: -0.5 * D[:, 0] ** 2 / 0.3, gamma=0.9, samples=1000)
    gain = 1 / (1 + s**2)
    wanted = gain * x - s**2 * gain * gain * x / (0.3 + 0.9**2 * s**2)
    assert torch.allclose(guide(data.denoiser())(x, level(s), Cond()), wanted, atol=0.05)
    assert abs(wanted.item() - (gain * x - s**2 * gain * gain * x / 0.3).item()) > 0.5


@pytest.mark.parametrize("size", [(20, 20), (19, 17)])
def test_bands_are_told_apart(size: tuple[int, int]) -> None:
    flat = torch.ones(2, 3, *size, dtype=F64)
    fine = (-1.0) ** (torch.arange(size[0])[:, None] + torch.arange(size[1])).to(F64).expand_as(flat)
    base = draw(2, 3, *size)
    low, high = frequency(low=0.0), frequency(low=1.0, high=0.0)
    assert torch.allclose(low(base + flat, base, None)[0], base, atol=1e-12)
    assert torch.allclose(high(base + flat, base, None)[0], base + flat, atol=1e-12)
    inside = (..., slice(8, -8), slice(8, -8))
    assert torch.allclose(low(base + fine, base, None)[0][inside], (base + fine)[inside], atol=1e-12)
    deep = frequency(low=0.0, levels=2)(base + fine + flat, base, None)[0]
    assert torch.allclose(deep[inside], (base + fine)[inside], atol=1e-3)
    whole = frequency(0.7, 0.7)(base + 1 + fine, base, None)[0]
    assert torch.allclose(whole, base + 0.7 * (1 + fine), atol=1e-12)
