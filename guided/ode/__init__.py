"""The probability-flow ODE dx/dsigma = (x - D) / sigma, in both directions: integrate, invert, and ask for a density.

A verb of its own: here every move of a path is a step of a deterministic solver, up as well as down, and none draws
noise; `guided.sample` is the other verb. A start at sigma = 0, where the ODE is singular, is a start at `lo`.
"""

from guided.ode.along import integrate, invert
from guided.ode.density import Density, log_prob
from guided.ode.embedded import Solution, adaptive
from guided.ode.exact import Belm, belm

__all__ = ["Belm", "Density", "Solution", "adaptive", "belm", "integrate", "invert", "log_prob"]
