"""A process that has everything imported and forks a trainer on request, for tests that kill one.

Autograd refuses to run in the fork of a process that has used it, so the test process cannot fork trainers itself.
Requests are JSON lines on stdin: {"recipe", "log", "overrides", "env", "limit"} starts a trainer and answers its
process id; {"wait": PID} answers its exit status. A trainer writes "s" to the descriptor in argv[1] when it begins to
write a checkpoint, and "e" when it has written it; its notes, and the error that ended it, go to its log as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401
import torch
import torch._dynamo  # the optimizers import it at their first use, for seconds

import guided.train.export
import guided.train.run
from guided import _files


def _child(request: dict[str, Any], saves: int) -> int:
    torch.set_num_threads(1)
    os.environ.update(request.get("env", {}))
    folder = _files.folder

    @contextlib.contextmanager
    def announced(path: str) -> Iterator[Path]:
        os.write(saves, b"s")
        with folder(path) as aside:
            yield aside
        os.write(saves, b"e")

    _files.folder = announced
    if request.get("limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], resource.RLIM_INFINITY))
    word = ""
    try:
        for step in guided.train.run.fit(request["recipe"], request.get("overrides", ()), device="cpu"):
            if step.note:
                print("note", json.dumps(step.note), file=sys.stderr, flush=True)
        status = 0
    except BaseException as error:
        word, status = f"{type(error).__name__}: {error}", 1
    print("end", json.dumps(word), file=sys.stderr, flush=True)
    return status


def main() -> None:
    saves = int(sys.argv[1])
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            print(os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]), flush=True)
            continue
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        child = os.fork()
        if child == 0:
            os.dup2(log, 2)
            os._exit(_child(request, saves))
        os.close(log)
        print(child, flush=True)


if __name__ == "__main__":
    main()
