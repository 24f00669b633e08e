"""Solvers: pure steps of the probability-flow ODE  dx/dsigma = (x - D) / sigma.

A solver is (denoise, x, sigma, next_sigma, cond, memory, level) -> (x, memory) with the number of its `evaluations`.
`level` is the noise level of the next evaluation: next_sigma, unless an up-move follows. Memory is whatever a multistep
method wants to see again, None at the start; nothing is kept in the solver.
"""

from guided.solvers.adams import Adams
from guided.solvers.base import Memory, Solver
from guided.solvers.data_form import SA, DataEAB, DataForm, DPMpp, UniPC
from guided.solvers.fitted import Fitted
from guided.solvers.names import (
    NAMES,
    by_name,
    default,
    default_name,
    dpm2,
    dpmpp_2m,
    dpmpp_2s,
    dpmpp_3m,
    eab,
    euler,
    heun,
)
from guided.solvers.noise_form import LMS, NoiseEAB, NoiseForm
from guided.solvers.onestep import DPM2, DPMpp2S, Euler, Heun

__all__ = [
    "DPM2",
    "LMS",
    "NAMES",
    "SA",
    "Adams",
    "DPMpp",
    "DPMpp2S",
    "DataEAB",
    "DataForm",
    "Euler",
    "Fitted",
    "Heun",
    "Memory",
    "NoiseEAB",
    "NoiseForm",
    "Solver",
    "UniPC",
    "by_name",
    "default",
    "default_name",
    "dpm2",
    "dpmpp_2m",
    "dpmpp_2s",
    "dpmpp_3m",
    "eab",
    "euler",
    "heun",
]
