"""Calibrating a model: what its card keeps, and when `generate` uses it."""

from __future__ import annotations

import json
import pathlib
import shlex

import pytest
import torch

from guided import path
from guided.cli.app import run
from guided.guide import cfg
from guided.model import Model, Request, store
from guided.model import card as cards
from guided.model import request as requests
from guided.tune import calibrate_model
from guided.tune.calibration import FEWEST
from tests.model import build

STEPS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A class model whose card holds a path for 3 steps at w = 2."""
    place = build.class_model().save(tmp_path_factory.mktemp("models") / "m")
    assert run(["calibrate", str(place), "--steps", str(STEPS), "--images", "4", "--trials", str(FEWEST + 4)]) == 0
    return place


def planned(model: Model, **asked: object) -> tuple[list[float], object]:
    plan = requests.plan(model, Request(labels="cat", **asked))  # type: ignore[arg-type]
    return plan.path.tolist(), plan.solver


def test_generate_takes_the_path_on_the_card(folder: pathlib.Path) -> None:
    model = Model.open(folder)
    entry = json.loads((folder / "card.json").read_text())["calibrated"][str(STEPS)]
    assert entry["error"] <= min(entry["default"], entry["karras"])
    mine = (entry["levels"], cards.fitted(entry) if entry["solver"] == "fitted" else entry["solver"])
    assert entry["w"] == 2.0 and planned(model, steps=STEPS) == planned(model, steps=STEPS, w=2.4) == mine
    assert planned(model, steps=STEPS, guide="cfg(2)") == planned(model, steps=STEPS, guide=cfg(2.0)) == mine
    assert model.generate(labels="cat", steps=STEPS).records[0]["path"] == entry["levels"]


def test_the_callers_choice_and_other_settings_go_before_it(folder: pathlib.Path) -> None:
    model = Model.open(folder)
    ruled = [path.default(STEPS, 0.02, 20.0, w).tolist() for w in (2.0, 3.0)]
    assert planned(model, steps=STEPS, w=3.0) == (ruled[1], "adams")
    assert planned(model, steps=STEPS, solver="heun") == (ruled[0], "heun")
    assert planned(model, steps=STEPS, guide="cfg(2) >> rescale(0.7)") == (ruled[0], "adams")
    assert planned(model, steps=4)[0] == path.default(4, 0.02, 20.0, 2.0).tolist()
    own = torch.tensor([20.0, 1.0, 0.2, 0.0])
    assert planned(model, path=own)[0] == own.double().tolist()


def test_a_fitted_solver_draws_by_the_command_too_and_goes_with_its_path_alone(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {"weights": [[], [-0.2], [-0.3, 0.1]], "limits": [0.0, 0.5, 0.5]}
    entry = {"w": 2.0, "levels": [20.0, 2.0, 0.5, 0.0], "solver": "fitted", **rows}
    card = {"classes": build.CLASSES, "calibrated": {"3": entry}}
    place = build.model("tiny-class", card=card).save(tmp_path / "m")
    model = Model.open(place)
    assert planned(model, steps=3) == planned(model, steps=3, solver="fitted") == (entry["levels"], cards.fitted(entry))
    assert run(["generate", "--model", str(place), "--label", "cat", "--steps", "3", "--out", str(tmp_path / "o")]) == 0
    picture = tmp_path / "o" / "000000.png"
    capsys.readouterr()
    assert run(["inspect", "--json", str(picture)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["solver"] == "fitted" and facts["nfe"] == 3
    assert run([*shlex.split(facts["command"])[1:], "--out", str(tmp_path / "twice")]) == 0
    assert (tmp_path / "twice" / "000000.png").read_bytes() == picture.read_bytes()
    for asked in ({"steps": 4}, {"steps": 3, "w": 4.0}, {"path": torch.tensor([20.0, 1.0, 0.0])}):
        with pytest.raises(ValueError, match="'fitted' goes with a calibrated path; tiny-class has none"):
            planned(model, solver="fitted", **asked)


def test_weights_stay_and_entries_add_up(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "copy"
    words = ["calibrate", str(folder), "--steps", "2,4", "--images", "2", "--trials", str(FEWEST), "--out", str(copy)]
    assert run(words) == 0
    first, second = Model.open(folder), Model.open(copy)
    assert first.hash == second.hash
    assert list(first.card["calibrated"]) == ["3"] and sorted(second.card["calibrated"]) == ["2", "3", "4"]
    assert second.save(tmp_path / "again") and Model.open(tmp_path / "again").card["calibrated"].keys() == {
        "2",
        "3",
        "4",
    }


def test_its_noise_is_none_that_generate_draws() -> None:
    """The images of a calibration and those of `generate` share no noise, so a figure on the latter is a fair one."""
    model, seen = build.plain_model(), []
    model.denoiser.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    calibrate_model(model, 2, images=2, trials=FEWEST)
    drawn = len(seen)
    model.generate(n=2, steps=2, batch=2)
    assert not any(torch.equal(row, other) for row in seen[0] for other in seen[drawn])


def test_prompts_are_the_recipes_or_given() -> None:
    bare = build.words_model()
    with pytest.raises(ValueError, match=r"its card knows none: give some \(--prompts FILE\)"):
        calibrate_model(bare, 2, images=2, trials=FEWEST)
    given = calibrate_model(bare, 2, prompts=["a cat", "a dog"], images=3, trials=FEWEST)
    bare.card["recipe"] = {"sample": {"prompts": ["a cat", "a dog"]}}
    assert torch.equal(calibrate_model(bare, 2, images=3, trials=FEWEST).levels, given.levels)
    with pytest.raises(ValueError, match="draws no prompts"):
        calibrate_model(build.class_model(), 2, prompts=["a cat"], images=2, trials=FEWEST)


def test_what_cannot_be_written_is_refused_before_the_work(
    folder: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    for words, message in (
        (["emoji", "--steps", "4"], "is part of the installation: give --out"),
        ([str(folder), "--steps", "4", "--out", str(tmp_path / "full")], "holds something other than a model"),
        ([str(folder), "--steps", "four"], "--steps: expected whole numbers"),
        ([str(folder), "--steps", "3,1"], "--steps: expected whole numbers >= 2"),
        ([str(tmp_path / "none"), "--steps", "4"], "no such folder"),
    ):
        assert run(["calibrate", *words]) == 2
        assert message in capsys.readouterr().err
    assert (tmp_path / "full" / "letter.txt").read_text() == "dear"


def test_amend_checks_before_it_writes(folder: pathlib.Path) -> None:
    before = (folder / "card.json").read_bytes()
    with pytest.raises(ValueError, match=r"calibrated\.3\.levels: expected one more than the steps"):
        store.amend(folder, {"calibrated": {"3": {"levels": [1.0, 0.0], "solver": "adams", "w": 1.0}}})
    assert (folder / "card.json").read_bytes() == before
