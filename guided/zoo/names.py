"""One network under two names: a table pairs the tensors of our U-Net with those of a published layout.

A layout is a function of a `UNetConfig` (and of what shapes cannot tell, such as the order of heads) that yields one
`Pair` for each tensor of ours. From that one table follow reading, writing and every complaint, so what went in comes
out bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Form(Protocol):
    """How the tensors of a checkpoint make one of ours, and back: no value is ever changed, so both ways are exact."""

    def read(self, parts: Sequence[Tensor], /) -> Tensor: ...

    def write(self, whole: Tensor, /) -> list[Tensor]: ...


@dataclass(frozen=True)
class Joined:
    """`parts` tensors of one shape, one after the other along the first axis; one is the tensor itself."""

    parts: int = 1

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts)) if self.parts > 1 else parts[0]

    def write(self, whole: Tensor) -> list[Tensor]:
        return [part.contiguous() for part in whole.chunk(self.parts)]


@dataclass(frozen=True)
class Pair:
    """A tensor of ours and the tensors of the checkpoint that make it."""

    ours: str
    theirs: tuple[str, ...]
    form: Form = Joined()


def read(table: Iterable[Pair], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors from a checkpoint's; KeyError where one is missing (compare the names first)."""
    return {pair.ours: pair.form.read([state[name] for name in pair.theirs]) for pair in table}


def write(table: Iterable[Pair], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors from ours."""
    found: dict[str, Tensor] = {}
    for pair in table:
        found |= dict(zip(pair.theirs, pair.form.write(state[pair.ours]), strict=True))
    return found


@dataclass(frozen=True)
class Kernel:
    """A matrix of ours that is a convolution of size 1 there: over a sequence (`axes` 1) or a picture (2)."""

    axes: int

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].flatten(1)

    def write(self, whole: Tensor) -> list[Tensor]:
        return [whole.contiguous().reshape(*whole.shape, *[1] * self.axes)]


@dataclass(frozen=True)
class HeadsFirst:
    """Rows of query, key and value, in ours one after the other; there each head has its own three side by side."""

    heads: int

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return self._swapped(parts[0], (self.heads, 3))

    def write(self, whole: Tensor) -> list[Tensor]:
        return [self._swapped(whole, (3, self.heads))]

    @staticmethod
    def _swapped(rows: Tensor, outer: tuple[int, int]) -> Tensor:
        width = rows.shape[0] // (outer[0] * outer[1])
        return rows.reshape(*outer, width, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape).contiguous()


@dataclass(frozen=True)
class Transposed:
    """A matrix that is stored the other way round."""

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].T.contiguous()

    def write(self, whole: Tensor) -> list[Tensor]:
        return [whole.T.contiguous()]


@dataclass(frozen=True)
class NullRow:
    """A table of embeddings whose last row in ours, "no class", is not there: zeros, which add nothing."""

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat((parts[0], torch.zeros_like(parts[0][:1])))

    def write(self, whole: Tensor) -> list[Tensor]:
        return [whole[:-1].contiguous()]


@dataclass(frozen=True)
class Absent:
    """A tensor of ours that has no counterpart there and is zero."""

    shape: tuple[int, ...]

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.zeros(self.shape)

    def write(self, whole: Tensor) -> list[Tensor]:
        return []


@dataclass(frozen=True)
class Then:
    """Two forms, one after the other as they are read."""

    first: Form
    second: Form

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return self.second.read([self.first.read(parts)])

    def write(self, whole: Tensor) -> list[Tensor]:
        return self.first.write(self.second.write(whole)[0])


@dataclass(frozen=True)
class Inverse:
    """A form of one tensor the other way: what it writes is read."""

    form: Form

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return self.form.write(parts[0])[0]

    def write(self, whole: Tensor) -> list[Tensor]:
        return [self.form.read([whole])]


def lost(table: Iterable[Pair], state: Mapping[str, Tensor]) -> list[str]:
    """Those of our tensors that the checkpoint has no place for, and that hold something: zeros are made again."""
    found = []
    for pair in table:
        if isinstance(pair.form, NullRow | Absent):
            value = state[pair.ours]
            again = pair.form.read(pair.form.write(value)).to(value)
            found += [] if torch.equal(again, value) else [pair.ours]
    return found
