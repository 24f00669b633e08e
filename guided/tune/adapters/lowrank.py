"""A low-rank change of one layer, and the algebra of such changes: joined, split, weighted and summed.

LoRA (Hu et al. 2021, arXiv 2106.09685, equation 3): W + s B A. DoRA (Liu et al. 2024, arXiv 2402.09353, equation 5):
m (W + s B A) / |W + s B A|, the norm of each row. A row here is an output of the layer, whatever the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

TINY = 1e-9


@dataclass(frozen=True, eq=False)
class LowRank:
    """down (r, in) or (r, in, k, k), up (out, r), scale = alpha / r; magnitude (out,) makes it a DoRA."""

    down: Tensor
    up: Tensor
    scale: float = 1.0
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """The number of rows of `down`."""
        return self.down.shape[0]

    @property
    def alpha(self) -> float:
        """The scale as files hold it: scale times rank."""
        return self.scale * self.rank

    def product(self) -> Tensor:
        """up @ down without the scale, (out, in * k * k), float64."""
        return self.up.double() @ self.down.double().flatten(1)

    def onto(self, weight: Tensor) -> Tensor:
        """The weights of a layer that is changed so, in the shape of its own, float64 on the CPU."""
        moved = weight.detach().cpu().double().flatten(1) + self.scale * self.product()
        if self.magnitude is not None:
            moved = moved * (self.magnitude.double() / row_norms(moved))[:, None]
        return moved.reshape(weight.shape)

    def folded(self) -> LowRank:
        """The same change with its scale within `up`."""
        return self if self.scale == 1 else replace(self, up=self.up * self.scale, scale=1.0)

    def part(self, rows: slice) -> LowRank:
        """The change of some of the outputs, without the ranks that do not reach them."""
        up = self.up[rows]
        reached = up.ne(0).any(0)
        keep = reached if bool(reached.any()) else torch.ones_like(reached)
        kept = self.down[keep], up[:, keep]
        # alpha = scale * rank, so the scale stays what it is while the rank shrinks.
        magnitude = None if self.magnitude is None else self.magnitude[rows].contiguous()
        return LowRank(kept[0].contiguous(), kept[1].contiguous(), self.scale, magnitude)


def joined(parts: Sequence[LowRank | None], rows: int, norms: Sequence[Tensor] | None = None) -> LowRank:
    """One change of a layer whose outputs are those of several, `rows` each; None leaves a part as it is.

    down one below the other, up block by block: exactly the changes of the parts. norms: the norms of the rows of
    each part's weights, needed where some parts are DoRA and others are not.
    """
    given = [part for part in parts if part is not None]
    scales = {part.scale for part in given}
    scale = scales.pop() if len(scales) == 1 else None
    even = [part if part is None or scale is not None else part.folded() for part in parts]
    up = torch.zeros(rows * len(parts), sum(part.rank for part in given), dtype=given[0].up.dtype)
    column = 0
    for i, part in enumerate(even):
        if part is not None:
            up[i * rows : (i + 1) * rows, column : column + part.rank] = part.up
            column += part.rank
    magnitude = None
    if any(part.magnitude is not None for part in given):
        if any(part is not None and part.magnitude is None for part in parts):
            raise ValueError("some parts of one layer are DoRA and others LoRA")
        held = [(norms or [])[i] if part is None else part.magnitude for i, part in enumerate(parts)]
        magnitude = torch.cat([value.to(up.dtype) for value in held if value is not None])
    down = torch.cat([part.down for part in even if part is not None])
    return LowRank(down, up, 1.0 if scale is None else scale, magnitude)


def split(whole: LowRank, parts: int) -> list[LowRank | None]:
    """The changes of the parts of a joined layer; None for a part that nothing changes while another is changed."""
    rows = whole.up.shape[0] // parts
    found = [whole.part(slice(i * rows, (i + 1) * rows)) for i in range(parts)]
    touched = [bool(part.up.any()) for part in found]
    if whole.magnitude is not None or not any(touched):
        return list(found)
    return [part if there else None for part, there in zip(found, touched, strict=True)]


def row_norms(weight: Tensor) -> Tensor:
    """The norm of each output's weights, (out,)."""
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return norms


def weighed(changes: Sequence[tuple[LowRank, float]], weight: Tensor | None) -> LowRank:
    """The sum of changes, each times its weight, as one change: W + sum_i w_i (W_i - W).

    A DoRA taken w of the way is W + w (m V / |V| - W); the sum is again g W + B A with a factor a row, which is a DoRA
    of its own. weight: of the layer, needed for a DoRA alone.
    """
    if all(change.magnitude is None for change, _ in changes):
        if len(changes) == 1:
            change, w = changes[0]
            return replace(change, scale=change.scale * w)
        ups = [change.up * (change.scale * w) for change, w in changes]
        return LowRank(torch.cat([change.down for change, _ in changes]), torch.cat(ups, 1))
    if len(changes) == 1 and changes[0][1] == 1:
        return changes[0][0]
    assert weight is not None
    base = weight.detach().cpu().double().flatten(1)
    factor, ups = torch.ones(len(base), dtype=torch.float64), []
    for change, w in changes:
        up = change.up.double() * change.scale
        if change.magnitude is not None:
            ratio = change.magnitude.double() / row_norms(base + change.scale * change.product())
            factor, up = factor + w * (ratio - 1), up * ratio[:, None]
        ups.append(w * up)
    # A row that is switched off altogether has no direction to keep: it is left a trace of one.
    factor = torch.where(factor.abs() < TINY, TINY, factor)
    down = torch.cat([change.down for change, _ in changes])
    up = torch.cat(ups, 1) / factor[:, None]
    magnitude = factor * row_norms(base + up @ down.double().flatten(1))
    dtype = changes[0][0].up.dtype
    return LowRank(down, up.to(dtype), 1.0, magnitude.to(dtype))
