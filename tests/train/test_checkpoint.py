"""Checkpoints: every torn file is seen, the newest sound one is used, and a full disk costs nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guided import _files
from guided.train import checkpoint
from tests.train.conftest import Trainers
from tests.train.tools import tiny


def save(folder: Path, counter: int, keep: int = 2) -> Path:
    draw = torch.Generator().manual_seed(counter)
    tensors = {"weights": {"a": torch.randn(40, generator=draw)}, "optimizer": {"b": torch.randn(9, generator=draw)}}
    return checkpoint.save(folder, counter, tensors, {"counter": counter}, keep)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    tensors, state = checkpoint.load(path)
    assert path.name == "000000007" and state == {"counter": 7}
    expected = torch.randn(40, generator=torch.Generator().manual_seed(7))
    assert torch.equal(tensors["weights"]["a"], expected)
    assert checkpoint.fault(path) is None


def cut(share: float) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, int(file.stat().st_size * share))


def shorter(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def zero_tail(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


def swap(file: Path) -> None:
    file.write_bytes((file.parent.parent / "000000008" / file.name).read_bytes())


FAULTS = [cut(0), cut(0.5), shorter, zero_tail, flip_bit, swap, Path.unlink]


def test_every_torn_file_is_seen_and_the_one_before_is_used(tmp_path: Path) -> None:
    for count in (8, 16):
        save(tmp_path / "sound", count)
    names = sorted(file.name for file in (tmp_path / "sound" / "000000016").iterdir())
    assert names == ["manifest.json", "optimizer.safetensors", "state.json", "weights.safetensors"]
    for name in names:
        for at, harm in enumerate(FAULTS):
            folder = tmp_path / f"{name}{at}"
            shutil.copytree(tmp_path / "sound", folder)
            harm(folder / "000000016" / name)
            assert checkpoint.fault(folder / "000000016") is not None, (name, at)
            path, warnings = checkpoint.newest(folder)
            assert path == folder / "000000008"
            assert len(warnings) == 1 and "\n" not in warnings[0] and "000000016" in warnings[0]
            assert (folder / "000000016.bad").is_dir()
            shutil.rmtree(folder)


def test_a_second_damaged_one_gets_a_name_of_its_own(tmp_path: Path) -> None:
    for _ in range(2):
        (save(tmp_path, 5) / "state.json").unlink()
        assert checkpoint.newest(tmp_path)[0] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000005.2.bad", "000000005.bad"]


@given(st.lists(st.integers(0, 10**11), min_size=1, max_size=8, unique=True), st.integers(0, 4))
def test_the_newest_by_number_are_kept(counts: list[int], keep: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        for count in counts:
            (Path(name) / f"{count:09d}").mkdir()
        checkpoint.prune(Path(name), keep)
        left = [checkpoint.number(path) for path in checkpoint.listed(Path(name))]
        assert left == sorted(counts)[-max(keep, 2) :]
        assert len(list(Path(name).iterdir())) == len(left)


def test_no_room_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def full(path: Path, need: int) -> None:
        raise OSError(errno.ENOSPC, f"{path}: needs {need}")

    monkeypatch.setattr(_files, "require_space", full)
    with pytest.raises(OSError, match="needs"):
        save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["000000001"]


def test_full_disk_in_a_run_keeps_the_checkpoint_and_says_so(trainers: Trainers, data: Path, tmp_path: Path) -> None:
    recipe, log = tiny(data, tmp_path / "run", train__images=48), tmp_path / "log"
    assert trainers.run(recipe, log)[0] == 0
    longer = {"overrides": ["train.images=120"]}
    status, words = trainers.run(recipe, log, limit=9000, **longer)
    place = tmp_path / "run" / "checkpoints"
    missed = [word for word in words if "no room for the checkpoint" in word]
    assert status == 1 and len(missed) == 3, words
    assert words[0] == "resuming at 48 images"
    for word in missed:
        assert str(place) in word and "it needs" in word and "are free" in word and "File too large" in word
    assert "training goes on" in missed[0] and missed[-1].startswith("OSError") and "at 120 images" in missed[-1]
    assert sorted(path.name for path in place.iterdir()) == ["000000024", "000000048"]
    assert all(checkpoint.fault(path) is None for path in place.iterdir())
    status, words = trainers.run(recipe, log, **longer)
    assert status == 0 and words[0] == "resuming at 48 images"
