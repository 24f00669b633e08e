"""Rendered scenes as a source of pictures: every one a function of (seed, index)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guided.data.records import Record, describe
from guided.data.shapes.render import numbers, render
from guided.data.shapes.scene import COLOURS, NEW_COLOURS, PLACES, RELATIONS, SHAPES, SIZES, Object, Scene, caption
from guided.data.splitting import fraction


class ShapesSource:
    """`n` captioned scenes of one or two objects; a share of the colour-shape pairs is never shown.

    With `held=True` it holds scenes of those pairs alone: what a model trained on the other source has never
    seen. With `classed=True` the colour and shape of the one object ("red circle") are a class besides the caption.
    colours: what is drawn, of `COLOURS` and `NEW_COLOURS`; the latter are never kept out.
    Raises ValueError for impossible numbers.
    """

    def __init__(
        self,
        n: int = 20_000,
        seed: int = 0,
        objects: int = 1,
        hold_out: float = 0.2,
        held: bool = False,
        classed: bool = False,
        colours: Sequence[str] = tuple(COLOURS),
    ) -> None:
        if objects not in (1, 2):
            raise ValueError(f"objects: expected 1 or 2, got {objects}")
        if classed and objects != 1:
            raise ValueError("objects: classes are those of one object; use objects 1, or captions")
        if n < 1:
            raise ValueError(f"n: expected a number of pictures >= 1, got {n}")
        self.seed, self.objects, self.held = seed, objects, held
        self._held = held_pairs(hold_out, seed)
        if unknown := [name for name in colours if name not in COLOURS | NEW_COLOURS]:
            raise ValueError(f"colours: expected some of {', '.join(COLOURS | NEW_COLOURS)}, got {', '.join(unknown)}")
        every = [(colour, shape) for colour in colours for shape in SHAPES]
        kept_out = set(self._held)
        self._pairs = list(self._held) if held else [pair for pair in every if pair not in kept_out]
        if len(self._pairs) < objects + 1:
            raise ValueError(f"hold_out: {hold_out} leaves {len(self._pairs)} colour-shape pairs to draw from")
        self.classes: tuple[str, ...] = tuple(" ".join(pair) for pair in self._pairs) if classed else ()
        self.skipped: tuple[tuple[str, str], ...] = ()
        self.scenes = [self._scene(i) for i in range(n)]
        self.records: Sequence[Record] = [
            Record(f"scene {i}", caption(scene), self._label(scene)) for i, scene in enumerate(self.scenes)
        ]
        note = f"{len(self._held)} of {len(every)} colour-shape pairs are kept out of training"
        self.summary = describe("shapes", f"shapes:{objects}:{seed}", self.records, self.classes, [note])

    def held_pairs(self) -> tuple[tuple[str, str], ...]:
        """The (colour, shape) pairs that are never in training."""
        return self._held

    def image(self, i: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Picture i drawn at `size` = (height, width), (H, W, 3)."""
        return render(self.scenes[i], size, self._key(i))

    def bytes(self, i: int) -> bytes:
        """Picture i as a PNG of 64 x 64, for readers that want a file."""
        import io

        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(self.image(i, (64, 64))).save(out, "PNG")
        return out.getvalue()

    def _label(self, scene: Scene) -> int | None:
        thing = scene.objects[0]
        return self._pairs.index((thing.colour, thing.shape)) if self.classes else None

    def _key(self, i: int) -> int:
        return (self.seed << 40) + (int(self.held) << 39) + i

    def _scene(self, i: int) -> Scene:
        draw = numbers(self._key(i), 3)
        first: tuple[str, str] = _pick(draw, self._pairs)
        if self.objects == 1:
            size, place = _pick(draw, list(SIZES)), _pick(draw, list(PLACES))
            return Scene((Object(*first, size=size, place=place),))
        others = [pair for pair in self._pairs if pair[0] != first[0] and pair[1] != first[1]]
        second = _pick(draw, others or [pair for pair in self._pairs if pair != first])
        return Scene((Object(*first), Object(*second)), _pick(draw, list(RELATIONS)))


def held_pairs(share: float, seed: int = 0) -> tuple[tuple[str, str], ...]:
    """A share of the colour-shape pairs, chosen by hash, spread evenly so that every colour and shape stays."""
    if not 0 <= share <= 0.5:
        raise ValueError(f"hold_out: expected a share in [0, 0.5], got {share}")
    every = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    count = round(share * len(every))
    of_colour, of_shape = -(-count // len(COLOURS)), -(-count // len(SHAPES))
    used: Counter[str] = Counter()
    chosen: list[tuple[str, str]] = []
    for colour, shape in sorted(every, key=lambda pair: fraction(f"{seed}:{pair[0]}:{pair[1]}")):
        if len(chosen) < count and used[colour] < of_colour and used[shape] < of_shape:
            used.update((colour, shape))
            chosen.append((colour, shape))
    return tuple(chosen)


def _pick(draw: Iterator[float], choices: Sequence[Any]) -> Any:
    return choices[int(next(draw) * len(choices))]
