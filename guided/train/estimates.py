"""Classifiers of estimates: they learn from what a model makes of noisy pictures, for guides that look at D.

A classifier of clean pictures alone has never seen what a denoiser's estimate is like far from the end, blurred and
half decided, and its gradient there leads nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoise
from guided.train.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Estimates:
    """What a model makes of noisy pictures, told nothing; its name, and the hash of its weights."""

    denoise: Denoise
    name: str
    sha256: str

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D (B, *) of x (B, *) at sigma (B,)."""
        with torch.no_grad():
            return self.denoise(x, sigma, Cond())


def opened(
    recipe: Recipe, device: torch.device, dtype: torch.dtype | None, facts: Mapping[str, Any] | None
) -> Estimates:
    """The model of a recipe's `estimates` on a device, computing in a dtype (None: its own).

    facts: what is known of the run where one goes on. Raises what `zoo.load_model` raises, and ValueError for a model
    whose D is no estimate of such pictures from noise alone, or which is not the one the run began with.
    """
    from guided import zoo
    from guided.codec import Pixels

    assert recipe.estimates is not None
    model = zoo.load_model(recipe.estimates)
    height, width = recipe.data.size
    form = recipe.data.channels, (height, width)
    if not isinstance(model.codec, Pixels) or "image" in model.denoiser.accepts or (model.channels, model.size) != form:
        raise ValueError(
            f"estimates: expected a model that draws pictures of {recipe.data.channels} channels, {width} x {height} "
            f"px, in pixels and from noise alone, got {model.name}"
        )
    if model.distilled is not None:
        raise ValueError(
            f"estimates: {model.name} is distilled: where its steps lead is no estimate of a picture; give its teacher"
        )
    if facts is not None and facts["estimates"] != model.hash:
        raise ValueError(
            f"estimates: the weights of {recipe.estimates} are no longer those this run began with; restore them, or "
            "begin another run with out="
        )
    model.to(device).compute_in(dtype)
    return Estimates(model.denoiser.requires_grad_(False), model.name, model.hash)
