"""The cache on disk: the same bits, any number of processes, and nothing lost to a kill."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from guided.text import PromptCut, TokenCache, open
from guided.text.encoder import Encoded, FrozenEncoder
from tests.text.test_encoder import LONG, PROMPTS, same
from tests.text.tiny import bert_folder

ROOT = Path(__file__).resolve().parents[2]


def counting(encoder: FrozenEncoder) -> tuple[FrozenEncoder, list[int]]:
    """The same encoder, and a list that grows by the number of prompts its tower has seen."""
    seen: list[int] = []

    def tower(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        seen.append(len(ids))
        return encoder.tower(ids)

    return dataclasses.replace(encoder, tower=tower), seen


def test_it_returns_the_encoders_bits_and_asks_it_once(encoder: FrozenEncoder, tmp_path) -> None:
    spied, seen = counting(encoder)
    expected = encoder(PROMPTS)
    for cache in (TokenCache(spied, tmp_path), TokenCache(spied, tmp_path)):
        assert same(cache.rows(PROMPTS), expected) and same(cache(PROMPTS), expected)
        assert sum(seen) == len(set(PROMPTS)) == len(cache)
    assert same(cache.nothing(2), encoder.nothing(2)) or encoder.null == "learned"
    cache.rows(["a", "cat"])
    assert "cat" in cache and "dog" not in cache


def test_rows_may_be_written_to(bert: FrozenEncoder, tmp_path) -> None:
    cache = TokenCache(bert, tmp_path)
    cache.rows(["a"]).tokens.zero_()
    assert cache.rows(["a"]).tokens.abs().sum() > 0


def test_without_the_encoder_what_is_there_is_served_and_the_rest_named(bert: FrozenEncoder, tmp_path) -> None:
    TokenCache(bert, tmp_path).fill(PROMPTS)
    partial = {"from": bert.spec["from"]}
    for known in (None, bert.spec, bert.spec["from"], partial):
        cache = TokenCache(known, tmp_path)
        assert same(cache.rows(PROMPTS), bert(PROMPTS))
        facts = ("spec", "key", "width", "vector_width", "length", "null")
        assert all(getattr(cache, fact) == getattr(bert, fact) for fact in facts)
        assert not cache.nothing(2).mask.any()
        with pytest.raises(ValueError, match=r"no states for 'a dog' and 1 more, and no encoder"):
            cache.rows(["a", "a dog", "a bird"])


def test_which_encoder_is_meant_must_be_clear(bert: FrozenEncoder, folder, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no states of any encoder \(it holds: none"):
        TokenCache(None, tmp_path)
    TokenCache(bert, tmp_path).fill(["a"])
    TokenCache(open(bert.spec, length=8), tmp_path).fill(["a"])
    with pytest.raises(ValueError, match="say which by giving its spec"):
        TokenCache(None, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no states of minilm \(it holds: BertModel-"):
        TokenCache("minilm", tmp_path)
    assert TokenCache(bert.spec, tmp_path).length == 32


def test_cuts_are_remembered_and_warned_of_once(bert: FrozenEncoder, tmp_path, recwarn) -> None:
    with pytest.warns(PromptCut):
        TokenCache(bert, tmp_path).fill([2 * LONG])
    recwarn.clear()
    (cut,) = TokenCache(None, tmp_path).rows([2 * LONG]).cut
    assert cut and (2 * LONG).endswith(cut) and not recwarn


def test_many_texts_go_in_pieces_so_that_a_kill_loses_one(bert: FrozenEncoder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("guided.text.cache._SHARD", 4)
    texts = [f"cat {i}" for i in range(10)]

    @dataclasses.dataclass(frozen=True, eq=False)
    class Dies(FrozenEncoder):
        def __call__(self, asked) -> Encoded:  # type: ignore[no-untyped-def]
            if "cat 9" in asked:
                raise KeyboardInterrupt
            return super().__call__(asked)

    fields = {field.name: getattr(bert, field.name) for field in dataclasses.fields(bert)}
    with pytest.raises(KeyboardInterrupt):
        TokenCache(Dies(**fields), tmp_path).fill(texts)
    spied, seen = counting(bert)
    cache = TokenCache(spied, tmp_path)
    assert len(cache) == 8
    assert cache.fill(texts) == 2 == sum(seen) and same(cache.rows(texts), bert(texts))


def test_what_a_killed_process_left_is_ignored_and_later_removed(bert: FrozenEncoder, tmp_path) -> None:
    TokenCache(bert, tmp_path).fill(["a"])
    place = tmp_path / bert.key
    left = [place / name for name in (".tmp-1-ab.npy", ".tmp-1-ab.json", "ab.npy", "ab.vector.npy")]
    for path in left:
        path.write_bytes(b"half")
    cache = TokenCache(bert, tmp_path)
    assert len(cache) == 1 and all(path.exists() for path in left)
    for path in place.iterdir():
        os.utime(path, (time.time() - 7200,) * 2)
    assert len(TokenCache(None, tmp_path)) == 1
    assert not any(path.exists() for path in left)
    assert same(TokenCache(None, tmp_path).rows(["a"]), bert(["a"]))


@pytest.mark.parametrize("harm", ["short array", "no array", "broken index", "wrong lengths"])
def test_a_damaged_shard_is_left_out_and_made_again(harm: str, bert: FrozenEncoder, tmp_path) -> None:
    TokenCache(bert, tmp_path).fill(["a", "cat"])
    (index,) = (path for path in (tmp_path / bert.key).glob("*.json") if path.stem != "encoder")
    array = index.with_suffix(".npy")
    if harm == "short array":
        array.write_bytes(array.read_bytes()[:-4])
    elif harm == "no array":
        array.unlink()
    elif harm == "broken index":
        index.write_text(index.read_text()[:-5])
    else:
        index.write_text(json.dumps({**json.loads(index.read_text()), "lengths": [1, 1]}))
    with pytest.warns(UserWarning, match="not a sound shard, left out"):
        cache = TokenCache(bert, tmp_path)
    assert same(cache.rows(["a", "cat"]), bert(["a", "cat"]))


def test_a_reader_sees_what_another_wrote_after_it_opened(bert: FrozenEncoder, tmp_path) -> None:
    writer = TokenCache(bert, tmp_path)
    reader = TokenCache(None, tmp_path)
    writer.fill(["a cat"])
    assert same(reader.rows(["a cat"]), bert(["a cat"]))


def test_a_folder_can_be_carried_and_only_read(bert: FrozenEncoder, tmp_path) -> None:
    TokenCache(bert, tmp_path / "here").fill(["a cat"])
    carried = Path(shutil.copytree(tmp_path / "here", tmp_path / "there"))
    place = carried / bert.key
    place.chmod(0o555)
    try:
        assert same(TokenCache(None, carried).rows(["a cat"]), bert(["a cat"]))
    finally:
        place.chmod(0o755)


def test_a_full_disk_says_so_and_keeps_what_was_there(bert: FrozenEncoder, tmp_path, monkeypatch) -> None:
    cache = TokenCache(bert, tmp_path)
    cache.fill(["a"])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(OSError, match="MB are free"):
        cache.fill(["cat"])
    assert len(TokenCache(None, tmp_path)) == 1


# An encoder of letters, so that the two processes need not load a library of encoders first.
LETTERS = """
import torch
from guided.text._words import Words
from guided.text.encoder import FrozenEncoder

class Letters:
    length, fingerprint = 8, "letters"
    def __call__(self, text):
        return Words([ord(c) for c in text], None)

def tower(ids):
    states = torch.stack([ids.float().sin(), ids.float().cos()], -1)
    return states, states.mean(1)

spec = {"class": "Letters", "from": "letters", "length": 8, "dtype": "float32", "scale": 1.0}
encoder = FrozenEncoder(Letters(), tower, spec, 2, 2, "learned", torch.device("cpu"))
"""
WRITER = """
import sys
from guided.text import TokenCache
cache, first = sys.argv[1:]
texts = [f"cat {i}" for i in range(int(first), int(first) + 40)]
held = TokenCache(encoder, cache)
print("ready", flush=True)
sys.stdin.readline()
for i in range(0, 40, 4):
    held.rows(texts[i:i + 4])
"""


def test_two_processes_fill_one_cache(tmp_path) -> None:
    command = [sys.executable, "-c", LETTERS + WRITER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    # Their texts overlap by half: what both encode is there twice, and the same.
    runs = [subprocess.Popen([*command, str(first)], **pipes) for first in (0, 20)]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("go\n")
        run.stdin.flush()
    assert [run.wait(60) for run in runs] == [0, 0]
    for run in runs:
        run.stdin.close()
        run.stdout.close()
    texts = [f"cat {i}" for i in range(60)]
    cache = TokenCache(None, tmp_path)
    names: dict[str, FrozenEncoder] = {}
    exec(LETTERS, names)
    assert len(cache) == 60 and same(cache.rows(texts), names["encoder"](texts))


def test_where_the_encoder_lies_is_the_callers_word(tmp_path: Path) -> None:
    """Equal weights in another folder are served from the same cache, under their own name."""
    first, second = bert_folder(tmp_path / "a"), bert_folder(tmp_path / "b")
    TokenCache(open(str(first)), tmp_path / "cache").fill(["red"])
    moved = TokenCache(open(str(second)), tmp_path / "cache")
    assert "red" in moved and moved.spec["from"] == str(second)
    assert TokenCache({**moved.spec, "from": "elsewhere"}, tmp_path / "cache").spec["from"] == "elsewhere"
