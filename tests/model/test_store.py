"""Model folders: what goes in comes out bit for bit; what is damaged, hostile or foreign is refused by name."""

from __future__ import annotations

import copy
import json
import os
import pathlib
import shutil
from typing import Any

import pytest
import torch

from guided import _files, _safetensors
from guided.codec import Pixels
from guided.denoiser import EDM, X0, Denoiser, Eps, Flow, V
from guided.model import Model
from tests.model import build
from tests.text import tiny


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return build.class_model().save(tmp_path_factory.mktemp("models") / "classes")


def test_saved_and_opened_it_draws_the_same_bits(saved: pathlib.Path) -> None:
    first, opened = build.class_model(), Model.open(saved)
    drawn = first.generate(labels=["cat", "7"], n=2, seed=9)
    again = opened.generate(labels=["cat", "7"], n=2, seed=9)
    assert torch.equal(drawn.tensor, again.tensor)
    assert opened.hash == first.hash == _files.sha256(saved / "model.safetensors")
    assert again.records[0]["model"] == str(saved)
    assert (opened.classes, opened.size, opened.name) == (tuple(build.CLASSES), (16, 16), "tiny-class")
    assert not opened.denoiser.training and not any(p.requires_grad for p in opened.denoiser.parameters())


@pytest.mark.parametrize("kind", ["clip", "t5", "bert", "open_clip"])
def test_text_encoders_in_their_own_formats(kind: str, tmp_path: pathlib.Path) -> None:
    make = getattr(tiny, f"{kind}_folder")
    model = build.real_text_model(make(tmp_path / "encoder"), vector_width=24 if kind == "open_clip" else 0)
    drawn = model.generate(["a red circle", "cat", ""], seed=2)
    again = Model.open(model.save(tmp_path / "model")).generate(["a red circle", "cat", ""], seed=2)
    assert torch.equal(drawn.tensor, again.tensor)
    assert not torch.equal(drawn.tensor[0], model.generate("cat", seed=2).tensor[0])


def test_a_long_prompt_warns_with_what_was_dropped(tmp_path: pathlib.Path) -> None:
    model = build.real_text_model(tiny.bert_folder(tmp_path / "bert"))
    with pytest.warns(UserWarning, match="not read: .*zebra"):
        result = model.generate(["red " * 40 + "zebra", "red"])
    assert result.records[0]["not_read"].endswith("zebra") and "not_read" not in result.records[1]


@pytest.mark.parametrize("frame", [EDM(0.7), X0(0.9), Eps(), V(), Flow()])
def test_every_parametrisation_comes_back(frame: Any, tmp_path: pathlib.Path) -> None:
    denoiser = Denoiser(build.network("tiny"), frame, 0.01, 50.0)
    folder = Model(denoiser, Pixels(), {}, {"size": [8, 8]}).save(tmp_path / "m")
    opened = Model.open(folder).denoiser
    assert (opened.parametrization, opened.lo, opened.hi) == (frame, 0.01, 50.0)


def test_the_same_model_gives_the_same_bytes_without_dates_or_paths(tmp_path: pathlib.Path) -> None:
    folders = [build.class_model().save(tmp_path / name / "m") for name in ("a", "b")]
    for name in ("model.safetensors", "card.json"):
        first, second = ((folder / name).read_bytes() for folder in folders)
        assert first == second
        assert str(tmp_path).encode() not in first
    assert not _safetensors.header(folders[0] / "model.safetensors").metadata
    assert sorted(os.listdir(folders[0])) == ["card.json", "model.safetensors"]
    assert sorted(os.listdir(tmp_path / "a")) == ["m"]


def test_bf16_halves_the_file_and_opens_as_rounded_float32(tmp_path: pathlib.Path) -> None:
    model = build.class_model()
    folder = model.save(tmp_path / "m", dtype=torch.bfloat16)
    opened = Model.open(folder)
    for name, value in model.denoiser.network.state_dict().items():
        stored = opened.denoiser.network.state_dict()[name]
        assert stored.dtype == torch.float32
        assert torch.equal(stored, value.bfloat16().float())
    header = _safetensors.header(folder / "model.safetensors")
    assert header.data == 2 * header.parameters
    with pytest.raises(ValueError, match="dtype: expected one of"):
        model.save(tmp_path / "m8", dtype=torch.float64)


def test_the_early_snapshot_comes_back_and_is_kept(tmp_path: pathlib.Path) -> None:
    model = build.class_model()
    assert model.early() is None
    young = build.network("tiny-class", seed=5)
    model = Model(model.denoiser, model.codec, {}, model.card, early=young.state_dict())
    again = Model.open(Model.open(model.save(tmp_path / "a")).save(tmp_path / "b"))
    weak = again.early()
    assert weak is not None
    for name, value in weak.network.state_dict().items():
        assert torch.equal(value, young.state_dict()[name])
    assert (weak.lo, weak.hi) == (again.denoiser.lo, again.denoiser.hi)


def test_numbers_that_json_has_not_become_null(tmp_path: pathlib.Path) -> None:
    model = build.class_model()
    model.card["metrics"] = {"loss": float("nan"), "levels": (1.0, float("inf"))}
    folder = model.save(tmp_path / "m")
    assert json.loads((folder / "card.json").read_text())["metrics"] == {"loss": None, "levels": [1.0, None]}


def test_a_failed_save_keeps_what_was_there(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build.class_model().save(tmp_path / "m")
    before = (folder / "card.json").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        build.plain_model().save(folder)
    assert (folder / "card.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]


def test_a_folder_of_other_things_is_not_replaced(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.txt").write_text("dear")
    with pytest.raises(ValueError, match="something other than a model"):
        build.plain_model().save(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "dear"


def test_the_folder_of_a_run_opens_its_model(tmp_path: pathlib.Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="has not finished"):
        Model.open(tmp_path)
    build.class_model().save(tmp_path / "model")
    assert Model.open(tmp_path).classes == tuple(build.CLASSES)


def changed(saved: pathlib.Path, to: pathlib.Path, **entries: Any) -> pathlib.Path:
    """A copy of a model folder with other entries in its card; ... removes one."""
    shutil.copytree(saved, to)
    card = json.loads((saved / "card.json").read_text())
    for name, value in entries.items():
        parts, place = name.split("__"), card
        for part in parts[:-1]:
            place = place[part]
        place[parts[-1]] = value
        if value is ...:
            del place[parts[-1]]
    (to / "card.json").write_text(json.dumps(card))
    return to


DIGEST = "0" * 64
FITTED = {"levels": [3.0, 1.0, 0.0], "solver": "fitted", "w": 1, "weights": [[], [0.1]], "limits": [0, 1]}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"format": "guided-model/9"}, "format: expected 'guided-model/1'"),
        ({"size": [10**9, 10**9]}, "size: expected"),
        ({"size": [16, True]}, "size: expected"),
        ({"size": ...}, "size: expected"),
        ({"range": [0.5, 0.1]}, "range: expected 0 < lo < hi"),
        ({"range": [0.0, 1.0]}, "range: expected 0 < lo < hi"),
        ({"classes": ["cat", 3]}, "classes: expected"),
        ({"classes": ["cat"]}, "names 1 classes, the network knows 4"),
        ({"defaults__steps": 10**12}, "defaults.steps"),
        ({"defaults__w": "big"}, "defaults.w"),
        ({"defaults__solver": "__import__"}, "defaults.solver"),
        ({"calibrated": [1]}, "calibrated: expected a mapping"),
        ({"calibrated": {"2": 7}}, "calibrated.2: expected a mapping"),
        ({"calibrated": {"2": {"levels": [3.0, 1.0, 0.0], "solver": "magic", "w": 1}}}, "the name of a solver"),
        ({"calibrated": {"2": {"levels": [3.0, 4.0, 0.0], "solver": "euler", "w": 1}}}, "falling to 0"),
        (
            {"calibrated": {"2": {**FITTED, "weights": [[], ["0.1"]]}}},
            "calibrated.2.weights: expected a list of numbers",
        ),
        ({"calibrated": {"2": {**FITTED, "weights": [[0.1], []]}}}, "at most min"),
        ({"calibrated": {"2": {**FITTED, "limits": None}}}, "calibrated.2.limits: expected a number for each step"),
        ({"calibrated": {"2": {**FITTED, "limits": [0, 1, 2]}}}, "a limit >= 0 for each of its 2 steps"),
        ({"calibrated": {"1": {"levels": [3.0, 1.0, 0.0], "solver": "euler", "w": 1}}}, "one more than the steps"),
        ({"sha256": {"../../etc/passwd": DIGEST}}, "sha256: expected"),
        ({"sha256": {"model.safetensors": DIGEST}}, "damaged, or replaced"),
        ({"sha256": {"model.safetensors": DIGEST, "early.safetensors": DIGEST}}, "damaged, or replaced"),
        ({"network__class": "os.system"}, "expected the class UNet or EncoderUNet, got 'os.system'"),
        ({"network__config__widths": [8, 10**9]}, "network.config: widths: .* beyond reason"),
        ({"network__config__blocks": [10**6, 1]}, "network.config: blocks: .* beyond reason"),
        ({"network__config__colour": 1}, "network.config: unknown keys"),
        ({"network__config__widths": "wide"}, "network.config: "),
        ({"network__config__widths": [8, 24]}, "of another shape"),
        ({"network__config__depth": [1, 1]}, "missing: .*down.0"),
        ({"network__config__depth": [0, 0]}, "not expected: "),
        ({"parametrization": {"class": "Magic"}}, "parametrization: expected one of EDM"),
        ({"parametrization": {"class": "EDM", "sigma_data": -1}}, "parametrization: EDM takes"),
        ({"codec": {"class": "Pickle"}}, "codec: expected one of Pixels"),
        ({"text": 7}, "text: expected"),
        ({"mean": "grey"}, "mean: expected"),
        ({"mean": [0.5]}, "mean: 1 numbers for 3 channels"),
        ({"recipe": "rm -rf"}, "recipe: expected a mapping"),
    ],
)
def test_a_hostile_or_broken_card_is_refused(
    entries: dict[str, Any], message: str, saved: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = changed(saved, tmp_path / "m", **entries)
    with pytest.raises(ValueError, match=message):
        Model.open(folder)


def test_a_card_that_is_no_json_or_too_deep(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = changed(saved, tmp_path / "m")
    for text in ("{", "[" * 100_000, '"text"', "\xff"):
        (folder / "card.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"card\.json: "):
            Model.open(folder)


def test_every_flipped_byte_is_noticed(saved: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = changed(saved, tmp_path / "m")
    good = (folder / "model.safetensors").read_bytes()
    for place in (0, 3, 9, 200, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[place] ^= 1
        (folder / "model.safetensors").write_bytes(bad)
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            Model.open(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: the card names it"):
        Model.open(folder)


def test_nan_weights_load_with_a_warning_that_names_them(tmp_path: pathlib.Path) -> None:
    model = build.plain_model()
    with torch.no_grad():
        model.denoiser.network.conv_out.bias[0] = float("nan")
    folder = model.save(tmp_path / "m")
    with pytest.warns(_safetensors.NotFinite, match=r"conv_out\.bias"):
        Model.open(folder)


def test_what_is_no_model_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Model.open(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"no card\.json in it"):
        Model.open(tmp_path)
    (tmp_path / "weights.ckpt").write_bytes(b"anything")
    with pytest.raises(ValueError, match=r"weights\.ckpt: refused: a Python pickle"):
        Model.open(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(ValueError, match="this is a file"):
        Model.open(tmp_path / "card.json")


def test_parts_that_do_not_fit_together_are_refused() -> None:
    model = build.class_model()
    for card, message in (({}, "size"), ({"size": [8, 8], "classes": ["a"]}, "names 1 classes")):
        with pytest.raises(ValueError, match=message):
            Model(model.denoiser, model.codec, {}, card)
    with pytest.raises(ValueError, match="takes neither tokens nor a vector"):
        Model(model.denoiser, model.codec, {"text": build.Words()}, {"size": [8, 8]})
    with pytest.raises(ValueError, match="takes no label"):
        Model(build.plain_model().denoiser, model.codec, {}, {"size": [8, 8], "classes": ["a"]})
    with pytest.raises(ValueError, match="expected 'text' or none"):
        Model(build.words_model().denoiser, model.codec, {"sound": build.Words()}, {"size": [8, 8]})


def test_a_network_without_a_card_is_not_saved(tmp_path: pathlib.Path) -> None:
    model = build.plain_model()
    other = copy.deepcopy(model)
    other.denoiser.network = torch.nn.Conv2d(3, 3, 1)
    with pytest.raises(TypeError, match="a model folder holds a UNet"):
        other.save(tmp_path / "m")
