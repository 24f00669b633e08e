"""Every checkpoint of the broken-input set gets what its row expects, from the reader, from `load` and from the CLI."""

from __future__ import annotations

import json
import os
import pathlib
import warnings

import pytest

import guided
from guided import _safetensors
from guided.cli import main

ROWS = ("ok", "evil_legacy", "evil_zip", "truncated", "header_2e60", "overlapping_offsets", "nan_weights")
ROWS += ("zero_byte", "png_named")
REASONS = {
    "evil_legacy": "refused: a Python pickle",
    "evil_zip": "refused: a Python pickle",
    "truncated": "the file is cut",
    "header_2e60": "claims 1152921504606846976 bytes, it has 600",
    "overlapping_offsets": "shares bytes",
    "zero_byte": "the file is empty",
    "png_named": "a PNG picture",
}


def row(shared_data: pathlib.Path, name: str) -> tuple[pathlib.Path, str]:
    lines = (shared_data / "bad" / "manifest.jsonl").read_text().splitlines()
    rows = {pathlib.Path(r["path"]).stem: r for r in map(json.loads, lines) if r["kind"] == "checkpoint"}
    assert set(rows) == set(ROWS), "the set has rows that this test does not know"
    return shared_data / "bad" / rows[name]["path"], rows[name]["expect"]


@pytest.mark.parametrize("name", ROWS)
def test_each_row_gets_what_it_expects(
    name: str,
    shared_data: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, expect = row(shared_data, name)
    monkeypatch.chdir(tmp_path)
    code = main(["inspect", str(path)])
    shown = capsys.readouterr()
    if expect in ("load", "load+note"):
        # Sound as a file: it is read, and described with exit 0; a model it is not, for it has no card.
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            tensors = _safetensors.load(path)
        assert {name: tuple(value.shape) for name, value in tensors.items()} == {
            "conv_in.weight": (4, 3, 3, 3),
            "conv_in.bias": (4,),
        }
        assert bool(notes) == (expect == "load+note")
        assert code == 0 and "conv_in.weight" in shown.out
        with pytest.raises(ValueError, match="weights alone, without a card"):
            guided.load(path)
    else:
        assert expect in ("error", "refuse")
        for read in (_safetensors.header, _safetensors.load, guided.load):
            with pytest.raises(ValueError, match=REASONS[name]) as caught:
                read(path)
            assert path.name in str(caught.value)
        assert code == 2 and REASONS[name] in shown.err and path.name in shown.err
        assert "Traceback" not in shown.err and not shown.out
    assert os.listdir(tmp_path) == [], "a payload ran, or something was written"


def test_verify_names_the_weights_that_are_not_finite(
    shared_data: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = row(shared_data, "nan_weights")
    assert main(["inspect", "--verify", "--json", str(path)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["not finite"] and set(facts["not finite"]) <= {"conv_in.weight", "conv_in.bias"}
