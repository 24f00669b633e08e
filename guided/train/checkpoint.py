"""Checkpoints: folders written aside, checksummed, renamed. The newest sound one is used, damaged ones set apart."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from guided import _files, _safetensors

State = Mapping[str, Any]
Tensors = Mapping[str, Mapping[str, Tensor]]
MANIFEST = "manifest.json"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def number(path: Path) -> int | None:
    """The counter that a checkpoint's folder is named by; None for anything else."""
    return int(path.name) if path.is_dir() and re.fullmatch(r"\d+", path.name) else None


def listed(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, by their counter (not by the letters of their names)."""
    if not folder.is_dir():
        return []
    found = [(count, path) for path in folder.iterdir() if (count := number(path)) is not None]
    return [path for _, path in sorted(found)]


def size(tensors: Tensors) -> int:
    """Bytes that these tensors take on disk, roughly."""
    return sum(t.numel() * t.element_size() for group in tensors.values() for t in group.values())


def save(folder: Path, counter: int, tensors: Tensors, state: State, keep: int) -> Path:
    """Write checkpoint `counter` and drop all but the newest `keep` (at least 2); returns its folder.

    tensors: file stem -> name -> tensor. On any failure nothing is left but what was there before.
    Raises OSError where the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _files.require_space(folder, size(tensors) * 21 // 20 + (1 << 16))
    target = folder / f"{counter:09d}"
    with _files.folder(target) as aside:
        for stem, group in tensors.items():
            _safetensors.save(group, aside / f"{stem}.safetensors")
        (aside / "state.json").write_text(json.dumps(dict(state), indent=1, sort_keys=True))
        sums = {file.name: _files.sha256(file) for file in sorted(aside.iterdir())}
        (aside / MANIFEST).write_text(json.dumps(sums, indent=1, sort_keys=True))
    prune(folder, keep)
    return target


def prune(folder: Path, keep: int) -> None:
    """Drop all but the newest `keep` checkpoints, and never the last two."""
    for old in listed(folder)[: -max(keep, 2)]:
        # Renamed first: a folder that a kill leaves half-deleted must not look like a damaged checkpoint.
        os.replace(old, old.with_name(f".tmp-{os.getpid()}-{old.name}"))
        _files.sweep(folder)


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None where every file is as it was written."""
    try:
        sums = json.loads((path / MANIFEST).read_text())
        for name, digest in sums.items():
            if _files.sha256(path / name) != digest:
                return f"{name} is not as it was written"
        state = json.loads((path / "state.json").read_text())
        if state["counter"] != number(path):
            return f"it holds the state at {state['counter']} images"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        return f"its manifest is damaged ({type(error).__name__})"
    return None


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest sound checkpoint, and one line for each damaged one, which is renamed to `NAME.bad`."""
    warnings: list[str] = []
    for path in reversed(listed(folder)):
        wrong = fault(path)
        if wrong is None:
            return path, warnings
        aside = path.with_name(f"{path.name}.bad")
        count = 1
        while aside.exists():
            count += 1
            aside = path.with_name(f"{path.name}.{count}.bad")
        os.replace(path, aside)
        warnings.append(f"checkpoint {path.name} is damaged ({wrong}); moved to {aside.name}")
    return None, warnings


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors (by file stem) and the state of a sound checkpoint."""
    tensors = {file.stem: safetensors.torch.load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return tensors, json.loads((path / "state.json").read_text())
