"""Training a classifier of noisy pictures: it learns the posterior of every noise level, and goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import guided
from guided.cond import Cond
from guided.denoiser import EDM
from guided.model import Model, NoisyClassifier
from guided.nn import EncoderUNet, UNetConfig
from guided.oracle import GaussianMixture
from guided.train import fit, load_recipe, setup
from guided.train.estimates import Estimates
from guided.train.levels import LogNormal
from guided.train.loss import cross_entropy, objective
from guided.train.recipe import Data, Recipe
from tests.model import build
from tests.train.tools import CLASSES, digest, tiny


def recipe(data: Path, out: Path, **changes: Any) -> dict[str, Any]:
    values = tiny(data, out, train__images=48, train__save_every=24, train__held_every=24, train__preview_every=24)
    del values["loss"], values["train"]["drop"], values["sample"]
    values |= {"task": "classifier", "data": {**values["data"], "hold_out": {"share": 0.4, "pairs": 0}}}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values[section] = {**values.get(section, {}), name: value}
    return values


def drawing(card: dict[str, Any] | None = None, **changes: Any) -> Model:
    """A model of classes that draws pictures of the size of these."""
    known = {"classes": build.CLASSES, "size": [8, 8], **(card or {})}
    return build.model("tiny-class", card=known, **changes)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("classifier") / "run"
    steps = list(fit(recipe(data, out), device="cpu"))
    assert isinstance(steps[-1].model, NoisyClassifier) and [s.images for s in steps if s.held] == [24, 48]
    return out


def test_a_run_gives_a_classifier(whole: Path, data: Path) -> None:
    judge = guided.load(whole)
    assert isinstance(judge, NoisyClassifier) and judge.classes == CLASSES and (judge.lo, judge.hi) == (0.002, 80.0)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(judge.log_prob(x, torch.tensor(1.0)).exp().sum(1), torch.ones(2))
    card = judge.card
    assert card["provenance"]["images"] == 48 and card["recipe"]["task"] == "classifier" and "defaults" not in card
    assert sorted((whole / "model").iterdir()) == [whole / "model" / "card.json", whole / "model" / "model.safetensors"]
    assert not (whole / "previews").exists(), "a classifier draws nothing"
    job = setup.prepare(load_recipe(recipe(data, whole)), torch.device("cpu"))
    assert job.samples[3].cond.label is not None and job.samples.drop == 0, "every picture keeps its class"
    assert card["metrics"]["held_out_loss"] == _held(judge, job)


def _held(judge: NoisyClassifier, job: setup.Job) -> dict[str, Any]:
    """The held-out loss by its definition: -ln p of the held pictures' classes, at eight quantiles of the law."""
    from guided.noise import Noise

    x0 = torch.stack([job.pictures[row] for row in job.held]).float() / 127.5 - 1
    labels = torch.tensor([job.source.records[row].label for row in job.held])
    noise = Noise([3 + row for row in job.held], "held")(0, x0.shape[1:])
    out: dict[str, Any] = {}
    for u in range(8):
        sigma = float(job.law.quantile(torch.tensor((u + 0.5) / 8, dtype=torch.float64)))
        with torch.no_grad():
            found = judge.log_prob(x0 + sigma * noise, torch.tensor(sigma, dtype=torch.float64))
        out[f"{sigma:.4g}"] = pytest.approx(-float(found.gather(1, labels[:, None]).mean()), rel=1e-5)
    return {**out, "mean": pytest.approx(sum(v.expected for v in out.values()) / 8, rel=1e-5)}


def test_a_stopped_run_goes_on_to_the_same_bytes(whole: Path, data: Path, tmp_path: Path) -> None:
    steps = fit(recipe(data, tmp_path / "run"), device="cpu")
    for step in steps:
        if step.images == 32:  # the checkpoint is at 24
            break
    steps.close()  # type: ignore[attr-defined]
    again = list(fit(recipe(data, tmp_path / "run"), device="cpu"))
    assert again[0].note == "resuming at 24 images"
    assert digest(tmp_path / "run") == digest(whole)
    (done,) = fit(recipe(data, tmp_path / "run"), device="cpu")
    assert isinstance(done.model, NoisyClassifier) and done.note is not None and "finished at 48" in done.note


def test_one_of_estimates_learns_from_a_models_and_from_no_others(data: Path, tmp_path: Path) -> None:
    model = drawing()
    place = model.save(tmp_path / "model")
    values = {**recipe(data, tmp_path / "run"), "estimates": str(place)}
    steps = fit(values, device="cpu")
    for step in steps:
        if step.images == 32:  # the checkpoint is at 24
            break
    steps.close()  # type: ignore[attr-defined]
    job = setup.prepare(load_recipe(values), torch.device("cpu"))
    assert job.estimates is not None and job.estimates.sha256 == model.hash
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.3, 3.0], dtype=torch.float64)
    torch.testing.assert_close(job.estimates(x, sigma), model.denoiser(x, sigma, Cond()))
    with torch.no_grad():
        next(model.denoiser.network.parameters()).mul_(1.5)
    model.forget_hash()
    other = model.save(tmp_path / "other")
    for file in other.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="are no longer those this run began with"):
        next(fit(values, device="cpu"))
    with pytest.raises(ValueError, match="estimates: only a classifier reads them"):
        load_recipe({**tiny(data, tmp_path), "estimates": str(place)})


def test_one_of_estimates_says_whose_they_were_and_takes_no_noise(data: Path, tmp_path: Path) -> None:
    model = drawing()
    place = model.save(tmp_path / "model")
    values = {**recipe(data, tmp_path / "run", train__images=8), "estimates": str(place)}
    list(fit(values, device="cpu"))
    judge = guided.load(tmp_path / "run")
    assert isinstance(judge, NoisyClassifier)
    assert judge.card["estimates"] == {"name": "tiny-class", "sha256": model.hash}
    assert str(tmp_path) not in (tmp_path / "run" / "model" / "card.json").read_text(), "a card holds no paths"
    x = torch.randn(2, 3, 8, 8)
    assert bool(judge.log_prob(x).isfinite().all())
    with pytest.raises(ValueError, match="tiny learnt from a model's estimates and knows no noise"):
        judge.log_prob(x, torch.tensor(1.0))
    noisy = NoisyClassifier(judge.network, judge.parametrization, judge.lo, judge.hi)
    assert torch.equal(noisy(x), noisy(x, torch.tensor(judge.lo, dtype=torch.float64))), "no noise is the least"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"in_channels": 1, "out_channels": 1}, "draws pictures of 3 channels, 8 x 8 px"),
        ({"card": {"size": [16, 16]}}, "draws pictures of 3 channels, 8 x 8 px"),
        ({"image_channels": 3}, "from noise alone"),
        ({"card": {"distilled": {"method": "consistency", "guide": None, "steps": 4, "w": None}}}, "give its teacher"),
    ],
)
def test_what_gives_no_estimates_of_such_pictures_is_refused(
    data: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    place = drawing(**changes).save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"^estimates: .*{told}"):
        next(fit({**recipe(data, tmp_path / "run"), "estimates": str(place)}, device="cpu"))


def test_a_classifier_and_a_cascade_give_no_estimates(whole: Path, data: Path, tmp_path: Path) -> None:
    for given, told in (
        (str(whole), "it draws none"),
        ("emoji-128", "a cascade"),
        ("no/where/at/all", "no such model"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=told):
            next(fit({**recipe(data, tmp_path / "run"), "estimates": given}, device="cpu"))


def test_what_a_classifier_cannot_use_is_refused(data: Path, tmp_path: Path) -> None:
    bad = recipe(data, tmp_path, data__condition="none", train__drop=0.1, loss__weight="edm")
    with pytest.raises(ValueError) as caught:
        load_recipe(bad)
    assert str(caught.value).splitlines() == [
        "recipe: data.condition: expected class, which a classifier learns, got none",
        "recipe: train.drop: a classifier learns the class of every picture; leave it out",
        "recipe: loss: a classifier's is cross-entropy; leave the section out",
    ]
    with pytest.raises(ValueError, match="expected one of denoiser, classifier"):
        load_recipe({**bad, "task": "judge"})
    with pytest.raises(ValueError, match="model: a classifier reads the picture alone, this config also mask, tokens"):
        next(fit(recipe(data, tmp_path / "a", model__preset="tiny-text"), device="cpu"))


def test_cross_entropy_is_its_formula() -> None:
    class Means(torch.nn.Module):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            return torch.stack((x.mean((1, 2, 3)), sigma.to(x), torch.zeros(len(x), dtype=x.dtype)), 1)

    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 4, 3, 2, 2, generator=g, dtype=torch.float64)
    sigma = torch.tensor([0.1, 1.0, 2.0, 5.0], dtype=torch.float64)
    found = cross_entropy(Means(), x0, noise, sigma, Cond(label=torch.tensor([0, 1, 2, -1])))
    logits = [[float((x0[i] + sigma[i] * noise[i]).mean()), float(sigma[i]), 0.0] for i in range(4)]
    want = [torch.tensor(row, dtype=torch.float64).exp().sum().log() - row[i] for i, row in enumerate(logits[:3])]
    torch.testing.assert_close(found, torch.stack([*want, torch.zeros((), dtype=torch.float64)]))


def mixture() -> GaussianMixture:
    """Three classes of two clusters each, on pictures of 4 x 4; they overlap from sigma = 0.5 on."""
    means = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.6
    return GaussianMixture(means, torch.full((6,), 0.15), torch.ones(6), [0, 0, 1, 1, 2, 2])


def trained(data: GaussianMixture, kind: str, steps: int, batch: int = 96, lr: float = 5e-3) -> NoisyClassifier:
    """kind: of "noisy" pictures, of "clean" ones, or of "estimates" of noisy ones."""
    config = UNetConfig(
        **{"in_channels": 1, "out_channels": 3, "widths": (24,), "blocks": (1,), "depth": (0,)},  # type: ignore[arg-type]
        **{"middle_blocks": 1, "head_width": 24, "groups": 4},  # type: ignore[arg-type]
    )
    torch.manual_seed(0)
    judge = NoisyClassifier(EncoderUNet(config, (4, 4)), EDM(0.5), 0.02, 10.0)
    optimizer = torch.optim.AdamW(judge.parameters(), betas=(0.9, 0.99))
    recipe = Recipe(data=Data(path="none", condition="class"), task="classifier")
    aim = objective(recipe, EDM(0.5), Estimates(data.denoiser(), "oracle", "") if kind == "estimates" else None)
    law, g = LogNormal(0.0, 1.3, 0.02, 10.0), torch.Generator().manual_seed(1)
    assert data.classes is not None
    for step in range(steps):
        k = torch.randint(6, (batch,), generator=g)
        spread = data.stds[k, None] * torch.randn(batch, 16, generator=g, dtype=torch.float64)
        x0 = (data.means[k] + spread).view(-1, 1, 4, 4).float()
        levels = law.levels(0, range(step * batch, (step + 1) * batch))
        sigma = torch.full((batch,), 0.02).double() if kind == "clean" else levels
        cond = Cond(label=data.classes[k])
        loss = aim(judge, x0, torch.randn(x0.shape, generator=g), sigma, cond).mean()
        optimizer.param_groups[0]["lr"] = lr * min(1.0, 2 * (steps - step) / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval().requires_grad_(False)


def test_it_learns_the_exact_posterior_of_every_noise_level_as_a_clean_one_cannot() -> None:
    data = mixture()
    noisy, clean = trained(data, "noisy", 200), trained(data, "clean", 40)
    x0 = data.sample(300, torch.Generator().manual_seed(5))
    n = torch.randn(x0.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def far(judge: NoisyClassifier, sigma: float, told: float) -> float:
        """Mean KL(exact || judge) in nats."""
        exact = data.class_log_prob(x0 + sigma * n, sigma)
        found = judge.log_prob((x0 + sigma * n).float(), torch.tensor(told)).double()
        return float((exact.exp() * (exact - found)).sum(1).mean())

    assert far(clean, 0.02, 0.02) < 0.01, "it is a good classifier of clean pictures"
    for sigma, most in ((0.05, 0.02), (0.2, 0.02), (0.5, 0.05), (1.0, 0.13), (2.0, 0.1), (5.0, 0.1)):
        assert far(noisy, sigma, sigma) < most, sigma
        if sigma >= 0.5:
            assert far(clean, sigma, 0.02) > 4 * far(noisy, sigma, sigma) + 0.2, sigma
            assert far(noisy, sigma, 0.05) > far(noisy, sigma, sigma), "and it needs to know the level"
    for sigma in (1.0, 3.0):
        assert _angle(data, noisy, x0 + sigma * n, sigma) > 0.5 > 0.25 > _angle(data, clean, x0 + sigma * n, sigma)


def test_one_of_estimates_points_through_the_denoiser_where_the_exact_one_does() -> None:
    """One of clean pictures, which knows no estimates from far away, does not."""
    data = mixture()
    judge, clean = trained(data, "estimates", 200), trained(data, "clean", 40)
    x0 = data.sample(300, torch.Generator().manual_seed(5))
    n = torch.randn(x0.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    for sigma, least, most in ((1.0, 0.4, 0.2), (3.0, 0.7, 0.45)):
        here, other = (_angle(data, one, x0 + sigma * n, sigma, through=True) for one in (judge, clean))
        assert here > least > most > other


def _angle(data: GaussianMixture, judge: NoisyClassifier, x: Tensor, sigma: float, through: bool = False) -> float:
    """The cosine between the gradients of ln p(class 0 | x) by the judge and in closed form, over all pictures.

    through: the judge reads the exact estimate of x, as a guide of D does.
    """
    a, b = x.float().requires_grad_(), x.clone().requires_grad_()
    said = judge.log_prob(data.denoise(a, sigma)) if through else judge.log_prob(a, torch.tensor(sigma))
    (found,) = torch.autograd.grad(said[:, 0].sum(), a)
    (exact,) = torch.autograd.grad(data.class_log_prob(b, sigma)[:, 0].sum(), b)
    return float((found.double() * exact).sum() / found.double().norm() / exact.norm())


def test_classes_of_shapes() -> None:
    from guided.data.shapes import ShapesSource, read

    source = ShapesSource(40, seed=3, classed=True)
    assert len(source.classes) == 38 and "red circle" in source.classes and source.summary["labels"] == 40
    for record in source.records:
        assert record.caption is not None and record.label is not None
        thing = read(record.caption).objects[0]
        assert source.classes[record.label] == f"{thing.colour} {thing.shape}"
    assert not ShapesSource(4).classes and ShapesSource(4).records[0].label is None
    with pytest.raises(ValueError, match="classes are those of one object"):
        ShapesSource(4, objects=2, classed=True)


@pytest.mark.parametrize("name", ["shapes32", "cifar10"])
def test_the_recipes_can_be_read(name: str) -> None:
    from tests.conftest import ROOT

    found = load_recipe(ROOT / "recipes" / f"classifier-{name}.yaml")
    assert found.task == "classifier" and found.data.condition == "class" and found.out == f"runs/classifier-{name}"
