"""Bayes' rule along whole trajectories, and gradients through guides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from guided import path, solvers
from guided.cond import Cond
from guided.guide import Guide, Term, apg, cfg, class_log_prob, gradient, perp_neg, pigdm, tfg
from guided.noise import Noise
from guided.oracle import GaussianMixture
from guided.sampling import trajectory
from tests.guide.methods import BOX, BOX_Y, METHODS, NOISY, Method, bowl, one
from tests.guide.problem import F64, Net, batch, draw

GRID = path.karras(8, 0.05, 20)
ROUTES = {"falling": GRID, "ancestral": path.ancestral(GRID), "restart": path.restart(GRID, 0.5, 3)}
S = torch.tensor(1.3, dtype=F64)


def mixture() -> GaussianMixture:
    stds, weights = torch.tensor([0.3, 0.5, 0.4, 0.6]), torch.tensor([0.1, 0.4, 0.2, 0.3])
    return GaussianMixture(draw(4, 1, 2, 3), stds, weights, [0, 1, 1, 2])


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
@pytest.mark.parametrize("name", solvers.NAMES)
def test_the_unconditional_model_and_the_exact_classifier_are_the_conditional_model(name: str, route: Tensor) -> None:
    data, label = mixture(), torch.tensor([0, 1, 2, 1])
    x = 20 * draw(4, 1, 2, 3, seed=1)
    blind = lambda x, sigma, cond: data.denoise(x, sigma)  # noqa: E731
    exact = gradient(class_log_prob(data.class_log_prob), reads="x")
    cond, noise = Cond(label=label), Noise(range(4))
    wanted = list(trajectory(data.denoiser(), x, route, cond, solver=name, noise=noise))
    for guided in ((cfg(0) + exact)(data.denoiser()), exact(blind)):
        for move, (_, found, D) in enumerate(trajectory(guided, x, route, cond, solver=name, noise=noise)):
            assert (found - wanted[move][1]).abs().max() < 1e-5
            assert D is None or (D - wanted[move][2]).abs().max() < 1e-5


def test_levels_and_labels_may_be_the_images_own() -> None:
    data, label, x = mixture(), torch.tensor([1, 2]), draw(2, 1, 2, 3, seed=2)
    sigma = torch.tensor([0.4, 0.6], dtype=F64)
    found = gradient(class_log_prob(data.class_log_prob, label), "x")(data.denoiser())(x, sigma, Cond())
    assert torch.allclose(found, data.denoise(x, sigma, label), atol=1e-12)
    found = gradient(class_log_prob(data.class_log_prob, 1), "x")(data.denoiser())(x, sigma, Cond())
    assert torch.allclose(found, data.denoise(x, sigma, torch.tensor([1, 1])), atol=1e-12)


def test_a_label_of_minus_1_steers_nowhere() -> None:
    x, cond = batch()
    label = torch.tensor([1, -1, 2])
    for reads in ("x", "D"):
        found = gradient(class_log_prob(NOISY.classifier, label), reads)(Net())(x, S, cond)
        moved = (found - Net()(x, S, cond)).flatten(1).abs().amax(1)
        assert moved[1] == 0 and (moved[[0, 2]] > 1e-3).all()


def small(method: Method) -> Callable[[Tensor], Tensor]:
    """x -> D of one image, at a step that leads somewhere."""
    _, cond = batch(1)
    return lambda x: method.guide(Net()).evaluate(x, S, cond, S / 2, None)[0]


SMOOTH = {name: method for name, method in METHODS.items() if name not in ("threshold", "clip")}


@pytest.mark.parametrize("method", SMOOTH.values(), ids=SMOOTH)
def test_gradients_pass_through_a_guide_and_its_pushes(method: Method) -> None:
    x, _ = batch(1)
    ways = draw(2, *x.shape, seed=3)
    at = x.clone().requires_grad_()
    slopes = torch.autograd.grad((small(method)(at) * ways[0]).sum(), at)[0]
    step = 1e-5
    there, back = (small(method)(x + sign * step * ways[1]) for sign in (1, -1))
    wanted = ((there - back) * ways[0]).sum() / (2 * step)
    assert torch.allclose((slopes * ways[1]).sum(), wanted, rtol=1e-6, atol=1e-8)


CHECKED: dict[str, Guide | Term] = {
    "contrasts": cfg(3) + perp_neg(2, (one(3), 0.5)) >> apg(beta=0, r=0.3),
    "a classifier of x": cfg(0) + gradient(NOISY, "x"),
    "a classifier of D": cfg(2) + gradient(NOISY),
    "steps on D": tfg(bowl, rho=0.2, mu=0.3, iterations=2, gamma=0.4, samples=2),
    "an observation": pigdm(BOX, BOX_Y, 0.1, 1.0),
}


@pytest.mark.parametrize("guide", CHECKED.values(), ids=CHECKED)
def test_gradcheck(guide: Guide | Term) -> None:
    x, cond = batch(1)
    assert torch.autograd.gradcheck(lambda x: guide(Net())(x, S, cond), x.clone().requires_grad_(), fast_mode=True)


def test_a_guide_inside_a_push_is_differentiated_with_its_own_pushes() -> None:
    x, cond = batch(1)
    inner = (cfg(2) + gradient(NOISY))(Net())
    with torch.no_grad():
        found = tfg(bowl, rho=0.2)(inner)(x, S, cond)
        D = inner(x, S, cond)
    at = x.clone().requires_grad_()
    wanted = D + 0.2 * S**2 * torch.autograd.grad(bowl(inner(at, S, cond), cond).sum(), at)[0]
    assert torch.allclose(found, wanted, atol=1e-12) and (found - D).abs().max() > 1e-3
