"""One measured row is one `Case`: ours beside a peer. Cases of a `Group` are measured in the same rounds."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from guided.bench import timing
from guided.bench.machine import Machine
from guided.bench.record import Log, Record, key, means, quantity
from guided.bench.timing import Meter, Run, Watch, seconds


class Absent(RuntimeError):
    """What a side needs is not there, and why; its rows are left out."""


@dataclass(frozen=True, eq=False)
class Made:
    """A side that is ready. run: what is measured. found: what it computes, to be held against the truth."""

    run: Run
    found: Callable[[], Tensor] | None = None


@dataclass(frozen=True, eq=False)
class Side:
    """One thing that is measured. setting: how it is set up, for the reader; make: sets it up.

    work: its FLOP as a share of the group's.
    """

    name: str
    setting: str
    make: Callable[[], Made]
    work: float = 1.0


@dataclass(frozen=True, eq=False)
class Case:
    """A row: ours beside a peer, the cheapest of those that were tried.

    family: the rows of one family, over batches, have a geometric mean; "": no such row.
    """

    name: str
    ours: Side
    peers: tuple[Side, ...]
    family: str = ""

    def key(self, command: str, rounds: int, machine: Machine) -> str:
        """What makes a figure this one and no other."""
        sides = [(side.name, side.setting) for side in (self.ours, *self.peers)]
        return key([command, self.name, sides, rounds, machine.facts()])


@dataclass(frozen=True, eq=False)
class Group:
    """Cases measured in the same rounds. truth: what all of them should compute, for the first images of a batch.

    unit: "s" or "B". flops: of one run, where known, as torch counts the peer's; peak: the most FLOP/s that a matrix
    product reaches, measured when it is asked for. done: called once the group is measured. warm: runs before the first
    round. most: rounds that are enough, where one costs much and tells all.
    """

    cases: tuple[Case, ...]
    truth: Callable[[], Tensor] | None = None
    meter: Meter = seconds
    unit: str = "s"
    flops: Callable[[], float] | None = None
    peak: Callable[[], float] | None = None
    done: Callable[[], object] = lambda: None
    warm: int = 2
    most: int | None = None


def chosen(groups: Sequence[Group], only: str) -> list[Group]:
    """The groups with the cases whose name holds `only`; ValueError where there is none."""
    found = [dataclasses.replace(g, cases=tuple(c for c in g.cases if only in c.name)) for g in groups]
    found = [group for group in found if group.cases]
    if not found:
        names = "\n".join(f"  {case.name}" for group in groups for case in group.cases)
        raise ValueError(f"--only {only}: no row's name holds that; the rows are\n{names}")
    return found


def measure(
    groups: Sequence[Group],
    rounds: int,
    command: str,
    machine: Machine,
    log: Log,
    watch: Watch = lambda done, note: None,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Record]:
    """The rows one after another, each from the log where that has it, else measured and put there.

    watch: (share done, note). tell: is told what was left out. The geometric means of families come last.
    """
    found = []
    for place, group in enumerate(groups):
        count = min(rounds, group.most or rounds)
        keys = {case.key(command, count, machine): case for case in group.cases}
        missing = {k: case for k, case in keys.items() if k not in log}
        if missing:
            part = functools.partial(_part, watch, place, len(groups))
            for record in _measured(group, missing, count, command, machine, part, tell):
                log.add(record)
        for k in keys:
            if k in log:
                found.append(log[k])
                yield log[k]
    watch(1.0, "")
    yield from means(found)


def _part(watch: Watch, place: int, count: int, done: float, note: str) -> None:
    watch((place + done) / count, note)


def _measured(
    group: Group,
    missing: Mapping[str, Case],
    rounds: int,
    command: str,
    machine: Machine,
    watch: Watch,
    tell: Callable[[str], None],
) -> list[Record]:
    """The records of the cases whose sides are all there."""
    sides = dict.fromkeys(side for case in missing.values() for side in (case.ours, *case.peers))
    names = {side: f"{place:03} {side.name}" for place, side in enumerate(sides)}
    try:
        made = _ready(list(sides), group.warm, watch, tell)
        errors = _errors(group, made)
        runs = {names[side]: one.run for side, one in made.items()}
        # A place in front keeps sides of one name apart, and is not for the reader.
        costs = timing.rounds(runs, rounds, group.meter, 0, lambda done, note: watch(done, note[4:]))
        flops = group.flops() if group.flops else None
        reach = group.peak() if group.peak else None
    finally:
        group.done()
    listed = []
    for k, case in missing.items():
        peers = [side for side in case.peers if side in made]
        if case.ours not in made or not peers:
            continue
        best = min(peers, key=lambda side: median(costs[names[side]]))
        mine, theirs = costs[names[case.ours]], costs[names[best]]
        by_round = timing.ratios(mine, theirs)
        pairs = ((case.ours, mine), (best, theirs))
        shares = [one.work * flops / reach / median(cost) if flops and reach else None for one, cost in pairs]
        listed.append(
            Record(
                k,
                command,
                case.name,
                median(mine),
                median(theirs),
                *timing.ratio(by_round),
                unit=group.unit,
                rounds=rounds,
                ours_setting=case.ours.setting,
                peer_setting=best.setting,
                tried=[f"{side.setting}: {quantity(median(costs[names[side]]), group.unit)}" for side in peers],
                ours_error=errors.get(case.ours),
                peer_error=errors.get(best),
                ours_share=shares[0],
                peer_share=shares[1],
                flops=flops,
                ratios=by_round,
                machine=machine.facts(),
                date=time.strftime("%Y-%m-%d"),
                family=case.family,
            )
        )
    return listed


def _ready(sides: Sequence[Side], warm: int, watch: Watch, tell: Callable[[str], None]) -> dict[Side, Made]:
    """The sides that could be set up, warmed up. Another library's failure is told, and its side left out."""
    made = {}
    for side in sides:
        watch(0.0, f"sets up {side.name}: {side.setting}")
        try:
            one = side.make()
            for _ in range(warm):
                one.run()
        except Absent as why:
            tell(f"left out: {side.name} ({side.setting}): {why}")
            continue
        except Exception as error:
            if side.name.startswith("ours"):
                raise
            tell(f"left out: {side.name} ({side.setting}): {type(error).__name__}: {str(error)[:200]}")
            continue
        made[side] = one
    return made


def _errors(group: Group, made: Mapping[Side, Made]) -> dict[Side, float]:
    """How far each is from the truth: |y - truth| / |truth|, in float64."""
    if group.truth is None:
        return {}
    truth = group.truth().double()
    return {side: apart(one.found(), truth) for side, one in made.items() if one.found is not None}


def apart(found: Tensor, truth: Tensor) -> float:
    """|found - truth| / |truth| of the first rows that the truth has."""
    found = found.detach()[: len(truth)].to(truth)
    return float((found - truth).norm() / truth.norm())


def no_grad(run: Callable[[], Tensor]) -> Made:
    """A side that is measured without gradients, and computes what it returns."""
    within = torch.no_grad()(run)
    # A CUDA graph's output is overwritten by its next run.
    return Made(within, lambda: within().clone())
