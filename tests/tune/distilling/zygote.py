"""A process that has everything imported and forks a distillation on request, for tests that kill one.

Requests are JSON lines on stdin: {"teacher", "out", "settings", "die"} runs one and answers its exit status, negative
where a signal ended it. die: [what, number]: the process kills itself at the number-th file written ("file"), in the
middle of the number-th folder ("folder"), or after the number-th step ("step"); null: never.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401
import torch
import torch._dynamo  # the optimizers import it at their first use, for seconds

from guided import _files
from guided.model import Model
from guided.tune import Settings, distill


def _child(request: dict[str, Any]) -> int:
    torch.set_num_threads(1)
    what, number = request["die"] or ("never", 0)
    count = {"file": 0, "folder": 0, "step": 0}

    def shot(kind: str) -> None:
        count[kind] += 1
        if kind == what and count[kind] == number:
            os.kill(os.getpid(), signal.SIGTERM if request.get("gently") else signal.SIGKILL)

    writing, folder = _files.writing, _files.folder

    @contextlib.contextmanager
    def counted(path: Path) -> Iterator[Path]:
        with writing(path) as aside:
            yield aside
            shot("file")

    @contextlib.contextmanager
    def announced(path: Path) -> Iterator[Path]:
        with folder(path) as aside:
            yield aside
            shot("folder")

    _files.writing, _files.folder = counted, announced
    given = {**request["settings"], "prompts": tuple(request["settings"].get("prompts", ()))}
    try:
        for step in distill(Model.open(request["teacher"]), request["out"], Settings(**given), device="cpu"):
            shot("step")
            if step.note:
                print(step.note, file=sys.stderr, flush=True)
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        child = os.fork()
        if child == 0:
            os.dup2(log, 2)
            os._exit(_child(request))
        os.close(log)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
