"""The coefficients of multistep methods: integrals of interpolating polynomials.

A step runs over u in [0, 1]; the newest evaluation stands at u = 0, older ones at u < 0, a corrector's at u = 1. What a
method does is settled by the averages of 1, u, u^2, ... over its step, under the weight its formula integrates with.
"""

from __future__ import annotations

import functools
import math

REMEMBERED = 4096
"""Steps whose numbers are kept: the next batch on the same path takes the same ones."""


@functools.lru_cache(maxsize=REMEMBERED)
def exponential(rate: float, count: int) -> tuple[float, ...]:
    """The averages of 1, u, ..., u^(count - 1) over [0, 1] under the weight e^(rate u)."""
    total, *rest = (_moment(rate, k) for k in range(count))
    return (1.0, *(moment / total for moment in rest))


def uniform(count: int) -> tuple[float, ...]:
    """The averages of 1, u, ..., u^(count - 1) over [0, 1]."""
    return tuple(1 / (k + 1) for k in range(count))


def _moment(rate: float, k: int) -> float:
    """The integral of e^(rate u) u^k over [0, 1], up to a factor that does not depend on k.

    Both series have positive terms alone, so nothing cancels, be the step long or short: for rate >= 0 the sum of
    rate^m / (m! (m + k + 1)), for rate < 0 e^rate times that of |rate|^m k! / (m + k + 1)!, whose e^rate is left out.
    """
    total, m = 0.0, 0
    term = 1.0 if rate >= 0 else 1 / (k + 1)
    while True:
        part = term / (m + k + 1) if rate >= 0 else term
        total += part
        m += 1
        term *= rate / m if rate >= 0 else -rate / (m + k + 1)
        if part < 1e-17 * total and m > abs(rate):
            return total


@functools.lru_cache(maxsize=REMEMBERED)
def lagrange(nodes: tuple[float, ...], averages: tuple[float, ...]) -> tuple[float, ...]:
    """The weights a_j with which f(0) + sum a_j (f(u_j) - f(0)) is the average of the polynomial through 0 and all u_j.

    averages: of 1, u, ..., u^len(nodes).
    """
    weights = []
    for j, node in enumerate(nodes):
        # u / u_j times the product of (u - u_i) / (u_j - u_i), as coefficients of 1, u, u^2, ...
        basis = [0.0, 1 / node]
        for i, other in enumerate(nodes):
            if i != j:
                shifted, same = [0.0, *basis], [*basis, 0.0]
                basis = [(a - other * b) / (node - other) for a, b in zip(shifted, same, strict=True)]
        weights.append(sum(b * a for b, a in zip(basis, averages, strict=True)))
    return tuple(weights)


@functools.lru_cache(maxsize=REMEMBERED)
def newton(nodes: tuple[float, ...], averages: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """The same average as a series: in term k the weights of f(u_1) - f(0), ..., f(u_k) - f(0).

    Term k is the average of u (u - u_1) ... (u - u_(k-1)) times the divided difference of f over 0, u_1, ..., u_k.
    averages: of 1, u, ..., u^len(nodes).
    """
    terms, basis = [], [0.0, 1.0]
    for k, node in enumerate(nodes):
        average = math.fsum(b * a for b, a in zip(basis, averages, strict=False))
        known = nodes[: k + 1]
        others = ([u - other for j, other in enumerate(known) if j != i] for i, u in enumerate(known))
        terms.append(tuple(average / (u * math.prod(apart)) for u, apart in zip(known, others, strict=True)))
        basis = [a - node * b for a, b in zip([0.0, *basis], [*basis, 0.0], strict=True)]
    return tuple(terms)
