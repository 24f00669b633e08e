"""`fit` from outside: what it yields, refuses, survives and leaves behind."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import guided
from guided.train import Step, fit, load_recipe, setup, workplace
from guided.train import run as trainer
from guided.train.ema import beta, exponent
from guided.train.processes import Team
from guided.train.state import State
from tests.conftest import ROOT
from tests.train.conftest import Trainers
from tests.train.tools import digest, tiny


def run(recipe: dict[str, Any], *overrides: str) -> list[Step]:
    return list(fit(recipe, overrides, device="cpu"))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Step]]:
    """A run that keeps a checkpoint of every update."""
    out = tmp_path_factory.mktemp("whole") / "run"
    recipe = tiny(data, out, train__save_every=4, train__images=48, train__keep=99, train__held_every=24)
    return out, run(recipe)


def test_steps_tell_the_run(whole: tuple[Path, list[Step]]) -> None:
    out, steps = whole
    assert [step.images for step in steps] == list(range(4, 49, 4))
    assert all(math.isfinite(step.loss) and step.grad_norm > 0 and step.images_per_second > 0 for step in steps)
    assert [step.images for step in steps if step.held] == [24, 48]
    assert all(step.saved == out / "checkpoints" / f"{step.images:09d}" for step in steps)
    assert steps[-1].model is not None and all(step.model is None for step in steps[:-1])
    rows = [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]
    assert [row["loss"].hex() for row in rows] == [step.loss.hex() for step in steps]


def test_averages_of_a_run_are_the_closed_form_sums_of_its_weights(whole: tuple[Path, list[Step]]) -> None:
    out, steps = whole
    files = [out / "checkpoints" / f"{step.images:09d}" for step in steps]
    weights = [load_file(path / "weights.safetensors") for path in files]
    total = len(weights)
    for sigma_rel in (0.05, 0.1):
        gamma = exponent(sigma_rel)
        shares = [(1 - beta(gamma, t)) * (t / total) ** (gamma + 1) for t in range(1, total + 1)]
        found = load_file(files[-1] / f"ema-{sigma_rel:.3f}.safetensors")
        for name, value in found.items():
            expected = sum(share * w[name].double() for share, w in zip(shares, weights, strict=True))
            torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


def test_early_snapshot_is_the_first_average_at_its_share(whole: tuple[Path, list[Step]]) -> None:
    out, _ = whole
    early = (out / "model" / "early.safetensors").read_bytes()
    assert early == (out / "checkpoints" / "000000012" / "ema-0.050.safetensors").read_bytes()
    assert not (out / "checkpoints" / "000000008" / "early.safetensors").exists()


def test_model_of_a_run_opens_and_draws(whole: tuple[Path, list[Step]]) -> None:
    out, steps = whole
    model = guided.Model.open(out)
    last = steps[-1].model
    assert last is not None and model.card["provenance"]["images"] == 48 and model.classes == ("round", "square")
    a, b = (m.generate(labels=["round", 1], steps=2, seed=0).tensor for m in (model, last))
    assert torch.equal(a, b) and bool(a.isfinite().all())
    assert model.card["metrics"]["held_out_loss"] == steps[-1].held
    text = (out / "model" / "card.json").read_text()
    assert str(out) not in text and "pictures" in text, "no path of this machine"


def test_another_recipe_is_refused_with_the_difference(whole: tuple[Path, list[Step]], data: Path) -> None:
    out, _ = whole
    before = digest(out)
    recipe = tiny(data, out, train__save_every=4, train__images=48, train__keep=99, train__held_every=24)
    with pytest.raises(ValueError) as caught:
        run(recipe, "train.batch_size=8", "train.lr=1e-3", "data.workers=1")
    text = str(caught.value)
    assert "train.batch_size: 4 there, 8 asked for" in text and "train.lr: 0.002 there, 0.001 asked for" in text
    assert "workers" not in text and digest(out) == before


def test_finished_run_says_so(whole: tuple[Path, list[Step]], data: Path) -> None:
    out, _ = whole
    before = digest(out)
    recipe = tiny(data, out, train__save_every=4, train__images=48, train__keep=99, train__held_every=24)
    (step,) = run(recipe, "data.workers=2", "sample.steps=9", "train.preview_every=8")
    assert step.note is not None and "finished at 48 images" in step.note and step.model is not None
    assert digest(out) == before


def test_a_finished_run_can_be_made_longer(whole: tuple[Path, list[Step]], data: Path, tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    recipe = tiny(data, tmp_path / "run", train__save_every=4, train__keep=99, train__held_every=24)
    steps = run(recipe, "train.images=56")
    assert steps[0].note == "resuming at 48 images" and [step.images for step in steps] == [52, 56]


def test_changed_data_are_refused(whole: tuple[Path, list[Step]], data: Path, tmp_path: Path) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    shutil.copytree(data, tmp_path / "pictures")
    recipe = tiny(tmp_path / "pictures", tmp_path / "run", train__save_every=4, train__keep=99, train__held_every=24)
    assert run(recipe, "train.images=52")[-1].images == 52, "moved, but the same"
    (tmp_path / "pictures" / "round" / "00.png").rename(tmp_path / "pictures" / "square" / "00.png")
    with pytest.raises(ValueError, match="no longer holds the pictures"):
        run(recipe, "train.images=56")


def test_second_trainer_is_refused_with_the_pid(data: Path, tmp_path: Path) -> None:
    first = fit(tiny(data, tmp_path / "run"), device="cpu")
    next(first)
    with pytest.raises(ValueError, match=f"process {os.getpid()}"):
        run(tiny(data, tmp_path / "run"))
    first.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "run" / "lock").exists()
    next(fit(tiny(data, tmp_path / "run"), device="cpu"))


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path) -> None:
    recipe = tiny(data, tmp_path / "run", train__lr=1e30, train__warmup=0, train__save_every=4, train__clip=None)
    with pytest.raises(FloatingPointError) as caught:
        run(recipe)
    text = str(caught.value)
    assert "1e+30" in text and "last good checkpoint is" in text and ".png" in text and "images" in text
    for file in (tmp_path / "run").rglob("*.safetensors"):
        assert all(bool(value.isfinite().all()) for value in load_file(file).values())
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(trainers: Trainers, data: Path, tmp_path: Path, number: int) -> None:
    whole, stopped = (tiny(data, tmp_path / name, train__images=72, data__workers=1) for name in ("whole", "stopped"))
    assert trainers.run(whole, tmp_path / "log")[0] == 0
    child = trainers.start(stopped, tmp_path / "log")
    while b"e" not in trainers.marks():
        pass
    os.kill(child, number)
    assert trainers.status(child) == 1
    end = json.loads((tmp_path / "log").read_text().splitlines()[-1].removeprefix("end "))
    assert end == ("KeyboardInterrupt: " if number == signal.SIGINT else "SystemExit: 143")
    rows = (tmp_path / "stopped" / "losses.jsonl").read_text().splitlines()
    newest = sorted((tmp_path / "stopped" / "checkpoints").iterdir())[-1]
    assert int(newest.name) == json.loads(rows[-1])["images"] < 72, "saved where it stopped"
    assert not (tmp_path / "stopped" / "lock").exists()
    assert trainers.run(stopped, tmp_path / "log")[0] == 0
    files = ("losses.jsonl", "checkpoints/000000072/manifest.json", "model/card.json")
    a, b = digest(tmp_path / "whole"), digest(tmp_path / "stopped")
    assert all(a[file] == b[file] for file in files)


def test_damaged_checkpoint_costs_one_line(data: Path, tmp_path: Path) -> None:
    recipe = tiny(data, tmp_path / "run", train__images=72)
    steps = iter(fit(recipe, device="cpu"))
    while next(steps).images < 52:
        pass
    steps.close()  # type: ignore[attr-defined]
    os.truncate(tmp_path / "run" / "checkpoints" / "000000048" / "weights.safetensors", 100)
    notes = next(fit(recipe, device="cpu")).note
    assert notes is not None and notes.splitlines()[1:] == ["resuming at 24 images"]
    assert "000000048 is damaged (weights.safetensors" in notes and "moved to 000000048.bad" in notes


def test_broken_pictures_are_written_down_once(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "pictures")
    (tmp_path / "pictures" / "square" / "03.png").write_bytes(b"")
    steps = run(tiny(tmp_path / "pictures", tmp_path / "run", data__hold_out=None))
    rows = [json.loads(line) for line in (tmp_path / "run" / "bad_samples.jsonl").read_text().splitlines()]
    assert len(rows) == 1 and rows[0]["picture"].endswith("03.png") and rows[0]["reason"] and rows[0]["instead"]
    assert sum("stands in for it" in (step.note or "") for step in steps) == 1


def test_a_set_that_is_mostly_broken_is_refused(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "pictures")
    for file in sorted((tmp_path / "pictures").rglob("*.png"))[:14]:
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="training pictures cannot be read"):
        run(tiny(tmp_path / "pictures", tmp_path / "run", data__hold_out=None))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.condition=text"], "has no captions"),
        (["model.classes=7"], "model.classes: 7 does not fit the data, which needs 2"),
        (["model.head_width=3"], "model.head_width: 3 does not divide"),
        (["data.path=nowhere"], "nowhere"),
        (["train.batch_size=3", "train.accumulate=1", "loss.weight=nope"], "loss.weight: expected one of"),
    ],
)
def test_bad_input_is_refused_before_any_work(data: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(tiny(data, tmp_path / "run"), *overrides)
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("run.json"))


def test_parts_of_a_batch_change_nothing_but_rounding(data: Path, tmp_path: Path) -> None:
    changes = {"train__precision": "float64", "train__images": 40, "model__dropout": 0.0, "train__batch_size": 8}
    losses = [
        [step.loss for step in run(tiny(data, tmp_path / str(parts), train__accumulate=parts, **changes))]
        for parts in (1, 2, 8)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-9) and losses[2] == pytest.approx(losses[0], rel=1e-9)


def test_fp16_skips_what_overflows_and_gives_up_at_last(data: Path, tmp_path: Path) -> None:
    steps = run(tiny(data, tmp_path / "sound", train__precision="fp16", train__images=12))
    assert all(math.isfinite(step.loss) for step in steps)
    recipe = tiny(data, tmp_path / "run", train__precision="fp16", train__lr=1e30, train__warmup=0, train__clip=None)
    notes = []
    with pytest.raises(FloatingPointError, match="fp16"):
        for step in fit(recipe, device="cpu"):
            notes += [step.note] if step.note else []
    assert len(notes) == 10 and all("fp16 overflow" in note for note in notes)


@pytest.mark.slow
def test_compiled_network_trains_to_the_same_losses(data: Path, tmp_path: Path) -> None:
    plain, compiled = (
        [step.loss for step in run(tiny(data, tmp_path / str(on), train__compile=on, model__dropout=0.0))]
        for on in (False, True)
    )
    assert compiled == pytest.approx(plain, rel=1e-2)


@pytest.mark.parametrize("condition", ["class", "none"])
def test_each_source_trains(data: Path, tmp_path: Path, condition: str) -> None:
    changes = {"data__condition": condition, "train__images": 8, "train__preview_every": 8}
    recipe = tiny(data, tmp_path / "run", **changes)
    if condition == "none":
        recipe["data"] |= {"path": "shapes", "shapes": {"n": 30}, "hold_out": {"share": 0.1}}
        recipe["model"] |= {"preset": "tiny"}
    (*_, last) = run(recipe)
    assert last.model is not None and last.held and (tmp_path / "run" / "previews" / "000000008.png").is_file()
    labels = ["round"] if condition == "class" else None
    assert bool(last.model.generate(labels=labels, steps=2, seed=0).tensor.isfinite().all())


def test_a_model_older_than_the_last_checkpoint_is_made_again(
    whole: tuple[Path, list[Step]], data: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole[0], tmp_path / "run")
    recipe = tiny(data, tmp_path / "run", train__save_every=4, train__keep=99, train__held_every=24)
    run(recipe, "train.images=52")
    made = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.copytree(whole[0] / "model", tmp_path / "run" / "model")
    (step,) = run(recipe, "train.images=52")
    assert step.model is not None and step.images == 52
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == made


def test_training_imports_none_of_the_heavy_libraries() -> None:
    code = "import sys, guided.train.run, guided.train.export; print(*sys.modules)"
    heard = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert not {"diffusers", "datasets", "open_clip", "transformers"} & set(heard.split())


def test_every_process_of_a_run_that_only_lacks_its_model_ends_with_a_step(data: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny(data, tmp_path / "run"))
    job = setup.prepare(recipe, torch.device("cpu"))
    state = State(recipe, job.denoiser)
    state.counter = recipe.train.images
    second = Team(1, 1, torch.device("cpu"))
    (step,) = trainer._train(job, state, second, None, workplace.Stop(), lambda worker: None)
    assert step.images == recipe.train.images and step.model is None
