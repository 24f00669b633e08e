"""What a student is: a copy at first, an ordinary model at last; and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import guided
from guided.cond import Cond
from guided.guide import cfg, rescale
from guided.model import Model
from guided.nn import UNetConfig
from guided.tune import Settings, adapters, distill
from guided.tune.distilling import prepared, teaching
from guided.tune.distilling.guides import folded
from guided.tune.distilling.material import Material
from tests.model import build
from tests.tune.adapters.build import random
from tests.tune.distilling import tools


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tools.data(tmp_path / "data")


def student(teacher: Model, out: Path, settings: Settings) -> Model:
    *_, last = distill(teacher, out, settings, device="cpu")
    assert last.model is not None
    return last.model


@pytest.mark.parametrize("name", ["tiny", "tiny-class", "tiny-text"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_student_begins_bit_for_bit_as_its_teacher(name: str, dtype: torch.dtype | None) -> None:
    encoders = {"text": build.Words()} if name == "tiny-text" else {}
    teacher = build.model(name, encoders, {"classes": build.CLASSES} if name == "tiny-class" else None)
    teacher.compute_in(dtype)
    made = teaching.student_of(teacher, True, 0)
    x, sigma = torch.randn(3, 3, 16, 16), torch.tensor([0.1, 1.0, 10.0])
    cond = Cond(label=torch.tensor([0, 1, -1]), tokens=torch.randn(3, 2, 8), mask=torch.ones(3, 2, dtype=torch.bool))
    expected = teacher.denoiser(x, sigma, cond)
    for weight in (None, torch.tensor([1.0, 2.0, 7.0]), torch.full((3,), torch.nan)):
        found = made(x, sigma, Cond(cond.label, cond.tokens, cond.mask, guidance=weight))
        assert torch.equal(found, expected)
    assert {"guidance"} == made.accepts - teacher.denoiser.accepts


def test_the_dial_learns_while_nothing_of_the_teacher_moves(data: Path, tmp_path: Path) -> None:
    teacher = tools.teacher()
    before = {name: value.clone() for name, value in teacher.denoiser.network.state_dict().items()}
    made = student(teacher, tmp_path / "run", tools.settings(data, method="guidance", images=32))
    assert all(torch.equal(value, before[name]) for name, value in teacher.denoiser.network.state_dict().items())
    assert bool(made.denoiser.network.vector.guidance.outer.weight.any())  # type: ignore[union-attr]
    low, high = (made.generate(labels="round", w=w, seed=3).tensor for w in (1.0, 3.0))
    assert not torch.equal(low, high)


@pytest.mark.parametrize(
    ("method", "steps"), [("trajectory", 3), ("progressive", 2), ("consistency", 2), ("guidance", 3)]
)
def test_as_many_evaluations_as_steps_and_a_folder_like_any_other(
    method: str, steps: int, data: Path, tmp_path: Path
) -> None:
    teacher = tools.teacher()
    changes = {"method": method, "steps": steps, "teacher_steps": 2 * steps}
    made = student(teacher, tmp_path / "run", tools.settings(data, **changes))
    opened = guided.load(tmp_path / "run")
    assert isinstance(opened, Model) and opened.hash == made.hash
    rows: list[int] = []
    opened.denoiser.network.register_forward_hook(lambda module, args, out: rows.append(len(args[0])))
    drawn = opened.generate(labels="square", w=2.5, seed=1)
    assert sum(rows) == steps == drawn.records[0]["nfe"]
    assert drawn.records[0]["guide"] == "dial(2.5)" and drawn.records[0]["w"] == 2.5
    assert torch.equal(drawn.tensor, made.generate(labels="square", w=2.5, seed=1).tensor)
    card = json.loads((tmp_path / "run" / "model" / "card.json").read_text())
    assert card["distilled"] == {"method": method, "guide": "cfg(3)", "steps": steps, "w": [1.0, 3.0]}
    assert card["provenance"]["teacher"]["sha256"] == teacher.hash and card["defaults"]["w"] == 3.0
    assert str(tmp_path) not in json.dumps(card)
    if method == "progressive":
        job = prepared(teacher, tools.settings(data, **changes), "cpu")
        assert drawn.records[0]["path"] == job.course.levels(steps).tolist() == job.course.path[::2].tolist()
    if method == "trajectory":
        found = card["calibrated"]["3"]
        assert drawn.records[0]["path"] == found["levels"] and found["solver"] == "fitted" and found["w"] == 3.0
        assert not torch.equal(drawn.tensor, opened.generate(labels="square", w=2.5, seed=1, solver="euler").tensor)
    if method == "consistency":
        assert drawn.records[0]["path"][1::2] == [0.0] * steps
    again = opened.save(tmp_path / "again")
    assert torch.equal(Model.open(again).generate(labels="square", w=2.5, seed=1).tensor, drawn.tensor)


@pytest.mark.parametrize(("guide", "kept"), [("cfg(3)", True), ("cfg(1)", True), ("cfg(3) >> rescale(0.5)", False)])
def test_a_path_calibrated_for_a_plain_cfg_is_for_a_student_of_one(
    guide: str, kept: bool, data: Path, tmp_path: Path
) -> None:
    teacher = tools.teacher()
    entry = {"levels": [80.0, 1.0, 0.0], "solver": "adams", "w": 3.0, "error": 0.1, "default": 0.2, "karras": 0.2}
    teacher.card["calibrated"] = {"2": entry}
    made = student(teacher, tmp_path / "run", tools.settings(data, method="guidance", images=16, guide=guide))
    assert made.card.get("calibrated") == ({"2": entry} if kept else None)


def test_students_of_prompts_and_of_nothing_learn_on_what_their_teacher_draws(tmp_path: Path) -> None:
    words = build.words_model(card={"recipe": {"sample": {"prompts": ["a cat", "a red bird"]}}})
    made = student(words, tmp_path / "words", tools.settings(None, images=32, pool=6))
    assert made.generate("a cat", w=2, seed=0).records[0]["nfe"] == 2
    plain = student(build.plain_model(), tmp_path / "plain", tools.settings(None, guide=None, images=16, pool=6))
    assert plain.card["distilled"]["w"] is None and plain.generate(n=2).records[0]["nfe"] == 2
    with pytest.raises(ValueError, match="its card knows none"):
        prepared(build.words_model(), tools.settings(None), "cpu")


def test_another_guide_keeps_its_cfg_as_the_dial_or_is_folded_in_whole(data: Path, tmp_path: Path) -> None:
    teacher = tools.teacher()
    shaped = folded(teacher, Settings(guide="cfg(4) >> rescale(0.7)"))
    assert (shaped.w, shaped.lo, shaped.hi) == (4.0, 1.0, 4.0)
    beside = folded(teacher, Settings(guide="cfg(3).during(0.1, 5) + perturbed('identity', 1)", w_range=(0.0, 5.0)))
    assert (beside.w, beside.lo, beside.hi) == (3.0, 0.0, 5.0)
    whole = folded(teacher, Settings(guide="perturbed('identity', 2)"))
    assert whole.dial is None
    made = student(teacher, tmp_path / "run", tools.settings(data, guide="perturbed('identity', 2)", images=32))
    assert made.card["distilled"]["w"] is None and not made.denoiser.network.config.guidance  # type: ignore[union-attr]
    assert made.generate(labels="round").records[0]["nfe"] == 2
    with pytest.raises(ValueError, match="folded in, which leaves it no dial"):
        made.generate(labels="round", w=2)


def test_a_guided_teacher_of_many_weights_is_each_of_them(data: Path) -> None:
    teacher = tools.teacher()
    fold = folded(teacher, Settings(guide="cfg(3) >> rescale(0.5)"))
    x, sigma = torch.randn(3, 3, 16, 16), torch.tensor([0.3, 1.0, 5.0], dtype=torch.float64)
    cond = Cond(label=torch.tensor([0, 1, 0]), guidance=torch.tensor([1.5, 2.0, 3.0]))
    found = fold.teach(teacher.denoiser)(x, sigma, cond)
    for row, w in enumerate((1.5, 2.0, 3.0)):
        one = (cfg(w) >> rescale(0.5))(teacher.denoiser)(x[row : row + 1], sigma[row : row + 1], cond.index([row]))
        assert torch.allclose(found[row], one[0], atol=1e-5)


def test_samples_are_functions_of_seed_and_counter(data: Path) -> None:
    job = prepared(tools.teacher(), tools.settings(data), "cpu")
    material = Material(job.source, 0, 0.5, torch.device("cpu"))  # type: ignore[arg-type]
    whole, part = material(range(16)), material(range(4, 8))
    for name in ("x0", "noise", "chance"):
        assert torch.equal(getattr(whole, name)[4:8], getattr(part, name))
    assert whole.cond.label is not None and part.cond.label is not None
    assert torch.equal(whole.cond.label[4:8], part.cond.label) and -1 in whole.cond.label.tolist()
    other = Material(job.source, 1, 0.5, torch.device("cpu"))(range(16))  # type: ignore[arg-type]
    assert not torch.equal(other.noise, whole.noise) and not torch.equal(other.chance, whole.chance)
    assert float(whole.x0.min()) >= -1 and float(whole.x0.max()) <= 1 and 0.8 < float(whole.noise.std()) < 1.2


def test_classes_go_by_their_names(data: Path) -> None:
    turned = build.model("tiny-class", card={"classes": ["square", "round"]}, classes=2)
    job = prepared(turned, tools.settings(data, drop=0.0), "cpu")
    names = [record.name for record in job.source.pictures.source.records]  # type: ignore[union-attr]
    labels = job.source.conditions(range(len(names))).label.tolist()  # type: ignore[union-attr]
    assert all(("square" in name) == (label == 0) for name, label in zip(names, labels, strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"guide": "cfg(3) >> apg()"}, "carries something from step to step"),
        ({"guide": "cfgpp(0.6)"}, "cannot be distilled: cfgpp"),
        ({"guide": "dial(3)"}, "turns a student's dial"),
        ({"guide": "cfg(3) + cfg(2)", "w_range": (1.0, 3.0)}, "has 2 plain cfg terms"),
        ({"guide": "cfg(5)", "w_range": (1.0, 4.0)}, "leaves out 5, the weight of cfg\\(5\\); widen it"),
        ({"data": "nowhere"}, "nowhere"),
        ({"guide": "cfg("}, "guide 'cfg\\('"),
    ],
)
def test_bad_input_is_refused_before_any_work(changes: dict[str, Any], words: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        settings = dataclasses.replace(tools.settings(data), **changes)
        distill(tools.teacher(), tmp_path / "run", settings, device="cpu")
    assert not (tmp_path / "run").exists()


def test_teachers_that_cannot_be_distilled_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unconditional: there is nothing for cfg"):
        prepared(build.plain_model(), tools.settings(data), "cpu")
    with pytest.raises(ValueError, match="classes that tiny-class does not know: round, square"):
        prepared(build.class_model(), tools.settings(data), "cpu")
    worn = tools.teacher()
    adapters.inject(worn, random(worn.denoiser.network), name="style")
    with pytest.raises(ValueError, match=r"distill: an adapter is on .*'style'.*merge it first \(guided convert"):
        prepared(worn, tools.settings(data), "cpu")
    made = student(tools.teacher(), tmp_path / "run", tools.settings(data, images=16, method="guidance"))
    with pytest.raises(ValueError, match="is distilled itself"):
        prepared(made, tools.settings(data), "cpu")


def test_a_run_elsewhere_is_not_written_over(data: Path, tmp_path: Path) -> None:
    folder = tools.teacher().save(tmp_path / "model")
    steps = distill(tools.teacher(), folder, tools.settings(data), device="cpu")
    with pytest.raises(ValueError, match="something other than a distillation"):
        next(steps)


def test_a_loss_that_is_not_finite_ends_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="Try a lower --lr"):
        for _ in distill(tools.teacher(), tmp_path / "run", tools.settings(data, lr=1e30), device="cpu"):
            pass


def test_captions_are_encoded_once_and_each_picture_keeps_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    for at, file in enumerate(sorted(tools.data(tmp_path / "data").rglob("*.png"))):
        file.rename(folder / file.name)
        (folder / file.name).with_suffix(".txt").write_text(f"picture {at % 5}")
    words = build.words_model()
    job = prepared(words, tools.settings(folder, drop=0.0), "cpu")
    encoder = words.encoders["text"]
    told = [text for texts in encoder.calls for text in texts]  # type: ignore[union-attr]
    assert sorted(told) == ["", *(f"picture {at}" for at in range(5))]
    records = job.source.pictures.source.records  # type: ignore[union-attr]
    cond = job.source.conditions([0, 7])  # type: ignore[union-attr]
    wanted = build.Words()([records[0].caption, records[7].caption])
    assert torch.equal(cond.tokens, wanted.tokens) and torch.equal(cond.mask, wanted.mask)
    with pytest.raises(ValueError, match="has no captions"):
        prepared(words, tools.settings(tools.data(tmp_path / "silent")), "cpu")


def test_other_layouts_have_no_place_for_a_weight() -> None:
    from guided.zoo.counterpart import from_config
    from guided.zoo.original import without_counterpart

    config = teaching.student_of(tools.teacher(), True, 0).network.config
    assert any("a guidance weight" in words for words in without_counterpart(config))  # type: ignore[arg-type]
    alike = UNetConfig(widths=(32, 64), depth=(0, 1), blocks=(1, 1), attention="transformer", token_width=8)
    alike = dataclasses.replace(alike, null_token=False, skips="every", classes=2)
    from_config(alike)
    with pytest.raises(ValueError, match="a guidance weight as an input"):
        from_config(dataclasses.replace(alike, guidance=True))


def test_latents_are_distilled_like_pixels(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    from tests.zoo import pipelines

    teacher = guided.load(pipelines.saved("sd-1.5", tmp_path / "sd"))
    assert isinstance(teacher, Model)
    given = {"guide": "cfg(3)", "images": 16, "batch": 4, "pool": 3, "prompts": ("a cat", "a dog")}
    made = student(teacher, tmp_path / "run", tools.settings(None, **given))
    drawn = Model.open(tmp_path / "run").generate("a cat", w=2, seed=0)
    assert drawn.records[0]["nfe"] == 2 and drawn.tensor.shape[1:] == (3, *teacher.size)
    assert torch.equal(drawn.tensor, made.generate("a cat", w=2, seed=0).tensor)
