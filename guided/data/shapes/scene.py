"""Scenes of coloured shapes, and the sentences that describe them."""

from __future__ import annotations

import re
from dataclasses import dataclass

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (250, 140, 20),
    "yellow": (246, 214, 40),
    "green": (40, 160, 60),
    "cyan": (50, 200, 215),
    "blue": (40, 70, 215),
    "purple": (140, 60, 190),
    "black": (35, 35, 35),
}
NEW_COLOURS: dict[str, tuple[int, int, int]] = {"pink": (240, 120, 185), "brown": (130, 85, 45)}
"""Words that no source renders unless it is asked to: what a trained model can be taught later."""
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
SIZES: dict[str, float] = {"small": 0.135, "large": 0.215}
"""Radius as a share of the picture's side."""
MEDIUM = 0.17
_ROWS, _COLUMNS = {"top": 0.26, "": 0.5, "bottom": 0.74}, {"left": 0.26, "": 0.5, "right": 0.74}
PLACES: dict[str, tuple[float, float]] = {
    (f"{row} {column}".strip() or "center"): (x, y) for row, y in _ROWS.items() for column, x in _COLUMNS.items()
}
"""Centres (x, y) as shares of the side."""
RELATIONS: dict[str, tuple[int, int]] = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""The direction (x, y) from the second object to the first."""

_OBJECT = rf"an? (?:({'|'.join(SIZES)}) )?({'|'.join(COLOURS | NEW_COLOURS)}) ({'|'.join(SHAPES)})"
_ONE = re.compile(rf"{_OBJECT}(?: in the ({'|'.join(sorted(PLACES, key=len, reverse=True))}))?")
_TWO = re.compile(rf"{_OBJECT} ({'|'.join(RELATIONS)}) {_OBJECT}")


@dataclass(frozen=True)
class Object:
    """One coloured shape; a size or place of None is left open: a medium size, a place by the relation."""

    colour: str
    shape: str
    size: str | None = None
    place: str | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("colour", self.colour, COLOURS | NEW_COLOURS),
            ("shape", self.shape, SHAPES),
            ("size", self.size, (None, *SIZES)),
            ("place", self.place, (None, *PLACES)),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(map(str, known))}, got {value!r}")


@dataclass(frozen=True)
class Scene:
    """One object, or two with the relation of the first to the second. Raises ValueError for other numbers."""

    objects: tuple[Object, ...]
    relation: str | None = None

    def __post_init__(self) -> None:
        if len(self.objects) not in (1, 2):
            raise ValueError(f"a scene has one or two objects, got {len(self.objects)}")
        if (self.relation in RELATIONS) != (len(self.objects) == 2):
            raise ValueError(f"{len(self.objects)} objects with the relation {self.relation!r}")


def caption(scene: Scene) -> str:
    """ "a small red circle in the top left"; "a red circle left of a blue square"."""
    first = _noun(scene.objects[0])
    if len(scene.objects) == 2:
        return f"{first} {scene.relation} {_noun(scene.objects[1])}"
    place = scene.objects[0].place
    return f"{first} in the {place}" if place else first


def read(text: str) -> Scene:
    """The scene a caption describes, the inverse of `caption`; raises ValueError where it describes none."""
    text = " ".join(text.lower().split())
    if match := _ONE.fullmatch(text):
        size, colour, shape, place = match.groups()
        return Scene((Object(colour, shape, size, place),))
    if match := _TWO.fullmatch(text):
        a, b = match.groups()[:3], match.groups()[4:]
        return Scene((Object(a[1], a[2], a[0]), Object(b[1], b[2], b[0])), match.group(4))
    raise ValueError(f'no scene: expected the form "{caption(EXAMPLE)}", got {text!r}')


def _noun(thing: Object) -> str:
    words = " ".join(word for word in (thing.size, thing.colour, thing.shape) if word)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


EXAMPLE = Scene((Object("red", "circle", "small", "top left"),))
