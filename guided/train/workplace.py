"""The folder of a run: one trainer at a time, one recipe for ever, and a stop that saves first."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from guided import _files
from guided.train import checkpoint
from guided.train.fields import shown
from guided.train.recipe import Recipe

LOCK = "lock"
FACTS = "run.json"
CARDS = ("card.json", "adapter.json")
"""What describes a finished run's model, or its adapter."""
FREE: tuple[str, ...] = ("out", "name", "data.path", "data.workers", "train.images", "train.save_every", "train.keep")
FREE += ("train.preview_every", "train.held_every", "train.tensorboard", "sample.")
"""What may differ when a run goes on: where things lie, how long it runs, what is written when."""


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[int]:
    """Hold the run's folder; yields the lock's descriptor. ValueError naming the process that holds it already."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    handle = _locked(path, folder)
    try:
        os.truncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield handle
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path, folder: Path) -> int:
    import fcntl

    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(handle, 32, 0).decode().strip() or "another"
            os.close(handle)
            raise ValueError(
                f"{folder}: a trainer is at work here (process {holder}); wait for it, stop it, or choose another out="
            ) from None
        # The one who held it before may have removed the file between our two calls.
        if path.exists() and os.path.samestat(os.fstat(handle), os.stat(path)):
            return handle
        os.close(handle)


def in_worker(folder: Path, handle: int, worker: int) -> None:
    """What a loader's worker does first: let go of the lock it inherited, and leave Ctrl-C to the trainer.

    A worker outlives a killed trainer by seconds; holding the lock, it would keep the next one out.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(handle), os.stat(folder / LOCK)):
            os.close(handle)


def flat(recipe: Recipe) -> dict[str, Any]:
    """The recipe as dotted keys and JSON values."""
    out: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for name, item in value.items():
                walk(f"{prefix}.{name}" if prefix else name, item)
        else:
            out[prefix] = value

    walk("", json.loads(recipe.model_dump_json()))
    return out


def tidy(folder: Path, recipe: Recipe) -> list[str]:
    """Refuse another recipe's run, sweep up after a killed one, set damaged checkpoints aside; one line for each."""
    begun(folder, recipe)
    for place in (folder, folder / "checkpoints", folder / "previews"):
        _files.sweep(place)
    notes = checkpoint.newest(folder / "checkpoints")[1]
    checkpoint.prune(folder / "checkpoints", recipe.train.keep)
    return notes


def begun(folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """The facts of the run that was started here, None in a fresh folder; another recipe's run is a ValueError.

    What decides the bits of a run may not change on the way; what `FREE` lists may.
    """
    path = folder / FACTS
    if not path.exists():
        if any((folder / name).is_file() for name in CARDS):
            raise ValueError(f"{folder}: holds a model, not a run; choose another out=")
        if folder.is_file():
            raise ValueError(f"{folder}: a run is a folder, this is a file; choose another out=")
        return None
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
        before = flat(Recipe.model_validate(facts["recipe"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the record of a run ({error}); choose another out=") from None
    now = flat(recipe)
    keys = [key for key in now.keys() | before.keys() if before.get(key) != now.get(key)]
    changed = sorted(key for key in keys if not any(key == f or (f[-1] == "." and key.startswith(f)) for f in FREE))
    if changed:
        lines = [f"  {key}: {shown(before.get(key))} there, {shown(now.get(key))} asked for" for key in changed]
        raise ValueError(
            f"{folder}: holds a run of another recipe, which this one cannot continue:\n" + "\n".join(lines) + "\n"
            "choose another out=, or ask for what is there"
        )
    return facts


def remember(folder: Path, recipe: Recipe, facts: Mapping[str, Any]) -> None:
    """Write down what this folder is a run of: the recipe, and the facts of its job."""
    said = {"recipe": json.loads(recipe.model_dump_json()), **facts}
    _files.write(folder / FACTS, json.dumps(said, indent=1) + "\n")


class Stop:
    """Whether SIGINT or SIGTERM asked the run to save and stop; a second one stops it at once."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number

    def leave(self) -> None:
        """End as the signal would have ended it: KeyboardInterrupt, or exit status 143."""
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)
