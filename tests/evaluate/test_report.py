"""The whole of it at toy scale: tiny models of captions, shapes and classes, and folders of pictures."""

from __future__ import annotations

import io
import json
import pathlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from guided.data.splitting import fraction
from guided.evaluate import Options, evaluate, measures
from guided.evaluate.__main__ import main
from guided.evaluate.classifier import Schedule, train_classifier
from guided.evaluate.network import ClassifierConfig
from tests.evaluate.test_classifier import trivial
from tests.evaluate.toy import Captioned
from tests.model import build

DISTANCES = ["FD", "KID", "precision", "recall", "coverage", "density"]


def write_classes(folder: pathlib.Path, n: int, seed: int = 0) -> pathlib.Path:
    """A class folder of the trivial textures."""
    names = build.CLASSES
    pictures, _ = trivial(n, seed)
    for i, picture in enumerate(pictures):
        place = folder / names[i % len(names)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(place / f"{i:04}.png")
    return folder


def write_captions(folder: pathlib.Path, people: int = 6, things: int = 20) -> pathlib.Path:
    folder.mkdir()
    source = Captioned(people, things)
    lines = []
    for i, record in enumerate(source.records):
        Image.fromarray(source.image(i, (16, 16))).save(folder / record.name)
        lines.append(json.dumps({"file_name": record.name, "text": record.caption, **record.extra}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def names_of(folder: pathlib.Path) -> list[str]:
    return [file.name for file in folder.rglob("*.png")]


def shown(report: Any) -> str:
    out = io.StringIO()
    report.show(Console(file=out, width=200))
    return out.getvalue()


def test_a_model_of_captions(tmp_path: pathlib.Path) -> None:
    data = write_captions(tmp_path / "data")
    model = build.words_model(card={"recipe": {"data": {"hold_out": {"share": 0.15, "pairs": 4}}}})
    seen: list[tuple[str, int, int]] = []
    options = Options(n=8, w=(1.0, 2.0), steps=2, likelihood=3, moves=4)
    report = evaluate(model, data, options, sheet=tmp_path / "s.png", watch=lambda *a: seen.append(a))
    names = {(figure.name, figure.at) for figure in report.figures}
    for w in ("w = 1", "w = 2"):
        assert ("training captions, base right: all", w) in names
        assert ("training captions, base right: not People", w) in names
    assert any(name.startswith("held-out pairs, tone right") for name, _ in names)
    assert any(name.startswith("held-out bases") for name, _ in names)
    bits = [figure for figure in report.figures if figure.name.startswith("ELBO")]
    assert len(bits) == 2 and all(figure.value > 0 and figure.at == "T = 4" for figure in bits)
    assert seen and seen[0][0] == "drawing at w = 1"
    assert Image.open(tmp_path / "s.png").width > 100
    report.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == json.loads(json.dumps(report.json()))
    text = shown(report)
    assert "16 x 16 px" in text and "95 % interval" in text and "chance" in text
    again = evaluate(model, data, options)
    assert [figure.json() for figure in again.figures] == [figure.json() for figure in report.figures]


def test_a_model_of_shapes() -> None:
    model = build.words_model(card={"recipe": {"seed": 3, "data": {"path": "shapes", "shapes": {"objects": 2}}}})
    report = evaluate(model, "shapes", Options(n=6, w=(1.0,), steps=1))
    assert {"count", "relation", "colour and shape", "all of them"} <= {figure.name for figure in report.figures}
    assert all("chance" in f.beside and f.n == 6 for f in report.figures if f.name != "saturation")
    assert "never in training" in report.settings["captions"]


def test_guides_as_text_are_judged_beside_weights_with_what_they_cost() -> None:
    model = build.words_model(card={"recipe": {"seed": 3, "data": {"path": "shapes", "shapes": {"objects": 1}}}})
    ways = ("cfg(3).during(1)", "cfg(3) + perturbed('identity', 2) >> rescale(0.7)")
    report = evaluate(model, "shapes", Options(n=6, w=(1.0, 3.0), guide=ways, steps=2))
    cost = {f.at: f.value for f in report.figures if f.name == "network evaluations a picture"}
    assert cost == {"w = 1": 2, "w = 3": 4, ways[0]: 3, ways[1]: 6}
    saturation = {f.at: f for f in report.figures if f.name == "saturation"}
    assert set(saturation) == set(cost) and all(0 <= f.value <= 1 for f in saturation.values())
    with pytest.raises(ValueError, match="unknown 'cgf'"):
        evaluate(model, "shapes", Options(n=6, guide=("cgf(3)",), steps=2))


def test_saturation_is_the_share_of_numbers_at_the_limits() -> None:
    pictures = torch.full((2, 3, 4, 4), 7, dtype=torch.uint8)
    pictures[0, :, 0] = 0
    pictures[0, 0, 1] = 255
    figure = measures.looks(pictures, pictures, "")[0]
    assert figure.value == pytest.approx((16 / 48) / 2) and figure.beside["real"] == figure.value


def test_a_model_of_classes_with_a_classifier_of_its_own(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUIDED_CACHE", str(tmp_path / "cache"))
    data = write_classes(tmp_path / "data", 240)
    card = {"classes": sorted(build.CLASSES), "recipe": {"data": {"condition": "class", "hold_out": {"share": 0.3}}}}
    model = build.model("tiny-class", card=card)
    report = evaluate(model, data, Options(n=140, steps=1, epochs=0.3, batch=140), sheet=tmp_path / "s.png")
    names = [figure.name for figure in report.figures]
    assert names == ["class accuracy", *DISTANCES]
    accuracy, fd = report.figures[:2]
    assert set(accuracy.beside) == {"chance", "real, held out"} and accuracy.beside["chance"] == 0.25
    assert accuracy.at == "w = 2" and fd.n == 140
    assert len(list((tmp_path / "cache" / "classifiers").iterdir())) == 1
    assert "of our classifier of data" in report.settings["features"]
    taught = evaluate(model, data, Options(n=140, steps=1, epochs=0.3, batch=140, cas=True))
    score = taught.figures[1]
    assert score.name == "CAS" and set(score.beside) == {"chance", "of 140 real", "judge"} and score.at == "w = 2"
    assert [f.json() for f in taught.figures if f.name != "CAS"] == [f.json() for f in report.figures]
    both = [name for name in names_of(data) if fraction(f"0:{name}") < measures.TEST]
    assert score.n == len(both) < 40, "of the 30 % that the model never saw, those that the judge did not either"
    assert f"{score.n} real pictures that neither the model nor the judge" in taught.settings["CAS"]


def test_a_classifier_of_other_classes_is_refused(tmp_path: pathlib.Path) -> None:
    data = write_classes(tmp_path / "data", 40)
    config = ClassifierConfig(3, widths=(4,), features=4, size=(16, 16))
    judge = train_classifier(*trivial(32, 0), ("a", "b", "c"), Schedule(epochs=1, batch=32), config=config)
    judge.save(tmp_path / "judge")
    model = build.class_model()
    with pytest.raises(ValueError, match="the classifier knows"):
        evaluate(model, data, Options(n=4, steps=1, classifier=tmp_path / "judge"))


def test_folders_of_pictures(tmp_path: pathlib.Path) -> None:
    real = write_classes(tmp_path / "real", 440)
    plain = tmp_path / "plain"
    plain.mkdir()
    for i, file in enumerate(sorted(real.rglob("*.png"))):
        (plain / f"{i}.png").write_bytes(file.read_bytes())
    same = evaluate(plain, plain)
    assert [figure.name for figure in same.figures] == DISTANCES
    assert same.settings["features"] == "8 px means"
    fd, _, precise, recalled, covered, _ = same.figures
    assert covered.value > 0.95 and fd.value < 1 and precise.value == recalled.value == 1
    noise = tmp_path / "noise"
    noise.mkdir()
    for i in range(400):
        array = torch.randint(0, 256, (16, 16, 3), generator=torch.Generator().manual_seed(i)).to(torch.uint8)
        Image.fromarray(array.numpy()).save(noise / f"{i}.png")
    other = evaluate(noise, plain)
    assert other.figures[0].value > 10 * fd.value and all(f.value < 0.1 for f in other.figures[2:5])
    with pytest.raises(ValueError, match="at least 384 pictures"):
        few = tmp_path / "few"
        few.mkdir()
        for i in range(20):
            (few / f"{i}.png").write_bytes((plain / f"{i}.png").read_bytes())
        evaluate(few, plain)


def test_a_model_of_nothing_is_judged_as_a_folder_and_found_by_its_path(tmp_path: pathlib.Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "0 broken.png").write_bytes(b"no picture")
    for i, picture in enumerate(trivial(430, 0)[0]):
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(plain / f"{i}.png")
    folder = build.plain_model().save(tmp_path / "model")
    report = evaluate(folder, plain, Options(n=400, steps=1, batch=400, likelihood=3, moves=3))
    assert [figure.name for figure in report.figures[:2]] == ["FD", "KID"] and report.figures[0].n == 400
    assert report.figures[-1].name.startswith("ELBO") and report.settings["model"].startswith("tiny, ")
    with pytest.raises(ValueError, match="at least 384 pictures"):
        evaluate(folder, plain, Options(n=100, steps=1))
    assert evaluate(plain, plain, Options(size=8)).settings["preprocessing of both"].startswith("8 x 8 px")


def test_a_class_model_and_its_bound(tmp_path: pathlib.Path) -> None:
    data = write_classes(tmp_path / "data", 48)
    config = ClassifierConfig(4, widths=(4,), features=4, size=(16, 16))
    names = sorted(build.CLASSES)
    labels = [i % 4 for i in range(32)]
    train_classifier(trivial(32, 0)[0], labels, names, Schedule(epochs=1, batch=32), config=config).save(tmp_path / "j")
    card = {"classes": names, "recipe": {"data": {"condition": "class", "hold_out": None}}}
    with pytest.raises(ValueError, match="at least 50 pictures"):
        evaluate(build.model("tiny-class", card=card), data, Options(n=60, classifier=tmp_path / "j", steps=1))
    data = write_classes(tmp_path / "more", 60)
    options = Options(n=50, classifier=tmp_path / "j", steps=1, batch=50, likelihood=2, moves=2)
    report = evaluate(build.model("tiny-class", card=card), data, options)
    assert (
        evaluate(build.model("tiny-class", card=card), data, replace(options, cas=True, epochs=0.1))
        .settings["CAS"]
        .endswith("that the judge was not trained on, but the model was")
    )
    assert report.settings["reference"] == "60 training pictures; floor: 0 kept out"
    assert set(report.figures[0].beside) == {"chance"}
    assert [figure.name for figure in report.figures][-1] == "ELBO, bits/dim: training pictures"


def test_what_does_not_go_together_is_refused(tmp_path: pathlib.Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    Image.new("RGB", (16, 16)).save(plain / "a.png")
    with pytest.raises(ValueError, match="draws captions, but the data has none"):
        evaluate(build.words_model(), plain)
    with pytest.raises(ValueError, match="draws classes, but the data has none"):
        evaluate(build.class_model(), plain)
    with pytest.raises(FileNotFoundError):
        evaluate(tmp_path / "nothing", plain)
    with pytest.raises(ValueError, match="n: expected at least 1, got 0"):
        Options(n=0)


def test_the_commands(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_classes(tmp_path / "data", 120)
    assert main(["space", str(data), "--size", "16"]) == 0
    assert "JPEG of quality 50, finds itself" in capsys.readouterr().out
    out = tmp_path / "judge"
    assert main(["classifier", str(data), "--size", "16", "--epochs", "1", "--out", str(out), "--no-flip"]) == 0
    assert "test accuracy" in capsys.readouterr().out and (out / "classifier.json").is_file()
    assert main(["space", str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "flat" / "a.png")
    assert main(["classifier", str(tmp_path / "flat"), "--out", str(out)]) == 2
    with pytest.raises(SystemExit):
        main(["classifier", str(data)])
