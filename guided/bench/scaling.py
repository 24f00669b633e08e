"""`guided bench scaling`: how time and memory grow with batch, size, length of text and steps, beside the FLOP."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from guided.bench import looping, memory, mine, plots, speed, timing, tuned
from guided.bench.cases import Case, Group, Made, Side, no_grad
from guided.bench.mine import Way
from guided.bench.networks import Inputs, Pair, Size, inputs
from guided.bench.record import Record
from guided.cond import Cond
from guided.guide import cfg
from guided.guide.contrast import Cfg

BATCHES, SIDES, TOKENS, STEPS = (1, 2, 4, 8, 16), (32, 64, 128, 256), (16, 77, 154, 308), (5, 10, 20, 40)
TIME, MEMORY = "time", "memory"


@dataclass(frozen=True)
class Axis:
    """What is varied, over which values, in a network of which everything else stays as it is."""

    name: str
    values: Sequence[int]
    run: Callable[[Pair, int], Point]


@dataclass(frozen=True, eq=False)
class Point:
    """One value: the runs of both libraries, set up when they are asked for, and the FLOP of one."""

    ours: Callable[[], Made]
    theirs: Callable[[], Made]
    flops: Callable[[], float]


def shapes(pair: Pair, batch: Inputs) -> Point:
    """A forward of a batch."""

    def ours() -> Made:
        call = mine.forward(mine.network(pair), None, Way.RUN)
        return no_grad(lambda: call(batch))

    def theirs() -> Made:
        call = tuned.default().prepared(pair)
        return no_grad(lambda: call(batch))

    return Point(ours, theirs, lambda: speed.flops(pair, batch))


def loop(pair: Pair, steps: int) -> Point:
    """A whole run of one picture under guidance."""
    batch = inputs(pair.size, 1, pair.device)
    null = torch.zeros_like(batch.tokens)
    negative = Cond(tokens=null, mask=torch.ones_like(null[..., 0], dtype=torch.bool))

    def ours() -> Made:
        return no_grad(looping.our_run(pair, batch, looping.path(steps), guide(negative)))

    def theirs() -> Made:
        call = tuned.default().prepared(pair)
        return no_grad(lambda: looping.pipeline(call, batch, null, steps, "EulerDiscreteScheduler"))

    return Point(ours, theirs, lambda: 2 * steps * speed.flops(pair, batch))


def guide(negative: Cond) -> Cfg:
    """The guide of the loop."""
    return cfg(looping.W, negative=negative)


def axes(size: Size) -> tuple[Axis, ...]:
    """The four; a network of pictures of 16 pixels is shown sizes a quarter as large."""
    part = max(1, 64 // size.side)
    return (
        Axis("batch", BATCHES, lambda pair, n: shapes(pair, inputs(pair.size, n, pair.device))),
        Axis(
            "side in px", [s // part for s in SIDES], lambda pair, n: shapes(pair, inputs(pair.size, 1, pair.device, n))
        ),
        Axis("length of text", TOKENS, lambda pair, n: shapes(pair, inputs(pair.size, 1, pair.device, tokens=n))),
        Axis("steps", STEPS, loop),
    )


def groups(size: Size, device: str) -> list[Group]:
    """A group for each value of each axis, for time and for memory."""
    pair = Pair(size, device)
    return [
        _group(pair, axis, value, axis.run(pair, value), what)
        for axis in axes(size)
        for value in axis.values
        for what in (TIME, MEMORY)
    ]


def title(size: str, axis: str, what: str) -> str:
    """How the rows of one curve begin."""
    return f"scaling {size}, {what} by {axis}"


def _group(pair: Pair, axis: Axis, value: int, point: Point, what: str) -> Group:
    sides = [
        Side(
            name,
            "float32, " + ("default, " if name != "ours" else "") + what,
            functools.partial(_made, make, what, pair.device),
        )
        for name, make in (("ours", point.ours), ("diffusers", point.theirs))
    ]
    cases = (Case(f"{title(pair.size.name, axis.name, what)}, {value}: ours / diffusers", sides[0], (sides[1],)),)
    # Nothing is compiled here, so that there is nothing to forget.
    found = replace(speed.group(pair, cases, point.flops, torch.float32), done=lambda: None)
    if what == TIME:
        return found
    return replace(found, meter=functools.partial(_held, pair.device), unit="B", peak=None, most=3)


def _made(make: Callable[[], Made], what: str, device: str) -> Made:
    if what == MEMORY:
        memory.need(device)
    return make()


def _held(device: str, run: timing.Run) -> float:
    """Bytes that a run holds at most beyond what lay there before; at least one page."""
    with memory.Peak(device) as found:
        run()
    return float(max(found.bytes, 4096))


def drawn(size: Size, records: Sequence[Record], folder: pathlib.Path) -> list[str]:
    """One plot for each axis and for time and memory, and a line on how each curve grows beside the FLOP."""
    said = []
    for axis in axes(size):
        for what, unit, scale in ((TIME, "ms", 1e3), (MEMORY, "MB", 1e-6)):
            begin = title(size.name, axis.name, what) + ", "
            rows = {int(r.name.removeprefix(begin).partition(":")[0]): r for r in records if r.name.startswith(begin)}
            if not rows:
                continue
            first = next(iter(rows.values()))
            curves = {
                "ours": [(value, row.ours * scale) for value, row in rows.items()],
                "diffusers, default": [(value, row.peer * scale) for value, row in rows.items()],
                "FLOP": [
                    (value, first.ours * scale * row.flops / first.flops)
                    for value, row in rows.items()
                    if row.flops and first.flops
                ],
            }
            name = f"{size.name}-{what}-{axis.name.replace(' ', '-')}.png"
            plots.plot(folder / name, f"{size.name}: {what} by {axis.name}", axis.name, unit, curves)
            growth = (f"{who} x {curve[-1][1] / curve[0][1]:.2f}" for who, curve in curves.items() if curve)
            said.append(f"{what} by {axis.name}, {min(rows)} to {max(rows)}: {', '.join(growth)}")
    return said
