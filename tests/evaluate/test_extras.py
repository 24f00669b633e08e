"""What is measured only where it is asked for, at toy scale: CLIPScore and features of published networks."""

from __future__ import annotations

import pathlib

import pytest
from PIL import Image

from guided.evaluate import Options, evaluate
from guided.evaluate.towers import open_towers
from tests.evaluate.test_classifier import trivial
from tests.evaluate.test_report import DISTANCES, write_captions, write_classes
from tests.model import build
from tests.text import tiny


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny.clip_pair_folder(tmp_path_factory.mktemp("clip"))


def test_a_model_of_captions(clip: pathlib.Path, tmp_path: pathlib.Path) -> None:
    data = write_captions(tmp_path / "data", 10, 60)
    model = build.words_model(card={"recipe": {"data": {"hold_out": {"share": 0.1, "pairs": 4}}}})
    report = evaluate(model, data, Options(n=50, w=(1.0,), steps=1, clip=clip, features=clip))
    figures = {figure.name: figure for figure in report.figures}
    assert {*DISTANCES, "CLIPScore", "CLIP cosine"} <= set(figures) and figures["FD"].n == 50
    assert set(figures["CLIPScore"].beside) == {"real", "next caption"} and figures["CLIPScore"].at == "w = 1"
    assert str(open_towers(str(clip)).prepare) in report.settings["features"]
    assert "32 x 32 px, bicubic, mean 0.4815" in report.settings["CLIPScore"]
    assert "0 of 50 fill all its tokens" in report.settings["CLIPScore"]
    with pytest.raises(ValueError, match="at least 50 pictures"):
        evaluate(model, data, Options(n=8, steps=1, features=clip))
    with pytest.raises(ValueError, match="cas: is measured of models that draw classes"):
        evaluate(model, data, Options(n=8, steps=1, cas=True))


def test_a_model_of_shapes(clip: pathlib.Path) -> None:
    model = build.words_model(card={"recipe": {"seed": 3, "data": {"path": "shapes", "shapes": {"objects": 1}}}})
    report = evaluate(model, "shapes", Options(n=50, w=(1.0,), steps=1, clip=clip, features=clip))
    names = [figure.name for figure in report.figures]
    assert [*DISTANCES, "CLIPScore", "CLIP cosine"] == names[-8:]
    assert report.settings["reference"] == "50 renders of the same captions"


def test_folders_with_and_without_captions(clip: pathlib.Path, tmp_path: pathlib.Path) -> None:
    data = write_captions(tmp_path / "data", 10, 60)
    report = evaluate(data, data, Options(features=clip, clip=clip))
    assert [figure.name for figure in report.figures] == [*DISTANCES, "CLIPScore", "CLIP cosine"]
    assert report.figures[0].n == 120 and "CLIPScore" in report.settings
    plain = tmp_path / "plain"
    plain.mkdir()
    for i, picture in enumerate(trivial(60, 0)[0]):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(plain / f"{i}.png")
    other = evaluate(plain, data, Options(features=clip))
    assert "image features of" in other.settings["features"] and other.figures[0].value > report.figures[0].value
    with pytest.raises(ValueError, match="clip pictures that all have a caption"):
        evaluate(plain, data, Options(clip=clip))
    with pytest.raises(ValueError, match="cas needs a model of classes"):
        evaluate(data, data, Options(cas=True))


def test_a_model_of_classes_in_other_features(clip: pathlib.Path, tmp_path: pathlib.Path) -> None:
    data = write_classes(tmp_path / "data", 60)
    card = {"classes": sorted(build.CLASSES), "recipe": {"data": {"condition": "class", "hold_out": None}}}
    model = build.model("tiny-class", card=card)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))
        report = evaluate(model, data, Options(n=50, steps=1, epochs=0.1, features=clip))
    assert [figure.name for figure in report.figures] == ["class accuracy", *DISTANCES]
    assert "image features of" in report.settings["features"]
    with pytest.raises(ValueError, match="clip: CLIPScore is measured of models that draw captions"):
        evaluate(model, data, Options(n=50, clip=clip))
