"""The solvers by name, for the command line and for `solver=`."""

from __future__ import annotations

import torch
from torch import Tensor

from guided.solvers.adams import Adams
from guided.solvers.base import Solver
from guided.solvers.data_form import SA, DataEAB, DPMpp, UniPC
from guided.solvers.noise_form import LMS, NoiseEAB
from guided.solvers.onestep import DPM2, DPMpp2S, Euler, Heun

euler = Euler()
heun = Heun()
dpm2 = DPM2()
dpmpp_2s = DPMpp2S()
dpmpp_2m = DPMpp(2)
dpmpp_3m = DPMpp(3)


def eab(order: int = 3, form: str = "noise", extrapolate: bool = True) -> NoiseEAB | DataEAB:
    """Exponential Adams-Bashforth of order 1 to 4 in the noise or in the data; ValueError for any other form."""
    if form not in ("noise", "data"):
        raise ValueError(f'eab: form is "noise" or "data", got {form!r}')
    return NoiseEAB(order, extrapolate) if form == "noise" else DataEAB(order, extrapolate)


NAMES: dict[str, Solver] = {
    "euler": euler,
    "ddim": euler,
    "heun": heun,
    "dpm2": dpm2,
    "dpmpp_2s": dpmpp_2s,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_3m": dpmpp_3m,
    "adams": Adams(),
    **{f"eab{order}": eab(order) for order in (1, 2, 3, 4)},
    **{f"eab{order}_data": eab(order, "data") for order in (1, 2, 3, 4)},
    **{f"deis{order}": eab(order, extrapolate=False) for order in (1, 2, 3, 4)},
    **{f"lms{order}": LMS(order) for order in (1, 2, 3, 4)},
    **{f"unipc{order}": UniPC(order) for order in (1, 2, 3)},
    **{f"sa{order}": SA(order) for order in (2, 3)},
}


def by_name(name: str) -> Solver:
    """The solver of a name; ValueError lists the known ones."""
    if name not in NAMES:
        raise ValueError(f"unknown solver {name!r}; known: {', '.join(sorted(NAMES))}")
    return NAMES[name]


def default_name(path: Tensor) -> str:
    """The name of the default solver, which follows from the path alone: "adams" where it falls at every move.

    Where it rises, fresh noise replaces the noise that Adams remembers and leaves the D that "dpmpp_2m" remembers. How
    many moves there are settles nothing more: Adams finds the order that they are short enough for.
    """
    return "adams" if bool((torch.as_tensor(path).diff() < 0).all()) else "dpmpp_2m"


def default(path: Tensor) -> Solver:
    """The solver of a path where none is named."""
    return NAMES[default_name(path)]
