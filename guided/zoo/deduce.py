"""The config of a network in the original layout from the names and shapes of its tensors, as far as they tell it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from guided.nn import UNetConfig

Shapes = Mapping[str, tuple[int, ...]]
Parts = dict[int, dict[int, set[str]]]
"""Of the numbered blocks of one way: number -> number of the part -> what follows in its tensors' names."""

_BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d{1,3})\.(\d{1,2})\.(.+)")
_LAYER = re.compile(r"transformer_blocks\.(\d{1,3})\.")


@dataclass(frozen=True)
class Deduced:
    """A config whose heads are not known yet (`head_width` 1), whether projections are matrices, and a classifier's
    (H, W); `ambiguous` names the levels (or the middle) where text and picture have one width."""

    config: UNetConfig
    linear: bool
    size: tuple[int, int] | None
    ambiguous: tuple[str, ...] = ()

    @property
    def classifier(self) -> bool:
        """Whether it is a classifier."""
        return self.size is not None


def deduce(shapes: Shapes) -> Deduced:
    """The network that tensors of these names and shapes make; raises ValueError naming the block that says nothing."""
    return _Reading(shapes).deduced()


class _Reading:
    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.ways: dict[str, Parts] = {"input_blocks": {}, "output_blocks": {}}
        for name in shapes:
            found = _BLOCK.match(name)
            if found:
                block = self.ways[found[1]].setdefault(int(found[2]), {})
                block.setdefault(int(found[3]), set()).add(found[4])
        self.down, self.up = self.ways.values()

    def deduced(self) -> Deduced:
        stem = self._shape("input_blocks.0.0.weight", 4)
        embed, time = self._shape("time_embed.0.weight", 2)
        if embed != 4 * time:  # in the original code it always is
            _refuse("time_embed.0.weight", f"is {[embed, time]}, expected four times as many rows as columns")
        if not self._depth("middle_block.1"):
            _refuse("middle_block.1.qkv.weight", "is missing")
        levels, resample = self._levels()
        size = self._classifier_size(len(levels))
        out = self._out(size is not None)
        places = [f"input_blocks.{numbers[0]}" for numbers in levels]
        widths = tuple(self._shape(f"{place}.0.in_layers.2.weight", 4)[0] for place in places)
        own, image = (stem[1], 0) if size else _channels(stem[1], out, self._attention() == "self")
        depth = tuple(self._depth(f"{place}.1") for place in places)
        context, text_only, ambiguous = self._text((*places, "middle_block"), (*widths, widths[-1]))
        vector = self.shapes.get("label_emb.0.0.weight", (0, 0))
        config = UNetConfig(
            in_channels=own,
            out_channels=out,
            widths=widths,
            blocks=tuple(len(numbers) for numbers in levels),
            resample=resample,
            scale_shift=self._shape(f"{places[0]}.0.emb_layers.1.weight", 2)[0] == 2 * widths[0],
            attention=self._attention(),
            depth=depth,
            middle_depth=self._depth("middle_block.1"),
            head_width=1,
            text_only=text_only[:-1] if any(text_only) else (),
            middle_text_only=text_only[-1],
            embed_width=embed,
            time_width=time,
            classes=self.shapes.get("label_emb.weight", (0, 0))[0],
            vector_width=vector[-1],
            token_width=context,
            null_token=not context,
            image_channels=image,
        )
        return Deduced(config, self._linear(), size, ambiguous)

    def _shape(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor that must be there; a lack is said of its block."""
        shape = self.shapes.get(name)
        if shape is None:
            _refuse(name, "is missing")
        if len(shape) != axes or 0 in shape:
            _refuse(name, f"is {list(shape)}, expected {axes} axes")
        return shape

    def _levels(self) -> tuple[list[list[int]], str]:
        """The numbers of the residual blocks of each level going down, and how the levels are joined."""
        last = max(self.down, default=0)
        if last < 1:
            _refuse("input_blocks.1.0.in_layers.2.weight", "is missing")
        convs = [k for k in range(1, last + 1) if "op.weight" in self.down.get(k, {}).get(0, ())]
        gaps = [k for k in range(1, last + 1) if k not in self.down]
        moves = sorted(convs + gaps)
        if convs or gaps:
            return list(_split(last, moves)), "conv" if convs else "plain"
        if not self.up:
            return self._search(last), "resblock"
        steps = [k for k, parts in sorted(self.up.items()) if _steps_up(parts)]
        counts = [b - a for a, b in zip([-1, *steps], [*steps, max(self.up)], strict=True)]
        at = 0
        for count in reversed(counts[1:]):
            at += count  # one block fewer than going up, and the step down
            moves.append(at)
        if at + counts[0] - 1 != last or any(count < 2 for count in counts):
            raise ValueError(f"input_blocks and output_blocks do not pair: {last} and {max(self.up) + 1} of them")
        return list(_split(last, moves)), "resblock" if steps else "conv"

    def _search(self, last: int) -> list[list[int]]:
        """The levels of a classifier, whose steps down look like any block: equally long, and all alike within."""
        fits = []
        for blocks in range(1, last + 1):
            if (last + 1) % (blocks + 1):
                continue
            levels = list(_split(last, list(range(blocks + 1, last, blocks + 1))))
            steps = set(range(1, last + 1)) - {k for numbers in levels for k in numbers}
            alike = all(len({1 in self.down[k] for k in numbers}) == 1 for numbers in levels)
            inner = [k for numbers in levels for k in numbers[1:]] + sorted(steps)
            changed = any("skip_connection.weight" in self.down[k].get(0, ()) for k in inner)
            if alike and not changed and not any(1 in self.down[k] for k in steps):
                fits.append(levels)
        if len(fits) != 1:
            raise ValueError(f"input_blocks: {last} blocks fall into levels in {len(fits)} ways, expected one")
        return fits[0]

    def _classifier_size(self, levels: int) -> tuple[int, int] | None:
        places = self.shapes.get("out.2.positional_embedding")
        if places is None:
            if self.up:
                return None
            _refuse("out.2.positional_embedding", "is missing (and no output_blocks: a classifier without its pooling)")
        side = round((places[-1] - 1) ** 0.5)
        if side < 1 or side**2 + 1 != places[-1]:
            _refuse("out.2.positional_embedding", f"is {list(places)}, expected a square of places and one more")
        return (side << (levels - 1),) * 2

    def _out(self, classifier: bool) -> int:
        return self._shape("out.2.c_proj.weight", 3)[0] if classifier else self._shape("out.2.weight", 4)[0]

    def _attention(self) -> str:
        return "transformer" if "middle_block.1.proj_in.weight" in self.shapes else "self"

    def _depth(self, place: str) -> int:
        inside = [name[len(place) + 1 :] for name in self.shapes if name.startswith(f"{place}.")]
        layers = [int(found[1]) for found in map(_LAYER.match, inside) if found]
        return max(layers) + 1 if layers else int("qkv.weight" in inside)

    def _text(self, places: tuple[str, ...], widths: tuple[int, ...]) -> tuple[int, tuple[bool, ...], tuple[str, ...]]:
        """The text's width; where text takes the place of self-attention; where shapes cannot tell that."""
        widths_of_text = {s[1] for name, s in self.shapes.items() if name.endswith("attn2.to_k.weight") and len(s) == 2}
        if not widths_of_text:
            return 0, (False,) * len(places), ()
        if len(widths_of_text) > 1:
            raise ValueError(f"attn2.to_k: reads text of several widths, {sorted(widths_of_text)}, expected one")
        (context,) = widths_of_text
        keys = [self.shapes.get(f"{place}.1.transformer_blocks.0.attn1.to_k.weight") for place in places]
        only = tuple(
            key is not None and context != width and key[-1] == context for key, width in zip(keys, widths, strict=True)
        )
        unsure = tuple(
            place
            for place, key, width in zip(places, keys, widths, strict=True)
            if key is not None and width == context and any(only)
        )
        return context, only, unsure

    def _linear(self) -> bool:
        return len(self.shapes.get("middle_block.1.proj_in.weight", ())) != 4


def _refuse(name: str, what: str) -> NoReturn:
    raise ValueError(f"{block_of(name)}: {name} {what}")


def block_of(name: str) -> str:
    """The block that a tensor belongs to: `input_blocks.4.1`, `middle_block.0`, `time_embed`, `out`."""
    parts = name.split(".")
    return ".".join(parts[: {"input_blocks": 3, "output_blocks": 3, "middle_block": 2}.get(parts[0], 1)])


def _channels(seen: int, out: int, pictures: bool) -> tuple[int, int]:
    """Channels of x and of the image beside it, from those that are read and written.

    A network of pictures may write twice the channels, for a learned variance.
    """
    if pictures and out == 6 and seen in (3, 6):
        return 3, seen - 3
    if seen == out or (pictures and 2 * seen == out):
        return seen, 0
    if seen < out:
        raise ValueError(f"out: {out} channels for {seen} that are read")
    return out, seen - out


def _split(last: int, moves: list[int]) -> Iterator[list[int]]:
    for begin, end in zip([0, *moves], [*moves, last + 1], strict=True):
        numbers = list(range(begin + 1, end))
        if not numbers:
            raise ValueError(f"input_blocks.{end}: a level without a residual block before it")
        yield numbers


def _steps_up(parts: Mapping[int, set[str]]) -> bool:
    return any(n and ("conv.weight" in names or "in_layers.2.weight" in names) for n, names in parts.items())
