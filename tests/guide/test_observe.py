"""Observations against Bayes' rule where it is known, the papers' formulas, and the bits of what is known."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from guided import path, solvers
from guided.cond import Cond
from guided.guide import cfg, dps, mmps, pigdm, project, rescale, threshold
from guided.noise import Noise
from guided.operators import Blur, BoxDown, Decoded, Grey, Mask, Matrix, Operator
from guided.oracle import GaussianMixture
from guided.sampling import sample
from tests.guide.observing import F64, IMAGE, Gaussian, Linear, dense, draw, mixture

KNOWN = draw(4, 4, seed=3) > 0
OPERATORS: dict[str, Operator] = {
    "mask": Mask(KNOWN),
    "box-down": BoxDown(2),
    "grey": Grey((0.3, 0.7)),
    "blur": Blur(0.7),
    "matrix": Matrix(draw(5, 32, seed=2) / 4, IMAGE),
    "through a codec": Decoded(Grey((0.3, 0.7)), Linear()),
}
ALL = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
SIGMA = torch.tensor(1.3, dtype=F64)
NONE = Cond()


def measured(operator: Operator, n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy images x, measurements y of others, and the operator's matrix without the rows that measure nothing."""
    x, y = 1.5 * draw(n, *IMAGE), operator(draw(n, *IMAGE, seed=5))
    return x, y + 0.3 * draw(*y.shape, seed=6), dense(operator, IMAGE)


def observed(A: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of A that measure anything, with their values."""
    rows = A.abs().sum(1) > 0
    return A[rows], y.flatten(1)[:, rows]


def jacobian(denoise, x: Tensor, sigma: Tensor, cond: Cond = NONE) -> Tensor:
    """dD/dx of each image, (B, d, d), by differentiating one output at a time."""
    found = []
    for i in range(len(x)):
        one = lambda flat, i=i: denoise(flat.reshape(1, *IMAGE), sigma, cond.index([i])).flatten()  # noqa: E731
        found.append(torch.autograd.functional.jacobian(one, x[i].flatten()))
    return torch.stack(found)


@ALL
@pytest.mark.parametrize("levels", [torch.tensor(0.4), torch.tensor([0.05, 1.0, 30.0])], ids=["one", "an image each"])
def test_pigdm_and_mmps_are_bayes_rule_on_a_gaussian(operator: Operator, levels: Tensor) -> None:
    data = GaussianMixture(draw(1, *IMAGE, seed=8), torch.tensor([0.6], dtype=F64), torch.ones(1))
    x, y, A = measured(operator)
    sigma = levels.double()
    exact = data.posterior(x, sigma, *observed(A, y), 0.2).mean.reshape(x.shape)
    for term in (pigdm(operator, y, 0.2, 0.36), mmps(operator, y, 0.2, 40)):
        assert torch.allclose(term(data.denoiser())(x, sigma, NONE), exact, atol=1e-8)


@ALL
def test_mmps_is_bayes_rule_on_any_gaussian_and_pigdm_is_not(operator: Operator) -> None:
    data = Gaussian()
    x, y, A = measured(operator)
    exact = data.posterior(x, SIGMA, *observed(A, y), 0.2)
    assert torch.allclose(mmps(operator, y, 0.2, 60)(data)(x, SIGMA, NONE), exact, atol=1e-8)
    assert not torch.allclose(pigdm(operator, y, 0.2, data.var)(data)(x, SIGMA, NONE), exact, atol=1e-3)


@ALL
def test_pigdm_is_the_papers_formula(operator: Operator) -> None:
    denoise = mixture().denoiser()
    x, y, A = measured(operator)
    A, y_rows = observed(A, y)
    D, J = denoise(x, SIGMA, NONE), jacobian(denoise, x, SIGMA)
    r2 = SIGMA**2 * 0.8 / (SIGMA**2 + 0.8)
    inverse = torch.linalg.inv(r2 * A @ A.T + 0.04 * torch.eye(len(A), dtype=F64))
    pull = ((y_rows - D.flatten(1) @ A.T) @ inverse @ A)[:, None] @ J
    expected = D + SIGMA**2 * pull.reshape(D.shape)
    assert torch.allclose(pigdm(operator, y, 0.2, 0.8)(denoise)(x, SIGMA, NONE), expected, atol=1e-9)
    found = pigdm(operator, y, 0.2, 0.8, scale=2.5)(denoise)(x, SIGMA, NONE)
    assert torch.allclose(found, D + 2.5 * SIGMA**2 * pull.reshape(D.shape), atol=1e-9)


@ALL
def test_mmps_is_the_papers_formula_and_one_iteration_is_steepest_descent(operator: Operator) -> None:
    denoise = mixture().denoiser()
    x, y, A = measured(operator)
    A, y_rows = observed(A, y)
    D, J = denoise(x, SIGMA, NONE), jacobian(denoise, x, SIGMA)
    spread = SIGMA**2 * A @ J @ A.T + 0.04 * torch.eye(len(A), dtype=F64)
    gap = (y_rows - D.flatten(1) @ A.T)[..., None]
    step = (gap.mT @ gap) / (gap.mT @ spread @ gap)
    for iterations, v in ((60, torch.linalg.solve(spread, gap)), (1, step * gap)):
        expected = D + SIGMA**2 * ((v.mT @ A) @ J).reshape(D.shape)
        assert torch.allclose(mmps(operator, y, 0.2, iterations)(denoise)(x, SIGMA, NONE), expected, atol=1e-8)


@ALL
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_dps_is_the_published_algorithm(operator: Operator, eta: float) -> None:
    """Chung et al. 2023, algorithm 1, in their variance-preserving z, on DDIM's steps and on DDPM's."""
    denoise, zeta = mixture().denoiser(), 0.4
    x, y, A = measured(operator)
    A, y_rows = observed(A, y)
    levels, noise = path.karras(4, 0.2, 5.0), Noise([1, 2, 3])
    route = path.ancestral(levels, eta)
    z, move = x / (1 + levels[0] ** 2).sqrt(), 0
    for s, t in pairwise(levels):
        z = z.detach().requires_grad_()
        x0 = denoise(z * (1 + s**2).sqrt(), s, NONE)
        length = (y_rows - x0.flatten(1) @ A.T).norm(dim=1)
        gradient = torch.autograd.grad(length.sum(), z)[0]
        down = t * (1 - eta**2 * (1 - (t / s) ** 2)).clamp(min=0).sqrt()
        mean = x0 + down / s * (z * (1 + s**2).sqrt() - x0)
        fresh = (t**2 - down**2).sqrt() * noise(move + 2, IMAGE).double()
        # on DDPM's path the term knows the down-move's end in place of t: zeta counts less by this factor
        share = ((1 + down**2) / (1 + t**2)).sqrt()
        z = (mean + fresh) / (1 + t**2).sqrt() - share * zeta * gradient
        move += 2
    found = sample(dps(operator, y, zeta)(denoise), x, route, solver="euler", noise=noise)
    assert torch.allclose(found, z.detach(), atol=1e-9)


@ALL
def test_project_is_the_papers_formula(operator: Operator) -> None:
    denoise = mixture().denoiser()
    x, y, A = measured(operator)
    D = denoise(x, SIGMA, NONE).flatten(1)
    found = project(operator, y)(denoise)(x, SIGMA, NONE).flatten(1)
    if isinstance(operator, Decoded):
        # through pictures and back: where decoding is onto its pictures, the measurement is still met
        assert torch.allclose(found @ A.T, y.flatten(1), atol=1e-9)
        return
    expected = D - (D @ A.T - y.flatten(1)) @ torch.linalg.pinv(A).T
    assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("name", sorted(solvers.NAMES))
@pytest.mark.parametrize("make", [lambda p: p, path.ancestral, lambda p: path.ancestral(path.resample(p, 2, 2))])
def test_known_pixels_end_as_the_bits_they_came_as(name: str, make) -> None:
    data = mixture()
    x, y = 5 * draw(2, *IMAGE).float(), draw(2, *IMAGE, seed=1).float()
    guide = (cfg(3) + project(Mask(KNOWN), y)) >> rescale(0.7) >> threshold(0.9)
    cond = Cond(label=torch.tensor([0, 1]))
    # The last level is high, so that D is far from y: of near numbers even a sum, D + (y - D), gives y.
    found = sample(guide(data.denoiser()), x, make(path.karras(6, 0.5, 5)), cond, solver=name, noise=Noise([1, 2]))
    assert torch.equal(found[..., KNOWN], y[..., KNOWN])
    assert not torch.equal(found[..., ~KNOWN], y[..., ~KNOWN]) and found.isfinite().all()


TERMS = {
    "pigdm": lambda A, y: pigdm(A, y, 0.2, 0.8),
    "mmps": lambda A, y: mmps(A, y, 0.2),
    "dps": lambda A, y: dps(A, y, 0.5),
    "project": project,
}
EACH = pytest.mark.parametrize("make", TERMS.values(), ids=TERMS)


def at(term, denoise, x: Tensor, cond: Cond) -> Tensor:
    """One estimate as `sample` asks for it."""
    return term(denoise).evaluate(x, SIGMA, cond, SIGMA / 2, None)[0]


@EACH
def test_they_read_the_conditional_estimate_whatever_else_guides(make) -> None:
    denoise, cond = mixture().denoiser(), Cond(label=torch.tensor([0, 1, 0]))
    x, y, _ = measured(OPERATORS["box-down"])
    term = make(OPERATORS["box-down"], y)
    given, linear = denoise(x, SIGMA, cond), cfg(4)(denoise)(x, SIGMA, cond)
    moved = at(cfg(4) + term, denoise, x, cond)
    if make is project:
        assert torch.allclose(moved, OPERATORS["box-down"].project(linear, y), atol=1e-12)
    else:
        assert torch.allclose(moved - linear, at(term, denoise, x, cond) - given, atol=1e-12)
    assert (at(term, denoise, x, cond) - given).abs().max() > 1e-3


@EACH
def test_they_cost_one_evaluation_and_nothing_where_they_rest(make) -> None:
    rows = []

    def denoise(x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        rows.append(len(x))
        return mixture().denoise(x, sigma)

    x, y, _ = measured(OPERATORS["mask"])
    term = make(OPERATORS["mask"], y)
    at(term, denoise, x, NONE)
    assert rows == [3]
    resting = at(term.during(2.0), denoise, x, NONE)
    assert rows == [3, 3] and torch.equal(resting, mixture().denoise(x, SIGMA))
    if make is not project:
        assert torch.equal(at(0 * term, denoise, x, NONE), resting) and rows == [3, 3, 3]


@EACH
@ALL
def test_an_image_alone_is_what_it_is_in_company(make, operator: Operator) -> None:
    denoise = mixture().denoiser()
    x, y, _ = measured(operator)
    whole = at(make(operator, y), denoise, x, NONE)
    for i in range(3):
        assert torch.allclose(
            at(make(operator, y[i : i + 1]), denoise, x[i : i + 1], NONE), whole[i : i + 1], atol=1e-9
        )
    shared = at(make(operator, y[:1]), denoise, x, NONE)
    assert torch.allclose(shared[0], whole[0], atol=1e-9) and not torch.allclose(shared[1], whole[1], atol=1e-3)


@EACH
def test_a_met_observation_moves_nothing_and_float32_stays(make) -> None:
    denoise = mixture().denoiser()
    x = draw(2, *IMAGE).float()
    D = denoise(x, SIGMA, NONE)
    found = at(make(Grey((0.5, 0.5)), Grey((0.5, 0.5))(D)), denoise, x, NONE)
    assert found.dtype == torch.float32 and torch.allclose(found, D, atol=1e-6)


@pytest.mark.parametrize("sigma_y", [0.0, 0.05])
def test_unknown_pixels_of_the_picture_are_never_read(sigma_y: float) -> None:
    denoise, A = mixture().denoiser(), Mask(KNOWN)
    x, y = draw(2, *IMAGE), draw(2, *IMAGE, seed=1)
    hidden = torch.where(KNOWN, y, torch.nan)
    terms = [lambda y: pigdm(A, y, sigma_y, 0.8), lambda y: dps(A, y, 0.5), lambda y: project(A, y)]
    for make in [*terms, lambda y: mmps(A, y, 0.1)]:
        assert torch.equal(at(make(hidden), denoise, x, NONE), at(make(y), denoise, x, NONE))


def test_gradients_go_through_a_guided_estimate() -> None:
    """Whoever differentiates the guided denoiser (a likelihood, say) gets the derivative of what is returned."""
    denoise = lambda x, sigma, cond: 0.7 * torch.tanh(x) + 0.2 * x.flip(-1)  # noqa: E731
    x, y, _ = measured(OPERATORS["grey"], 1)
    for term in (pigdm(OPERATORS["grey"], y, 0.2, 0.8), mmps(OPERATORS["grey"], y, 0.2, 2)):
        guided = term(denoise)
        assert torch.autograd.gradcheck(lambda x, guided=guided: guided(x, SIGMA, NONE), (x.requires_grad_(),))


def test_dps_outside_sample_and_bad_arguments_are_refused() -> None:
    denoise, A = mixture().denoiser(), OPERATORS["grey"]
    x, y, _ = measured(A)
    with pytest.raises(ValueError, match="one evaluation a step, within `sample`"):
        dps(A, y, 0.5)(denoise)(x, SIGMA, NONE)
    with pytest.raises(ValueError, match="pigdm in its place"):
        sample(dps(A, y, 0.5)(denoise), x, path.karras(3, 0.1, 5), solver="heun")
    with pytest.raises(ValueError, match=r"y is \(3, 1, 4, 4\), but A x is \(2, 1, 4, 4\)"):
        pigdm(A, y, 0.1, 1.0)(denoise)(x[:2], SIGMA, NONE)
    with pytest.raises(ValueError, match="known"):
        project(Mask(KNOWN[:3]), x)(denoise)(x, SIGMA, NONE)
    for bad in (lambda: pigdm(A, y, -0.1, 1.0), lambda: pigdm(A, y, 0.1, 0.0), lambda: mmps(A, y, 0.0)):
        with pytest.raises(ValueError, match="expected"):
            bad()
    with pytest.raises(ValueError, match="tensor weight"):
        dps(A, y, torch.ones(2, 3))
    with pytest.raises(TypeError):
        2 * project(A, y)


def test_they_read_as_the_experiment() -> None:
    A, y = BoxDown(2), torch.zeros(1, 2, 2, 2)
    guide = pigdm(A, y, 0.05, 0.25).during(0.1, 5) + 2 * mmps(A, y, 0.1, 2) + dps(A, y, 0.3) + project(A, y)
    assert repr(guide) == (
        "pigdm(BoxDown(factor=2), <1x2x2x2>, 0.05, 0.25).during(0.1, 5)"
        " + mmps(BoxDown(factor=2), <1x2x2x2>, 0.1, 2, scale=2)"
        " + dps(BoxDown(factor=2), <1x2x2x2>, 0.3) + project(BoxDown(factor=2), <1x2x2x2>)"
    )
