"""The planner: the branches of a whole guide, each evaluated once, in as few network calls as they allow."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise


@dataclass(frozen=True)
class Branch:
    """The recipe of one evaluation: which network, which condition, which of its fields are dropped.

    denoise None: the guided denoiser itself. cond None: the condition of the call. Two branches are one where their
    recipes are equal, so equal contents in two records are not searched for.
    """

    denoise: Denoise | None = None
    cond: Cond | None = None
    dropped: frozenset[str] = frozenset()

    def seen_by(self, accepts: Collection[str] | None) -> Branch:
        """The same evaluation without what the network cannot see."""
        if accepts is None:
            return self
        return Branch(self.denoise, self.cond if accepts else None, self.dropped & frozenset(accepts))


def accepted(denoise: Denoise) -> frozenset[str] | None:
    """The fields a denoiser declares it can see, None where it declares nothing."""
    fields: frozenset[str] | None = getattr(denoise, "accepts", None)
    return fields


def run(base: Denoise, branches: Iterable[Branch], x: Tensor, sigma: Tensor, cond: Cond) -> dict[Branch, Tensor]:
    """Evaluate each branch at (x, sigma); those that share a network share one call."""
    groups: dict[int, tuple[Denoise, list[Branch]]] = {}
    for branch in branches:
        network = branch.denoise or base
        listed = groups.setdefault(id(network), (network, []))[1]
        if branch not in listed:
            listed.append(branch)
    found: dict[Branch, Tensor] = {}
    for network, group in groups.values():
        conds = [(b.cond or cond).null(b.dropped) if b.dropped else (b.cond or cond) for b in group]
        if len(group) == 1:
            found[group[0]] = network(x, sigma, conds[0])
            continue
        rows = [len(x)] * len(group)
        levels = sigma if sigma.ndim == 0 else torch.cat([sigma] * len(group))
        D = network(torch.cat([x] * len(group)), levels, Cond.cat(conds, rows))
        found.update(zip(group, torch.split(D, len(x)), strict=True))
    return found
