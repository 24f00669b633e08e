"""Over 200 damaged whole files, in every part of them: each is refused by the name of what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guided.zoo.deduce import block_of
from guided.zoo.recognise import recognise
from guided.zoo.weights import entries
from guided.zoo.whole import UNET
from guided.zoo.whole_open import describe
from tests.zoo import singles

pytest.importorskip("diffusers")
KINDS = ("sd1", "sd2", "sdxl", "x4")
Shapes = dict[str, tuple[int, ...]]
MANY = 16

DAMAGE: dict[str, Callable[[Shapes, str], Shapes]] = {
    "removed": lambda shapes, name: {key: size for key, size in shapes.items() if key != name},
    "renamed": lambda shapes, name: {f"{key}s" if key == name else key: size for key, size in shapes.items()},
    "added": lambda shapes, name: shapes | {f"{name}s": (3,)},
    "reshaped": lambda shapes, name: shapes | {name: (*shapes[name][:-1], shapes[name][-1] + 1)},
    "flat": lambda shapes, name: shapes | {name: (1, *shapes[name])},
}


def test_there_are_more_than_200() -> None:
    assert len(KINDS) * len(DAMAGE) * MANY > 200


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shapes]:
    """Names and shapes of a whole file of each kind."""
    found = {}
    for kind in KINDS:
        folder: Path = tmp_path_factory.mktemp(kind)
        found[kind] = {name: entry.shape for name, entry in entries(singles.saved(kind, folder)[1]).items()}
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_part_that_is_not_whole_is_refused_by_name(kind: str, damage: str, files: dict[str, Shapes]) -> None:
    whole = files[kind]
    read = sorted(pair.ours for pair in describe(recognise(whole, singles.CONFIGS[kind]), whole).table())
    assert len({name.partition(".")[0] for name in read}) == 3
    picked = [read[i * len(read) // MANY] for i in range(MANY)]
    for name in picked:
        shapes = DAMAGE[damage](whole, name)
        with pytest.raises(ValueError) as caught:
            describe(recognise(shapes, singles.CONFIGS[kind]), shapes)
        place = block_of(name.removeprefix(UNET)) if name.startswith(UNET) else name.split(".")[0]
        assert place in str(caught.value), f"{name}: {caught.value}"
