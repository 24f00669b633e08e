"""`guided bench overhead`: time outside the network for each step, in a loop with classifier-free guidance."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from guided import path as paths
from guided.bench import looping
from guided.bench.cases import Case, Group, Made, Side
from guided.bench.networks import MISSING, Inputs
from guided.bench.peers import installed
from guided.cond import Cond
from guided.denoiser import FromVP
from guided.guide import cfg
from guided.sampling import sample

SHAPE = (4, 64, 64)
SHORT, LONG = 20, 60
_REPEATS = 3
Loop = Callable[[int], Tensor]
"""A whole run of so many steps."""

SOLVERS = {"euler": "euler", "dpmpp_2m": "dpmpp_2m", "eab3": "eab3", "default": None}
SCHEDULERS = {
    "DDIM": "DDIMScheduler",
    "Euler": "EulerDiscreteScheduler",
    "DPM++2M": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
}


class Stub(nn.Module):
    """A network that returns one fixed tensor, whatever it is shown; like ours it takes several conditions at once."""

    accepts = frozenset({"tokens", "mask"})
    takes_several = True

    def __init__(self, out: Tensor) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor, c_noise: Tensor, *conds: Cond) -> Tensor:
        return self.out


def groups(device: str, batch: int = 1) -> list[Group]:
    """Each solver of ours beside the cheapest scheduler of diffusers, and beside a loop by hand; all in one group.

    Who wants another library beside them adds a `Side` to `theirs`. Raises ValueError where diffusers is absent.
    """
    if not installed():
        raise ValueError(MISSING)
    shown = _inputs(batch, device)
    mine = {name: side(f"ours, {name}", f"guided.sample, {name}, FromVP, cfg", our_loop(shown, solver))
            for name, solver in SOLVERS.items()}  # fmt: skip
    theirs = theirs_of(shown)
    hand = side("by hand", "Euler by hand: coefficients in a list, in place", by_hand(shown))
    what = f"overhead a step (slope from {SHORT} to {LONG} steps), batch {batch} of {'x'.join(map(str, SHAPE))}"
    cases = []
    for name, one in mine.items():
        family = f"{what}: ours, {name} / "
        cases.append(Case(f"{family}diffusers' fastest scheduler", one, tuple(theirs.values())))
        cases += [Case(f"{family}diffusers {kind}", one, (peer,)) for kind, peer in theirs.items()]
        cases.append(Case(f"{family}by hand", one, (hand,)))
    return [Group(tuple(cases), None, lambda run: float(run()), warm=1)]  # type: ignore[arg-type]


def theirs_of(shown: Inputs) -> Mapping[str, Side]:
    """diffusers' schedulers in the loop of its pipelines."""
    null, out = torch.zeros_like(shown.tokens), _out(shown)

    def loop(kind: str) -> Loop:
        return lambda steps: looping.pipeline(lambda batch: out, shown, null, steps, kind)

    return {
        name: side(f"diffusers {name}", f"{kind} in the loop of its pipelines", loop(kind))
        for name, kind in SCHEDULERS.items()
    }


def side(name: str, setting: str, loop: Loop) -> Side:
    """A loop, of which the slope between two numbers of steps is measured: what is done once drops out."""
    return Side(name, setting, lambda: Made(lambda: slope(loop)))


@torch.no_grad()
def slope(loop: Loop) -> float:
    """Seconds a step, from the fastest of a few runs of either length."""
    fastest = {SHORT: float("inf"), LONG: float("inf")}
    for _ in range(_REPEATS):
        for steps in fastest:
            start = time.perf_counter()
            loop(steps)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            fastest[steps] = min(fastest[steps], time.perf_counter() - start)
    # Noise may turn a slope around where a step costs next to nothing; a nanosecond keeps the ratio finite.
    return max((fastest[LONG] - fastest[SHORT]) / (LONG - SHORT), 1e-9)


def our_loop(shown: Inputs, solver: str | None) -> Loop:
    """`guided.sample` with all that stands around a network: frame, preconditioning, guide, path and solver."""
    denoiser = FromVP(Stub(_out(shown)), looping.PUBLISHED.alphas_bar()).to(shown.x.device)
    denoise = cfg(looping.W)(denoiser)

    def loop(steps: int) -> Tensor:
        path = paths.karras(steps, denoiser.lo, denoiser.hi)
        return sample(denoise, shown.x * float(path[0]), path, shown.cond, solver=solver)

    return loop


def by_hand(shown: Inputs) -> Loop:
    """Euler's method as one would write it for this network alone."""
    out, lo, hi = _out(shown), looping.PUBLISHED.lo, looping.PUBLISHED.hi

    def loop(steps: int) -> Tensor:
        path = paths.karras(steps, lo, hi).tolist()
        scales = [(1 + sigma**2) ** -0.5 for sigma in path]
        x, n = shown.x * path[0], len(shown.x)
        seen = torch.empty(2 * n, *x.shape[1:], device=x.device)
        for i in range(steps):
            torch.mul(x, scales[i], out=seen[:n])
            seen[n:] = seen[:n]
            without, given = out[:n], out[n:]
            x.add_(torch.lerp(without, given, looping.W), alpha=path[i + 1] - path[i])
        return x  # type: ignore[no-any-return]

    return loop


def _inputs(batch: int, device: str) -> Inputs:
    source = torch.Generator().manual_seed(0)
    x, text = torch.randn(batch, *SHAPE, generator=source), torch.randn(batch, 77, 768, generator=source)
    return Inputs(x.to(device), torch.zeros(batch, dtype=torch.long, device=device), text.to(device))


def _out(shown: Inputs) -> Tensor:
    """What the stub returns for both branches of the guidance."""
    noise = torch.randn(2 * len(shown.x), *SHAPE, generator=torch.Generator().manual_seed(1))
    return noise.to(shown.x.device)
