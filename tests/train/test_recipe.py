"""Recipes: every fault is named with its place, and nothing in a file is run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from guided.denoiser import V
from guided.frames import DDPM, Framed
from guided.train import load_recipe, reading
from guided.train.recipe import Recipe
from guided.train.setup import parametrization

DATA = {"data": {"path": "pictures"}}

# The files use generic keys; what they would be called here is named beside the fault.
EXPECTED = {
    "unknown_keys.yaml": [
        "extra_section: unknown key",
        "model.chanels: unknown key",
        'train.learning_rat: unknown key; did you mean "lr"?',
    ],
    "unknown_keys.toml": ["model.chanels: unknown key", "train.learning_rat: unknown key"],
    "wrong_types.yaml": ["train.batch_size: expected a whole number >= 1, got 0"],
    "wrong_types.toml": ["train.batch_size: expected a whole number >= 1, got [8]"],
    "billion_laughs.yaml": [":1: anchors and aliases"],
    "deep_nesting.yaml": [":1: nested more than 32 levels deep"],
    "python_tag.yaml": [":3: the tag", "is refused"],
    "duplicate_keys.yaml": [":4: the key 'steps' is given twice"],
    "empty.yaml": ["the recipe is empty"],
}


def test_config_rows_of_the_bad_inputs(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [json.loads(line) for line in (shared_data / "bad" / "manifest.jsonl").read_text().splitlines()]
    files = [shared_data / "bad" / row["path"] for row in rows if row["kind"] == "config"]
    assert {file.name for file in files} == {*EXPECTED, "sci_notation.yaml"}
    for file in files:
        if file.name == "sci_notation.yaml":
            values = reading.read(file)["train"]
            assert values == {"learning_rate": 1e-4, "ema_decay": 0.9999, "steps": 1e5}
            continue
        begin = time.monotonic()
        with pytest.raises(ValueError) as caught:
            load_recipe(file)
        assert time.monotonic() - begin < 2
        assert all(line.startswith(str(file)) for line in str(caught.value).splitlines())
        for part in EXPECTED[file.name]:
            assert part in str(caught.value)
    assert not list(tmp_path.iterdir()), "nothing was run"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("1e-4", 1e-4), ("1e5", 1e5), (".5", 0.5), ("-3", -3), ("1_000", 1000), ("true", True), ("null", None)],
        *[("no", "no"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"), ('"7"', "7"), ("[1, [2]]", [1, [2]])],
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert reading.parse(f"a: {text}") == {"a": value}


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("train", {"batch_size": True}, "train.batch_size: expected a whole number >= 1, got true"),
        ("train", {"batch_size": "big"}, 'train.batch_size: expected a whole number >= 1, got "big"'),
        ("train", {"batch_size": 8.5}, "train.batch_size: expected a whole number >= 1, got 8.5"),
        ("train", {"lr": float("nan")}, "train.lr: expected a number > 0, got NaN"),
        ("train", {"lr": float("inf")}, "train.lr: expected a number > 0, got Infinity"),
        ("train", {"drop": 1.5}, "train.drop: expected a number from 0 to 1, got 1.5"),
        ("train", {"batchsize": 8}, 'train.batchsize: unknown key; did you mean "batch_size"?'),
        ("train", {"batch_size": 8, "accumulate": 3}, "accumulate divides"),
        ("train", {"ema": []}, "train.ema: expected a list of at least 1, got []"),
        ("train", {"ema": [0.5]}, "train.ema.0: expected a number from 0.001 to 0.28, got 0.5"),
        ("train", {"keep": 1}, "train.keep: expected a whole number >= 2, got 1"),
        (
            "train",
            {"precision": "bf61"},
            'expected one of float32, bf16, fp16, float64, got "bf61"; did you mean "bf16"?',
        ),
        ("data", {"path": "x", "size": [32]}, "data.size: expected a side in pixels"),
        ("data", {"path": "x", "size": True}, "data.size: expected a side in pixels"),
        ("data", {"path": 5}, "data.path: expected text, got 5"),
        ("data", {}, "data.path: missing"),
        ("model", {"preset": "unet32-txt"}, 'did you mean "unet32-text"?'),
        ("model", {"widhts": [8]}, 'model.widhts: unknown key; did you mean "widths"?'),
        ("model", {"widths": [8, "x"]}, "model.widths.1: expected a whole number"),
        ("denoiser", {"lo": 5, "hi": 2}, "denoiser: expected lo < hi"),
        ("denoiser", {"frame": "linear"}, "denoiser: frame: goes with parametrization eps, x0 or v, got 'edm'"),
        ("denoiser", {"frame": "sqrt"}, 'denoiser.frame: expected one of linear, scaled, cosine, got "sqrt"'),
        ("text", {"encoder": 7}, "text.encoder: expected the name, folder or spec of a text encoder, got 7"),
        ("sample", [1], "sample: expected a section of keys, got [1]"),
    ],
)
def test_a_fault_is_named_with_its_place(section: str, values: Any, message: str) -> None:
    with pytest.raises(ValueError, match="recipe: ") as caught:
        load_recipe({**DATA, section: values})
    assert message in str(caught.value)


def test_levels_stay_within_those_of_the_frame() -> None:
    framed = {"frame": "scaled", "parametrization": "v"}
    found = parametrization(load_recipe({**DATA, "denoiser": {**framed, "lo": 0.03, "hi": 14.6}}))
    assert found == Framed(DDPM("scaled", 0.00085, 0.012), V())
    for beyond in ({"lo": 0.02, "hi": 14.0}, {"lo": 0.03, "hi": 15.0}):
        with pytest.raises(
            ValueError, match=r"denoiser: lo, hi: expected levels within .*'scaled', 0\.02917 to 14\.615"
        ):
            parametrization(load_recipe({**DATA, "denoiser": {**framed, **beyond}}))


def test_every_fault_is_listed() -> None:
    with pytest.raises(ValueError) as caught:
        load_recipe({**DATA, "seed": -1, "train": {"lr": 0, "imges": 3}, "sample": {"steps": 0}})
    assert len(str(caught.value).splitlines()) == 4


def test_overrides_reach_any_key(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("data: {path: a, size: 16}\ntrain: {lr: 1e-4}\nname: first\n")
    changes = ["train.images=2e4", "data.path=7", "model.widths=[8, 16]", "data.size=[8, 12]", "out=b=c", "name=no"]
    recipe = load_recipe(file, [*changes, "data.hold_out=null", "text.encoder=1e5"])
    assert (recipe.train.images, recipe.train.lr) == (20000, 1e-4)
    assert (recipe.data.path, recipe.data.size, recipe.data.hold_out) == ("7", (8, 12), None)
    assert (recipe.out, recipe.name, recipe.text.encoder) == ("b=c", "no", "1e5")
    assert recipe.changes() == {"widths": (8, 16)}
    again = load_recipe(recipe, {"train.images": 5})
    assert again.train.images == 5 and again.data == recipe.data
    assert load_recipe(file).out == "runs/first"


@pytest.mark.parametrize("change", ["train.images", "=3", "name.x=3", "data.path.x=1"])
def test_overrides_that_reach_nothing_are_refused(change: str) -> None:
    with pytest.raises(ValueError, match="override"):
        load_recipe({**DATA, "name": "a"}, [change])


def test_toml_says_the_same(tmp_path: Path) -> None:
    yaml, toml = tmp_path / "a.yaml", tmp_path / "a.toml"
    yaml.write_text("name: a\ndata: {path: x, hold_out: {pairs: 3}}\ntrain: {betas: [0.9, 0.95], lr: 1e-3}\n")
    toml.write_text('name = "a"\n[data]\npath = "x"\nhold_out = {pairs = 3}\n[train]\nbetas = [0.9, 0.95]\nlr = 1e-3\n')
    assert load_recipe(yaml) == load_recipe(toml)
    toml.write_text("a = " + "[" * 5000)
    with pytest.raises(ValueError, match=r"a\.toml: nested more than 32"):
        load_recipe(toml)
    toml.write_text("a = = 1")
    with pytest.raises(ValueError, match=r"a\.toml: not sound TOML"):
        load_recipe(toml)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such recipe file"):
        load_recipe(tmp_path / "none.yaml")
    file = tmp_path / "r.yaml"
    for content, message in (
        (b"\xff\xfe\x00", "not text in UTF-8"),
        (b"a: [1", "not sound YAML"),
        (b"just words", "expected sections"),
        (b"[1]: 2", "a key is plain text"),
        (b"a: 1\n---\nb: 2", "not sound YAML"),
        (b"#" * (2 << 20), "larger than 1 MiB"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_recipe(file)


def test_a_recipe_survives_json_and_does_not_change() -> None:
    recipe = load_recipe({**DATA, "model": {"blocks": 2}})
    assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe
    assert recipe.changes() == {"blocks": 2}
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1  # type: ignore[misc]
