"""The reader of weights: every file is either sound or refused with a reason; nothing is believed, nothing is run."""

from __future__ import annotations

import json
import pathlib
import pickle
import random
import struct
from typing import Any

import pytest
import safetensors.torch
import torch

from guided import _safetensors

GOOD = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16), "c": torch.tensor([1, 2])}


def written(path: pathlib.Path, header: Any, data: bytes = b"", length: int | None = None) -> pathlib.Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_header_says_what_the_reference_writer_wrote(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(GOOD, path, metadata={"format": "pt"})
    header = _safetensors.header(path)
    assert {name: e.shape for name, e in header.tensors.items()} == {"a": (2, 3), "b": (4,), "c": (2,)}
    assert {name: e.dtype for name, e in header.tensors.items()} == {"a": "F32", "b": "BF16", "c": "I64"}
    assert (header.parameters, header.data, header.metadata) == (12, 24 + 8 + 16, {"format": "pt"})
    loaded = _safetensors.load(path)
    assert all(torch.equal(loaded[name], value) for name, value in GOOD.items())


@pytest.mark.parametrize("length", [0x13C, 0x180, 0x280, 0x380, 0x480, 0x580])
def test_a_header_may_be_as_long_as_the_mark_of_a_pickle_or_a_page(length: int, tmp_path: pathlib.Path) -> None:
    text = json.dumps({"a": entry()}).encode().ljust(length)
    assert len(text) == length
    assert _safetensors.header(written(tmp_path / "m.safetensors", text, bytes(4))).parameters == 1


def test_saving_is_the_inverse_of_loading_and_repeats_its_bytes(tmp_path: pathlib.Path) -> None:
    _safetensors.save(GOOD, tmp_path / "a.safetensors")
    _safetensors.save(dict(reversed(GOOD.items())), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert all(torch.equal(v, GOOD[n]) for n, v in _safetensors.load(tmp_path / "a.safetensors").items())
    _safetensors.save(GOOD, tmp_path / "c.safetensors", torch.float16)
    kinds = {name: e.dtype for name, e in _safetensors.header(tmp_path / "c.safetensors").tensors.items()}
    assert kinds == {"a": "F16", "b": "F16", "c": "I64"}
    assert (tmp_path / "c.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry(offsets=(0, 4)), "b": entry(offsets=(0, 4))}, 4, "shares bytes"),
        ({"a": entry(offsets=(0, 4)), "b": entry(offsets=(8, 12))}, 12, "leaves a hole"),
        ({"a": entry(offsets=(4, 8))}, 8, "leaves a hole"),
        ({"a": entry()}, 2, "the file is cut"),
        ({"a": entry()}, 9, "the file is too long"),
        ({"a": entry(shape=(2,))}, 4, "needs 8 bytes"),
        ({"a": entry(shape=(2**62, 2**62))}, 4, "needs"),
        ({"a": entry(shape=(-1,), offsets=(0, -4))}, 4, "has the shape"),
        ({"a": entry(shape=(True,))}, 4, "has the shape"),
        ({"a": entry(offsets=(4, 0))}, 4, "needs 4 bytes"),
        ({"a": entry(offsets=(0,))}, 4, "the offsets"),
        ({"a": entry(dtype="OBJECT")}, 4, "dtype 'OBJECT'"),
        ({"a": entry(dtype="F4")}, 4, "dtype 'F4'"),
        ({"a": [1, 2]}, 4, "is described by"),
        ({"a": {**entry(), "code": "import os"}}, 4, "is described by"),
        ({"__metadata__": {"a": 1}}, 0, "metadata are not text"),
        (b"[1]", 0, "no mapping"),
        (b"{", 0, "Expecting"),
        (b"[" * 100_000, 0, "no JSON"),
        (b"\xff\xfe{}", 0, "Expecting value"),
        (b'{"\xc3": 1}', 0, "no JSON"),
        (b'{"a": 1, "a": 2}', 0, "names something twice"),
        ({str(i): entry(shape=(0,), offsets=(0, 0)) for i in range(20_001)}, 0, "20001 tensors"),
    ],
)
def test_a_header_that_contradicts_itself(header: Any, data: int, message: str, tmp_path: pathlib.Path) -> None:
    path = written(tmp_path / "m.safetensors", header, bytes(data))
    with pytest.raises(ValueError, match=message) as caught:
        _safetensors.header(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"abc", "not a safetensors file"),
        (struct.pack("<Q", 2**60) + b"{}", "claims 1152921504606846976 bytes"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "claims"),
        (b"<!DOCTYPE html><html>not found</html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(60), "PNG"),
        (pickle.dumps({"a": 1}), "refused: a Python pickle"),
        (b"PK\x03\x04" + bytes(60), "zip archive"),
    ],
)
def test_files_of_another_kind(content: bytes, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        _safetensors.header(tmp_path / "m.safetensors")


def test_a_long_header_is_refused_unread(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", _safetensors.HEADER_LIMIT + 1))
        file.truncate(_safetensors.HEADER_LIMIT + 100)
    with pytest.raises(ValueError, match="at most 16777216 are read"):
        _safetensors.header(path)


def test_whatever_is_accepted_the_reference_reader_accepts_too(tmp_path: pathlib.Path) -> None:
    """Random damage: refused with ValueError, or read as the reference reads it."""
    path = tmp_path / "m.safetensors"
    _safetensors.save(GOOD, path)
    good, rng = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(500):
        bad = bytearray(good[: rng.randrange(len(good) + 1)] if rng.random() < 0.3 else good)
        for _ in range(rng.randrange(3)):
            if bad:
                bad[rng.randrange(len(bad))] = rng.randrange(256)
        path.write_bytes(bad)
        try:
            _safetensors.header(path)
        except ValueError:
            refused += 1
            continue
        safetensors.torch.load_file(path)
    assert refused > 200


def test_numbers_that_are_not_finite_are_named(tmp_path: pathlib.Path) -> None:
    bad = {f"layer{i}": torch.tensor([1.0, float("nan")]) for i in range(7)}
    bad["eight"] = torch.tensor([1.0]).to(torch.float8_e4m3fn)
    _safetensors.save(bad, tmp_path / "m.safetensors")
    with pytest.warns(_safetensors.NotFinite, match="layer0, layer1, layer2, layer3, layer4 and 2 more"):
        _safetensors.load(tmp_path / "m.safetensors")


def test_comparing_names_the_first_differences() -> None:
    expected = {f"w{i}": (2, 2) for i in range(9)}
    assert _safetensors.compare(expected, dict(expected)) is None
    found = {**{f"w{i}": (2, 2) for i in range(1, 3)}, "w3": (4,), "x": (1,)}
    text = _safetensors.compare(expected, found)
    assert text is not None
    assert text.startswith("6 missing: w0, w4, w5, w6, w7, ...; 1 not expected: x; 1 of another shape: w3 is [4]")


def test_the_files_of_a_set_of_weights(tmp_path: pathlib.Path) -> None:
    assert _safetensors.files(tmp_path, "model") is None
    one, two = {"a": torch.ones(2)}, {"b": torch.zeros(3)}
    _safetensors.save(one, tmp_path / "x-1.safetensors")
    _safetensors.save(two, tmp_path / "x-2.safetensors")
    index = tmp_path / "model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": {"b": "x-2.safetensors", "a": "x-1.safetensors"}}))
    found = _safetensors.files(tmp_path, "model")
    assert found is not None and found.variant == "fp16" and found.index == index
    assert [path.name for path in found.paths] == ["x-1.safetensors", "x-2.safetensors"]
    assert {name: entry.shape for name, entry in _safetensors.headers(found).items()} == {"a": (2,), "b": (3,)}
    _safetensors.save(one, tmp_path / "model.safetensors")
    plain = _safetensors.files(tmp_path, "model")
    assert plain is not None and plain.variant is None and plain.paths == (tmp_path / "model.safetensors",)
    with pytest.raises(ValueError, match="a is in another file of the set too"):
        _safetensors.headers(_safetensors.Files((*found.paths, *plain.paths)))


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not an index"),
        ("[]", "not an index"),
        ('{"weight_map": []}', "not an index"),
        ('{"weight_map": {}}', "weight_map names no file"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "expected names of .safetensors files beside it"),
        ('{"weight_map": {"a": "x.bin"}}', "expected names of .safetensors files beside it"),
        ('{"weight_map": {"a": "x.safetensors\\n"}}', "expected names of .safetensors files beside it"),
    ],
)
def test_an_index_names_files_beside_it_alone(text: str, message: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        _safetensors.files(tmp_path, "model")
