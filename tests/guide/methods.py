"""Every method of guidance, and beside it the formula of its paper, in the paper's own frame and in dense matrices."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from guided import guide as g
from guided import path
from guided.cond import Cond
from guided.guide import Guide, Term
from guided.noise import generator, key
from guided.operators import BoxDown, Mask
from tests.guide.problem import F64, SHAPE, At, Net, draw

Formula = Callable[[At], Tensor]
After = Callable[[At, Tensor, Tensor], Tensor]
CONTRAST, BANDS, PROJECTED, PUSH, RESCALED, THRESHOLDED, CLIPPED, EXACT = range(8)


@dataclass(frozen=True)
class Method:
    """A guide; what its contrasts make of D; and at which stage what is done to the sum (at, sum, base) after them.

    next: whether it wants to know where the step goes, and so solvers with one evaluation a step.
    """

    guide: Guide | Term
    contrast: Formula | None = None
    stage: int = CONTRAST
    after: After | None = None
    neutral: Guide | Term | None = None
    next: bool = False
    route: Callable[[Tensor], Tensor] = path.ancestral


def one(label: int) -> Cond:
    return Cond(label=torch.tensor([label]))


def classifier(x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
    """Logits of three classes; flatter at higher noise."""
    level = torch.as_tensor(sigma, dtype=F64).to(x).reshape(-1, 1)
    return (x.flatten(1) @ draw(32, 3, seed=21).to(x)) / (4 + 4 * level)


BOX, BOX_Y = BoxDown(2), draw(1, 2, 2, 2, seed=22)
MASK, MASK_Y = Mask(draw(4, 4, seed=23) > 0), draw(1, *SHAPE, seed=24)
BOX_MATRIX = torch.stack([BOX(e.reshape(1, *SHAPE)).flatten() for e in torch.eye(32, dtype=F64)], 1)
MAP = 1 + draw(1, 1, 4, 4, seed=25).abs()
WEAK, BANK = Net(seed=9), Cond(label=torch.tensor([3, 4, 3, 4]))


def misfit(D: Tensor, cond: Cond) -> Tensor:
    """-|y - A D|, whose gradient is DPS's."""
    return -(BOX_Y.to(D) - BOX(D)).flatten(1).norm(dim=1)


def misfit_grad(D: Tensor) -> Tensor:
    r = (BOX_Y.flatten(1) - D.flatten(1) @ BOX_MATRIX.T) / -misfit(D, Cond())[:, None]
    return (r @ BOX_MATRIX).reshape(D.shape)


def bowl(D: Tensor, cond: Cond) -> Tensor:
    """-|D - m|^4 / 400: not a Gaussian, so that steps on D differ from one long step."""
    return -((D - draw(*SHAPE, seed=26).to(D)).flatten(1).square().sum(1) ** 2) / 400


def bowl_grad(D: Tensor) -> Tensor:
    off = D - draw(*SHAPE, seed=26)
    return -off * off.flatten(1).square().sum(1).reshape(-1, 1, 1, 1) / 100


def steps(D: Tensor, mu: float, count: int) -> Tensor:
    """Gradient steps on D itself."""
    for _ in range(count):
        D = D + mu * bowl_grad(D)
    return D


def inner(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("bchw,bchw->b", a, b)[:, None, None, None]


def perp_neg(at: At) -> Tensor:
    null = at.eps(label=None)
    positive, negative = at.eps() - null, at.eps(label=3) - null
    across = negative - inner(negative, positive) / inner(positive, positive) * positive
    return at.x0(null + 3 * (positive - 0.8 * across))


def composed(*weights: tuple[int, float]) -> Formula:
    def formula(at: At) -> Tensor:
        null = at.eps(label=None)
        return at.x0(null + sum(w * (at.eps(label=label) - null) for label, w in weights))

    return formula


def instruct_pix2pix(at: At) -> Tensor:
    none, image, both = at.eps(label=None, image=None), at.eps(label=None), at.eps()
    return at.x0(none + 1.5 * (image - none) + 3 * (both - image))


def cfg_pp(at: At) -> Tensor:
    """Algorithm 2: z' = a' x0_lambda + b' eps_null."""
    null = at.eps(label=None)
    x0 = at.x0(null + 0.6 * (at.eps() - null))
    return at.back((x0 + at.t * null) / math.sqrt(1 + at.t**2))


def independent(at: At) -> Tensor:
    other = int(BANK.label[key(f"guide/independent/{at.s.hex()}", 0, 0) % 4])
    return at.x0(at.eps(label=other) + 3 * (at.eps() - at.eps(label=other)))


def adm_g(at: At, D: Tensor, base: Tensor) -> Tensor:
    """Dhariwal and Nichol 2021, algorithm 2: eps - b grad_z ln p, z = a x, at scale 2."""
    z = (at.a * at.x).requires_grad_()
    with torch.enable_grad():
        log = classifier(z / at.a, at.s).log_softmax(1)[:, 1].sum()
    return D - at.b / at.a * (-2 * at.b * torch.autograd.grad(log, z)[0])


def clean_classifier(at: At, D: Tensor, base: Tensor) -> Tensor:
    """eps - b grad_z ln p(y | x0(z)), by the dense Jacobian; d softmax by hand."""
    W = draw(32, 3, seed=21) / 4
    chance = (base.flatten(1) @ W).softmax(1)
    inside = torch.nn.functional.one_hot(torch.full((len(D),), 1), 3) - chance
    return D + at.b**2 / at.a**2 * at.pulled((inside @ W.T).reshape(D.shape))


def variance(grad: Callable[[Tensor], Tensor], rho: float) -> After:
    return lambda at, D, base: D + rho * at.s**2 * at.pulled(grad(base))


def universal(at: At, D: Tensor, base: Tensor) -> Tensor:
    """Bansal et al. 2023: eps + s(t) grad_z loss, then minus a / b times the change that steps on x0 find."""
    forward = -0.3 * at.s * at.pulled(bowl_grad(base)) / at.a * at.a
    backward = -at.a / at.b * (steps(base, 0.4, 3) - base)
    return D - at.s * (forward + backward)


def loss_guided(at: At, D: Tensor, base: Tensor) -> Tensor:
    """Song et al. 2023 (LGD): the gradient of ln of the mean of p over draws around x0."""
    near = [base + 0.5 * at.s * unit(at.s, k) for k in range(4)]
    shares = torch.stack([bowl(D, at.cond) for D in near]).softmax(0)[..., None, None, None]
    return D + 0.2 * at.s**2 * at.pulled(sum(share * bowl_grad(D) for share, D in zip(shares, near, strict=True)))


def unit(s: float, k: int) -> Tensor:
    return torch.randn(SHAPE, generator=generator(f"guide/tfg/{s.hex()}", 0, k)).double()


def pi_gdm(at: At, D: Tensor, base: Tensor) -> Tensor:
    A, r2 = BOX_MATRIX, at.s**2 * 1.2 / (at.s**2 + 1.2)
    weighed = torch.linalg.solve(
        r2 * A @ A.T + 0.1**2 * torch.eye(8, dtype=F64), (BOX_Y.flatten(1) - base.flatten(1) @ A.T).T
    )
    return D + at.s**2 * at.pulled((weighed.T @ A).reshape(D.shape))


def moment_matching(at: At, D: Tensor, base: Tensor) -> Tensor:
    """Rozet et al. 2024: Cov[x0 | x] = s^2 J, and two conjugate gradients on the dense system, image by image."""
    A, J = BOX_MATRIX, at.jacobian()
    moved = torch.empty_like(D.flatten(1))
    for i, gap in enumerate(BOX_Y.flatten(1) - base.flatten(1) @ A.T):
        system = 0.5**2 * torch.eye(8, dtype=F64) + at.s**2 * A @ J[i].T @ A.T
        first = gap @ gap / (gap @ system @ gap) * gap
        rest = gap - system @ first
        way = rest + rest @ rest / (gap @ gap) * gap
        moved[i] = at.s**2 * J[i].T @ A.T @ (first + rest @ rest / (way @ system @ way) * way)
    return D + moved.reshape(D.shape)


def dps(at: At, D: Tensor, base: Tensor) -> Tensor:
    """Chung et al. 2023, algorithm 1: z' - zeta grad_z |y - A x0|, after DDIM's step."""
    moved = at.step((at.x - D) / at.s) + 0.3 * at.pulled(misfit_grad(base)) / at.a
    return at.back(moved)


def ddnm(at: At, D: Tensor, base: Tensor) -> Tensor:
    flat = D.flatten(1)
    return (flat - (flat @ BOX_MATRIX.T - BOX_Y.flatten(1)) @ torch.linalg.pinv(BOX_MATRIX).T).reshape(D.shape)


def repaint(at: At, D: Tensor, base: Tensor) -> Tensor:
    known = (draw(4, 4, seed=23) > 0).to(D)
    return known * MASK_Y + (1 - known) * D


def rescale(at: At, D: Tensor, base: Tensor) -> Tensor:
    target, found = (torch.tensor(np.std(t.flatten(1).numpy(), axis=1, ddof=1)) for t in (base, D))
    return 0.7 * D * (target / found)[:, None, None, None] + 0.3 * D


def threshold(at: At, D: Tensor, base: Tensor) -> Tensor:
    q = np.maximum(1, np.percentile(np.abs(D.flatten(1).numpy()), 90, axis=1))[:, None, None, None]
    return torch.tensor(np.clip(D.numpy(), -q, q) / q)


def projected(at: At, D: Tensor, base: Tensor) -> Tensor:
    """Sadat et al. 2024, algorithm 1, at the first step, w = 3 and the norm of D_c - D_null at most 2."""
    return apg_of((D - base) / 2, base, 2.0)


def apg_of(delta: Tensor, base: Tensor, radius: float) -> Tensor:
    """D_c + (w - 1) (what of delta stands across D_c), w = 3."""
    delta = delta * (radius / inner(delta, delta).sqrt()).clamp(max=1)
    direction = base / inner(base, base).sqrt()
    return base + 2 * (delta - inner(delta, direction) * direction)


def bands(at: At, D: Tensor, base: Tensor) -> Tensor:
    """Low band times 0.5, high band times 1.5: reduced and expanded by the matrices of Burt and Adelson's filter."""
    smooth = torch.zeros(4, 4, dtype=F64)
    for i in range(4):
        for offset, weight in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
            smooth[i, min(max(i + offset, 0), 3)] += weight / 16
    grow = smooth @ torch.eye(4, dtype=F64)[:, ::2]
    blur = grow / grow.sum(1, keepdim=True) @ smooth[::2]
    low = blur @ (D - base) @ blur.T
    return base + 0.5 * low + 1.5 * (D - base - low)


def rising(sigma: Tensor, next_sigma: Tensor | None) -> Tensor:
    """A weight as a function of the noise level."""
    return 1 + 2 * sigma


def constant(sigma: Tensor, next_sigma: Tensor | None) -> float:
    return 1.0


def free_dom(route: Tensor) -> Tensor:
    """Time travel, as FreeDoM and RePaint have it."""
    return path.ancestral(path.resample(route, 1, 2))


def cfg3(at: At) -> Tensor:
    """Ho and Salimans 2022, eq. 6, with their w = 2."""
    return at.x0((1 + 2) * at.eps() - 2 * at.eps(label=None))


def apart(weight: float | Tensor, kind: str = "", **other: int | None) -> Formula:
    return lambda at: at.x0(at.eps(kind, **other) + weight * (at.eps() - at.eps(kind, **other)))


NOISY = g.class_log_prob(classifier, 1)
METHODS: dict[str, Method] = {
    "cfg": Method(g.cfg(3), cfg3, neutral=g.cfg(1)),
    "negative prompt": Method(g.cfg(3, one(3)), apart(3, label=3), neutral=g.cfg(1, one(3))),
    "interval": Method(
        g.cfg(3).during(0.2, 2),
        lambda at: cfg3(at) if 0.2 < at.s <= 2 else at.D(),
        neutral=g.cfg(3).during(50, 60),
    ),
    "map": Method(g.cfg(MAP), apart(MAP, label=None), neutral=g.cfg(torch.ones(1, 1, 4, 4))),
    "function": Method(g.cfg(rising), lambda at: apart(1 + 2 * at.s, label=None)(at), neutral=g.cfg(constant)),
    "perp-neg": Method(g.perp_neg(3, (one(3), 0.8)), perp_neg, neutral=g.perp_neg(1, (one(3), 0))),
    "compose": Method(g.compose([(one(0), 2), (one(1), 1.5)]), composed((0, 2), (1, 1.5))),
    "negation": Method(g.compose([(one(0), 3), (one(1), -1)]), composed((0, 3), (1, -1))),
    "instruct-pix2pix": Method(
        g.nested((3, {"label"}), (1.5, {"image"})), instruct_pix2pix, neutral=g.nested((1, {"label"}), (1, {"image"}))
    ),
    "autoguidance": Method(
        g.between(WEAK, 2),
        lambda at: torch.lerp(WEAK(at.x, torch.tensor(at.s, dtype=F64), at.cond), at.D(), 2.0),
        neutral=g.between(WEAK, 1),
    ),
    "independent": Method(g.independent(3, BANK), independent, neutral=g.independent(1, BANK)),
    "cfg++": Method(g.cfgpp(0.6), cfg_pp, next=True),
    "pag": Method(g.perturbed("identity", 3), apart(4, "identity"), neutral=g.perturbed("identity", 0)),
    "seg": Method(g.perturbed("blur", 3), apart(4, "blur"), neutral=g.perturbed("blur", 0)),
    "slg": Method(g.perturbed("skip", 2.8), apart(3.8, "skip"), neutral=g.perturbed("skip", 0)),
    "adm-g": Method(g.gradient(NOISY, "x", 2.0), stage=PUSH, after=adm_g, neutral=g.gradient(NOISY, "x", scale=0)),
    "clean classifier": Method(
        g.gradient(NOISY), stage=PUSH, after=clean_classifier, neutral=g.gradient(NOISY, scale=0)
    ),
    "dps, no norm": Method(
        g.tfg(misfit, rho=0.5), stage=PUSH, after=variance(misfit_grad, 0.5), neutral=g.tfg(misfit, rho=0)
    ),
    "freedom": Method(g.tfg(bowl, rho=0.2), stage=PUSH, after=variance(bowl_grad, 0.2), route=free_dom),
    "mpgd": Method(g.tfg(bowl, rho=0, mu=0.4), stage=PUSH, after=lambda at, D, base: D + steps(base, 0.4, 1) - base),
    "universal": Method(g.tfg(bowl, rho=0.3, mu=0.4, iterations=3), stage=PUSH, after=universal),
    "loss-guided": Method(g.tfg(bowl, rho=0.2, gamma=0.5), stage=PUSH, after=loss_guided),
    "pigdm": Method(g.pigdm(BOX, BOX_Y, 0.1, 1.2), stage=PUSH, after=pi_gdm, neutral=0 * g.pigdm(BOX, BOX_Y, 0.1, 1.2)),
    "mmps": Method(
        g.mmps(BOX, BOX_Y, 0.5, 2), stage=PUSH, after=moment_matching, neutral=0 * g.mmps(BOX, BOX_Y, 0.5, 2)
    ),
    "dps": Method(g.dps(BOX, BOX_Y, 0.3), stage=PUSH, after=dps, neutral=g.dps(BOX, BOX_Y, 0.0), next=True),
    "ddnm": Method(g.project(BOX, BOX_Y), stage=EXACT, after=ddnm),
    "repaint": Method(g.project(MASK, MASK_Y), stage=EXACT, after=repaint, route=free_dom),
    "rescale": Method(g.cfg(3) >> g.rescale(0.7), cfg3, RESCALED, rescale, g.cfg(1) >> g.rescale(0.7)),
    "threshold": Method(g.cfg(3) >> g.threshold(0.9), cfg3, THRESHOLDED, threshold),
    "clip": Method(g.cfg(3) >> g.clip(0.8), cfg3, CLIPPED, lambda at, D, base: D.clamp(-0.8, 0.8)),
    "apg": Method(
        g.cfg(3) >> g.apg(beta=-0.5, r=2 * 2 / math.sqrt(32)), cfg3, PROJECTED, projected, g.cfg(1) >> g.apg()
    ),
    "frequency": Method(
        g.cfg(3) >> g.frequency(low=0.5, high=1.5), cfg3, BANDS, bands, g.cfg(1) >> g.frequency(0.5, 1.5)
    ),
}


def joined(*methods: Method) -> Guide:
    """One guide of several methods: the sum of their terms under all their shaping."""
    guides = [Guide((m.guide,)) if isinstance(m.guide, Term) else m.guide for m in methods]
    whole = Guide(tuple(term for each in guides for term in each.terms))
    for shaping in (shaping for each in guides for shaping in each.shaping):
        whole = whole >> shaping
    return whole


def formula(at: At, *methods: Method) -> Tensor:
    """What the methods make of D together: contrasts add up, then stage by stage."""
    base = at.D()
    total = base + sum((m.contrast(at) - base for m in methods if m.contrast), torch.zeros_like(base))
    for method in sorted(methods, key=lambda m: m.stage):
        total = method.after(at, total, base) if method.after else total
    return total
