"""Guides written as text: they mean what Python would make of them, and nothing else is run."""

from __future__ import annotations

import pytest
import torch

from guided.cond import Cond
from guided.guide import (
    apg,
    between,
    cfg,
    cfgpp,
    clip,
    compose,
    expression,
    frequency,
    nested,
    perp_neg,
    perturbed,
    rescale,
    threshold,
)
from guided.oracle import GaussianMixture

F64 = torch.float64
DATA = GaussianMixture(torch.randn(3, 2, 4, 4, dtype=F64), torch.full((3,), 0.3), torch.ones(3), [0, 1, 2])
X = torch.randn(3, 2, 4, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
COND = Cond(label=torch.tensor([0, 1, 2]))
BAD = Cond(label=torch.tensor([1]))
WEAK = GaussianMixture(DATA.means.reshape(3, 2, 4, 4), torch.full((3,), 0.6), torch.ones(3), [0, 1, 2]).denoiser()

WRITTEN = {
    "cfg(5)": cfg(5),
    "cfg(5).during(0.3, 5) >> rescale(0.7)": cfg(5).during(0.3, 5) >> rescale(0.7),
    "cfg(w=2.5) + cfg(-1).during(1) >> threshold(0.9, limit=1) >> apg(eta=0.2, beta=-0.3, r=2)": (
        cfg(2.5) + cfg(-1).during(1) >> threshold(0.9, limit=1) >> apg(0.2, -0.3, 2)
    ),
    "cfg(3, drop={'label', 'image'}) >> frequency(0.5, 1) >> clip()": (
        cfg(3, drop={"label", "image"}) >> frequency(0.5, 1) >> clip()
    ),
    "2 * perturbed('identity', 1.5, layers='middle')": 2 * perturbed("identity", 1.5, layers="middle"),
    "perturbed('blur', 2, sigma=inf) * 2": perturbed("blur", 2) * 2,
    "nested((7.5, {'label'}), (1.5, {'image'}))": nested((7.5, {"label"}), (1.5, {"image"})),
    "between(early, 2)": between(WEAK, 2),
    "cfg(5, negative='bad')": cfg(5, negative=BAD),
    "compose((('bad', 1.5), ('bad', -0.5)))": compose(((BAD, 1.5), (BAD, -0.5))),
    "perp_neg(5, ('bad', 1))": perp_neg(5, (BAD, 1)),
    "cfgpp(0.6)": cfgpp(0.6),
}


def read(text: str):
    return expression.parse(text, {"early": lambda: WEAK}, {"bad": BAD}.__getitem__)


@pytest.mark.parametrize("text", WRITTEN)
def test_it_means_what_python_makes_of_it(text: str) -> None:
    found, wanted = read(text), WRITTEN[text]
    assert repr(found) == repr(wanted) and type(found) is type(wanted)
    if "perturbed" in text:
        return
    sigma, after = torch.tensor(1.1, dtype=F64), torch.tensor(0.7, dtype=F64)
    D = [guide(DATA.denoiser()).evaluate(X, sigma, COND, after, None)[0] for guide in (found, wanted)]
    assert torch.equal(*D)


@pytest.mark.parametrize("text", [text for text in WRITTEN if "bad" not in text and "early" not in text])
def test_what_a_guide_prints_can_be_read_again(text: str) -> None:
    assert repr(read(repr(WRITTEN[text]))) == repr(WRITTEN[text])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("__import__('os').system('true')", "unknown"),
        ("cfg.__class__", "no part of a guide"),
        ("cfg(5).__init__(3)", "unknown"),
        ("(lambda: 1)()", "unknown"),
        ("[cfg(5)]", "no part of a guide"),
        ("cfg(5) - cfg(3)", "no part of a guide"),
        ("cfg(**{})", r"\*\* is no part"),
        ("cfg(5", "never closed"),
        ("5", "expected a guide"),
        ("rescale(0.7)", "expected a guide"),
        ("cfg", "call it: cfg"),
        ("cfg(later)", "unknown name 'later'; known: early, inf"),
        ("2 * cfg(5)", "only a push"),
        ("cfg(5).during(3, 1)", "lo < hi"),
        ("(cfg(5) >> rescale(0.7)).during(0, 1)", "only a term"),
        ("(cfg(5) >> rescale(0.7)) + cfg(2)", "add the terms first"),
        ("rescale(7)", "phi"),
        ("cfg(b'5')", "a number or a text"),
        ("cfg(5, colour=3)", "colour"),
        ("perturbed('pag')", "identity, blur, skip"),
    ],
)
def test_anything_else_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read(text)
    assert text in str(caught.value)


def test_a_prompt_needs_a_model_that_reads_text() -> None:
    with pytest.raises(ValueError, match="needs a model that reads text"):
        expression.parse("cfg(5, negative='blurry')")
