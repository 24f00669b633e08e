"""What is minimised: the denoising loss of every parametrisation, weight(sigma) * mean((D - x0)^2); cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from guided.cond import Cond
from guided.denoiser import Denoise, Parametrization, spread
from guided.noise import generator
from guided.train.estimates import Estimates
from guided.train.recipe import LossSection, Recipe

Weight = Callable[[Tensor], Tensor]
Objective = Callable[..., Tensor]
"""(denoiser or classifier, x0, noise, sigma, cond[, target]) -> the loss of each image, (B,)."""


def objective(recipe: Recipe, parametrization: Parametrization, estimates: Estimates | None = None) -> Objective:
    """The loss of a recipe's task. estimates: what a classifier reads in place of the noisy pictures."""
    if estimates is not None:
        return lambda classifier, *given: cross_entropy(lambda x, sigma: classifier(estimates(x, sigma)), *given)
    if recipe.task == "classifier":
        return cross_entropy
    weigh = weight(recipe.loss, recipe.denoiser.sigma_data, parametrization)
    return lambda denoise, *given: loss(denoise, weigh, *given)


def weight(section: LossSection, sigma_data: float, parametrization: Parametrization) -> Weight:
    """The weight of mean((D - x0)^2) as a function of sigma (B,) float64; the signal-to-noise ratio is 1 / sigma^2.

    output: the plain mean square of the network's own output, 1 / c_out^2. eps, x0, v, flow, edm: that of a network
    which predicts this, whatever ours predicts. min_snr: min(SNR, gamma) (Hang et al. 2023). sigmoid:
    sigmoid(ln SNR - bias) (Kingma and Gao 2023; Hoogeboom et al. 2024, in x0-form).
    """

    def output(sigma: Tensor) -> Tensor:
        return parametrization.coefficients(sigma).out ** -2

    weights: dict[str, Weight] = {
        "output": output,
        "edm": lambda s: (s**2 + sigma_data**2) / (s * sigma_data) ** 2,
        "eps": lambda s: s**-2,
        "x0": torch.ones_like,
        "v": lambda s: 1 + s**-2,
        "flow": lambda s: (1 + 1 / s) ** 2,
        "min_snr": lambda s: (s**-2).clamp(max=section.gamma),
        "sigmoid": lambda s: torch.sigmoid(-2 * s.log() - section.bias),
    }
    return weights[section.weight]


def loss(
    denoise: Denoise, weigh: Weight, x0: Tensor, noise: Tensor, sigma: Tensor, cond: Cond, target: Tensor | None = None
) -> Tensor:
    """The weighted loss of each image, (B,): weight(sigma) mean((D(x0 + sigma n; sigma) - x0)^2).

    x0, noise: (B, *); sigma: (B,) float64. Its minimiser is E[x0 | x, cond] for every weight above 0. target: what D is
    to be, in place of x0.
    """
    x = torch.addcmul(x0, spread(sigma, x0), noise)
    error = denoise(x, sigma, cond) - (x0 if target is None else target)
    return spread(weigh(sigma), error).flatten() * error.square().flatten(1).mean(1)


def cross_entropy(
    classifier: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    noise: Tensor,
    sigma: Tensor,
    cond: Cond,
    target: None = None,
) -> Tensor:
    """-ln p(label | x0 + sigma n; sigma) of each image in nats, (B,); 0 where the label is absent.

    Arguments as in `loss`. Its minimiser is the exact class posterior at every noise level.
    """
    assert cond.label is not None
    logits = classifier(torch.addcmul(x0, spread(sigma, x0), noise), sigma)
    return F.cross_entropy(logits, cond.label, ignore_index=-1, reduction="none")


class Uncertainty(nn.Module):
    """A learned log-variance of the loss at each noise level (Karras et al. 2024, section 2.2 and appendix B.3).

    The objective l / exp(u) + u has its minimum over u at u = ln E[l | sigma], so every level then pulls alike.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, seed: int = 0, width: int = 128) -> None:
        super().__init__()
        source = generator("train/uncertainty", seed, 0)
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(width, generator=source))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width, generator=source))
        self.readout = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.readout.weight)

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma (B,) -> u (B,)."""
        level = (sigma.log() / 4).to(self.phases.dtype)
        waves = math.sqrt(2 / len(self.phases)) * (level[:, None] * self.frequencies + self.phases).cos()
        u: Tensor = self.readout(waves)
        return u.squeeze(1)

    def objective(self, losses: Tensor, sigma: Tensor) -> Tensor:
        """losses (B,) -> what is minimised, (B,)."""
        u: Tensor = self(sigma)
        return losses / u.exp() + u
