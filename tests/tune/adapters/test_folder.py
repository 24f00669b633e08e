"""Folders of adapters: written in the form of their base, opened with it, and checked."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import guided
from guided import _files, text
from guided.cascade import Cascade
from guided.model import Model
from guided.tune import adapters
from tests.model import build as models
from tests.text import tiny
from tests.tune.adapters.build import FAMILIES, network, random, said, shaken


def own(folder: pathlib.Path) -> Model:
    """A model of classes of our own, opened from its folder."""
    models.class_model().save(folder)
    return Model.open(folder)


def tuned(model: Model, seed: int = 0, dora: bool = False) -> None:
    shaken(adapters.fresh(model.denoiser.network, 2, 3.0, ["attention", "*conv1"], dora, seed), seed, 0.3)


@pytest.mark.parametrize("family", ["adm", "ours", "classes"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_peft_itself_opens_ours(family: str, dora: bool, tmp_path: pathlib.Path) -> None:
    import peft

    net = network(family)
    adapters.inject(net, random(net, dora), name="a")
    adapters.save(net, tmp_path / "a", base="somewhere")
    assert {file.name for file in (tmp_path / "a").iterdir()} == {
        "adapter.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    keys = list(load_file(tmp_path / "a" / "adapter_model.safetensors"))
    assert "base_model.model.conv_in.lora_A.weight" in keys
    theirs = peft.PeftModel.from_pretrained(network(family), tmp_path / "a").eval()
    theirs.config = net.config
    assert (said(theirs.base_model.model) - said(net)).abs().max() < 1e-5
    other = network(family)
    adapters.inject(other, tmp_path / "a")
    assert torch.equal(said(other), said(net))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_alone_saves_and_reads_what_is_on_it(family: str, tmp_path: pathlib.Path) -> None:
    net, other = network(family), network(family)
    adapters.inject(net, random(net, True), name="a")
    adapters.save(net, tmp_path / "a", base="somewhere")
    adapters.inject(other, tmp_path / "a")
    assert (said(other) - said(net)).abs().max() < 1e-5


def test_peft_writes_and_ours_reads_its_patterns(tmp_path: pathlib.Path) -> None:
    import peft

    torch.manual_seed(3)
    net = network("adm")
    config = peft.LoraConfig(
        r=2, lora_alpha=5, target_modules=["qkv", "conv1"], rank_pattern={"conv1": 3}, alpha_pattern={r"^down.*qkv": 7},
        use_rslora=True, init_lora_weights=False,
    )  # fmt: skip
    theirs = peft.get_peft_model(net, config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    other = network("adm")
    adapters.inject(other, tmp_path / "theirs")
    assert (said(other) - said(theirs.base_model.model)).abs().max() < 1e-5


def test_an_adapter_opens_with_its_base(tmp_path: pathlib.Path) -> None:
    model = own(tmp_path / "base")
    digest = model.hash
    tuned(model)
    place = adapters.save(model, tmp_path / "tuned", card={"data": "twelve cats", "steps": 9})
    drawn = model.generate(labels="cat", steps=2, seed=3).tensor
    values = json.loads((place / "adapter.json").read_text())
    assert values["base"] == {"name": "tiny-class", "sha256": digest, "source": str(tmp_path / "base")}
    assert values["method"] == "lora" and values["card"]["steps"] == 9
    held = {file: _files.sha256(file) for file in (tmp_path / "base").iterdir()}
    opened = guided.load(place)
    assert isinstance(opened, Model) and opened.source == str(place) and opened.hash == digest
    assert {file: _files.sha256(file) for file in (tmp_path / "base").iterdir()} == held
    result = opened.generate(labels="cat", steps=2, seed=3)
    assert (result.tensor - drawn).abs().max() < 1e-4
    entry = result.records[0]["adapters"][0]
    assert entry == {
        "name": "tuned",
        "file": str(place),
        "weight": 1.0,
        "sha256": values["files"]["adapter_model.safetensors"],
    }
    assert result.records[0]["model"] == str(place) and result.records[0]["model_sha256"] == digest
    # The same adapter gives the same bytes; saved from the one that was opened, it still names the base.
    again = adapters.save(opened, tmp_path / "again", card={"data": "twelve cats", "steps": 9})
    assert json.loads((again / "adapter.json").read_text())["files"] == values["files"]
    assert json.loads((again / "adapter.json").read_text())["base"] == values["base"]


def test_a_base_that_moved_or_is_another(tmp_path: pathlib.Path) -> None:
    model = own(tmp_path / "base")
    tuned(model)
    place = adapters.save(model, tmp_path / "tuned")
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"its base .*base is not there .*guided.load\(.*base=\.\.\.\)"):
        guided.load(place)
    assert isinstance(guided.load(place, base=tmp_path / "moved"), Model)
    other = models.class_model()
    with torch.no_grad():
        next(iter(other.denoiser.network.parameters())).add_(1)
    other.save(tmp_path / "base")
    with pytest.raises(ValueError, match=r"made for weights .* of tiny-class, and those of .* are .*: another base"):
        guided.load(place)
    assert guided.load(place, base=Model.open(tmp_path / "moved")).adapters[0]["name"] == "tuned"


def test_a_damaged_folder_is_refused(tmp_path: pathlib.Path) -> None:
    model = own(tmp_path / "base")
    tuned(model)
    place = adapters.save(model, tmp_path / "tuned")
    file = place / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"its SHA-256 is .* adapter.json says .*: damaged, or replaced"):
        guided.load(place)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="names it, it is not there"):
        guided.load(place)
    for changes, message in (
        ({"format": "guided-adapter/9"}, "format: expected 'guided-adapter/1'"),
        ({"base": "x"}, "base: expected its source and sha256"),
        ({"files": {"../x": "0"}}, "files: expected files of the folder"),
        ({"words": [1]}, "words: expected a mapping"),
    ):
        values = json.loads((place / "adapter.json").read_text())
        bad = tmp_path / "bad"
        shutil.copytree(place, bad)
        (bad / "adapter.json").write_text(json.dumps(values | changes))
        with pytest.raises(ValueError, match=message):
            guided.load(bad)
        shutil.rmtree(bad)


def test_what_is_there_is_not_written_over(tmp_path: pathlib.Path) -> None:
    model = own(tmp_path / "base")
    tuned(model)
    with pytest.raises(ValueError, match="holds something other than an adapter"):
        adapters.save(model, tmp_path / "base")
    adapters.save(model, tmp_path / "tuned")
    adapters.save(model, tmp_path / "tuned")  # an adapter's own folder is
    with pytest.raises(ValueError, match="save: an adapter is on tiny-class"):
        model.save(tmp_path / "model")
    with pytest.raises(ValueError, match="opened from nowhere: give base="):
        adapters.save(network_with_one(), tmp_path / "x")


def network_with_one() -> Model:
    model = models.plain_model()
    tuned(model)
    return model


def test_the_early_snapshot_is_the_bases(tmp_path: pathlib.Path) -> None:
    model = models.plain_model()
    model._early = {name: value.clone() for name, value in model.denoiser.network.state_dict().items()}
    plain = model.early()
    assert plain is not None
    tuned(model)
    weak = model.early()
    assert weak is not None
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(weak(x, torch.tensor(1.0), guided.Cond()), plain(x, torch.tensor(1.0), guided.Cond()))


def test_text_of_a_model_of_ours_goes_with_it(tmp_path: pathlib.Path) -> None:
    tiny.clip_folder(tmp_path / "clip")
    encoder = text.open(str(tmp_path / "clip"))
    models.model("tiny-text", {"text": encoder}, token_width=encoder.width).save(tmp_path / "base")
    model = Model.open(tmp_path / "base")
    tuned(model)
    shaken(adapters.fresh_text(model.encoders["text"], 2))
    drawn = model.generate("a red circle", steps=2).tensor
    place = adapters.save(model, tmp_path / "tuned")
    assert (place / "text_encoder" / "adapter_model.safetensors").is_file()
    opened = guided.load(place)
    assert (opened.generate("a red circle", steps=2).tensor - drawn).abs().max() < 1e-4
    with pytest.raises(ValueError, match="merge: the adapter changes the text encoder, which is no part"):
        adapters.merge(opened)
    adapters.eject(opened)
    assert torch.equal(opened.generate("a red circle", steps=2).tensor, base_draws(tmp_path))


def base_draws(tmp_path: pathlib.Path) -> torch.Tensor:
    return Model.open(tmp_path / "base").generate("a red circle", steps=2).tensor


def test_a_stage_of_a_cascade(tmp_path: pathlib.Path) -> None:
    cascade = guided.load("emoji-128")
    assert isinstance(cascade, Cascade)
    before = cascade.generate("red apple", steps=2, seed=1).tensor
    for i, stage in enumerate(cascade.stages):
        shaken(adapters.fresh(stage.denoiser.network, 1, targets="convolutions", seed=i), i, 0.05)
        place = adapters.save(stage, tmp_path / str(i))
        assert json.loads((place / "adapter.json").read_text())["base"]["source"] == ("emoji", "emoji-up")[i]
    after = cascade.generate("red apple", steps=2, seed=1).tensor
    assert (after - before).abs().max() > 1e-3
    for stage in cascade.stages:
        adapters.eject(stage)
    assert torch.equal(cascade.generate("red apple", steps=2, seed=1).tensor, before)
    for i, stage in enumerate(cascade.stages):
        adapters.inject(stage, tmp_path / str(i))
    again = cascade.generate("red apple", steps=2, seed=1).tensor
    assert (again - after).abs().max() < 1e-3
    with pytest.raises(TypeError, match="of a cascade, on a stage"):
        adapters.inject(cascade, tmp_path / "0")


def test_a_file_without_a_base_says_how_to_give_one(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").mkdir()
    tensors = {"lora_A": torch.ones(1, 4, 3, 3), "lora_B": torch.ones(8, 1, 1, 1)}
    named = {f"unet.conv_in.{end}.weight": value for end, value in tensors.items()}
    save_file(named, tmp_path / "a" / "pytorch_lora_weights.safetensors")
    with pytest.raises(ValueError, match=r"an adapter that names no base: guided.load"):
        guided.load(tmp_path / "a")


def test_a_picture_drawn_in_training_says_so(tmp_path: pathlib.Path) -> None:
    from guided.cli.again import command

    model = own(tmp_path / "base")
    record = model.generate(labels="cat", steps=2).records[0]
    assert "adapters" not in record and command(record) is not None
    tuned(model)
    record = model.generate(labels="cat", steps=2).records[0]
    assert record["adapters"] == [{"name": "in training"}] and command(record) is None


def test_a_base_is_no_adapter(tmp_path: pathlib.Path) -> None:
    model = own(tmp_path / "base")
    tuned(model)
    place = adapters.save(model, tmp_path / "tuned")
    values = json.loads((place / "adapter.json").read_text())
    values["base"]["source"] = str(place)
    (place / "adapter.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="is an adapter itself: merge that one"):
        guided.load(place)
    (tmp_path / "run").mkdir()
    place = place.rename(tmp_path / "run" / "model")
    values["base"]["source"] = str(tmp_path / "run")  # the folder of the run that made it
    (place / "adapter.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="is an adapter itself: merge that one"):
        guided.load(tmp_path / "run")
