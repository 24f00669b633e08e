"""What one sampling run has worked out already: text projected to keys, weights packed, conditions joined.

A run evaluates a network many times under the same conditions and weights. What follows from these alone is found by
the first evaluation and kept in the run's own `Run`, in no network, guide or solver: it ends with the run, so it can
never be stale, and networks at work in other threads never see it. Outside a run everything is found anew each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor

from guided import _memory

T = TypeVar("T")

RECENT = 64
"""So many results that hang on conditions are kept; a run may make new conditions at every step, as in tiles."""


class Run:
    """The results of one run, by what they were made of: some for good (of weights), of others the newest.

    room: bytes that weights packed for it may still take; half of what the machine has free at its beginning.
    """

    def __init__(self) -> None:
        self.room = _memory.available() // 2
        self.lasting: dict[tuple[Hashable, ...], tuple[object, Any]] = {}
        self.recent: dict[tuple[Hashable, ...], tuple[object, Any]] = {}


class _Here(threading.local):
    # As in `guided.perturbation`: torch.compile cannot trace a ContextVar.
    def __init__(self) -> None:
        self.run: Run | None = None
        self.levels: Tensor | None = None


_here = _Here()


def current() -> Run | None:
    """The run that is at work in this thread."""
    return _here.run


def levels() -> Tensor | None:
    """The noise levels at which the run evaluates, as far as they are known beforehand: its path."""
    return _here.levels


class within:
    """Evaluations in this block, in this thread, belong to the run (None: to none), at the levels of its path."""

    # A class, not a generator: a step of a solver enters it, and the block of a generator costs as much as a sum.
    def __init__(self, run: Run | None, levels: Tensor | None = None) -> None:
        self.inside = run, levels

    def __enter__(self) -> None:
        self.before = _here.run, _here.levels
        _here.run, _here.levels = self.inside

    def __exit__(self, *_: object) -> None:
        _here.run, _here.levels = self.before


def running() -> within:
    """Evaluations in this block, in this thread, belong to one run: the one at work, or a new one."""
    return within(_here.run or Run(), _here.levels)


def once(kind: Hashable, held: tuple[object, ...], work: Callable[[], T], lasting: bool = False) -> T:
    """work(), without a graph, found once in a run for this kind and these very objects; outside a run work() itself.

    held: what the result is made of, compared by identity and kept alive; none of it may change during the run.
    """
    run = None if torch.compiler.is_compiling() else _here.run
    if run is None:
        return work()
    store = run.lasting if lasting else run.recent
    key = (kind, *map(id, held))
    found = store.get(key)
    if found is not None:
        return found[1]  # type: ignore[no-any-return]
    with torch.no_grad():
        result = work()
    store[key] = (held, result)
    if not lasting and len(store) > RECENT:
        store.pop(next(iter(store)))
    return result
