"""A distillation killed anywhere goes on to the same bytes: pool, losses, checkpoints, model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guided.tune import Settings
from tests.conftest import ROOT
from tests.tune.distilling import tools


class Distillers:
    """Runs distillations in forks of one process that has imported everything."""

    def __init__(self, folder: Path) -> None:
        self.teacher = tools.teacher().save(folder / "teacher")
        self.data = tools.data(folder / "data")
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.tune.distilling.zygote"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT,
        )  # fmt: skip

    def run(self, out: Path, settings: Settings, die: Any = None, gently: bool = False) -> tuple[int, str]:
        """The exit status, negative where a signal ended it, and the notes."""
        given = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
        log = out.with_suffix(".log")
        request = {"teacher": str(self.teacher), "out": str(out), "settings": given, "die": die}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({**request, "gently": gently, "log": str(log)}) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline()), log.read_text()


@pytest.fixture(scope="module")
def distillers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distillers]:
    found = Distillers(tmp_path_factory.mktemp("distillers"))
    yield found
    found.process.kill()
    found.process.wait()


KINDS: dict[str, dict[str, Any]] = {"pictures": {}, "pool": {"data": None}, "trajectory": {"method": "trajectory"}}


def asked(distillers: Distillers, kind: str) -> Settings:
    return dataclasses.replace(tools.settings(distillers.data), **KINDS[kind])


def digest(out: Path) -> dict[str, str]:
    files = sorted(file for file in out.rglob("*") if file.is_file())
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def whole(distillers: Distillers, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The bytes of uninterrupted runs."""
    folder, found = tmp_path_factory.mktemp("whole"), {}
    for kind in KINDS:
        status, words = distillers.run(folder / kind, asked(distillers, kind))
        assert status == 0, words
        found[kind] = digest(folder / kind)
    return found


@pytest.mark.parametrize(
    ("kind", "die"),
    [
        ("pictures", ("step", 1)),
        ("pictures", ("step", 7)),  # in the middle of a halving, whose teacher is in the checkpoint
        ("pictures", ("folder", 1)),  # inside the first checkpoint
        ("pictures", ("folder", 3)),
        ("pictures", ("folder", 5)),  # inside the model, after the last checkpoint
        ("pool", ("file", 2)),  # inside the pool's first chunk: the run's record is the first file
        ("pool", ("step", 9)),
        ("trajectory", ("step", 6)),  # the last of guidance: the steps are not found yet
        ("trajectory", ("folder", 5)),  # inside the model, with the steps in the last checkpoint
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(
    distillers: Distillers, whole: dict[str, dict[str, str]], tmp_path: Path, kind: str, die: tuple[str, int]
) -> None:
    out, settings = tmp_path / "run", asked(distillers, kind)
    status, words = distillers.run(out, settings, die)
    assert status == -signal.SIGKILL, words
    status, words = distillers.run(out, settings)
    assert status == 0, words
    assert digest(out) == whole[kind]


def test_sigterm_saves_first(distillers: Distillers, whole: dict[str, dict[str, str]], tmp_path: Path) -> None:
    out, settings = tmp_path / "run", tools.settings(distillers.data)
    assert distillers.run(out, settings, ("step", 3), gently=True)[0] == 128 + signal.SIGTERM
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == ["000000016", "000000032"]
    status, words = distillers.run(out, settings)
    assert status == 0 and "resuming at 32 images" in words
    found = digest(out)
    assert {name for name in found if name.startswith("model/")} == {"model/model.safetensors", "model/card.json"}
    same = {name for name in whole["pictures"] if not name.startswith("checkpoints/")}
    assert {name: found[name] for name in same} == {name: whole["pictures"][name] for name in same}


def test_a_finished_run_says_so_and_another_is_refused(distillers: Distillers, tmp_path: Path) -> None:
    out, settings = tmp_path / "run", tools.settings(distillers.data)
    assert distillers.run(out, settings)[0] == 0
    before = digest(out)
    status, words = distillers.run(out, settings)
    assert status == 0 and "finished at 64 images" in words and digest(out) == before
    for change in ({"lr": 2e-3}, {"guide": "cfg(4)"}, {"seed": 1}, {"images": 128}, {"data": None}):
        status, words = distillers.run(out, dataclasses.replace(settings, **change))
        assert status == 1 and "holds another distillation" in words and next(iter(change)) in words, words
    assert digest(out) == before


def test_a_damaged_checkpoint_is_set_aside(
    distillers: Distillers, whole: dict[str, dict[str, str]], tmp_path: Path
) -> None:
    out, settings = tmp_path / "run", tools.settings(distillers.data)
    assert distillers.run(out, settings, ("step", 7))[0] == -signal.SIGKILL
    newest = sorted((out / "checkpoints").iterdir())[-1]
    (newest / "weights.safetensors").write_bytes(b"nothing")
    status, words = distillers.run(out, settings)
    assert status == 0 and "is damaged" in words
    assert digest(out)["model/model.safetensors"] == whole["pictures"]["model/model.safetensors"]


def test_the_folder_holds_nothing_temporary(whole: dict[str, dict[str, str]]) -> None:
    for names in whole.values():
        assert not [name for name in names if ".tmp" in name or "lock" in name or ".bad" in name]
    assert {"pool/000000.safetensors", "pool/000016.safetensors"} <= set(whole["pool"])
