"""What is kept out stays out, and is what it is said to be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guided.data import Record, base_caption, open, split, tone
from guided.data.splitting import TONES, fraction

CASES = [
    ("woman scientist, medium skin tone", "woman scientist", "medium"),
    ("woman scientist: medium-dark skin tone", "woman scientist", "medium-dark"),
    ("red apple", "red apple", None),
    ("handshake, dark skin tone and light skin tone", "handshake", "dark and light"),
    (
        "woman with dark skin tone and man with light skin tone holding hands",
        "woman and man holding hands",
        "dark and light",
    ),
    ("man with dark skin tone and man with light skin tone kissing", "two men kissing", "dark and light"),
    ("person with dark skin tone and person with light skin tone kissing", "couple kissing", "dark and light"),
    (
        "couple with heart, woman with dark skin tone and woman with light skin tone",
        "couple with heart, two women",
        "dark and light",
    ),
    ("skin tone swatch, dark", "skin tone swatch, dark", None),
    ("gem stone", "gem stone", None),
    ("woman and man", "woman and man", None),
]


@pytest.mark.parametrize(("caption", "base", "name"), CASES)
def test_base_and_tone(caption: str, base: str, name: str | None) -> None:
    assert (base_caption(caption), tone(caption)) == (base, name)


def test_the_emoji_set(shared_data: Path) -> None:
    records = open(shared_data / "emoji").records
    bases = [base_caption(record.caption or "") for record in records]
    assert len(set(bases)) == 1512  # as many pictures as its README counts before skin tones
    parts = split(records)
    assert sorted(parts.train + parts.held_bases + parts.held_pairs) == list(range(len(records)))
    held = {bases[i] for i in parts.held_bases}
    trained = {bases[i] for i in parts.train}
    assert not held & trained and 0.03 < len(held) / 1512 < 0.07
    assert len(parts.held_pairs) == 200
    seen = {(bases[i], tone(records[i].caption or "")) for i in parts.train}
    for i in parts.held_pairs:
        base, name = bases[i], tone(records[i].caption or "")
        assert name in TONES and (base, name) not in seen
        assert sum((base, other) in seen for other in TONES) >= 2
        assert sum(other == name for _, other in seen) >= 20
    assert parts == split(records) != split(records, seed=1)


names = st.text("abcdef ", min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(st.lists(names, max_size=60), st.lists(names, max_size=60), st.integers(0, 5))
def test_new_records_never_move_a_base(old: list[str], new: list[str], seed: int) -> None:
    before = split([Record("x", text) for text in old], seed, 0.3)
    after = split([Record("x", text) for text in new + old], seed, 0.3)
    assert {old[i] for i in before.held_bases} == {(new + old)[i] for i in after.held_bases} & set(old)


def test_sets_without_captions_split_by_name() -> None:
    records = [Record(f"{i}.png", None, i % 3) for i in range(2000)]
    assert split(records).held_bases == ()
    parts = split(records, key=lambda record: record.name)
    assert 60 < len(parts.held_bases) < 140 and not parts.held_pairs
    with pytest.raises(ValueError, match="share"):
        split(records, share=1.0)


def test_the_hash_never_changes() -> None:
    assert fraction("0:red apple") == 0.6036454369439033
