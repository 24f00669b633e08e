"""What a network is conditioned on: one frozen, batch-first record."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SEMANTIC = frozenset({"label", "tokens", "vector"})
FIELDS = ("label", "tokens", "mask", "vector", "image", "aug", "guidance")


@dataclass(frozen=True, eq=False)
class Cond:
    """The condition of a batch of B images; every field is batch first, and any may be absent.

    label (B,) int64, -1 = absent. tokens (B, T, C) float with mask (B, T) bool, True = a real token; all False =
    absent. vector (B, V), image (B, C, H, W), aug (B,): float, NaN = absent (a zero image is mid-grey, not absence).
    guidance (B,): float, the weight that a distilled network is to guide itself with, NaN = absent, which is 1.
    A field that is None is absent for the whole batch. The wrapper at the edge turns absent into what its network
    was trained on, so condition dropout, the null of classifier-free guidance and a missing modality are one thing.

    Raises ValueError if the fields disagree about the batch, or if tokens and mask do not match.
    """

    label: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    vector: Tensor | None = None
    image: Tensor | None = None
    aug: Tensor | None = None
    guidance: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.tokens is None) != (self.mask is None):
            raise ValueError("Cond: tokens and mask come together; give both, or neither")
        if self.tokens is not None and self.mask is not None and self.tokens.shape[:2] != self.mask.shape:
            raise ValueError(
                f"Cond: tokens {tuple(self.tokens.shape)} need a mask of {tuple(self.tokens.shape[:2])}, "
                f"got {tuple(self.mask.shape)}"
            )
        sizes = {name: len(value) for name, value in self._given()}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"Cond: fields differ in their batch size: {sizes}")

    def _given(self) -> list[tuple[str, Tensor]]:
        pairs = ((name, getattr(self, name)) for name in FIELDS)
        return [(name, value) for name, value in pairs if value is not None]

    @property
    def size(self) -> int | None:
        """B, or None where nothing is given."""
        given = self._given()
        return len(given[0][1]) if given else None

    def index(self, rows: Tensor | slice | Sequence[int]) -> Cond:
        """The condition of some rows of the batch, in the order given."""
        return Cond(**{name: value[rows] for name, value in self._given()})

    def crop(self, window: tuple[slice, slice]) -> Cond:
        """The condition of one window (rows, columns) of the image plane: what lies in space is cut, the rest stays."""
        if self.image is None:
            return self
        return dataclasses.replace(self, image=self.image[..., window[0], window[1]])

    def only(self, fields: Collection[str]) -> Cond:
        """Keep these fields alone (what a network accepts); `tokens` and its mask are one."""
        keep = _paired(fields)
        return Cond(**{name: value for name, value in self._given() if name in keep})

    def drop(self, where: Tensor, fields: Collection[str] = SEMANTIC) -> Cond:
        """Declare these fields absent for the images where `where` (B,) is True; `tokens` and its mask are one.

        Raises ValueError for an unknown field.
        """
        unknown = set(fields) - set(FIELDS)
        if unknown:
            raise ValueError(f"Cond.drop: unknown fields {sorted(unknown)}; known: {', '.join(FIELDS)}")
        fields = _paired(fields)
        new: dict[str, Tensor] = {}
        for name, value in self._given():
            gone = where.to(value.device).view(-1, *[1] * (value.ndim - 1))
            if name == "mask" and name in fields:
                new[name] = value & ~gone
            elif name == "label" and name in fields:
                new[name] = value.masked_fill(gone, -1)
            elif name in fields and name not in ("tokens", "mask"):
                new[name] = value.masked_fill(gone, float("nan"))
        return dataclasses.replace(self, **new)

    def null(self, fields: Collection[str] = SEMANTIC) -> Cond:
        """The condition with these fields absent for every image: the null of classifier-free guidance."""
        size = self.size
        return self if size is None else self.drop(torch.ones(size, dtype=torch.bool), fields)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Cond:
        """Move to a device; `dtype` applies to the floating-point fields."""
        return Cond(
            **{
                name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
                for name, value in self._given()
            }
        )

    @staticmethod
    def cat(conds: Sequence[Cond], sizes: Sequence[int]) -> Cond:
        """Join batches of the given sizes (a Cond without fields does not know its own).

        Tokens are padded to the longest; a field that some lack is declared absent for them. Other differences in
        shape raise ValueError.
        """
        for cond, size in zip(conds, sizes, strict=True):
            if cond.size not in (None, size):
                raise ValueError(f"Cond.cat: a condition of {cond.size} images was announced as {size}")
        joined = {name: _join(name, conds, sizes) for name in FIELDS}
        return Cond(**{name: value for name, value in joined.items() if value is not None})


def _paired(fields: Collection[str]) -> set[str]:
    return set(fields) | ({"tokens", "mask"} if {"tokens", "mask"} & set(fields) else set())


def _join(name: str, conds: Sequence[Cond], sizes: Sequence[int]) -> Tensor | None:
    values: list[Tensor | None] = [getattr(cond, name) for cond in conds]
    given = [value for value in values if value is not None]
    if not given:
        return None
    first = given[0]
    if name in ("tokens", "mask"):
        longest = max(value.shape[1] for value in given)
        values = [None if value is None else _pad(value, longest) for value in values]
        first = next(value for value in values if value is not None)
    filled = [
        first.new_full((size, *first.shape[1:]), _ABSENT[name]) if value is None else value
        for value, size in zip(values, sizes, strict=True)
    ]
    shapes = {tuple(value.shape[1:]) for value in filled}
    if len(shapes) > 1:
        raise ValueError(f"Cond.cat: {name} differs in shape: {sorted(shapes)}")
    return torch.cat(filled)


_ABSENT = {
    "label": -1,
    "tokens": 0.0,
    "mask": False,
    "vector": float("nan"),
    "image": float("nan"),
    "aug": float("nan"),
    "guidance": float("nan"),
}


def _pad(value: Tensor, length: int) -> Tensor:
    extra = length - value.shape[1]
    if extra == 0:
        return value
    return torch.cat([value, value.new_zeros(value.shape[0], extra, *value.shape[2:])], dim=1)
