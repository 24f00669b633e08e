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
    found = {}
    for pair in table:
        found |= dict(zip(pair.theirs, pair.form.write(state[pair.ours]), strict=True))
    return found


@dataclass(frozen=True)
class Matrix:
    """A convolution with a kernel of one place along each of some axes, which is a matrix with us."""

    axes: int = 2

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return parts[0].flatten(1)

    def write(self, whole: Tensor) -> list[Tensor]:
        return [whole.reshape(*whole.shape, *[1] * self.axes)]


@dataclass(frozen=True)
class Rows:
    """A table that has one more row with us, for what is absent: zeros, since the checkpoint knows none."""

    meaning: str

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat((parts[0], torch.zeros_like(parts[0][:1])))

    def write(self, whole: Tensor) -> list[Tensor]:
        _need_zero(whole[-1], self.meaning)
        return [whole[:-1].contiguous()]


@dataclass(frozen=True)
class Blank:
    """A tensor of ours for what is absent, which the checkpoint does not have: zeros."""

    shape: tuple[int, ...]
    meaning: str

    def read(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.zeros(self.shape)

    def write(self, whole: Tensor) -> list[Tensor]:
        _need_zero(whole, self.meaning)
        return []


def _need_zero(value: Tensor, meaning: str) -> None:
    if not value.is_meta and bool(value.any()):
        raise ValueError(f"the network has learnt what stands for {meaning}, and the other layout has no place for it")
