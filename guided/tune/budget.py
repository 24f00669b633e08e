"""What tuning costs of what a model knew: measured on pictures it drew before, held to a budget, and said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from guided.cond import Cond
from guided.denoiser import Denoiser
from guided.noise import Noise
from guided.train.loss import Objective
from guided.train.watch import in_parts

STRONGEST = 4.0
"""The most that a replayed picture counts; see `pull`."""
FLAT = 0.01
"""A loss that falls by a smaller share over the last third of a run stands still."""


@dataclass(frozen=True)
class Forgotten:
    """rise: of the loss on the base's own pictures, as a share of what it was. moved: how far the estimates moved."""

    rise: float
    moved: float


@dataclass(eq=False)
class Watched:
    """Pictures x0 (B, C, H, W) that the base drew, which no update sees, at fixed noise levels with fixed noise.

    rows: which records they are. base_cond: their condition as the base takes it, where that is another. at_once: how
    many are looked at together.
    """

    x0: Tensor
    cond: Cond
    sigmas: Sequence[float]
    seeds: Sequence[int]
    rows: Sequence[int] = ()
    base_cond: Cond | None = None
    at_once: int = 64
    _known: list[tuple[Tensor, float]] = field(default_factory=list)

    @torch.no_grad()
    def learn(self, base: Denoiser, objective: Objective) -> None:
        """Keep what the base says of them."""
        cond = self.cond if self.base_cond is None else self.base_cond
        self._known = [(said, heard(said)) for said, heard in self._looks(base, objective, cond)]

    @property
    def learnt(self) -> bool:
        """Whether the base was heard."""
        return bool(self._known)

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, objective: Objective, cond: Cond | None = None) -> Forgotten:
        """What another denoiser lost of it; `moved` is the mean weighted square of the change, over the base's loss.

        cond: their condition as this denoiser is told it by now, where that changes.
        """
        cond = self.cond if cond is None else cond
        now, before, moved = [], [], []
        for (said, heard), (known, loss) in zip(self._looks(denoiser, objective, cond), self._known, strict=True):
            now.append(heard(said))
            moved.append(heard(said, known))
            before.append(loss)
        total = math.fsum(before)
        return Forgotten(math.fsum(now) / total - 1, math.fsum(moved) / total)

    def _looks(
        self, denoiser: Denoiser, objective: Objective, cond: Cond
    ) -> Iterator[tuple[Tensor, Callable[..., float]]]:
        """At each level the estimates of a denoiser, and their loss against the pictures, or against a target."""
        like = next(denoiser.parameters())
        dtype = torch.promote_types(like.dtype, torch.float32)
        x0, cond = self.x0.to(like.device, dtype), cond.to(like.device, dtype)
        noise = Noise(self.seeds, "tune/watched")(0, x0.shape[1:]).to(x0)
        for sigma in self.sigmas:
            level = torch.full((len(x0),), sigma, dtype=torch.float64, device=like.device)
            said = in_parts(denoiser, self.at_once)(x0 + sigma * noise, level, cond)

            def heard(said: Tensor, *target: Tensor, level: Tensor = level) -> float:
                return float(objective(lambda *_: said, x0, noise, level, cond, *target).double().mean())

            yield said, heard


def pull(checks: Sequence[dict[str, Any]], budget: float | None) -> float:
    """How much a replayed picture counts in the loss after these checks.

    1 at first, twice as much after each that finds the budget passed, at most 4; half as much where half is left.
    """
    strength = 1.0
    for check in checks if budget is not None else ():
        forgotten = check.get("forgotten") or 0.0
        if forgotten > budget:  # type: ignore[operator]
            strength = min(2 * strength, STRONGEST)
        elif forgotten < budget / 2:  # type: ignore[operator]
            strength = max(strength / 2, 1.0)
    return strength


def _rank(check: dict[str, Any], budget: float | None) -> tuple[bool, float]:
    rise = check.get("forgotten")
    beyond = budget is not None and rise is not None and rise > budget
    return beyond, (rise if beyond else check["held_out"])  # type: ignore[return-value]


def best_of(checks: Sequence[dict[str, Any]], budget: float | None) -> dict[str, Any] | None:
    """The first best check: within the budget that of the lowest held-out loss, beyond it the least forgotten."""
    return min(checks, key=lambda check: _rank(check, budget), default=None)


def ending(checks: Sequence[dict[str, Any]], budget: float | None, patience: int) -> str | None:
    """Why a run ends now: no better state for so many checks; None where it goes on.

    At first a model forgets much, and what is replayed wins it back: as long as it does, a run goes on.
    """
    best = best_of(checks, budget)
    if best is None or len(checks) - checks.index(best) <= patience:
        return None
    *before, now = (check.get("forgotten") or 0.0 for check in checks[-3:])
    if budget is None or now <= budget:
        return "the held-out loss turned"
    return "forgetting passed the budget" if now >= max(before) else None


def verdict(
    checks: Sequence[dict[str, Any]],
    budget: float | None,
    ended: str | None,
    before: float | None = None,
    held: bool = True,
) -> dict[str, str]:
    """What was short, in a word ("data", "rank", "steps" or "nothing"), and why, in a sentence for a person.

    before: the held-out loss before the first update, where it is known. held: whether it is of pictures kept out.
    """
    best = best_of(checks, budget)
    if best is None or len(checks) < 2:
        return {"short": "steps", "why": "the run was over before it was looked at twice: give more --images"}
    where = f"{best['images']} images"
    if budget is not None and (best.get("forgotten") or 0.0) > budget:
        return {
            "short": "data",
            "why": f"no state kept within the budget of {budget:g}: the least that was forgotten is "
            f"{best['forgotten']:.3f} (at {where}); give a larger --replay, a smaller --lr, or a larger --budget",
        }
    if not held:
        return {
            "short": "data",
            "why": "of so few pictures none was kept out, so nothing shows whether they are learnt or copied: give 6 "
            "or more",
        }
    barred = any(check["held_out"] < best["held_out"] for check in checks[checks.index(best) :])
    if barred or ended == "forgetting passed the budget":
        return {
            "short": "data",
            "why": f"what came after {where} forgot more than the budget of {budget:g} allows; a larger --replay, or "
            "more pictures, would let it learn on",
        }
    start = checks[0]["held_out"] if before is None else before
    gained = (start - best["held_out"]) / max(abs(start), 1e-12)
    if gained < -FLAT:
        return {
            "short": "data",
            "why": "the held-out loss never came down to what it was before: what was learnt of these pictures says "
            "nothing of those kept out: give more of them, or a smaller --lr",
        }
    if ended is not None:
        return {"short": "data", "why": f"the held-out loss turned after {where}: more pictures would let it learn on"}
    third = checks[-max(2, len(checks) // 3) :]
    fall = (third[0]["held_out"] - third[-1]["held_out"]) / max(abs(third[0]["held_out"]), 1e-12)
    if fall > FLAT:
        return {"short": "steps", "why": f"the held-out loss still fell at the end ({fall:.1%} over the last third)"}
    if gained < FLAT:
        return {
            "short": "rank",
            "why": "the held-out loss hardly fell: a larger --rank, or --method full, says more",
        }
    return {"short": "nothing", "why": f"the held-out loss came to rest; the best state is that of {where}"}
