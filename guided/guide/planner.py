"""The planner: the branches of a whole guide, each evaluated once, in as few network calls as they allow."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from guided import reuse
from guided.cond import FIELDS, SEMANTIC, Cond
from guided.denoiser import Denoise, one_below_the_other
from guided.perturbation import Perturbation, applied


@dataclass(frozen=True, eq=False)
class Branch:
    """The recipe of one evaluation: which network, which condition, which of its fields are dropped, how disturbed.

    denoise None: the guided denoiser itself. cond None: the condition of the call; any other replaces its label, tokens
    and vector, and its image and aug where it has its own. guidance: the weight that a distilled network is told, a
    number or (B,); None: what the condition says. Two branches are one where their recipes are equal, so equal contents
    in two records are not searched for.
    """

    denoise: Denoise | None = None
    cond: Cond | None = None
    dropped: frozenset[str] = frozenset()
    perturbation: Perturbation | None = None
    guidance: float | Tensor | None = None

    def _recipe(self) -> tuple[object, ...]:
        # By identity: a denoiser need not be hashable.
        weight = id(self.guidance) if isinstance(self.guidance, Tensor) else self.guidance
        return id(self.denoise), id(self.cond), self.dropped, self.perturbation, weight

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Branch) and self._recipe() == other._recipe()

    def __hash__(self) -> int:
        return hash(self._recipe())

    def seen_by(self, accepts: Collection[str] | None) -> Branch:
        """The same evaluation without what the network cannot see: then the nulls of all conditions are one."""
        seen = frozenset(FIELDS if accepts is None else accepts)
        dropped, cond = self.dropped & seen, self.cond
        if cond is not None and SEMANTIC & seen <= dropped:
            cond = cond if any(getattr(cond, field) is not None for field in BESIDE & seen - dropped) else None
        return Branch(self.denoise, cond, dropped, self.perturbation, self.guidance if "guidance" in seen else None)

    def of(self, cond: Cond, x: Tensor) -> Cond:
        """The condition of this branch, where the call's is `cond` and its images are x (B, *)."""
        if self == BASE:
            return cond
        held = cond, self.cond, self.guidance
        return reuse.once(("branch", self.dropped, self.guidance is None, len(x)), held, lambda: self._of(cond, x))

    def _of(self, cond: Cond, x: Tensor) -> Cond:
        given = cond if self.cond is None else _instead(self.cond, cond, len(x))
        return _told(given.null(self.dropped) if self.dropped else given, self.guidance, x)

    def under(self, outer: Branch) -> Branch:
        """This branch of a guided denoiser, where that itself is evaluated as `outer`."""
        dropped = outer.dropped
        if self.cond is not None:
            dropped = frozenset(field for field in dropped & BESIDE if getattr(self.cond, field) is None)
        return Branch(
            self.denoise or outer.denoise,
            self.cond if self.cond is not None else outer.cond,
            self.dropped | dropped,
            self.perturbation or outer.perturbation,
            self.guidance if self.guidance is not None else outer.guidance,
        )


BASE = Branch()
"""The conditional model as it is."""

BESIDE = frozenset({"image", "aug", "guidance"})
"""The fields that a condition leaves as they are where it stands in for another, as the null does."""


def accepted(denoise: Denoise) -> frozenset[str] | None:
    """The fields a denoiser declares it can see, None where it declares nothing."""
    fields: frozenset[str] | None = getattr(denoise, "accepts", None)
    return fields


def run(
    base: Denoise,
    branches: Iterable[Branch],
    x: Tensor,
    sigma: Tensor,
    cond: Cond,
    graph: Mapping[Branch, Tensor] = MappingProxyType({}),
) -> dict[Branch, Tensor]:
    """Evaluate each branch at (x, sigma); those that share network, perturbation and need of a graph share one call.

    graph: the branches whose estimate is to hang by its autograd graph on the x given there.
    """
    groups: dict[tuple[int, Perturbation | None, bool], list[Branch]] = {}
    for branch in dict.fromkeys(branches):
        key = (id(branch.denoise or base), branch.perturbation, branch in graph)
        groups.setdefault(key, []).append(branch)
    found: dict[Branch, Tensor] = {}
    for (_, perturbation, differentiable), group in groups.items():
        network = group[0].denoise or base
        grad = torch.enable_grad() if differentiable else contextlib.nullcontext()
        # An undisturbed branch stays as disturbed as a guide around this one has it.
        with grad, contextlib.nullcontext() if perturbation is None else applied(perturbation):
            found.update(zip(group, _together(network, group, graph.get(group[0], x), sigma, cond), strict=True))
    return found


def _together(network: Denoise, group: list[Branch], x: Tensor, sigma: Tensor, cond: Cond) -> tuple[Tensor, ...]:
    """The estimates of branches that share one call."""
    return under(network, [branch.of(cond, x) for branch in group], x, sigma)


def under(network: Denoise, conds: Sequence[Cond], x: Tensor, sigma: Tensor) -> tuple[Tensor, ...]:
    """The estimates of x under each condition, by what the network offers for that."""
    if len(conds) == 1 or not getattr(network, "takes_several", False):
        return one_below_the_other(network, x, sigma, conds)
    return network(x, sigma, *conds).chunk(len(conds))


def _told(cond: Cond, guidance: float | Tensor | None, x: Tensor) -> Cond:
    """The condition with the guidance weight of a branch, (B,) for the images x (B, *)."""
    if guidance is None:
        return cond
    return dataclasses.replace(cond, guidance=torch.as_tensor(guidance).to(x).expand(len(x)))


def _instead(other: Cond, cond: Cond, size: int) -> Cond:
    """The condition of a branch in place of the call's; one of a single row is every image's."""
    if other.size not in (None, 1, size):
        raise ValueError(
            f"a condition of a guide has {other.size} images, the call {size}: give one for all, or one each"
        )
    other = other.index([0] * size) if other.size == 1 and size > 1 else other
    return dataclasses.replace(other, **{f: getattr(cond, f) for f in BESIDE if getattr(other, f) is None})
