"""Observations y = A x0 + sigma_y m as terms: what was measured pulls the estimate, or is put into it.

All of them read the conditional estimate D, never the guided sum. `pigdm` is the default; `mmps` asks the network how
uncertain it is; `dps` is there to compare with what was published; `project` is for measurements without noise.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from guided.denoiser import spread
from guided.guide.term import Exact, Point, Push, Weight, checked, written
from guided.operators import Operator, conjugate_gradient


class Observation(Push):
    """A push of D towards y, sigma^2 times a gradient of ln p(y | x), and so (dD/dx)^T of something in the image."""

    operator: Operator
    y: Tensor
    scale: Weight

    def change(self, at: Point) -> Tensor:
        D = at.D if at.differentiable else at.D.detach()
        A = self.operator.at(D)
        return at.level**2 * at.vjp(A.adjoint(self.weigh(A, self.operator.residual(D, self.y), at)))

    @abc.abstractmethod
    def weigh(self, A: Operator, residual: Tensor, at: Point) -> Tensor:
        """What the residual y - A D counts, in the space of y: scale 1 adds sigma^2 (dD/dx)^T A^T of it to D."""

    def _described(self, name: str, *rest: float) -> str:
        plain = isinstance(self.scale, float | int) and self.scale == 1
        scale = "" if plain else f", scale={written(self.scale)}"
        return f"{name}({', '.join([repr(self.operator), *map(written, (self.y, *rest))])}{scale})"


@dataclass(frozen=True, eq=False, repr=False)
class PiGDM(Observation):
    """See `pigdm`."""

    operator: Operator
    y: Tensor
    sigma_y: float
    var: float
    scale: Weight = 1.0

    def weigh(self, A: Operator, residual: Tensor, at: Point) -> Tensor:
        s2 = at.sigma**2
        return A.solve(residual, s2 * self.var / (s2 + self.var), self.sigma_y)

    def describe(self) -> str:
        return self._described("pigdm", self.sigma_y, self.var)


def pigdm(A: Operator, y: Tensor, sigma_y: float, var: float, scale: Weight = 1.0) -> PiGDM:
    """Pseudo-inverse-guided diffusion (Song et al. 2023, algorithm 1): x0 given x is taken for N(D, r^2 I).

    D += sigma^2 (dD/dx)^T A^T (r^2 A A^T + sigma_y^2 I)^-1 (y - A D), r^2 = sigma^2 var / (sigma^2 + var). It is Bayes'
    rule where the data are Gaussian with covariance var I; scale 1 of anything else is an approximation.
    y: (B, *), or (1, *) for the whole batch. sigma_y >= 0: the measurement's noise, in the units of y. var: the data's
    total variance per number of x0, between pictures and within them: about the square of the model's sigma_data.
    Raises ValueError for sigma_y < 0 or var <= 0.
    """
    if not sigma_y >= 0 or not var > 0:
        raise ValueError(f"pigdm: expected sigma_y >= 0 and var > 0, got sigma_y={sigma_y}, var={var}")
    return PiGDM(A, y, sigma_y, var, checked("pigdm", scale))


@dataclass(frozen=True, eq=False, repr=False)
class MMPS(Observation):
    """See `mmps`."""

    operator: Operator
    y: Tensor
    sigma_y: float
    iterations: int
    scale: Weight = 1.0

    def weigh(self, A: Operator, residual: Tensor, at: Point) -> Tensor:
        def spread_of_y(v: Tensor) -> Tensor:
            return self.sigma_y**2 * v + A(at.level**2 * at.vjp(A.adjoint(v)))

        return conjugate_gradient(spread_of_y, residual, self.iterations)

    def describe(self) -> str:
        return self._described("mmps", self.sigma_y, self.iterations)


def mmps(A: Operator, y: Tensor, sigma_y: float, iterations: int = 3, scale: Weight = 1.0) -> MMPS:
    """Moment-matching posterior sampling (Rozet et al. 2024, section 4.2): the network says how wide x0 given x is.

    As `pigdm` with Cov[x0 | x] = sigma^2 dD/dx for r^2 I, the system solved by conjugate gradients: one derivative of
    the network an iteration. It is Bayes' rule for any Gaussian data, once the iterations reach the numbers of y; a few
    are enough for masks and boxes, not for a blur with little noise, whose system only a closed form (`pigdm`) meets.
    y: (B, *), or (1, *) for the whole batch. sigma_y > 0: the measurement's noise, in the units of y.
    Raises ValueError for sigma_y <= 0 or iterations < 1.
    """
    if not sigma_y > 0 or iterations < 1:
        raise ValueError(f"mmps: expected sigma_y > 0 and iterations >= 1, got sigma_y={sigma_y}, {iterations}")
    return MMPS(A, y, sigma_y, iterations, checked("mmps", scale))


@dataclass(frozen=True, eq=False, repr=False)
class DPS(Observation):
    """See `dps`; the scale is zeta."""

    operator: Operator
    y: Tensor
    scale: Weight

    def weigh(self, A: Operator, residual: Tensor, at: Point) -> Tensor:
        if at.next_sigma is None:
            raise ValueError(
                "dps is defined for solvers with one evaluation a step, within `sample`: take euler or a multistep "
                "solver, or pigdm in its place"
            )
        s, t = at.sigma, at.next_sigma
        step = ((1 + s**2) * (1 + t**2)).sqrt() / (s**2 * (1 - t / s))
        length = residual.square().sum(tuple(range(1, residual.ndim)), keepdim=True).sqrt()
        return spread(step, residual) * residual / length.clamp_min(torch.finfo(length.dtype).tiny)

    def describe(self) -> str:
        return f"dps({self.operator!r}, {written(self.y)}, {written(self.scale)})"


def dps(A: Operator, y: Tensor, zeta: Weight) -> DPS:
    """Diffusion posterior sampling (Chung et al. 2023, algorithm 1): a step of length zeta down |y - A D|.

    In the published units, those of the variance-preserving x / sqrt(1 + sigma^2) after a step from s to s':
    D += zeta sqrt((1 + s^2) (1 + s'^2)) / (1 - s'/s) (dD/dx)^T A^T (y - A D) / |y - A D|. The norm is not squared, so
    the step does not shrink as y is met: it rings, and has no limit for many steps. For comparisons; else `pigdm`.
    s' is where the down-move ends: on an ancestral path zeta so counts for sqrt((1 + s'^2) / (1 + level^2)) of itself.
    y: (B, *), or (1, *) for the whole batch. zeta: 0.3 to 1 in the paper, on 1000 ancestral steps.
    Raises ValueError outside `sample`, and with solvers of several evaluations a step.
    """
    return DPS(A, y, checked("dps", zeta))


@dataclass(frozen=True, eq=False, repr=False)
class Project(Exact):
    """See `project`."""

    operator: Operator
    y: Tensor

    def put(self, D: Tensor, sigma: Tensor) -> Tensor:
        return self.operator.project(D, self.y)

    def describe(self) -> str:
        return f"project({self.operator!r}, {written(self.y)})"


def project(A: Operator, y: Tensor) -> Project:
    """The null-space method (DDNM; Wang et al. 2023, algorithm 1): D - A^+ (A D - y), last of all, for y without noise.

    For a mask it is where(known, y, D), and the known pixels end as y's bits. It sees no further than the measured
    part: the rest learns of y through the network alone, level by level. On `ancestral(resample(path))` it is RePaint
    (Lugmayr et al. 2022), whose jumps back up let the two parts agree.
    y: (B, *), or (1, *) for the whole batch.
    """
    return Project(A, y)
