"""The stages of a distillation: which targets, on how many moves, for how many images."""

from __future__ import annotations

from dataclasses import dataclass

from guided.tune.distilling.settings import Settings

GUIDANCE = 0.5
"""The share of the images of a progressive run that teaches guidance, before any halving."""
TRAJECTORY = 1 / 3
"""The share of the images of a run by trajectory that are drawn whole, after guidance: each costs as five of those."""
TICKS = 8
"""How often a consistency run brings its two levels closer together (ECT's doublings)."""


@dataclass(frozen=True)
class Stage:
    """kind: "guidance", "halving", "trajectory" or "consistency". moves: of the path it is taught on, 0: any level.

    begin, end: counters of images, multiples of the batch.
    """

    kind: str
    moves: int
    begin: int
    end: int

    @property
    def images(self) -> int:
        """How many images it sees."""
        return self.end - self.begin

    def told(self) -> str:
        """A few words for a plan."""
        at = f"{self.moves} steps" if self.moves else "every level"
        return {
            "guidance": f"guidance, {at}",
            "halving": f"{2 * self.moves} steps to {self.moves}",
            "trajectory": "its own steps along the teacher's trajectories",
            "consistency": f"consistency, {at}",
        }[self.kind]


def stages(settings: Settings, guided: bool) -> tuple[Stage, ...]:
    """The stages in order. guided: whether there is a guide to be taken in; without one halving begins at once.

    A halving gets twice the images of the one before it: each is harder than the last (Salimans and Ho 2022, who give
    the last ones more too).
    """
    if settings.method == "trajectory" and guided:
        return _cut([("guidance", 0, 1 - TRAJECTORY), ("trajectory", 0, TRAJECTORY)], settings)
    if settings.method != "progressive":
        return _cut([(settings.method, 0, 1.0)], settings)
    counts = []
    moves = settings.long // 2
    while moves >= settings.steps:
        counts.append(moves)
        moves //= 2
    first = [("guidance", settings.long, GUIDANCE if counts else 1.0)] if guided else []
    left = 1.0 - (GUIDANCE if guided and counts else 0.0)
    whole = 2 ** len(counts) - 1
    halvings = [("halving", count, left * 2**at / whole) for at, count in enumerate(counts)]
    if not first and not halvings:
        raise ValueError(
            f"steps: {settings.steps} steps are the teacher's own and there is no guide: nothing is left to distil"
        )
    return _cut([*first, *halvings], settings)


def _cut(parts: list[tuple[str, int, float]], settings: Settings) -> tuple[Stage, ...]:
    """Shares of the images as whole batches, at least one each."""
    found, begin, done = [], 0, 0.0
    for kind, moves, share in parts:
        done += share
        end = max(begin + settings.batch, round(done * settings.images / settings.batch) * settings.batch)
        found.append(Stage(kind, moves, begin, end))
        begin = end
    return tuple(found)
