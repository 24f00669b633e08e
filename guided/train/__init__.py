"""Training: a recipe in, a model folder out; everything in between is a function of (seed, counter)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guided.train.recipe import Recipe as Recipe
    from guided.train.recipe import load_recipe as load_recipe
    from guided.train.run import Step as Step
    from guided.train.run import fit as fit

# No module may be named like a public function: importing it would put the module in the function's place.
_PLACES = {"Recipe": "recipe", "Step": "run", "fit": "run", "load_recipe": "recipe"}
__all__ = ["Recipe", "Step", "fit", "load_recipe"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"guided.train.{_PLACES[name]}"), name)
