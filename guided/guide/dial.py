"""The guidance weight of a distilled network, told to it in one evaluation instead of contrasted in two."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from guided.guide.planner import BASE, Branch
from guided.guide.term import Contrast, Linear, Weight, checked, value, written


@dataclass(frozen=True, eq=False, repr=False)
class Dial(Contrast):
    """See `dial`."""

    w: Weight

    def linear(self, sigma: Tensor, next_sigma: Tensor | None) -> Linear:
        w = value(self.w, sigma, next_sigma)
        # The base, with weight 1 before any term, gives way to the network that was told the weight.
        return [(-1.0, BASE), (1.0, Branch(guidance=w))]

    def describe(self) -> str:
        return f"dial({written(self.w)})"


def dial(w: Weight) -> Dial:
    """Tell a network that learnt guidance as an input which weight is meant (Meng et al. 2023, arXiv 2210.03142).

    D(x, sigma, cond, w) in one evaluation takes the place of the conditional D. w: a number, (B,), or a function of
    (sigma, next_sigma) that gives one of these; 1 is the conditional model. A network that takes no such input, whose
    `accepts` lacks "guidance", stays as it is. Raises ValueError for a map (B, 1, H, W): an image has one weight.
    """
    if isinstance(w, Tensor) and w.ndim > 1:
        raise ValueError(f"dial: expected a number, or one an image (B,), got a tensor {tuple(w.shape)}")
    return Dial(checked("dial", w))
