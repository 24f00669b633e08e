"""What a tuning run begins with: bases to be tuned, folders to be written to, pictures that are kept out."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from typing import Any

import pytest
import torch

from guided import data, zoo
from guided.model.distilled import Distilled
from guided.train import setup, workplace
from guided.train.loss import objective
from guided.train.recipe import Recipe, Tune
from guided.train.watch import HeldOut
from guided.tune import Asked, adapters, recipe_for
from guided.tune.forecast import forecast
from guided.tune.preparing import opened, parted, prepare_tuning
from tests.train.tools import pictures


@pytest.fixture(autouse=True)
def cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run writes where its recipe says, `runs/none`, lies in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)


def made(base: pathlib.Path, path: pathlib.Path, method: str = "lora", out: str = "runs/none", **given: Any) -> Recipe:
    changes = given.pop("changes", {})
    return recipe_for(zoo.load_model(base), str(base), path, method, out, Asked(**given), changes)


def test_a_base_with_an_adapter_is_refused_before_the_run(words_base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = zoo.load_model(words_base)
    adapters.fresh(model.denoiser.network, 2)
    adapters.save(model, tmp_path / "lora")
    with pytest.raises(ValueError, match=r"tune: an adapter is on words .*merge it first \(guided convert"):
        opened(Tune(base=str(tmp_path / "lora")), None)


def test_a_student_is_refused(classes_base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = zoo.load_model(classes_base)
    model.card["distilled"] = Distilled("progressive", None, 4, None).card()
    model.save(tmp_path / "student")
    with pytest.raises(ValueError, match=r"is distilled: .* tune its teacher"):
        opened(Tune(base=str(tmp_path / "student")), None)


@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        ("lora", {"images": 0}, r"train\.images: expected a whole number >= 1, got 0"),
        ("lora", {"images": -5}, r"train\.images: expected a whole number >= 1, got -5"),
        ("lora", {"batch_size": 0}, r"train\.batch_size: expected a whole number >= 1, got 0"),
        ("lora", {"lr": 0.0}, r"train\.lr: expected a number > 0, got 0"),
        ("lora", {"replay": 1.0}, r"tune\.replay: expected .*got 1"),
        ("full", {"rank": 8}, r"tune\.rank: full trains the weights"),
        ("full", {"targets": "attention"}, r"tune\.targets: full trains the weights"),
        ("dreambooth", {"text_rank": 4}, r"tune\.text_rank: dreambooth trains the weights"),
        ("textual-inversion", {"text_rank": 4, "word": "zwx"}, r"tune\.text_rank: textual-inversion learns a word"),
        ("lora", {"vectors": 2}, r"tune\.vectors: of a word that textual-inversion learns"),
        ("lora", {"replay": 0.0, "prompts": ("a cat",)}, r"tune\.prompts: nothing is drawn"),
    ],
)
def test_what_is_asked_for_is_never_passed_over(
    method: str, given: dict[str, Any], words: str, words_base: pathlib.Path, captioned: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match=words):
        made(words_base, captioned, method, **given)


def test_new_classes_of_a_base_that_reads_words(words_base: pathlib.Path, classed: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="reads words: a picture without a caption is called by its folder"):
        setup.prepare(made(words_base, classed, "full", classes=True), torch.device("cpu"))


def test_a_run_goes_neither_into_a_model_nor_among_the_pictures(
    words_base: pathlib.Path, captioned: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    place = tmp_path / "model"
    shutil.copytree(words_base, place)
    with pytest.raises(ValueError, match="holds a model, not a run; choose another"):
        workplace.begun(place, made(words_base, captioned, out=str(place)))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ValueError, match="a run is a folder, this is a file"):
        workplace.begun(file, made(words_base, captioned, out=str(file)))
    for out in (captioned, captioned / "run"):
        with pytest.raises(ValueError, match="lies among the pictures"):
            made(words_base, captioned, out=str(out))


def test_a_picture_given_twice_is_kept_out_twice_or_not_at_all(tmp_path: pathlib.Path) -> None:
    folder = pictures(tmp_path / "data", 16)
    plain = parted(data.open(folder))
    assert len(plain.held_bases) == 2 and not set(plain.held_bases) & set(plain.train)
    for file in sorted(folder.rglob("*.png"))[::2]:
        shutil.copy(file, file.with_name(f"copy of {file.name}"))
    source = data.open(folder)
    split = parted(source)
    held, train = ({source.bytes(row) for row in rows} for rows in (split.held_bases, split.train))
    assert len(split.held_bases) + len(split.train) == 24 and held and not held & train
    alike = tmp_path / "alike"
    alike.mkdir()
    for at in range(8):
        shutil.copy(next(folder.rglob("*.png")), alike / f"{at}.png")
    assert parted(data.open(alike)).held_bases == ()


def test_a_broken_picture_is_passed_over_and_broken_ones_alone_are_refused(
    words_base: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = pictures(tmp_path / "data", 8)
    sound = [file.read_bytes() for file in sorted(folder.rglob("*.png"))[1:]]
    sorted(folder.rglob("*.png"))[0].write_bytes(b"junk")
    recipe = made(words_base, folder, changes={"tune.replayed": 24, "train.precision": "float32"}, images=16)
    assert forecast(recipe, torch.device("cpu")).seconds > 0
    job = prepare_tuning(recipe, torch.device("cpu"), stand_in=True)
    assert [job.source.bytes(8 + at) for at in range(24)] == [sound[at % 7] for at in range(24)]
    for file in folder.rglob("*.png"):
        file.write_bytes(b"junk")
    for method in ("lora", "textual-inversion"):
        with pytest.raises(ValueError, match=r"data: none of its pictures can be read; the first: .*00\.png"):
            prepare_tuning(made(words_base, folder, method, word="zwx"), torch.device("cpu"))


def test_the_held_out_loss_is_that_of_the_pictures_whatever_the_frozen_weights_lie_in(
    words_base: pathlib.Path, captioned: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = made(words_base, captioned, changes={"tune.replayed": 8, "tune.frozen": "bf16"}, precision="bf16")
    job = setup.prepare(recipe, torch.device("cpu"))
    goal, seen = objective(recipe, job.denoiser.parametrization), []

    def kept(denoise: Any, x0: Any, noise: Any, *rest: Any) -> Any:
        seen.append((x0.dtype, noise.dtype))
        return goal(denoise, x0, noise, *rest)

    found = HeldOut(job)(job.denoiser, kept)
    assert set(seen) == {(torch.float32, torch.float32)}
    exact = dataclasses.replace(job, denoiser=job.denoiser.float())
    assert found["mean"] == pytest.approx(HeldOut(exact)(exact.denoiser, goal)["mean"], rel=2e-3)
