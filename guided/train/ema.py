"""Averages of the weights with power-function profiles, a function of the number of updates alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn


def exponent(sigma_rel: float) -> float:
    """gamma of the profile w(t) ~ t^gamma whose std is `sigma_rel` of the run so far (Karras et al. 2024, eq. 126).

    sigma_rel in (0, 1 / sqrt(12)); at the upper end gamma is 0, the plain mean. Raises ValueError outside.
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise ValueError(f"train.ema: expected a relative width in (0, 0.2887), got {sigma_rel}")
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())


def beta(gamma: float, update: int) -> float:
    """How much of the average survives update t = 1, 2, ...: (1 - 1/t)^(gamma + 1), nothing of it the first."""
    return float((1.0 - 1.0 / update) ** (gamma + 1.0))


class PowerEMA:
    """A network holding the average of another's weights; its buffers, and what is frozen, are the other's."""

    def __init__(self, network: nn.Module, sigma_rel: float) -> None:
        self.sigma_rel = sigma_rel
        self.gamma = exponent(sigma_rel)
        frozen = {id(weight): weight for weight in network.parameters() if not weight.requires_grad}
        self.network = copy.deepcopy(network, frozen).eval()
        self._own: list[Tensor] = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.network.requires_grad_(False)

    @property
    def name(self) -> str:
        """`ema-0.050`: the file of a checkpoint that holds it."""
        return f"ema-{self.sigma_rel:.3f}"

    @torch.no_grad()
    def update(self, weights: Sequence[Tensor], update: int) -> None:
        """Take in the trained weights after update t = 1, 2, ..."""
        if self._own:
            torch._foreach_lerp_(self._own, list(weights), 1.0 - beta(self.gamma, update))
