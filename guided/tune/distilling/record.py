"""The folder of a distillation: what it is a run of, its checkpoints, and whether it is done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guided import _files
from guided.train import checkpoint
from guided.train.workplace import FACTS
from guided.tune.distilling.state import KEEP, State

KIND = "distillation"


def read(folder: Path) -> dict[str, Any] | None:
    """The facts of the distillation begun in a folder, None in a fresh one; ValueError where it holds another run."""
    path = folder / FACTS
    if not path.exists():
        return None
    try:
        facts: dict[str, Any] = json.loads(path.read_text())[KIND]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the record of a distillation ({error}); choose another --out") from None
    return facts


def begun(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether this distillation was begun here; another one, or a folder of something else, is a ValueError."""
    before = read(folder)
    if before is None:
        if folder.is_file() or (folder.is_dir() and (folder / "card.json").exists()):
            raise ValueError(f"{folder}: holds something other than a distillation; choose another --out")
        return False
    now = json.loads(json.dumps(dict(facts)))
    changed = sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name))
    if changed:
        lines = [f"  {name}: {before.get(name)!r:.80} there, {now.get(name)!r:.80} asked for" for name in changed]
        raise ValueError(
            f"{folder}: holds another distillation, which this one cannot continue:\n" + "\n".join(lines) + "\n"
            "choose another --out, or ask for what is there"
        )
    return True


def remember(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write down what this folder is a run of."""
    if read(folder) is None:
        _files.write(folder / FACTS, json.dumps({KIND: dict(facts)}, indent=1) + "\n")


def tidy(folder: Path) -> list[str]:
    """Sweep up after a killed run, set damaged checkpoints aside; one line for each."""
    for place in (folder, folder / "checkpoints"):
        _files.sweep(place)
    notes = checkpoint.newest(folder / "checkpoints")[1]
    checkpoint.prune(folder / "checkpoints", KEEP)
    return notes


def finished(folder: Path, total: int) -> bool:
    """Whether the newest checkpoint has all images, and the model too."""
    there = checkpoint.listed(folder / "checkpoints")
    if not there or (checkpoint.number(there[-1]) or 0) < total:
        return False
    try:
        made = json.loads((folder / "model" / "card.json").read_text())["provenance"]["images"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(made == total)


def saved(state: State, folder: Path, notes: list[str], last: bool) -> Path | None:
    """A checkpoint; where the disk is full the one before stays and training goes on; at the last, OSError."""
    try:
        return state.save(folder / "checkpoints")
    except OSError as error:
        if error.errno not in checkpoint.FULL or last:
            raise
        notes.append(f"no room for the checkpoint at {state.counter} images; the one before it stays: {error}")
        return None
