"""A trainer that can be killed."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.train.tools import pictures


def words(log: Path) -> list[str]:
    """The notes of a run and, at the end, its error ("" without one)."""
    lines = [line.split(" ", 1) for line in log.read_text().splitlines()]
    return [json.loads(rest[0]) for kind, *rest in lines if kind in ("note", "end")]


@dataclass
class Trainers:
    """Runs recipes in forks of one process that has imported everything."""

    process: subprocess.Popen[str]
    saves: int

    def _ask(self, request: Mapping[str, Any]) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(
        self,
        recipe: Mapping[str, Any],
        log: Path,
        overrides: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        limit: int = 0,
    ) -> int:
        """Begin a run and return its process id; `limit`: the largest file it may write, in bytes."""
        self.drain()
        request = {"recipe": recipe, "log": str(log), "overrides": list(overrides), "env": dict(env or {})}
        return self._ask({**request, "limit": limit})

    def status(self, child: int) -> int:
        """Wait for the end of a run; negative where a signal ended it."""
        return self._ask({"wait": child})

    def run(self, recipe: Mapping[str, Any], log: Path, **options: Any) -> tuple[int, list[str]]:
        """Run to the end: the exit status, and the notes followed by the last word."""
        status = self.status(self.start(recipe, log, **options))
        return status, words(log)

    def drain(self) -> None:
        """Forget the marks of earlier runs."""
        while select.select([self.saves], [], [], 0)[0]:
            os.read(self.saves, 4096)

    def marks(self, timeout: float = 60) -> bytes:
        """What the run said of its saves since the last call, waiting for at least one."""
        ready = select.select([self.saves], [], [], timeout)[0]
        return os.read(self.saves, 4096) if ready else b""


@pytest.fixture(scope="session")
def trainers() -> Iterator[Trainers]:
    read, write = os.pipe()
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.train.zygote", str(write)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=env,
        cwd=ROOT,
        pass_fds=[write],
    )
    os.close(write)
    yield Trainers(process, read)
    process.kill()
    process.wait()
    os.close(read)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of ten pictures of 8 x 8."""
    return pictures(tmp_path_factory.mktemp("pictures"))
