"""Classifier-free guidance and the planner, judged by closed forms and by counting evaluations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guided import path
from guided.cond import Cond
from guided.guide import Branch, cfg
from guided.oracle import GaussianMixture
from guided.sampling import sample

F64 = torch.float64


class Counting:
    """A denoiser that notes the rows of every call."""

    def __init__(self, inner, accepts: frozenset[str] | None = None) -> None:
        self.inner, self.rows, self.sigmas = inner, [], []
        self.accepts = inner.accepts if accepts is None else accepts

    def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
        self.rows.append(len(x))
        self.sigmas.append(sigma)
        return self.inner(x, sigma, cond)


def mixture(shape: tuple[int, ...] = (2, 4, 4)) -> GaussianMixture:
    g = torch.Generator().manual_seed(0)
    means = torch.randn(4, *shape, generator=g, dtype=F64)
    return GaussianMixture(means, torch.tensor([0.3, 0.5, 0.4, 0.3]), torch.tensor([0.1, 0.4, 0.2, 0.3]), [0, 1, 1, 2])


def draw(n: int = 4, shape: tuple[int, ...] = (2, 4, 4)) -> tuple[Tensor, Cond]:
    g = torch.Generator().manual_seed(1)
    return 2 * torch.randn(n, *shape, generator=g, dtype=F64), Cond(label=torch.arange(n) % 3)


SIGMA = torch.tensor(1.3, dtype=F64)


@pytest.mark.parametrize("w", [0.0, 0.5, 2.0, 7.5])
def test_it_is_the_formula_of_the_paper_in_one_batched_call(w: float) -> None:
    data, (x, cond) = mixture(), draw()
    net = Counting(data.denoiser())
    D = cfg(w)(net)(x, SIGMA, cond)
    null, given = data.denoise(x, SIGMA), data.denoise(x, SIGMA, cond.label)
    assert torch.allclose(D, null + w * (given - null), atol=1e-12)
    assert net.rows == ([4] if w == 0 else [8])


def test_in_terms_of_scores_it_sharpens_the_class_posterior() -> None:
    data, (x, cond) = mixture(), draw()
    x.requires_grad_()
    w = 3.0
    log = data.log_prob(x, SIGMA) + w * data.class_log_prob(x, SIGMA)[torch.arange(4), cond.label]
    score = torch.autograd.grad(log.sum(), x)[0]
    D = cfg(w)(data.denoiser())(x.detach(), SIGMA, cond)
    assert torch.allclose((D - x.detach()) / SIGMA**2, score, atol=1e-9)


def test_weight_1_is_bitwise_the_conditional_model_with_one_evaluation() -> None:
    data, (x, cond) = mixture(), draw()
    net = Counting(data.denoiser())
    route = path.karras(8, 0.05, 20)
    assert torch.equal(sample(cfg(1)(net), x, route, cond), sample(data.denoiser(), x, route, cond))
    assert net.rows == [4] * 8
    assert torch.equal(sample(cfg(0)(net), x, route, cond), sample(data.denoiser(), x, route))


def test_outside_its_interval_it_costs_one_evaluation_and_changes_nothing() -> None:
    data, (x, cond) = mixture(), draw()
    net = Counting(data.denoiser())
    guide = cfg(4).during(0.5, 2.0)
    for sigma, rows in ((0.5, 4), (0.50001, 8), (2.0, 8), (2.0001, 4)):
        net.rows.clear()
        D = guide(net)(x, torch.tensor(sigma, dtype=F64), cond)
        assert net.rows == [rows]
        assert torch.equal(D, data.denoiser()(x, torch.tensor(sigma, dtype=F64), cond)) == (rows == 4)
    mixed = torch.tensor([0.4, 1.0, 2.0, 3.0], dtype=F64)
    D = guide(net)(x, mixed, cond)
    for i, level in enumerate(mixed):
        assert torch.allclose(D[i : i + 1], guide(data.denoiser())(x[i : i + 1], level, cond.index([i])), atol=1e-12)


def test_a_weight_per_image_counts_images_even_where_the_picture_is_as_wide_as_the_batch() -> None:
    data, (x, cond) = mixture(), draw()
    w = torch.tensor([1.0, 2.0, 0.0, 5.0])
    D = cfg(w)(data.denoiser())(x, SIGMA, cond)
    for i in range(4):
        alone = cfg(float(w[i]))(data.denoiser())(x[i : i + 1], SIGMA, cond.index([i]))
        assert torch.allclose(D[i : i + 1], alone, atol=1e-12)


def test_a_map_and_a_function_are_weights_too() -> None:
    data, (x, cond) = mixture(), draw()
    null, given = data.denoise(x, SIGMA), data.denoise(x, SIGMA, cond.label)
    where = torch.zeros(4, 1, 4, 4, dtype=F64)
    where[..., :2] = 3
    assert torch.allclose(cfg(where)(data.denoiser())(x, SIGMA, cond), null + where * (given - null), atol=1e-12)
    rising = cfg(lambda sigma, next_sigma: 1 + float(sigma))
    assert torch.allclose(rising(data.denoiser())(x, SIGMA, cond), null + 2.3 * (given - null), atol=1e-12)


def test_a_negative_condition_takes_the_place_of_the_null() -> None:
    data, (x, cond) = mixture(), draw()
    away = Cond(label=torch.full((4,), 2))
    D = cfg(3, negative=away)(data.denoiser())(x, SIGMA, cond)
    bad, given = data.denoise(x, SIGMA, away.label), data.denoise(x, SIGMA, cond.label)
    assert torch.allclose(D, bad + 3 * (given - bad), atol=1e-12)


def test_terms_add_and_share_their_branches() -> None:
    data, (x, cond) = mixture(), draw()
    net = Counting(data.denoiser())
    assert torch.allclose((cfg(3) + cfg(2))(net)(x, SIGMA, cond), cfg(4)(data.denoiser())(x, SIGMA, cond), atol=1e-12)
    assert net.rows == [8]
    assert repr(cfg(3).during(0.3, 5) + cfg(2)) == "cfg(3).during(0.3, 5) + cfg(2)"


def test_what_a_network_cannot_see_makes_no_branch() -> None:
    data, (x, cond) = mixture(), draw()
    blind = Counting(data.denoiser(), frozenset())
    D = cfg(5)(blind)(x, SIGMA, cond)
    assert blind.rows == [4] and torch.equal(D, data.denoiser()(x, SIGMA, cond))
    assert Branch(dropped=frozenset({"label", "tokens"})).seen_by({"tokens"}) == Branch(dropped=frozenset({"tokens"}))


def test_a_constant_is_kept_and_images_do_not_see_each_other() -> None:
    data, (x, cond) = mixture(), draw()
    guided = cfg(2.5)(data.denoiser())
    whole = guided(x, SIGMA, cond)
    for i in range(4):
        assert torch.allclose(whole[i : i + 1], guided(x[i : i + 1], SIGMA, cond.index([i])), atol=1e-12)


def test_image_conditions_survive_the_null_unless_named() -> None:
    seen = []

    class Looks:
        accepts = frozenset({"label", "image"})

        def __call__(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            seen.append(cond)
            return x

    x, cond = draw()
    cond = Cond(label=cond.label, image=torch.zeros(4, 1, 4, 4))
    cfg(2)(Looks())(x, SIGMA, cond)
    assert not seen[-1].image.isnan().any() and seen[-1].label[4:].tolist() == [-1] * 4
    cfg(2, drop={"label", "image"})(Looks())(x, SIGMA, cond)
    assert seen[-1].image[4:].isnan().all()


def test_bad_weights_and_intervals_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\)"):
        cfg(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="lo < hi"):
        cfg(2).during(3, 1)
    with pytest.raises(TypeError):
        cfg(2) + 1


@pytest.mark.parametrize("shape", [(4,), (4, 1, 4, 4)], ids=["an image each", "a map"])
def test_a_weight_never_changes_the_dtype_of_the_estimate(shape: tuple[int, ...]) -> None:
    x, cond = draw()
    w = torch.full(shape, 3.0, dtype=F64)
    for sigma in (torch.tensor(1.0), torch.ones(4)):
        for guide in (cfg(w), cfg(w.float()).during(0.5, 2.0), cfg(w) + cfg(torch.full((4,), 2.0))):
            assert guide(mixture().denoiser())(x.float(), sigma, cond).dtype == torch.float32
