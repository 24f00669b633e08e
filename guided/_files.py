"""Files are written aside and renamed, so that a failure never costs what was there before."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence

Path = str | os.PathLike[str]


def _sync(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _aside(path: pathlib.Path) -> pathlib.Path:
    # The same folder, hence the same file system: only there is a rename atomic.
    return path.with_name(f".tmp-{os.getpid()}-{path.name}")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[pathlib.Path]:
    """Yield a temporary sibling of `path`; on success it is synced and renamed to `path`, on failure removed."""
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(target)
    try:
        yield aside
        _sync(aside)
        os.replace(aside, target)
        _sync(target.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def cache(room: str) -> pathlib.Path:
    """Where what can be made again is kept: the folder `room` in `$GUIDED_CACHE`, or in ~/.cache/guided."""
    return pathlib.Path(os.environ.get("GUIDED_CACHE") or pathlib.Path.home() / ".cache" / "guided") / room


def write(path: Path, content: bytes | str) -> None:
    """Write a whole file atomically; text is UTF-8."""
    with writing(path) as aside:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def folder(path: Path) -> Iterator[pathlib.Path]:
    """Yield a temporary sibling folder; on success its files are synced and it takes the place of `path`.

    An older folder at `path` is kept until the new one is complete.
    """
    target = pathlib.Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(target)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        for file in aside.rglob("*"):
            _sync(file)
        _sync(aside)
        old = target.with_name(f".tmp-{os.getpid()}-old-{target.name}")
        if target.exists():
            os.replace(target, old)
        try:
            os.replace(aside, target)
        except BaseException:
            if old.exists():
                os.replace(old, target)
            raise
        _sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def sweep(path: Path) -> None:
    """Remove what a killed process left half-written in a folder; what it had set aside goes back to its place."""
    for left in pathlib.Path(path).glob(".tmp-*"):
        # Killed between the two renames of `folder`: the old one is all there is.
        old = re.fullmatch(r"\.tmp-\d+-old-(.+)", left.name)
        if old and not left.with_name(old[1]).exists():
            os.replace(left, left.with_name(old[1]))
            continue
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(paths: Sequence[Path]) -> str:
    """SHA-256 of a file, or of the digests of several in order."""
    digests = [sha256(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def require_space(path: Path, need: int) -> None:
    """Raise OSError (ENOSPC) if the file system that holds `path` has fewer than `need` bytes free."""
    free = shutil.disk_usage(path).free
    if free < need:
        text = f"{path}: needs {need / 1e6:.1f} MB, only {free / 1e6:.1f} MB are free"
        raise OSError(28, text)
