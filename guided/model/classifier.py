"""`NoisyClassifier`: which class a noisy picture shows, opened from and saved to a folder as a `Model` is."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guided.cond import Cond
from guided.denoiser import Parametrization, spread
from guided.model import card as cards
from guided.model import store
from guided.model.model import Model
from guided.nn import EncoderUNet


class NoisyClassifier(nn.Module):
    """ln p(class | x; sigma) of noisy pictures x = x0 + sigma n, for guidance (Dhariwal and Nichol 2021, 2105.05233).

    network: (x, c_noise, cond) -> logits (B, classes); of the parametrization it takes the scale of x and the noise
    level as the network sees it. lo, hi: the noise levels it was trained on, to which sigma is clamped. card: as
    `Model`'s; `size` [H, W] and `classes`, their names, are needed to save it; `estimates` where it learnt from what a
    model makes of noisy pictures: it then tells the class of such D's, and takes no sigma.
    """

    def __init__(
        self,
        network: nn.Module,
        parametrization: Parametrization,
        lo: float = 0.002,
        hi: float = 80.0,
        card: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.parametrization = parametrization
        self.lo, self.hi = lo, hi
        self.card: dict[str, Any] = {**(card or {}), "range": [float(lo), float(hi)]}
        known = getattr(getattr(network, "config", None), "out_channels", None)
        if self.classes and known not in (None, len(self.classes)):
            raise ValueError(f"card: it names {len(self.classes)} classes, the network knows {known}")
        self.autocast: torch.dtype | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return tuple(self.card.get("classes") or ())

    @property
    def name(self) -> str:
        """The card's name of it, for messages."""
        return str(self.card.get("name") or "the classifier")

    def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """Logits (B, classes) of x (B, C, H, W) at sigma, () or (B,), in x's dtype; None: x has no noise.

        Raises ValueError for a sigma where it learnt from estimates.
        """
        if sigma is not None and self.card.get("estimates"):
            raise ValueError(
                f'{self.name} learnt from a model\'s estimates and knows no noise: use gradient(..., reads="D")'
            )
        sigma = torch.tensor(self.lo, dtype=torch.float64) if sigma is None else sigma
        sigma = sigma.to(device=x.device, dtype=torch.float64).expand(len(x))
        scale = self.parametrization.coefficients(sigma).scale
        noise = self.parametrization.coefficients(sigma.clamp(self.lo, self.hi)).noise
        weights = next(self.network.parameters(), x)
        with torch.autocast(x.device.type, self.autocast, enabled=self.autocast is not None):
            seen = (spread(scale, x) * x).to(weights.dtype)
            found: Tensor = self.network(seen, noise.to(torch.promote_types(weights.dtype, torch.float32)), Cond())
        return found.to(x.dtype)

    def log_prob(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
        """ln p(class | x; sigma), (B, classes); x, sigma as in `forward`."""
        return self(x, sigma).log_softmax(1)  # type: ignore[no-any-return]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> NoisyClassifier:
        """Open a classifier's folder, or the folder of a finished training run; raises as `Model.open`."""
        found = store.read(
            pathlib.Path(folder),
            EncoderUNet,
            lambda card, network: cls(network, cards.parametrization(card), *card["range"]),
        )
        plain = found.framed
        return cls(plain.network, plain.parametrization, plain.lo, plain.hi, found.card).eval()

    def save(self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> pathlib.Path:
        """Write the folder, whole or not at all; see `Model.save`."""
        place = pathlib.Path(folder)
        store.write(place, self, cards.codec({}), self.card, None, dtype)
        return place


def opened(folder: str | os.PathLike[str]) -> Model | NoisyClassifier:
    """What a folder holds, as its card says; raises as `Model.open`."""
    if store.holds_classifier(pathlib.Path(folder)):
        return NoisyClassifier.open(folder)
    return Model.open(folder)
