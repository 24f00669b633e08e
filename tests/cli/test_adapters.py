"""Adapters on the command line: as a model, by --lora, converted and described."""

from __future__ import annotations

import json
import pathlib
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import guided
from guided.cli import main
from guided.model import Model
from guided.tune import adapters
from tests.model import build
from tests.tune.adapters.build import shaken

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a model `base` and adapters `one` and `two` of it."""
    root = tmp_path_factory.mktemp("adapters")
    build.class_model().save(root / "base")
    for i, name in enumerate(("one", "two")):
        model = Model.open(root / "base")
        shaken(adapters.fresh(model.denoiser.network, 2, targets=["attention", "*conv1"], seed=i), i, 0.3)
        adapters.save(model, root / name)
    return root


def drawn(path: pathlib.Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def generate(out: pathlib.Path, *words: str) -> int:
    return main(["generate", "--label", "cat", "--steps", "2", "--seed", "4", "--out", str(out), *words])


@pytest.mark.parametrize("how", ["model", "lora", "both", "own weight"])
def test_the_printed_command_draws_it_again(
    how: str, places: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, one, two = (str(places / name) for name in ("base", "one", "two"))
    words = {
        "model": ["--model", one],
        "lora": ["--model", base, "--lora", f"{one}:0.5", "--lora", two],
        "both": ["--model", one, "--lora", f"{two}:-0.25"],
        "own weight": ["--model", one, "--lora", f"{one}:0.5"],
    }[how]
    assert generate(tmp_path / "a", *words) == 0
    capsys.readouterr()
    assert main(["inspect", "--json", str(tmp_path / "a" / "000000.png")]) == 0
    facts = json.loads(capsys.readouterr().out)
    command = shlex.split(facts["command"])
    monkeypatch.chdir(tmp_path)
    assert main(command[1:]) == 0
    picture = drawn(tmp_path / "a" / "000000.png")
    assert np.array_equal(drawn(tmp_path / "out" / "000000.png"), picture)
    assert generate(tmp_path / "plain", "--model", base) == 0
    assert not np.array_equal(drawn(tmp_path / "plain" / "000000.png"), picture)
    names = [entry["name"] for entry in facts["adapters"]]
    assert names == {"model": ["one"], "own weight": ["one"]}.get(how, ["one", "two"])


def test_an_adapter_at_hand_has_no_command(places: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture) -> None:
    model = guided.load(places / "one")
    assert isinstance(model, Model)
    found = adapters.adapter_of(model)
    base = Model.open(places / "base")
    adapters.inject(base, adapters.Adapter(found.layers))
    base.generate(labels="cat", steps=2).save(tmp_path)
    assert main(["inspect", "--json", str(tmp_path / "000000.png")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "command" not in facts and "an adapter of its own" in facts["remark"]


def test_edit_takes_them_too(places: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "photo.png")
    words = ["edit", str(tmp_path / "photo.png"), "--label", "cat", "--steps", "4", "--model", str(places / "base")]
    assert main([*words, "--out", str(tmp_path / "plain.png")]) == 0
    words += ["--lora", str(places / "one")]
    assert main([*words, "--out", str(tmp_path / "tuned.png")]) == 0
    assert not np.array_equal(drawn(tmp_path / "plain.png"), drawn(tmp_path / "tuned.png"))
    capsys.readouterr()
    assert main(["inspect", "--json", str(tmp_path / "tuned.png")]) == 0
    command = shlex.split(json.loads(capsys.readouterr().out)["command"])
    at = command.index("--out")
    assert main([*command[1 : at + 1], str(tmp_path / "again.png"), *command[at + 2 :]]) == 0
    assert np.array_equal(drawn(tmp_path / "again.png"), drawn(tmp_path / "tuned.png"))


def test_what_does_not_fit_is_said_in_a_line(places: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture) -> None:
    assert generate(tmp_path, "--model", str(places / "base"), "--lora", str(places / "none")) == 2
    assert "no such file or folder of an adapter" in capsys.readouterr().err
    assert generate(tmp_path, "--model", "emoji", "--lora", str(places / "one")) == 2
    assert "made for another base" in capsys.readouterr().err
    assert main(["generate", "a cat", "--model", "emoji-128", "--lora", str(places / "one")]) == 2
    assert "--lora: an adapter goes on one network" in capsys.readouterr().err


def test_inspect_describes_an_adapter(places: pathlib.Path, capsys: Capture) -> None:
    assert main(["inspect", "--json", str(places / "one")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "adapter 'one': lora" and facts["base"] == str(places / "base")
    assert facts["changes"]["unet"].endswith("layers, rank 2")
    assert main(["inspect", "--json", str(places / "one" / "adapter_model.safetensors")]) == 0
    assert json.loads(capsys.readouterr().out)["adapter"] == "LoRA"


def test_convert_says_what_has_no_form(places: pathlib.Path, tmp_path: pathlib.Path, capsys: Capture) -> None:
    one = str(places / "one")
    assert main(["convert", one, str(tmp_path / "peft"), "--to", "peft", "--json"]) == 0
    written = json.loads(capsys.readouterr().out)["written"]
    assert [pathlib.Path(path).name for path in written] == ["adapter_config.json", "adapter_model.safetensors"]
    model = Model.open(places / "base")
    adapters.inject(model, tmp_path / "peft")
    assert main(["convert", str(tmp_path / "peft"), str(tmp_path / "own"), "--to", "adapter",
                 "--base", str(places / "base")]) == 0  # fmt: skip
    assert isinstance(guided.load(tmp_path / "own"), Model)
    assert main(["convert", one, str(tmp_path / "k.safetensors"), "--to", "kohya"]) == 2
    assert "diffusers has no counterpart to this network" in capsys.readouterr().err
    assert main(["convert", one, str(tmp_path / "peft"), "--to", "peft"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(["convert", one, str(tmp_path / "x"), "--to", "guided", "--base", "emoji"]) == 2
    assert "--base: goes with --to" in capsys.readouterr().err
    assert main(["convert", one, str(tmp_path / "whole"), "--to", "guided"]) == 0
    capsys.readouterr()
    merged = Model.open(tmp_path / "whole").generate(labels="cat", steps=2).tensor
    assert (merged - guided.load(one).generate(labels="cat", steps=2).tensor).abs().max() < 1e-5
    assert main(["convert", one, str(tmp_path / "x"), "--to", "diffusers"]) == 2
    assert "merge it first" in capsys.readouterr().err


def test_without_peft_it_says_how_to_get_it(places: pathlib.Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['peft'] = None\n"
        "import guided, guided.tune.adapters\n"
        f"guided.load({str(places / 'one')!r})\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: an adapter needs peft: pip install 'guided[train]'" in found.stderr


def test_neither_the_package_nor_its_help_brings_peft() -> None:
    code = (
        "import sys, guided, guided.tune, guided.zoo, guided.tune.adapters\n"
        "assert not {'peft', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
