"""Tiny runs of every method: what changes, what must not, what is written, and what is refused."""

from __future__ import annotations

import hashlib
import json
import pathlib
from typing import Any

import pytest
import torch

import guided
from guided import zoo
from guided.train import Step
from guided.tune import Asked, recipe_for, tune
from tests.train.tools import pictures

METHODS = ("lora", "dora", "full", "dreambooth", "textual-inversion")


def digest(folder: pathlib.Path) -> str:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))


def run(base: pathlib.Path, data: pathlib.Path, out: pathlib.Path, method: str, **given: Any) -> list[Step]:
    changes = {"tune.replayed": 8, "train.save_every": 16, "train.precision": "float32", **given.pop("changes", {})}
    asked = Asked(**{"images": 48, "batch_size": 8, "lr": 1e-3, "word": "zwx", "prompts": None, **given})
    return list(tune(str(base), data, out, method=method, asked=asked, changes=changes, device="cpu"))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_leaves_the_base_alone_and_gives_a_model_that_opens(
    method: str, words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    before = digest(words_base)
    last = run(words_base, captioned, tmp_path / "run", method)[-1]
    assert digest(words_base) == before
    opened = zoo.load_model(tmp_path / "run")
    prompt = "zwx a red circle" if method == "textual-inversion" else "a red circle"
    drawn = opened.generate(prompt, seed=3).tensor
    # Of an opened adapter the sums may be grouped in another way.
    torch.testing.assert_close(last.model.generate(prompt, seed=3).tensor, drawn, rtol=0, atol=1e-5)  # type: ignore[union-attr]
    base = zoo.load_model(words_base)
    assert not torch.equal(base.generate(prompt, seed=3).tensor, drawn)
    if method == "textual-inversion":  # nothing but the word was learnt
        plain = "a blue square"
        assert torch.equal(base.generate(plain, seed=3).tensor, opened.generate(plain, seed=3).tensor)
    adapter = (tmp_path / "run" / "model" / "adapter.json").is_file()
    assert adapter == (method in ("lora", "dora", "textual-inversion"))
    card = json.loads((tmp_path / "run" / "model" / ("adapter.json" if adapter else "card.json")).read_text())
    tuned = card.get("card", card)["tuned"]
    assert tuned["method"] == method and tuned["base_sha256"] == base.hash
    assert tuned["short"] in ("data", "rank", "steps", "nothing") and tuned["checks"]
    assert (tmp_path / "run" / "memorised.png").is_file() and tuned["memorised"]["drawn"] == 8
    assert str(tmp_path) not in json.dumps(tuned)


def test_the_same_call_in_a_finished_run_says_so(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run(words_base, captioned, tmp_path / "run", "lora")
    before = digest(tmp_path / "run")
    again = run(words_base, captioned, tmp_path / "run", "lora")
    assert len(again) == 1 and "finished at 48 images" in str(again[0].note) and again[0].model is not None
    assert digest(tmp_path / "run") == before


def test_a_run_keeps_its_best_state_and_ends_itself_when_it_only_forgets(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    changes = {"tune.budget": 1e-9, "tune.patience": 2, "train.images": 4000}
    steps = run(words_base, captioned, tmp_path / "run", "full", lr=0.3, changes=changes)
    assert steps[-1].images < 4000 and steps[-1].model is not None
    tuned = steps[-1].model.card["tuned"]  # type: ignore[union-attr]
    assert tuned["checks"][-1]["forgotten"] > 1e-9
    least = min(tuned["checks"], key=lambda check: check["forgotten"])
    assert tuned["chosen"] == least["images"] and tuned["short"] == "data"
    assert steps[-1].model.card["provenance"]["ended"] == "forgetting passed the budget"  # type: ignore[union-attr]
    again = run(words_base, captioned, tmp_path / "run", "full", lr=0.3, changes=changes)
    assert len(again) == 1 and "finished" in str(again[0].note)


def test_replayed_pictures_pull_to_the_base_and_before_any_update_nowhere(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from guided.train import setup
    from guided.train.loss import objective

    recipe = recipe_for(
        zoo.load_model(words_base), str(words_base), captioned, "full", tmp_path / "run", Asked(images=48),
        {"tune.replayed": 8, "train.precision": "float32"},
    )  # fmt: skip
    job = setup.prepare(recipe, torch.device("cpu"))
    batch = job.samples.__getitems__(list(range(16))).to(torch.device("cpu"), torch.float32)
    target = job.tuning.target(batch, job.denoiser)  # type: ignore[union-attr, arg-type]
    replayed = torch.tensor([row >= 9 for row in batch.rows])
    assert int(replayed.sum()) == 8
    each = objective(recipe, job.denoiser.parametrization)(
        job.denoiser, batch.x0, batch.noise, batch.sigma, batch.cond, target
    )
    assert bool((each[replayed] < 1e-10).all()) and bool((each[~replayed] > 0).all())
    assert torch.equal(target[~replayed], batch.x0[~replayed])  # type: ignore[index]


def test_new_classes_are_learnt_beside_the_old(
    classes_base: pathlib.Path, classed: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match=r"knows no class 'heron'.*--new-classes"):
        run(classes_base, classed, tmp_path / "refused", "full", word=None)
    last = run(classes_base, classed, tmp_path / "run", "full", word=None, classes=True)[-1]
    model = zoo.load_model(tmp_path / "run")
    assert model.classes == (*zoo.load_model(classes_base).classes, "heron")
    assert last.model is not None and len(model.generate(labels="heron")) == 1


def test_a_network_learns_to_be_shown_a_picture(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match="tuning reads no partners"):
        run(words_base, captioned, tmp_path / "refused", "full", tasks=("pairs",), replay=0.0)
    run(words_base, captioned, tmp_path / "run", "full", tasks=("colourise",), replay=0.0)
    model = zoo.load_model(tmp_path / "run")
    assert model.translation is not None and "image" in model.denoiser.accepts


def test_another_encoder_and_another_size(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from tests.text.tiny import bert_folder

    other = bert_folder(tmp_path / "other", width=24) if "width" in bert_folder.__code__.co_varnames else None
    run(words_base, captioned, tmp_path / "size", "full", size=(12, 16))
    assert zoo.load_model(tmp_path / "size").size == (12, 16)
    if other is not None:
        run(words_base, captioned, tmp_path / "encoder", "full", encoder=str(other))
        made = zoo.load_model(tmp_path / "encoder")
        assert made.encoders["text"].width == 24 and len(made.generate("a red circle")) == 1
    with pytest.raises(ValueError, match="another head is trained with the rest"):
        run(words_base, captioned, tmp_path / "lora", "lora", encoder=str(other or words_base))


def test_pictures_without_captions_are_called_by_a_word(words_base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    plain = pictures(tmp_path / "plain" / "inner", 8).parent
    for file in sorted(plain.rglob("*.png")):
        file.rename(plain / "inner" / file.name)
    for folder in [path for path in plain.rglob("*") if path.is_dir() and not any(path.iterdir())]:
        folder.rmdir()
    base = zoo.load_model(words_base)
    recipe = recipe_for(base, str(words_base), plain, "lora", tmp_path / "run")
    assert recipe.tune is not None and recipe.tune.word == "zwx"
    recipe = recipe_for(base, str(words_base), plain, "lora", tmp_path / "run", Asked(word="my style"))
    assert recipe.tune is not None and recipe.tune.word == "my style"


def test_wrong_wishes_are_refused_before_any_work(
    words_base: pathlib.Path, classes_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        run(words_base, empty, tmp_path / "a", "lora")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        run(words_base, tmp_path / "nowhere", tmp_path / "a", "lora")
    with pytest.raises(ValueError, match=r"expected one of lora, dora, full.*did you mean"):
        run(words_base, captioned, tmp_path / "a", "lorra")
    with pytest.raises(ValueError, match="classes: give one folder a class"):
        run(classes_base, captioned, tmp_path / "a", "full", word=None)
    with pytest.raises(ValueError, match=r"tune\.word: expected the word"):
        run(words_base, captioned, tmp_path / "a", "textual-inversion", word=None)
    assert not (tmp_path / "a").exists() or not any((tmp_path / "a").rglob("*.safetensors"))


def test_another_base_cannot_take_a_run_on(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(words_base, base)
    asked = Asked(images=48, batch_size=8)
    steps = tune(
        str(base), captioned, tmp_path / "run", asked=asked, changes={"tune.replayed": 8, "train.save_every": 16}
    )
    while next(steps).saved is None:
        pass
    steps.close()  # type: ignore[attr-defined]
    model = guided.Model.open(base)
    with torch.no_grad():
        next(model.denoiser.parameters()).add_(0.1)
    model.save(base)
    with pytest.raises(ValueError, match="no longer those this run began with"):
        list(
            tune(
                str(base),
                captioned,
                tmp_path / "run",
                asked=asked,
                changes={"tune.replayed": 8, "train.save_every": 16},
            )
        )


def test_the_best_state_is_the_one_that_is_saved(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    changes = {"tune.budget": None, "train.held_every": 8, "train.images": 64, "tune.patience": 50}
    changes |= {"train.decay": 0.0, "train.warmup": 0}
    kept = run(words_base, captioned, tmp_path / "longer", "full", lr=0.3, changes=changes)[-1].model
    tuned = kept.card["tuned"]  # type: ignore[union-attr]
    best = min(tuned["checks"], key=lambda check: check["held_out"])
    assert tuned["chosen"] == best["images"] < 64
    # The card's loss is that of the state which was kept, and was another one before the run.
    assert kept.card["metrics"]["held_out_loss"] == {**best["levels"], "mean": best["held_out"]}  # type: ignore[union-attr]
    assert tuned["before"] > 0 and tuned["before"] not in [check["held_out"] for check in tuned["checks"]]
    changes |= {"train.images": best["images"]}
    ended = run(words_base, captioned, tmp_path / "shorter", "full", lr=0.3, changes=changes)[-1].model
    a, b = (model.denoiser.network.state_dict() for model in (kept, ended))  # type: ignore[union-attr]
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_averages_share_what_is_frozen(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from guided.train import setup
    from guided.train.state import State

    recipe = recipe_for(
        zoo.load_model(words_base), str(words_base), captioned, "lora", tmp_path / "run", Asked(images=48)
    )
    job = setup.prepare(recipe, torch.device("cpu"))
    state = State(recipe, job.denoiser, job.tuning)
    own = {name: weight.data_ptr() for name, weight in job.denoiser.network.named_parameters()}
    kept = {name: weight.data_ptr() for name, weight in state.emas[0].network.named_parameters()}
    trained = {name for name, weight in job.denoiser.network.named_parameters() if weight.requires_grad}
    assert trained and all((own[name] == kept[name]) == (name not in trained) for name in own)
    assert set(state.trained(job.denoiser.network)) == trained


def test_pictures_may_keep_their_shapes(words_base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import numpy as np
    from PIL import Image

    draw = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for at, (height, width) in enumerate([(20, 20), (40, 20), (20, 40)] * 4):
        Image.fromarray(draw.integers(0, 255, (height, width, 3), np.uint8)).save(tmp_path / "data" / f"{at:02d}.png")
    base = zoo.load_model(words_base)
    recipe = recipe_for(
        base, str(words_base), tmp_path / "data", "lora", tmp_path / "run",
        Asked(images=96, batch_size=4, aspects=True, size=(16, 16), replay=0.5), {"tune.replayed": 8},
    )  # fmt: skip
    from guided.train import setup

    job = setup.prepare(recipe, torch.device("cpu"))
    shapes = [tuple(job.samples.__getitems__(list(range(at, at + 4))).x0.shape[2:]) for at in range(0, 96, 4)]
    assert {(16, 16), (22, 10), (10, 22)} <= set(shapes) or len(set(shapes)) == 3
    assert list(guided.fit(recipe, device="cpu"))[-1].model is not None


def test_an_adapter_is_small_against_its_base_also_within_a_run(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    import shutil

    shutil.copytree(words_base, tmp_path / "run" / "model")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "large").write_bytes(bytes(10_000_000))
    ranks = []
    for base in (words_base, tmp_path / "run"):
        recipe = recipe_for(zoo.load_model(base), str(base), captioned, "lora", tmp_path / "out")
        ranks.append(recipe.tune.rank)  # type: ignore[union-attr]
    assert ranks[0] == ranks[1]
    shipped = recipe_for(zoo.load_model("emoji"), "emoji", captioned, "lora", tmp_path / "out")
    assert shipped.tune is not None and shipped.tune.rank in (4, 8)


@pytest.mark.parametrize("method", ["textual-inversion", "lora"])
def test_what_is_learnt_of_words_is_judged_with_the_words(
    method: str, words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    from guided.train import setup
    from guided.train.loss import objective
    from guided.train.watch import HeldOut

    base = zoo.load_model(words_base)
    asked = Asked(images=48, word="zwx", text_rank=2 if method == "lora" else None)
    recipe = recipe_for(base, str(words_base), captioned, method, tmp_path / "run", asked, {"tune.replayed": 8})
    job = setup.prepare(recipe, torch.device("cpu"))
    goal, look = objective(recipe, job.denoiser.parametrization), HeldOut(job)
    before = look(job.denoiser, goal)["mean"]
    with torch.no_grad():
        for tower in job.tuning.extras.values():  # type: ignore[union-attr]
            for weight in tower.parameters():
                if weight.requires_grad:
                    weight.add_(torch.linspace(-1, 1, weight.numel()).view_as(weight))  # no norm takes it away
    assert look(job.denoiser, goal)["mean"] != before


def test_three_pictures_are_judged_by_themselves(words_base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    few = pictures(tmp_path / "few", 3)
    last = run(words_base, few, tmp_path / "run", "lora", images=16)[-1]
    tuned = last.model.card["tuned"]  # type: ignore[union-attr]
    assert tuned["kept_out"] == 0 and tuned["checks"][-1]["held_out"] > 0


def test_frozen_weights_may_lie_in_half_precision_but_not_what_is_trained(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    changes = {"tune.frozen": "bf16", "train.precision": "bf16"}
    last = run(words_base, captioned, tmp_path / "run", "lora", images=16, changes=changes)[-1]
    network = last.model.denoiser.network  # type: ignore[union-attr]
    kinds = {weight.requires_grad: weight.dtype for weight in network.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
