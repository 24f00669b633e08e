"""Memory for a little time: what normalisations and activations return is made again on the way back, not kept.

A convolution keeps its input for its gradient. Where that is the output of a normalisation whose own input is kept
anyway, the output costs memory and could be had again for a few per cent of a step. Within `cheaply` it is: layers say
of an output how it is made (`known`), and what torch would keep of these is kept as that.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Recipe = Callable[[], Tensor]


class _Here(threading.local):
    def __init__(self) -> None:
        self.recipes: dict[tuple[Any, ...], Recipe] | None = None


_here = _Here()


def known(y: Tensor, again: Recipe) -> Tensor:
    """y, which again() makes once more of what is kept anyway; that must not hang on a graph."""
    recipes = _here.recipes
    if recipes is not None:
        key = _key(y)
        recipes[key] = again
        # The memory may be another tensor's as soon as y is gone.
        weakref.finalize(y, recipes.pop, key, None)
    return y


@contextlib.contextmanager
def cheaply() -> Iterator[None]:
    """What the graph of this block keeps of known outputs is kept as the way to make them again."""
    before = _here.recipes
    recipes: dict[tuple[Any, ...], Recipe] = {}
    _here.recipes = recipes

    def pack(kept: Tensor) -> Tensor | Recipe:
        return recipes.get(_key(kept), kept)

    def unpack(found: Tensor | Recipe) -> Tensor:
        if isinstance(found, Tensor):
            return found
        with torch.no_grad():
            made: Tensor = found()
        return made

    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield
    finally:
        _here.recipes = before


def gradients(function: Callable[..., Tensor], inputs: Sequence[Tensor | None], dy: Tensor) -> list[Tensor | None]:
    """The gradients of function(*inputs) by its inputs, given that by its output, with a graph of their own."""
    with torch.enable_grad():
        wanted = [value for value in inputs if value is not None and value.requires_grad]
        found = iter(torch.autograd.grad(function(*inputs), wanted, dy, create_graph=True, allow_unused=True))
        return [next(found) if value is not None and value.requires_grad else None for value in inputs]


def _key(y: Tensor) -> tuple[Any, ...]:
    return y.data_ptr(), y.dtype, y.shape, y.stride()
