"""Tiny bases to be tuned, the pictures they are tuned on, and a trainer that can be killed."""

from __future__ import annotations

import json
import pathlib

import pytest

from tests.model import build
from tests.text.tiny import bert_folder
from tests.train.conftest import trainers  # noqa: F401
from tests.train.tools import pictures

CAPTIONS = ["a red circle", "blue square", "a photo of a cat", "circle left of square"]


@pytest.fixture(scope="session")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Nine pictures with captions."""
    folder = pictures(tmp_path_factory.mktemp("captioned"), 9)
    rows = [
        {"file_name": str(file.relative_to(folder)), "text": f"{CAPTIONS[at % 4]}, {at}"}
        for at, file in enumerate(sorted(folder.rglob("*.png")))
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def classed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Two folders of pictures, "cat", which the base of classes knows, and "heron", which it does not."""
    folder = pictures(tmp_path_factory.mktemp("classed"), 10)
    (folder / "round").rename(folder / "cat")
    (folder / "square").rename(folder / "heron")
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return bert_folder(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="session")
def words_base(tmp_path_factory: pytest.TempPathFactory, bert: pathlib.Path) -> pathlib.Path:
    """The folder of a tiny model of text."""
    model = build.real_text_model(bert, widths=(8, 16), head_width=8)
    model.card |= {"name": "words", "size": [8, 8], "captions": CAPTIONS, "defaults": {"steps": 2, "w": 2.0}}
    return model.save(tmp_path_factory.mktemp("bases") / "words")


@pytest.fixture(scope="session")
def classes_base(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a tiny model of classes."""
    model = build.model("tiny-class", card={"classes": build.CLASSES}, widths=(8, 16), head_width=8)
    model.card |= {"name": "classes", "size": [8, 8], "defaults": {"steps": 2, "w": 2.0}}
    return model.save(tmp_path_factory.mktemp("bases") / "classes")
