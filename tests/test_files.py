"""Files are old or new, never half."""

from __future__ import annotations

import errno
import hashlib
import os
import pathlib

import pytest

from guided import _files


def test_a_failure_keeps_what_was_there(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "a.txt"
    _files.write(target, "old")
    with pytest.raises(RuntimeError), _files.writing(target) as aside:
        aside.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]
    _files.write(target, b"new")
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "model"
    for text in ("one", "two"):
        with _files.folder(target) as aside:
            (aside / "sub").mkdir()
            (aside / "sub" / "a").write_text(text)
    with pytest.raises(RuntimeError), _files.folder(target) as aside:
        (aside / "b").write_text("half")
        raise RuntimeError
    assert (target / "sub" / "a").read_text() == "two" and [p.name for p in tmp_path.iterdir()] == ["model"]


def test_sweep_removes_what_a_killed_process_left(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".tmp-1-a").write_text("half")
    (tmp_path / ".tmp-1-model").mkdir()
    (tmp_path / "kept").write_text("x")
    _files.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_kill_between_the_two_renames_costs_nothing(tmp_path: pathlib.Path) -> None:
    for name in (".tmp-7-old-model", ".tmp-7-model", ".tmp-8-old-kept", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    _files.sweep(tmp_path)
    assert {p.name: (p / "a").read_text() for p in tmp_path.iterdir()} == {"model": ".tmp-7-old-model", "kept": "kept"}


def test_digest_and_space(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert _files.sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    _files.require_space(tmp_path, 1)
    with pytest.raises(OSError, match="needs") as caught:
        _files.require_space(tmp_path, 10**18)
    assert caught.value.errno == errno.ENOSPC


def test_a_rename_that_fails_gives_the_old_folder_back(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    with _files.folder(target) as aside:
        (aside / "a").write_text("old")
    rename = os.replace

    def failing(source: pathlib.Path, to: pathlib.Path) -> None:
        if to == target and "-old-" not in source.name:
            raise OSError(errno.EIO, "planted")
        rename(source, to)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="planted"), _files.folder(target) as aside:
        (aside / "a").write_text("new")
    assert (target / "a").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["model"]
