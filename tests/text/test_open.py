"""What is opened, and what is refused and how it says so."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from guided.text import open


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of a tiny encoder's folder that may be written to."""

    def make(kind: str, name: str = "copy") -> Path:
        return Path(shutil.copytree(folder(kind), tmp_path / name))

    return make


def test_a_local_folder_never_touches_the_network(folder, monkeypatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"network: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for kind in ("clip", "t5", "bert", "open_clip"):
        open(str(folder(kind)))


@pytest.mark.parametrize("kind", ["clip", "t5", "bert", "open_clip"])
def test_a_folder_with_nothing_but_a_pickle_is_refused(kind: str, copy) -> None:
    path = copy(kind)
    (weights,) = path.glob("*.safetensors")
    torch.save(load_file(weights), path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match=r"only there as pytorch_model.bin.*convert them to safetensors"):
        open(str(path))


def test_code_that_comes_with_a_folder_is_not_run(copy) -> None:
    path = copy("bert")
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "evil.py").write_text("raise SystemExit('ran')")
    assert open(str(path)).spec["class"] == "BertModel"


def test_missing_weights_are_not_made_up(copy) -> None:
    path = copy("bert")
    state = load_file(path / "model.safetensors")
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 tensors of BertModel are not in its weights.*layer\.1\.output"):
        open(str(path))


def test_damaged_weights_are_refused_in_words(copy) -> None:
    path = copy("open_clip")
    state = load_file(path / "open_clip_model.safetensors")
    del state["ln_final.weight"]
    save_file(state, path / "open_clip_model.safetensors")
    with pytest.raises(ValueError, match=r"does not fit its text tower.*ln_final"):
        open(str(path))
    bert = copy("bert", "short")
    (bert / "model.safetensors").write_bytes((bert / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="do not load"):
        open(str(bert))
    (path / "open_clip_model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ValueError, match="does not fit"):
        open(str(path))


def test_shards_are_one_encoder(copy) -> None:
    path = copy("bert")
    state = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(state)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for shard, held in shards.items():
        save_file({name: state[name] for name in held}, path / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert open(str(path))(["a cat"]).tokens.isfinite().all()
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002"):
        open(str(path))


def test_a_pipeline_folder_finds_the_tokenizer_next_door(copy, tmp_path) -> None:
    path = copy("clip", "text_encoder")
    (tmp_path / "tokenizer").mkdir()
    for file in path.glob("*token*"):
        file.rename(tmp_path / "tokenizer" / file.name)
    assert open(str(path))(["a"]).mask.sum() == 3
    shutil.rmtree(tmp_path / "tokenizer")
    with pytest.raises(FileNotFoundError, match="no tokenizer in it"):
        open(str(path))


def test_a_bare_open_clip_file_needs_a_known_architecture(folder, copy) -> None:
    import open_clip

    weights = folder("open_clip") / "open_clip_model.safetensors"
    with pytest.raises(ValueError, match="knows no architecture 'ViT-nonsense'"):
        open(f"open_clip:ViT-nonsense:{weights}")
    with pytest.raises(ValueError, match="does not fit its text tower"):
        open(f"open_clip:ViT-B-32:{weights}")
    for spec, error in {
        "open_clip:ViT-B-32": "expected open_clip:ARCH:FILE",
        "open_clip:ViT-B-32:weights.pt": "must be a .safetensors file",
    }.items():
        with pytest.raises(ValueError, match=error):
            open(spec)
    with pytest.raises(FileNotFoundError, match="no file"):
        open("open_clip:ViT-B-32:none.safetensors")
    config = folder("open_clip") / "open_clip_config.json"
    known = copy("open_clip") / "tiny-arch.json"
    known.write_text(json.dumps(json.loads(config.read_text())["model_cfg"]))
    open_clip.add_model_config(known)
    a, b = open(f"open_clip:tiny-arch:{weights}"), open(str(folder("open_clip")))
    assert a.key == b.key and torch.equal(a(["a cat"]).tokens, b(["a cat"]).tokens)


def test_an_open_clip_tower_that_only_wraps_another_is_refused(copy) -> None:
    path = copy("open_clip")
    config = json.loads((path / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "roberta-base"
    (path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="roberta-base of transformers"):
        open(str(path))
    config["model_cfg"] = {}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="describes no text tower"):
        open(str(path))


def test_an_open_clip_tower_with_a_tokenizer_of_transformers(folder, copy) -> None:
    path = copy("open_clip_both_ways")
    for file in folder("t5").glob("token*"):
        shutil.copy(file, path)
    config = json.loads((path / "open_clip_config.json").read_text())
    text = config["model_cfg"]["text_cfg"]
    text |= {"hf_tokenizer_name": "some/t5", "tokenizer_kwargs": {"clean": "canonicalize"}}
    (path / "open_clip_config.json").write_text(json.dumps(config))
    encoder = open(str(path))
    t5 = open(str(folder("t5"))).tokenizer
    assert encoder.tokenizer("A Red, circle!").ids == t5("a red circle").ids  # canonical: no case, no points
    assert encoder(["A Red, circle!"]).tokens.isfinite().all()
    text["tokenizer_mode"] = "clips"
    (path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="its tokenizer option clips is not known"):
        open(str(path))


def test_a_snapshot_of_the_hub_is_a_folder(folder, copy, tmp_path, monkeypatch) -> None:
    asked: list[dict[str, object]] = []

    def snapshot(repository: str, **filters: object) -> str:
        asked.append({"repository": repository, **filters})
        return str(tmp_path)

    copy("clip", "text_encoder")
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    encoder = open("some/pipeline/text_encoder")
    assert encoder.key == open(str(folder("clip"))).key and encoder.spec["from"] == "some/pipeline/text_encoder"
    with pytest.raises(FileNotFoundError, match="some/pipeline has no folder 'text_encoder_2'"):
        open("some/pipeline/text_encoder_2")
    assert [call["repository"] for call in asked] == ["some/pipeline"] * 2
    assert {"text_encoder/*.safetensors", "tokenizer/*"} <= set(asked[0]["allow_patterns"])
    assert not any(".bin" in pattern or ".py" in pattern for call in asked for pattern in call["allow_patterns"])


@pytest.mark.parametrize("field", ["class", "weights", "tokenizer"])
def test_another_encoder_in_the_same_place_is_noticed(field: str, bert) -> None:
    with pytest.raises(ValueError, match=f"its {field} is .*, expected other: it is not the encoder"):
        open({**bert.spec, field: "other"})


def test_a_decoder_is_no_text_encoder(copy) -> None:
    path = copy("bert")
    (path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(ValueError, match="model_type 'gpt2', which is no text encoder known"):
        open(str(path))


def test_a_tokenizer_of_another_model_is_noticed(folder, copy) -> None:
    path = copy("bert")
    (path / "vocab.txt").write_text((path / "vocab.txt").read_text() + "extra\n")
    with pytest.raises(ValueError, match="they are not a pair"):
        open(str(path))


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("./nowhere", FileNotFoundError, "no such folder"),
        ("no such thing", FileNotFoundError, "no such folder"),
        ("guided-tests/none-such", FileNotFoundError, "the hub does not give it .*a local copy"),
        ("guided-tests/none-such/text_encoder", FileNotFoundError, "the hub does not give it"),
        (3, TypeError, "expected a name or a mapping, got int"),
        ({"from": ""}, ValueError, '"from" to name an encoder'),
        ({"form": "minilm"}, ValueError, "unknown field 'form'; known are class, from"),
        ({"from": "minilm", "scale": 0}, ValueError, "scale is a number above 0, got 0"),
        ({"from": "minilm", "length": "8"}, ValueError, "length is a whole number"),
        ({"from": "minilm", "dtype": "int8"}, ValueError, "dtype is one of float32"),
        (
            {"from": "minilm", "layer": 0},
            ValueError,
            "layer counts from the end, -1 the last, -2 the one before; got 0",
        ),
        ({"from": "minilm", "layer": True}, ValueError, "layer counts from the end"),
    ],
)
def test_a_spec_that_means_nothing_is_refused(spec, error, message, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(error, match=message):
        open(spec)


def test_an_empty_folder_and_a_file_are_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected config.json and model.safetensors or open_clip_config"):
        open(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="expected a folder, this is a file"):
        open(str(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(("kind", "length"), [("clip", 78), ("clip", 2), ("bert", 0), ("open_clip", 2), ("bert", 33)])
def test_lengths_the_encoder_cannot_read_are_refused(kind: str, length: int, folder) -> None:
    with pytest.raises(ValueError, match="length"):
        open(str(folder(kind)), length=length)


@pytest.mark.parametrize("kind", ["clip", "t5", "bert"])
def test_a_layer_that_an_encoder_does_not_have_is_refused(kind: str, folder) -> None:
    assert open({"from": str(folder(kind)), "layer": -3}).spec["layer"] == -3  # two layers, and what goes in
    with pytest.raises(ValueError, match=r"it has 2 layers, so layer is -1 \.\. -3, got -4"):
        open({"from": str(folder(kind)), "layer": -4})


def test_an_open_clip_tower_gives_its_last_states_alone(folder) -> None:
    with pytest.raises(ValueError, match="its last states alone: leave out layer"):
        open({"from": str(folder("open_clip")), "layer": -2})
