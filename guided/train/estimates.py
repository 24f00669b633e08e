"""Classifiers of estimates: they learn from what a model makes of noisy pictures, for guides that look at D.

A classifier of clean pictures alone has never seen what a denoiser's estimate is like far from the end, blurred and
half decided, and its gradient there leads nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.train.recipe import Recipe

AUTOCAST: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class Estimates:
    """What a model makes of noisy pictures, told nothing; sha256: of its weights."""

    denoise: Denoise
    sha256: str

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D (B, *) of x (B, *) at sigma (B,)."""
        with torch.no_grad():
            return self.denoise(x, sigma, Cond())


def opened(recipe: Recipe, device: torch.device, known: str | None) -> Estimates:
    """The model of a recipe's `estimates`; known: the hash of its weights where a run goes on.

    Raises ValueError for a model that is no denoiser of such pictures, or is not the one the run began with.
    """
    from guided import zoo
    from guided.codec import Pixels

    assert recipe.estimates is not None
    model = zoo.load_model(recipe.estimates)
    if not isinstance(model.codec, Pixels) or model.translation is not None or model.channels != recipe.data.channels:
        raise ValueError(
            f"estimates: expected a model that draws pictures of {recipe.data.channels} channels, in pixels and from "
            f"noise alone, got {model.name}"
        )
    if known is not None and known != model.hash:
        raise ValueError(
            f"estimates: the weights of {recipe.estimates} are no longer those this run began with; restore them, or "
            "begin another run with out="
        )
    model.to(device).compute_in(AUTOCAST.get(recipe.train.precision))
    return Estimates(model.denoiser.requires_grad_(False), model.hash)
