"""What a run writes down: one JSON line an update, exact to the last bit, and tensorboard where it is installed."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from guided import _files


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The sound lines of a file of JSON lines, up to the first that a kill left torn."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                return


class Lines:
    """A file of JSON lines keyed by `images`, cut back to the checkpoint that a run resumes from.

    Numbers are written so that they are read back bit for bit. A full disk keeps the lines in memory until there is
    room again.
    """

    def __init__(self, path: Path, images: int) -> None:
        kept = [row for row in rows(path) if row["images"] <= images]
        if path.exists():
            _files.write(path, "".join(json.dumps(row) + "\n" for row in kept))
        self.path = path
        self.kept = kept
        self._waiting: list[str] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a line."""
        self._waiting.append(json.dumps(dict(row)) + "\n")
        data = "".join(self._waiting).encode()
        handle = -1
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            end = os.fstat(handle).st_size
            if os.write(handle, data) == len(data):
                self._waiting = []
            else:
                os.ftruncate(handle, end)
        except OSError:
            pass  # the lines wait; a full disk is reported where a checkpoint meets it
        finally:
            if handle >= 0:
                os.close(handle)

    def sync(self) -> None:
        """Down to the disk, so that no checkpoint is ahead of its log."""
        with contextlib.suppress(OSError), self.path.open("rb") as file:
            os.fsync(file.fileno())


class Board:
    """Scalars and previews for tensorboard; nothing where it is not installed."""

    def __init__(self, folder: Path, images: int, wanted: bool) -> None:
        self._writer: Any = None
        if not wanted:
            return
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=images, flush_secs=30)

    def scalars(self, values: Mapping[str, float], images: int) -> None:
        """Several values at a counter."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, images)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
