"""What adds, what multiplies, what shapes, what stands outermost; and what is refused, with words that help."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guided import path, solvers
from guided.cond import Cond
from guided.guide import (
    Guide,
    Term,
    apg,
    between,
    cfg,
    cfgpp,
    class_log_prob,
    clip,
    compose,
    dps,
    frequency,
    gradient,
    independent,
    nested,
    perp_neg,
    perturbed,
    project,
    rescale,
    tfg,
    threshold,
)
from guided.sampling import sample
from tests.guide.methods import BANK, BOX, BOX_Y, MASK, MASK_Y, METHODS, NOISY, Method, bowl, classifier, one
from tests.guide.problem import F64, Counting, Net, batch

S = torch.tensor(1.3, dtype=F64)


def at(guide: Guide | Term, sigma: Tensor = S, n: int = 3) -> Tensor:
    x, cond = batch(n)
    return guide(Net())(x, sigma, cond)


def test_contrasts_add_pushes_multiply_and_guides_nest() -> None:
    base = at(cfg(1))
    assert torch.allclose(at(cfg(3) + cfg(2)), at(cfg(4)), atol=1e-12)
    net, (x, cond) = Counting(Net()), batch()
    with torch.no_grad():
        assert torch.allclose(cfg(2)(cfg(3)(net))(x, S, cond), at(cfg(6)), atol=1e-12) and net.rows == [6]
    for push in (gradient(NOISY), gradient(NOISY, "x"), tfg(bowl), tfg(bowl, rho=0, mu=0.1), perturbed("skip")):
        for twice in (2 * push, push * 2.0, push + push, 0.5 * (4 * push)):
            assert torch.allclose(at(twice) - base, 2 * (at(push) - base), atol=1e-12)
    rising = gradient(NOISY, scale=lambda sigma, next_sigma: sigma)
    assert torch.allclose(at(2 * rising) - base, 2.6 * (at(gradient(NOISY)) - base), atol=1e-12)


ADDITIVE = [name for name, method in METHODS.items() if isinstance(method.guide, Term) and method.stage != 7]


@pytest.mark.parametrize("name", ADDITIVE)
def test_terms_add_up_and_each_has_an_interval_of_its_own(name: str) -> None:
    x, cond = batch()
    step = lambda guide: guide(Net()).evaluate(x, S, cond, S / 2, None)[0]  # noqa: E731
    method: Method = METHODS[name]
    assert isinstance(method.guide, Term)
    base, alone = at(cfg(1)), step(method.guide)
    whole = step(cfg(2) + method.guide + method.guide.during(1, 1.3) + method.guide.during(1.3, 2))
    assert torch.allclose(whole - base, step(cfg(2)) + 2 * alone - 3 * base, atol=1e-10)


SHAPES = [clip(0.9), threshold(0.9), rescale(0.7), apg(r=0.5), frequency(0.5, 1.5)]


def test_shaping_is_sorted_into_one_order_whatever_is_written() -> None:
    forth, back = cfg(3) >> SHAPES[0], cfg(3) >> SHAPES[-1]
    for there, other in zip(SHAPES[1:], SHAPES[-2::-1], strict=True):
        forth, back = forth >> there, back >> other
    assert repr(forth) == repr(back)
    assert [type(s).__name__ for s in forth.shaping] == ["Frequency", "Apg", "Rescale", "Threshold", "Clip"]
    assert torch.equal(at(forth), at(back))


def test_a_shaping_at_its_neutral_value_changes_no_bit() -> None:
    for shape in (rescale(0), apg(1, 0), frequency(1, 1), clip(100), threshold(1, limit=100)):
        assert torch.equal(at(cfg(3) >> shape), at(cfg(3))), shape
    for shape in (rescale(), apg(), frequency(0.5, 2)):
        assert torch.equal(at(gradient(NOISY) >> shape), at(gradient(NOISY))) or shape == rescale(), "nothing was added"


REFUSED: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a contrast times a number": (lambda: 2 * cfg(3), TypeError, "only a push .* may be multiplied.*2 \\* cfg"),
    "what is exact times a number": (lambda: project(MASK, MASK_Y) * 2, TypeError, "only a push"),
    "a push times an image's number": (lambda: NOISE * torch.ones(3), TypeError, "and by a number"),
    "a guide times a number": (lambda: 2 * (NOISE + NOISE), TypeError, "\\*"),
    "a sum after shaping": (lambda: (cfg(3) >> rescale()) + cfg(2), TypeError, "add the terms first"),
    "a sum before shaping": (lambda: cfg(2) + (cfg(3) >> rescale()), TypeError, "add the terms first"),
    "shaping in a sum": (lambda: cfg(3) + rescale(), TypeError, "Rescale"),
    "shaping that binds to a sum": (lambda: cfg(3) >> rescale() + cfg(2), TypeError, "Rescale"),
    "a term as shaping": (lambda: cfg(3) >> cfg(2), TypeError, "Cfg"),
    "shaping twice": (lambda: cfg(3) >> rescale() >> rescale(0.1), ValueError, "once by each kind"),
    "a state inside": (lambda: cfg(2)((cfg(3) >> apg())(Net())), TypeError, "must stand outermost"),
    "a state inside another": (
        lambda: (cfg(2) >> apg())((cfg(3) >> apg(beta=0.1))(Net())), TypeError, "must stand outermost",
    ),
    "a state in the weak one": (lambda: between((cfg(3) >> apg())(Net()), 2), TypeError, "must stand outermost"),
    "a guide of a guide": (lambda: cfg(3)(cfg(2)), TypeError, "guides are added by"),
    "cfg++ outside sample": (lambda: at(cfgpp(0.6)), ValueError, "one evaluation a step.*euler.*multistep.*cfg in its"),
    "cfg++ inside": (lambda: at(Inside(cfgpp(0.6))), ValueError, "in its outermost guide"),
    "dps outside sample": (lambda: at(dps(BOX, BOX_Y, 1)), ValueError, "one evaluation a step.*euler.*pigdm in its"),
    "a strength": (lambda: cfgpp(1.5), ValueError, "strength in \\[0, 1\\], got 1.5"),
    "a weight of another shape": (lambda: cfg(torch.ones(2, 3)), ValueError, "\\(B,\\) or \\(B, 1, H, W\\), got"),
    "a weight for other images": (lambda: at(cfg(torch.full((2,), 3.0))), ValueError, "weight of shape .* not fit"),
    "a map for other images": (lambda: at(cfg(torch.full((3, 1, 4, 5), 3.0))), ValueError, "does not fit"),
    "a function's weight": (lambda: at(cfg(lambda s, t: torch.full((3, 4), 2.0))), ValueError, "does not fit"),
    "no weight": (lambda: cfg("3"), TypeError, "a number, a tensor or a function of .* got '3'"),  # type: ignore[arg-type]
    "an interval": (lambda: cfg(3).during(3, 1), ValueError, "0 <= lo < hi, got lo=3, hi=1"),
    "an unknown field": (lambda: cfg(3, drop={"labels"}), ValueError, "expected a set of fields among label, tokens"),
    "a field for a set": (lambda: cfg(3, drop="label"), ValueError, "expected a set of fields"),
    "a level's field": (lambda: nested((3, "label")), ValueError, "nested: expected a set of fields"),
    "no level": (nested, ValueError, "at least one"),
    "no part": (lambda: compose([]), ValueError, "at least one"),
    "no negative": (lambda: perp_neg(3), ValueError, "at least one"),
    "no bank": (lambda: independent(3, Cond()), ValueError, "at least one"),
    "a text for a condition": (lambda: cfg(3, negative="blurry"), TypeError, "Cond, as the model's encoders make"),  # type: ignore[arg-type]
    "a text for a part": (lambda: compose([("a cat", 3)]), TypeError, "compose: a condition is a Cond"),  # type: ignore[list-item]
    "a text for a negative": (lambda: perp_neg(3, ("dog", 1)), TypeError, "perp_neg: a condition is a Cond"),  # type: ignore[arg-type]
    "a kind of perturbation": (lambda: perturbed("pag"), ValueError, "one of identity, blur, skip, got 'pag'"),
    "what is read": (lambda: gradient(bowl, reads="x0"), ValueError, 'reads is "x" \\(noisy\\) or "D"'),
    "one number for all": (lambda: at(gradient(lambda D, cond: D.sum())), ValueError, "one ln p an image, \\(3,\\)"),
    "no graph": (lambda: at(gradient(lambda D, cond: D.detach().flatten(1).sum(1))), ValueError, "not differentiable"),
    "no class": (lambda: gradient(class_log_prob(classifier))(Net())(batch()[0], S, Cond()), ValueError, "no class"),
    "a smoothing": (lambda: tfg(bowl, gamma=-1), ValueError, "gamma >= 0"),
    "an eta": (lambda: apg(beta=-1), ValueError, "-1 < beta < 1"),
    "a radius": (lambda: apg(r=0), ValueError, "r > 0 or None"),
    "a phi": (lambda: rescale(1.1), ValueError, "phi in \\[0, 1\\]"),
    "a quantile": (lambda: threshold(0), ValueError, "0 < p <= 1"),
    "a limit": (lambda: clip(0), ValueError, "limit > 0"),
    "no bands": (lambda: frequency(levels=0), ValueError, "levels >= 1"),
}  # fmt: skip
NOISE = gradient(NOISY)


@dataclass
class Inside:
    """cfg(2) around a guide."""

    guide: Term

    def __call__(self, denoise: Net) -> object:
        return cfg(2)(self.guide(denoise))


@pytest.mark.parametrize(("make", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_says_what_fits(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_inference_mode_is_refused_where_gradients_are_taken() -> None:
    x, cond = batch()
    with torch.inference_mode():
        cfg(3)(Net())(x, S, cond)
        with pytest.raises(RuntimeError, match=r"torch\.inference_mode forbids: use torch\.no_grad"):
            gradient(NOISY)(Net())(x, S, cond)


SEVERAL = [name for name, solver in solvers.NAMES.items() if solver.evaluations > 1]


@pytest.mark.parametrize("guide", [cfgpp(0.6), dps(BOX, BOX_Y, 0.3)], ids=["cfg++", "dps"])
@pytest.mark.parametrize("name", SEVERAL)
def test_guides_that_want_the_next_level_refuse_solvers_of_several_evaluations(guide: Term, name: str) -> None:
    x, cond = batch()
    with pytest.raises(ValueError, match="take euler or a multistep solver"):
        sample(guide(Net()), x, torch.tensor([4.0, 2.0, 1.0]), cond, solver=name)
    sample(guide.during(3.9, 4)(Net()), x, torch.tensor([4.0, 0.0]), cond, solver=name)


@pytest.mark.parametrize("n", [2, 4], ids=["as many images as channels", "as many as columns"])
def test_a_weight_an_image_counts_images_in_every_term(n: int) -> None:
    w = torch.linspace(0.3, 2.5, n)
    sigma = torch.linspace(0.5, 1.5, n, dtype=F64)
    grids: list[Callable[[Any], Guide | Term]] = [
        cfg,
        lambda w: cfg(lambda sigma, next_sigma: w).during(0.1, 9) + cfg(torch.ones(1, 1, 4, 4) * 2),
        lambda w: perp_neg(w, (one(3), w)),
        lambda w: compose([(one(0), w), (one(1), -w)]),
        lambda w: nested((w, {"label"}), (w + 1, {"image"})),
        lambda w: between(Net(9), w),
        lambda w: independent(w, BANK),
        lambda w: perturbed("blur", w),
        lambda w: gradient(NOISY, "x", w),
        lambda w: gradient(NOISY, scale=w),
        lambda w: tfg(bowl, rho=w, mu=w / 10, iterations=2),
        lambda w: cfg(w) >> apg(r=0.3) >> rescale() >> threshold(0.8),
    ]
    x, cond = batch(n)
    for make in grids:
        for levels in (S, sigma):
            whole = make(w)(Net())(x, levels, cond)
            for i in range(n):
                s = levels if levels.ndim == 0 else levels[i]
                alone = make(w[i].item())(Net())(x[i : i + 1], s, cond.index([i]))
                assert torch.allclose(whole[i : i + 1], alone, atol=1e-6), make(w)


@pytest.mark.parametrize("name", METHODS)
def test_the_estimate_has_the_dtype_of_x(name: str) -> None:
    method = METHODS[name]
    x, cond = batch(2, torch.float32)
    for sigma in (S, S.float(), torch.tensor([0.7, 1.3], dtype=F64)):
        t = None if sigma.ndim else sigma / 2
        if method.next and t is None:
            continue
        found = method.guide(Net(dtype=torch.float32)).evaluate(x, sigma, cond, t, None)[0]
        exact = method.guide(Net()).evaluate(x.double(), sigma.double(), cond, t and t.double(), None)[0]
        assert found.dtype == torch.float32 and torch.allclose(found.double(), exact, rtol=1e-3, atol=1e-3)


def test_a_gate_is_read_in_the_precision_of_the_level() -> None:
    guide = cfg(3).during(0.3, 0.7)
    for dtype in (F64, torch.float32):
        for shape in ((), (3,)):
            inside, outside = (torch.full(shape, s, dtype=dtype) for s in (0.7, 0.3))
            assert torch.equal(at(guide, outside), at(cfg(1), outside))
            assert not torch.equal(at(guide, inside), at(cfg(1), inside))


REPRS = {
    "cfg(3).during(0.3, 5) + perturbed('identity', 2) >> apg(eta=0, beta=-0.5, r=0.1) >> rescale(0.7)": lambda: (
        cfg(3).during(0.3, 5) + perturbed("identity", 2) >> rescale(0.7) >> apg(r=0.1)
    ),
    "cfg(0.1234567891) + cfg(1e-07, negative=...) + cfg(<3>, drop={'image', 'label'})": lambda: (
        cfg(0.1234567891) + cfg(1e-7, one(3)) + cfg(torch.ones(3), drop={"label", "image"})
    ),
    "nested((7.5, {'tokens'}), (1.5, {'image'})) + cfgpp(0.6) + cfg(rising)": lambda: (
        nested((7.5, {"tokens"}), (1.5, {"image"})) + cfgpp(0.6) + cfg(rising)
    ),
    "between(Net, 2).during(0.3, inf) + independent(3, ..., seed=4) + perp_neg(3, (..., 0.5))": lambda: (
        between(Net(), 2).during(0.3) + independent(3, BANK, 4) + perp_neg(3, (one(3), 0.5))
    ),
    "compose((..., 2), (..., -1)) + perturbed('blur', 3, sigma=2, layers=('up',)) >> frequency(low=0.5, high=1)": (
        lambda: compose([(one(0), 2), (one(1), -1)]) + perturbed("blur", sigma=2, layers="up") >> frequency(0.5)
    ),
    "gradient(class_log_prob(classifier, 1), reads='x', scale=2) + tfg(bowl) + 2 * tfg(bowl, mu=0.4, gamma=0.1)": (
        lambda: 2 * gradient(NOISY, "x") + tfg(bowl) + 2 * tfg(bowl, mu=0.4, gamma=0.1)
    ),
    "project(Mask(4x4, 56.2% known), <1x2x4x4>) >> threshold(0.9, 2.5) >> clip()": lambda: (
        project(MASK, MASK_Y) >> clip() >> threshold(0.9, 2.5)
    ),
}


def rising(sigma: Tensor, next_sigma: Tensor | None) -> Tensor:
    return sigma


@pytest.mark.parametrize("text", REPRS)
def test_a_guide_reads_as_the_experiment(text: str) -> None:
    assert repr(REPRS[text]()) == text


def test_it_learns_through_a_guide() -> None:
    """The graph of a network's parameters is kept: a guided denoiser is a teacher, or a student, like any other."""

    class Scaled(nn.Module):
        accepts = Net.accepts

        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(1.1, dtype=F64))

        def forward(self, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            return self.gain**2 * Net()(x, sigma, cond)

    x, cond = batch()
    student = Scaled()
    for guide in (cfg(3), perp_neg(3, (one(3), 0.5)), cfg(3) >> apg(beta=0) >> rescale(), cfg(3) + NOISE):
        found = guide(student)(x.clone().requires_grad_(), S, cond).square().mean()
        slope = torch.autograd.grad(found, student.gain)[0]
        step, values = 1e-5, []
        for sign in (1, -1):
            with torch.no_grad():
                student.gain += sign * step
                values.append(guide(student)(x, S, cond).square().mean())
                student.gain -= sign * step
        assert torch.allclose(slope, (values[0] - values[1]) / (2 * step), rtol=1e-6), guide
    assert cfg(3)(student)(x, S, cond).requires_grad and not NOISE(student)(x, S, cond).requires_grad


def test_momentum_leaves_alone_the_images_that_nothing_is_added_to() -> None:
    """Images whose own weight is 1 for a while: what they get is what they would get alone."""
    x, cond = batch(2)

    def weights(rows: list[int]) -> Callable[[Tensor, Tensor | None], Tensor]:
        return lambda sigma, next_sigma: torch.tensor([4.0, 3.0 if 0.5 < sigma < 3 else 1.0])[rows]

    route = path.karras(8, 0.05, 10)
    for rows in ([0], [1]):
        alone = sample((cfg(weights(rows)) >> apg())(Net()), x[rows], route, cond.index(rows), solver="euler")
        whole = sample((cfg(weights([0, 1])) >> apg())(Net()), x, route, cond, solver="euler")
        assert torch.allclose(alone, whole[rows], atol=1e-9)
